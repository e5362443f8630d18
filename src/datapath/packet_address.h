// An address as the packet path has it.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>

namespace headgate::datapath {

using PacketAddress = std::array<uint8_t, 16>;  // As in bpf/abi/types.h.

inline bool IsV4(const PacketAddress& address) {
  return std::all_of(address.begin(), address.begin() + 10,
                     [](uint8_t byte) { return byte == 0; }) &&
         address[10] == 0xff && address[11] == 0xff;
}

}  // namespace headgate::datapath
