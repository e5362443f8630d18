// The blocks, byte by byte as the specification has them. tests/netns has
// tcpdump read a whole file.
#include "ctl/pcapng.h"

#include <gtest/gtest.h>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"

namespace headgate::ctl {
namespace {

std::string Hex(const std::string& bytes) {
  return absl::BytesToHexString(bytes);
}

std::string NoBlanks(std::string text) {
  std::erase_if(text, absl::ascii_isspace);
  return text;
}

Pcapng::Packet APacket() {
  Pcapng::Packet packet;
  packet.interface = "e0";
  packet.time = absl::FromUnixNanos(0x0102030405060708);
  packet.size = 1514;
  packet.bytes = "\x01\x02\x03\x04\x05";
  return packet;
}

// 4.1: section header block, major 1, minor 0, length unknown.
TEST(PcapngTest, AFileBeginsWithItsSection) {
  EXPECT_EQ(Hex(Pcapng::Start()), NoBlanks(R"(
      0a0d0d0a 30000000 4d3c2b1a 0100 0000 ffffffffffffffff
      0400 0b00 68656164676174 6563746c 00
      0000 0000 30000000)"));
}

// 4.2 and 4.3: interface description (if_name, if_tsresol), then an enhanced
// packet (epb_flags).
TEST(PcapngTest, APacketComesWithItsInterface) {
  Pcapng pcapng;
  EXPECT_EQ(Hex(pcapng.Add(APacket())), NoBlanks(R"(
      01000000 28000000 0100 0000 00000000
      0200 0200 6530 0000  0900 0100 09 000000
      0000 0000 28000000
      06000000 34000000 00000000 04030201 08070605 05000000 ea050000
      0102030405 000000
      0200 0400 01000000
      0000 0000 34000000)"));
}

TEST(PcapngTest, AnInterfaceIsDescribedOnce) {
  Pcapng pcapng;
  const size_t with_interface = pcapng.Add(APacket()).size();
  EXPECT_EQ(with_interface - pcapng.Add(APacket()).size(), 0x28u);
  Pcapng::Packet out = APacket();
  out.interface = "e1";
  out.outbound = true;
  out.comment = "ttl";
  const std::string blocks = pcapng.Add(out);
  EXPECT_EQ(Hex(blocks.substr(0x28)), NoBlanks(R"(
      06000000 3c000000 01000000 04030201 08070605 05000000 ea050000
      0102030405 000000
      0200 0400 02000000  0100 0300 74746c 00
      0000 0000 3c000000)"));
}

}  // namespace
}  // namespace headgate::ctl
