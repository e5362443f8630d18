#include "net/ports.h"

#include <algorithm>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

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

}  // namespace headgate
