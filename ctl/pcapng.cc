#include "ctl/pcapng.h"

#include "absl/strings/str_cat.h"

namespace headgate::ctl {
namespace {

// Block types, and option codes within their blocks.
constexpr uint32_t kSection = 0x0a0d0d0a, kInterface = 1, kPacket = 6;
constexpr uint32_t kByteOrder = 0x1a2b3c4d, kVersion = 1;
constexpr uint16_t kApplication = 4, kName = 2, kResolution = 9, kComment = 1,
                   kFlags = 2;
constexpr uint32_t kEthernet = 1, kNoSnapLength = 0;
constexpr char kNanoseconds = 9;  // 10^-9
constexpr uint32_t kInbound = 1, kOutbound = 2;

std::string U16(uint32_t value) {
  return {static_cast<char>(value), static_cast<char>(value >> 8)};
}

std::string U32(uint32_t value) {
  return U16(value & 0xffff) + U16(value >> 16);
}

std::string Padded(std::string bytes) {
  bytes.resize((bytes.size() + 3) / 4 * 4);
  return bytes;
}

std::string Option(uint16_t code, const std::string& value) {
  return absl::StrCat(U16(code), U16(static_cast<uint32_t>(value.size())),
                      Padded(value));
}

// With the end of its options, if it has any.
std::string Block(uint32_t type, const std::string& body,
                  const std::string& options) {
  const std::string end = options.empty() ? "" : U32(0);
  const auto length =
      static_cast<uint32_t>(12 + body.size() + options.size() + end.size());
  return absl::StrCat(U32(type), U32(length), body, options, end, U32(length));
}

}  // namespace

std::string Pcapng::Start() {
  // Of unknown length.
  return Block(kSection,
               absl::StrCat(U32(kByteOrder), U32(kVersion), U32(~0U), U32(~0U)),
               Option(kApplication, "headgatectl"));
}

std::string Pcapng::Add(const Packet& packet) {
  std::string blocks;
  const auto [interface, is_new] = interfaces_.emplace(
      packet.interface, static_cast<uint32_t>(interfaces_.size()));
  if (is_new) {
    blocks = Block(kInterface, U32(kEthernet) + U32(kNoSnapLength),
                   Option(kName, packet.interface) +
                       Option(kResolution, std::string(1, kNanoseconds)));
  }
  const auto time = static_cast<uint64_t>(absl::ToUnixNanos(packet.time));
  std::string options =
      Option(kFlags, U32(packet.outbound ? kOutbound : kInbound));
  if (!packet.comment.empty()) options += Option(kComment, packet.comment);
  return blocks +
         Block(kPacket,
               absl::StrCat(U32(interface->second),
                            U32(static_cast<uint32_t>(time >> 32)),
                            U32(static_cast<uint32_t>(time)),
                            U32(static_cast<uint32_t>(packet.bytes.size())),
                            U32(packet.size), Padded(packet.bytes)),
               options);
}

}  // namespace headgate::ctl
