// Buffers for bytes that a slow sink has not taken yet. A connection holds one
// only while it has such bytes, so an idle connection holds none.
#pragma once

#include <array>
#include <cstddef>
#include <cstring>
#include <memory>
#include <vector>

#include "absl/strings/string_view.h"

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

// One worker's; not shared between threads.
class BufferPool {
 public:
  std::unique_ptr<Chunk> Take(absl::string_view content) {
    std::unique_ptr<Chunk> chunk;
    if (free_.empty()) {
      chunk.reset(new Chunk);
    } else {
      chunk = std::move(free_.back());
      free_.pop_back();
    }
    std::memcpy(chunk->bytes.data(), content.data(), content.size());
    chunk->begin = 0;
    chunk->end = content.size();
    return chunk;
  }
  void Return(std::unique_ptr<Chunk> chunk) {
    if (free_.size() < kKept) free_.push_back(std::move(chunk));
  }

 private:
  static constexpr size_t kKept = 64;  // 4 MiB, for the next burst.
  std::vector<std::unique_ptr<Chunk>> free_;
};

}  // namespace headgate::relay
