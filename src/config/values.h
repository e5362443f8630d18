// The scalars of the configuration, as text and as values. Parsers return the
// reason alone ("\"abc\" is not a whole number"): the reader adds what and
// where. Formatters write what the parsers read back to the same value.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "config/types.h"

namespace headgate::config {

// A name of an enumeration; no value: planned, but not in this version.
template <typename Enum>
struct Choice {
  absl::string_view text;
  std::optional<Enum> value;
};

inline constexpr Choice<Datapath> kDatapaths[] = {
    {"splice", Datapath::kSplice},
    {"relay", Datapath::kRelay},
    {"packet", Datapath::kPacket},
};
inline constexpr Choice<PacketAttach> kPacketAttaches[] = {
    {"tc", PacketAttach::kTc},
    {"xdp", PacketAttach::kXdp},
};
inline constexpr Choice<Balance> kBalances[] = {
    {"round_robin", Balance::kRoundRobin},
    {"least_connections", Balance::kLeastConnections},
    {"maglev", Balance::kMaglev},
    {"source", Balance::kSource},
    {"first", Balance::kFirst},
};
inline constexpr Choice<LastResort> kLastResorts[] = {
    {"none", LastResort::kNone},
    {"draining", LastResort::kDraining},
};
inline constexpr Choice<ProxyProtocol> kProxyProtocols[] = {
    {"none", ProxyProtocol::kNone},
    {"v1", ProxyProtocol::kV1},
    {"v2", ProxyProtocol::kV2},
};
inline constexpr Choice<HealthType> kHealthTypes[] = {
    {"auto", HealthType::kAuto}, {"none", HealthType::kNone},
    {"tcp", HealthType::kTcp},   {"greeting", HealthType::kGreeting},
    {"smtp", HealthType::kSmtp}, {"imap", HealthType::kImap},
    {"tls", HealthType::kTls},   {"http", HealthType::kHttp},
};
inline constexpr Choice<Postscreen> kPostscreens[] = {
    {"teaser", Postscreen::kTeaser},
    {"full", Postscreen::kFull},
};
inline constexpr Choice<CheckHeader> kCheckHeaders[] = {
    {"none", CheckHeader::kNone},
    {"local", CheckHeader::kLocal},
    {"own", CheckHeader::kOwn},
};
inline constexpr Choice<CheckShare> kCheckShares[] = {
    {"none", CheckShare::kNone},
    {"group", CheckShare::kGroup},
};
inline constexpr Choice<NoBackend> kNoBackends[] = {
    {"reset", NoBackend::kReset},
    {"smtp_421", NoBackend::kSmtp421},
    {"imap_bye", NoBackend::kImapBye},
};
inline constexpr Choice<BackendDown> kBackendDowns[] = {
    {"keep", BackendDown::kKeep},
    {"reset", BackendDown::kReset},
};
inline constexpr Choice<SpliceMode> kSpliceModes[] = {
    {"auto", SpliceMode::kAuto},
    {"always", SpliceMode::kAlways},
    {"off", SpliceMode::kOff},
};

// `planned`: `text` is a name that this version does not implement.
absl::Status NotAChoice(absl::string_view text, bool planned,
                        const std::vector<absl::string_view>& available);

template <typename Enum, size_t n>
auto OneOf(const Choice<Enum> (&choices)[n]) {
  return [&choices](absl::string_view text) -> absl::StatusOr<Enum> {
    bool planned = false;
    std::vector<absl::string_view> available;
    for (const Choice<Enum>& choice : choices) {
      if (choice.value.has_value()) available.push_back(choice.text);
      if (choice.text != text) continue;
      if (choice.value.has_value()) return *choice.value;
      planned = true;
    }
    return NotAChoice(text, planned, available);
  };
}

template <typename Enum, size_t n>
std::string NameOf(const Choice<Enum> (&choices)[n], Enum value) {
  for (const Choice<Enum>& choice : choices) {
    if (choice.value == value) return std::string(choice.text);
  }
  return "";
}

// Decimal digits and nothing else: no sign, no leading zero.
absl::StatusOr<uint64_t> ParseInteger(absl::string_view text, uint64_t min,
                                      uint64_t max);
template <typename T>
constexpr auto IntegerIn(T min, T max) {
  return [min, max](absl::string_view text) -> absl::StatusOr<T> {
    const auto value = ParseInteger(text, static_cast<uint64_t>(min),
                                    static_cast<uint64_t>(max));
    if (!value.ok()) return value.status();
    return static_cast<T>(*value);
  };
}

// An integer with a unit: ms, s, m or h. Formats in the largest that fits.
absl::StatusOr<absl::Duration> ParseDuration(absl::string_view text,
                                             absl::Duration min,
                                             absl::Duration max);
std::string DurationText(absl::Duration duration);
inline auto DurationIn(absl::Duration min, absl::Duration max) {
  return [min, max](absl::string_view text) {
    return ParseDuration(text, min, max);
  };
}

// Bytes: an integer, or one with KiB, MiB or GiB.
absl::StatusOr<uint64_t> ParseSize(absl::string_view text, uint64_t min,
                                   uint64_t max);
std::string SizeText(uint64_t bytes);
inline auto SizeIn(uint64_t min, uint64_t max) {
  return
      [min, max](absl::string_view text) { return ParseSize(text, min, max); };
}

absl::StatusOr<bool> ParseBool(absl::string_view text);

// 1 to 63 of A-Z a-z 0-9 _ . - and neither '-' nor '.' first.
absl::StatusOr<std::string> ParseName(absl::string_view text);

// 1 to 255 visible ASCII characters: nothing that could end a line or a word
// of a protocol.
absl::StatusOr<std::string> ParseWord(absl::string_view text);
// The same beginning with '/'.
absl::StatusOr<std::string> ParsePath(absl::string_view text);
// A host name for SNI: letters, digits, '-' and '.' (RFC 6066, 3).
absl::StatusOr<std::string> ParseServerName(absl::string_view text);
// The name of an HTTP header field: a token (RFC 9110, 5.6.2).
absl::StatusOr<std::string> ParseFieldName(absl::string_view text);
// An RE2 of 1 to 256 printable characters.
absl::StatusOr<std::string> ParseRegex(absl::string_view text);
// Any of these as a YAML scalar.
std::string QuotedText(absl::string_view text);

// Where a backend is: an IP address, with a port or without.
struct Target {
  IpAddress address;
  std::optional<uint16_t> port;
};
absl::StatusOr<Target> ParseTarget(absl::string_view text);

// "20000-60999": 1024 or above, the first not above the last.
struct PortRange {
  uint16_t first = 0;
  uint16_t last = 0;
};
absl::StatusOr<PortRange> ParsePortRange(absl::string_view text);

// The name of a network interface: 1 to 15 characters, none of them a slash or
// a space (dev_valid_name() of the kernel).
absl::StatusOr<std::string> ParseInterface(absl::string_view text);

// An address of this machine to connect from, without a port.
absl::StatusOr<IpAddress> ParseSource(absl::string_view text);

}  // namespace headgate::config
