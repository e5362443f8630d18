#include "net/ports.h"

#include <arpa/inet.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <iterator>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/status.h"

namespace headgate {
namespace {

struct Range {
  uint64_t low = 1;
  uint64_t high = 0;

  uint64_t size() const { return high < low ? 0 : high - low + 1; }
  Range Common(const Range& other) const {
    return {std::max(low, other.low), std::min(high, other.high)};
  }
};

// "1024<separator>2047" or "1024"; empty if it is neither.
Range ParseRange(absl::string_view text, absl::string_view separators) {
  const std::vector<absl::string_view> ends =
      absl::StrSplit(text, absl::ByAnyChar(separators), absl::SkipEmpty());
  Range range;
  if (ends.empty() || ends.size() > 2 ||
      !absl::SimpleAtoi(ends.front(), &range.low) ||
      !absl::SimpleAtoi(ends.back(), &range.high)) {
    return {};
  }
  return range;
}

std::string ReadSysctl(absl::string_view name) {
  std::ifstream file(absl::StrCat("/proc/sys/net/ipv4/", name));
  return {std::istreambuf_iterator<char>(file), {}};
}

Range ParsePortRange(absl::string_view sysctl) {
  return ParseRange(absl::StripAsciiWhitespace(sysctl), " \t");
}

// Of which the kernel's list, in which no port is named twice, has none.
uint64_t CountUnreserved(const Range& all, absl::string_view reserved) {
  uint64_t count = all.size();
  for (absl::string_view text : absl::StrSplit(
           absl::StripAsciiWhitespace(reserved), ',', absl::SkipEmpty())) {
    count -= std::min(count, ParseRange(text, "-").Common(all).size());
  }
  return count;
}

// "0100007F:0019": words as this machine has them, of bytes in network order.
std::optional<Endpoint> ParseRow(absl::string_view text) {
  const std::pair<absl::string_view, absl::string_view> parts =
      absl::StrSplit(text, absl::MaxSplits(':', 1));
  uint32_t port = 0;
  if (!absl::SimpleHexAtoi(parts.second, &port)) return std::nullopt;
  std::array<uint32_t, 4> words{0, 0, htonl(0xffff), 0};  // IPv4, mapped.
  const size_t first = parts.first.size() == 8 ? 3 : 0;
  if (first == 0 && parts.first.size() != 32) return std::nullopt;
  for (size_t i = first; i < words.size(); ++i) {
    if (!absl::SimpleHexAtoi(parts.first.substr((i - first) * 8, 8),
                             &words[i])) {
      return std::nullopt;
    }
  }
  std::array<uint8_t, 16> bytes{};
  std::memcpy(bytes.data(), words.data(), bytes.size());
  return Endpoint{IpAddress::FromBytes(bytes), static_cast<uint16_t>(port)};
}

}  // namespace

uint64_t CountSourcePorts(absl::string_view range, absl::string_view reserved) {
  return CountUnreserved(ParsePortRange(range), reserved);
}

uint64_t CountSourcePorts() {
  return CountSourcePorts(ReadSysctl("ip_local_port_range"),
                          ReadSysctl("ip_local_reserved_ports"));
}

absl::Status CheckPortsAreOurs(uint16_t first, uint16_t last,
                               absl::string_view range,
                               absl::string_view reserved) {
  const Range kernels = ParsePortRange(range);
  const Range common = kernels.Common({first, last});
  if (CountUnreserved(common, reserved) == 0) return absl::OkStatus();
  std::string list(absl::StripAsciiWhitespace(reserved));
  if (!list.empty()) list += ',';
  return absl::FailedPreconditionError(absl::StrCat(
      "the kernel gives ports ", common.low, "-", common.high,
      " to sockets of its own (net.ipv4.ip_local_port_range); choose a range "
      "outside ",
      kernels.low, "-", kernels.high,
      ", or take it from the kernel: sysctl -w "
      "net.ipv4.ip_local_reserved_ports=",
      list, common.low, "-", common.high));
}

absl::Status CheckPortsAreOurs(uint16_t first, uint16_t last) {
  return CheckPortsAreOurs(first, last, ReadSysctl("ip_local_port_range"),
                           ReadSysctl("ip_local_reserved_ports"));
}

std::set<Endpoint> ListeningEndpoints(std::istream& table) {
  std::set<Endpoint> all;
  std::string line;
  std::getline(table, line);  // Names of the columns.
  while (std::getline(table, line)) {
    const std::vector<absl::string_view> fields =
        absl::StrSplit(line, ' ', absl::SkipEmpty());
    if (fields.size() < 4 || fields[3] != "0A") break;
    if (const auto endpoint = ParseRow(fields[1])) all.insert(*endpoint);
  }
  return all;
}

absl::StatusOr<std::set<Endpoint>> ListeningEndpoints() {
  std::set<Endpoint> all;
  for (const char* path : {"/proc/net/tcp", "/proc/net/tcp6"}) {
    errno = 0;
    std::ifstream table(path);
    // A kernel may have no IPv6.
    if (!table.is_open() && errno != ENOENT) {
      return ErrnoStatus(errno, absl::StrCat("open ", path));
    }
    all.merge(ListeningEndpoints(table));
  }
  return all;
}

}  // namespace headgate
