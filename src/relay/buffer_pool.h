// Buffers for bytes that a slow sink has not taken yet. A connection holds one
// only while it has such bytes, so an idle connection holds none.
#pragma once

#include <array>
#include <cstddef>
#include <cstring>
#include <memory>
#include <vector>

#include "absl/strings/string_view.h"
#include "datapath/splice.h"

namespace headgate::relay {

inline constexpr size_t kChunkBytes = 64 * 1024;

struct Chunk {
  std::array<char, kChunkBytes> bytes;
  size_t begin = 0;
  size_t end = 0;
  absl::string_view pending() const {
    return {bytes.data() + begin, end - begin};
  }
};

// One worker's; not shared between threads. Every buffer but the first, which
// is the price of a worker, is reserved from the budget.
class BufferPool {
 public:
  explicit BufferPool(datapath::SpliceBudget* budget) : budget_(budget) {}

  // Whether Take() may follow. Asked before bytes are read that the sink might
  // not take: once read they have to be kept.
  bool Ready() { return !free_.empty() || Make(); }
  std::unique_ptr<Chunk> Take(absl::string_view content) {
    std::unique_ptr<Chunk> chunk = std::move(free_.back());
    free_.pop_back();
    std::memcpy(chunk->bytes.data(), content.data(), content.size());
    chunk->begin = 0;
    chunk->end = content.size();
    return chunk;
  }
  void Return(std::unique_ptr<Chunk> chunk) {
    if (free_.size() < kKept) {
      free_.push_back(std::move(chunk));
      return;
    }
    --made_;
    budget_->Return(sizeof(Chunk));
  }

 private:
  static constexpr size_t kKept = 16;  // 1 MiB, for the next burst.

  bool Make() {
    if (made_ > 0 && !budget_->Reserve(sizeof(Chunk))) return false;
    ++made_;
    free_.emplace_back(new Chunk);  // Not zeroed.
    return true;
  }

  datapath::SpliceBudget* budget_;
  size_t made_ = 0;
  std::vector<std::unique_ptr<Chunk>> free_;
};

}  // namespace headgate::relay
