// Numbers 1 .. limit - 1, lowest first.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

namespace headgate::control {

class IdPool {
 public:
  explicit IdPool(uint32_t limit) : used_(limit, false) {}

  std::optional<uint32_t> Take() {
    for (uint32_t id = 1; id < used_.size(); ++id) {
      if (used_[id]) continue;
      used_[id] = true;
      return id;
    }
    return std::nullopt;
  }
  void Return(uint32_t id) { used_[id] = false; }

 private:
  std::vector<bool> used_;
};

}  // namespace headgate::control
