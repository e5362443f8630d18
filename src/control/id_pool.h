// Numbers 1 .. limit - 1, each after the one before: a number that was given
// back is not used again at once, when somebody may still have it in mind.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <vector>

namespace headgate::control {

class IdPool {
 public:
  explicit IdPool(uint32_t limit) : used_(limit, false) {}

  std::optional<uint32_t> Take() {
    for (size_t tries = 1; tries < used_.size(); ++tries) {
      last_ = last_ + 1 < used_.size() ? last_ + 1 : 1;
      if (used_[last_]) continue;
      used_[last_] = true;
      return last_;
    }
    return std::nullopt;
  }
  // This one, if nobody has it.
  bool TakeThis(uint32_t id) {
    if (id == 0 || id >= used_.size() || used_[id]) return false;
    used_[id] = true;
    last_ = std::max(last_, id);
    return true;
  }
  void Return(uint32_t id) { used_[id] = false; }

 private:
  std::vector<bool> used_;
  uint32_t last_ = 0;
};

}  // namespace headgate::control
