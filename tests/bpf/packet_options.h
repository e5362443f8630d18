// What must become of TCP options.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>

#include "packet_frames.h"

namespace headgate::datapath {

// Calls `visit` with each option's kind and bytes, until one is malformed.
inline void ForEachOption(
    const Bytes& options,
    const std::function<void(uint8_t kind, size_t at, size_t size)>& visit) {
  for (size_t at = 0; at < options.size();) {
    if (options[at] == 0) return;
    if (options[at] == 1) {
      ++at;
      continue;
    }
    if (at + 1 >= options.size()) return;
    const size_t size = options[at + 1];
    if (size < 2 || at + size > options.size()) return;
    visit(options[at], at, size);
    at += size;
  }
}

// By RFC 2385 or RFC 5925: what they cover must be changed.
inline bool IsSigned(const Bytes& options) {
  bool is_signed = false;
  ForEachOption(options, [&](uint8_t kind, size_t, size_t) {
    if (kind == 19 || kind == 29) is_signed = true;
  });
  return is_signed;
}

// Of a SYN, where no larger segment than `most` fits.
inline Bytes SynOptions(const Bytes& options, uint32_t most) {
  Bytes out = options;
  ForEachOption(options, [&](uint8_t kind, size_t at, size_t size) {
    if (kind == 2 && size == 4 && Get16(options, at + 2) > most) {
      Set16(out, at + 2, most);
    }
    if (kind == 30 || kind == 34 || kind == 254) {
      std::fill_n(out.begin() + static_cast<long>(at), size, uint8_t{1});
    }
  });
  return out;
}

// SACK edges are moved by `move`.
inline Bytes MoveEdges(const Bytes& options,
                       const std::function<uint32_t(uint32_t)>& move) {
  Bytes out = options;
  ForEachOption(options, [&](uint8_t kind, size_t at, size_t size) {
    if (kind != 5) return;
    const size_t end = std::min(size, size_t{2 + 4 * 8});
    for (size_t i = 2; i + 4 <= end; i += 4) {
      const uint32_t moved = move(Get32(options, at + i));
      Set16(out, at + i, moved >> 16);
      Set16(out, at + i + 2, moved & 0xffff);
    }
  });
  return out;
}

}  // namespace headgate::datapath
