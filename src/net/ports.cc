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
  const Range all = ParseRange(absl::StripAsciiWhitespace(range), " \t");
  uint64_t count = all.size();
  for (absl::string_view text : absl::StrSplit(
           absl::StripAsciiWhitespace(reserved), ',', absl::SkipEmpty())) {
    count -= std::min(count, ParseRange(text, "-").Common(all).size());
  }
  return count;
}

uint64_t CountSourcePorts() {
  return CountSourcePorts(ReadSysctl("ip_local_port_range"),
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
