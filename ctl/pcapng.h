// Packets as a pcapng file (draft-ietf-opsawg-pcapng), in pieces that may be
// written one by one: cut off behind any of them, the file is whole.
// Little-endian, Ethernet, nanoseconds.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "absl/time/time.h"

namespace headgate::ctl {

class Pcapng {
 public:
  struct Packet {
    std::string interface;  // Described when it comes up first.
    absl::Time time;
    bool outbound = false;
    uint32_t size = 0;  // Of the frame; `bytes` are its first ones.
    std::string bytes;
    std::string comment;  // Empty: none.
  };

  static std::string Start();  // What a file begins with.
  std::string Add(const Packet& packet);

 private:
  std::map<std::string, uint32_t> interfaces_;  // To their numbers.
};

}  // namespace headgate::ctl
