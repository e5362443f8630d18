// A BPF array map that both halves have in memory (BPF_F_MMAPABLE).
#pragma once

#include <sys/mman.h>

#include <cerrno>
#include <cstddef>
#include <utility>

#include "absl/status/statusor.h"
#include "base/status.h"

namespace headgate::datapath {

// Elements are read and written with atomics; the array itself is movable and
// unmapped in the destructor.
template <typename T>
class SharedArray {
 public:
  static absl::StatusOr<SharedArray> Map(int map_fd, size_t count) {
    void* base = mmap(nullptr, count * sizeof(T), PROT_READ | PROT_WRITE,
                      MAP_SHARED, map_fd, 0);
    if (base == MAP_FAILED) return ErrnoStatus(errno, "map BPF array");
    return SharedArray(static_cast<T*>(base), count);
  }
  SharedArray() = default;
  SharedArray(SharedArray&& other) noexcept { *this = std::move(other); }
  SharedArray& operator=(SharedArray&& other) noexcept {
    std::swap(base_, other.base_);
    std::swap(count_, other.count_);
    return *this;
  }
  ~SharedArray() {
    if (base_ != nullptr) munmap(base_, count_ * sizeof(T));
  }

  T* data() const { return base_; }
  size_t size() const { return count_; }
  T& operator[](size_t index) const { return base_[index]; }

 private:
  SharedArray(T* base, size_t count) : base_(base), count_(count) {}

  T* base_ = nullptr;
  size_t count_ = 0;
};

}  // namespace headgate::datapath
