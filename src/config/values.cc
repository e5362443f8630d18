#include "config/values.h"

#include <re2/re2.h>

#include <algorithm>
#include <limits>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "base/suggest.h"

namespace headgate::config {
namespace {

constexpr size_t kMaxName = 63;
constexpr size_t kMaxWord = 255;
constexpr size_t kMaxRegex = 256;
constexpr uint64_t kOverflow = std::numeric_limits<uint64_t>::max();

// Units from the smallest to the largest; each a multiple of the one before.
struct Unit {
  absl::string_view suffix;
  uint64_t factor;
};
constexpr Unit kTimeUnits[] = {
    {"ms", 1}, {"s", 1000}, {"m", 60'000}, {"h", 3'600'000}};
constexpr Unit kSizeUnits[] = {
    {"", 1}, {"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}};

template <typename... Args>
absl::Status Invalid(absl::string_view text, const Args&... why) {
  return absl::InvalidArgumentError(absl::StrCat("\"", text, "\" ", why...));
}

bool IsDigit(char c) {
  return absl::ascii_isdigit(static_cast<unsigned char>(c));
}

// Digits without a leading zero. What overflows is outside any range, and so
// is the largest number, which stands for it.
std::optional<uint64_t> ParseDigits(absl::string_view text) {
  const bool leading_zero = text.size() > 1 && text.front() == '0';
  if (text.empty() || leading_zero ||
      !std::all_of(text.begin(), text.end(), IsDigit)) {
    return std::nullopt;
  }
  uint64_t value = 0;
  return absl::SimpleAtoi(text, &value) ? value : kOverflow;
}

template <size_t n>
std::optional<uint64_t> ParseWithUnit(absl::string_view text,
                                      const Unit (&units)[n]) {
  const auto* digits_end = std::find_if_not(text.begin(), text.end(), IsDigit);
  const auto digits = static_cast<size_t>(digits_end - text.begin());
  const std::optional<uint64_t> count = ParseDigits(text.substr(0, digits));
  if (!count.has_value()) return std::nullopt;
  for (const Unit& unit : units) {
    if (unit.suffix != text.substr(digits)) continue;
    const bool fits = *count <= kOverflow / unit.factor;
    return fits ? *count * unit.factor : kOverflow;
  }
  return std::nullopt;
}

template <size_t n>
std::string FormatWithUnit(uint64_t count, const Unit (&units)[n]) {
  const Unit* best = &units[0];
  for (const Unit& unit : units) {
    if (count != 0 && count % unit.factor == 0) best = &unit;
  }
  return absl::StrCat(count / best->factor, best->suffix);
}

uint64_t ToMilliseconds(absl::Duration duration) {
  return static_cast<uint64_t>(absl::ToInt64Milliseconds(duration));
}

}  // namespace

absl::Status NotAChoice(absl::string_view text, bool planned,
                        const std::vector<absl::string_view>& available) {
  if (planned) {
    return Invalid(text, "is not available in this version; use ",
                   absl::StrJoin(available, " or "));
  }
  return absl::InvalidArgumentError(absl::StrCat("unknown value \"", text, "\"",
                                                 Suggestion(text, available)));
}

absl::StatusOr<uint64_t> ParseInteger(absl::string_view text, uint64_t min,
                                      uint64_t max) {
  const std::optional<uint64_t> value = ParseDigits(text);
  if (!value.has_value()) return Invalid(text, "is not a whole number");
  if (*value < min || *value > max) {
    return Invalid(text, "is outside ", min, " to ", max);
  }
  return *value;
}

absl::StatusOr<absl::Duration> ParseDuration(absl::string_view text,
                                             absl::Duration min,
                                             absl::Duration max) {
  if (ParseDigits(text).has_value()) {
    return Invalid(text, "has no unit; add ms, s, m or h");
  }
  const std::optional<uint64_t> value = ParseWithUnit(text, kTimeUnits);
  if (!value.has_value()) {
    return Invalid(text, "is not a duration such as 500ms, 5s, 10m or 1h");
  }
  if (*value < ToMilliseconds(min) || *value > ToMilliseconds(max)) {
    return Invalid(text, "is outside ", DurationText(min), " to ",
                   DurationText(max));
  }
  return absl::Milliseconds(static_cast<int64_t>(*value));
}

std::string DurationText(absl::Duration duration) {
  return FormatWithUnit(ToMilliseconds(duration), kTimeUnits);
}

absl::StatusOr<uint64_t> ParseSize(absl::string_view text, uint64_t min,
                                   uint64_t max) {
  const std::optional<uint64_t> value = ParseWithUnit(text, kSizeUnits);
  if (!value.has_value()) {
    return Invalid(text,
                   "is not a size in bytes, KiB, MiB or GiB, such as 256KiB");
  }
  if (*value < min || *value > max) {
    return Invalid(text, "is outside ", SizeText(min), " to ", SizeText(max));
  }
  return *value;
}

std::string SizeText(uint64_t bytes) {
  return FormatWithUnit(bytes, kSizeUnits);
}

absl::StatusOr<bool> ParseBool(absl::string_view text) {
  if (text == "true") return true;
  if (text == "false") return false;
  return Invalid(text, "is neither true nor false");
}

absl::StatusOr<std::string> ParseName(absl::string_view text) {
  const bool allowed = std::all_of(text.begin(), text.end(), [](char c) {
    return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '_' ||
           c == '.' || c == '-';
  });
  if (!allowed || text.empty() || text.size() > kMaxName ||
      text.front() == '-' || text.front() == '.') {
    return Invalid(text, "is not a name: 1 to ", kMaxName,
                   " letters, digits, '_', '.' or '-', and neither '.' nor "
                   "'-' first");
  }
  return std::string(text);
}

namespace {

bool IsVisible(char c) {
  return absl::ascii_isgraph(static_cast<unsigned char>(c));
}
bool IsNameCharacter(char c) {
  return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '-' ||
         c == '.';
}
bool IsTokenCharacter(char c) {
  return IsVisible(c) && absl::string_view("\"(),/:;<=>?@[\\]{}").find(c) ==
                             absl::string_view::npos;
}

// 1 to kMaxWord characters, all of one kind.
bool IsWordOf(absl::string_view text, bool (*allowed)(char)) {
  return !text.empty() && text.size() <= kMaxWord &&
         std::all_of(text.begin(), text.end(), allowed);
}

}  // namespace

absl::StatusOr<std::string> ParseWord(absl::string_view text) {
  if (IsWordOf(text, IsVisible)) return std::string(text);
  return Invalid(text, "is not 1 to ", kMaxWord,
                 " visible ASCII characters without a space");
}

absl::StatusOr<std::string> ParsePath(absl::string_view text) {
  if (IsWordOf(text, IsVisible) && text.front() == '/') {
    return std::string(text);
  }
  return Invalid(text, "is not a path such as /healthz");
}

absl::StatusOr<std::string> ParseServerName(absl::string_view text) {
  if (IsWordOf(text, IsNameCharacter) && !IpAddress::Parse(text).has_value()) {
    return std::string(text);
  }
  return Invalid(text, "is not a host name such as mail.example.com");
}

absl::StatusOr<std::string> ParseFieldName(absl::string_view text) {
  if (IsWordOf(text, IsTokenCharacter)) return std::string(text);
  return Invalid(text,
                 "is not the name of an HTTP header field such as "
                 "X-Load-Balancing-Endpoint-Weight");
}

absl::StatusOr<std::string> ParseRegex(absl::string_view text) {
  const bool printable = std::all_of(text.begin(), text.end(), [](char c) {
    return absl::ascii_isprint(static_cast<unsigned char>(c));
  });
  if (text.empty() || text.size() > kMaxRegex || !printable) {
    return Invalid(text, "is not 1 to ", kMaxRegex, " printable characters");
  }
  RE2::Options options(RE2::Quiet);
  options.set_max_mem(1 << 20);
  const RE2 regex(re2::StringPiece(text.data(), text.size()), options);
  if (regex.ok()) return std::string(text);
  return Invalid(text, "is not a regular expression (RE2): ", regex.error());
}

std::string QuotedText(absl::string_view text) {
  return absl::StrCat(
      "\"", absl::StrReplaceAll(text, {{"\\", "\\\\"}, {"\"", "\\\""}}), "\"");
}

absl::StatusOr<Target> ParseTarget(absl::string_view text) {
  absl::string_view host = text;
  if (text.size() > 2 && text.front() == '[' && text.back() == ']' &&
      text.find(':') != absl::string_view::npos) {
    host = text.substr(1, text.size() - 2);
  }
  Target target;
  if (const auto address = IpAddress::Parse(host); address.has_value()) {
    target.address = *address;
  } else if (const auto endpoint = Endpoint::Parse(text); endpoint.ok()) {
    target = {endpoint->address, endpoint->port};
  } else if (text.find_first_not_of("0123456789abcdefABCDEF.:[]") ==
                 absl::string_view::npos &&
             text.find(':') != absl::string_view::npos) {
    return endpoint.status();
  } else {
    return Invalid(text, "is not an IP address; host names are not resolved");
  }
  if (target.address.is_unspecified()) {
    return Invalid(text, "is no address to connect to");
  }
  return target;
}

absl::StatusOr<PortRange> ParsePortRange(absl::string_view text) {
  const std::vector<absl::string_view> ends = absl::StrSplit(text, '-');
  if (ends.size() == 2) {
    const auto first = ParseInteger(ends[0], 1024, 65535);
    const auto last = ParseInteger(ends[1], 1024, 65535);
    if (first.ok() && last.ok() && *first <= *last) {
      return PortRange{static_cast<uint16_t>(*first),
                       static_cast<uint16_t>(*last)};
    }
  }
  return absl::InvalidArgumentError(
      absl::StrCat("expected FIRST-LAST, ports of 1024 to 65535, such as "
                   "10240-32767, not \"",
                   text, "\""));
}

absl::StatusOr<std::string> ParseInterface(absl::string_view text) {
  const bool valid =
      !text.empty() && text.size() <= 15 && text != "." && text != ".." &&
      std::none_of(text.begin(), text.end(), [](char c) {
        return c == '/' || c == ':' ||
               !absl::ascii_isgraph(static_cast<unsigned char>(c));
      });
  if (valid) return std::string(text);
  return absl::InvalidArgumentError(
      absl::StrCat("\"", text,
                   "\" is not the name of a network interface (1 to 15 "
                   "characters)"));
}

absl::StatusOr<IpAddress> ParseSource(absl::string_view text) {
  const auto address = IpAddress::Parse(text);
  if (!address.has_value() && Endpoint::Parse(text).ok()) {
    return Invalid(text, "has a port; connections take any that is free");
  }
  if (!address.has_value()) {
    return Invalid(text, "is not an IP address of this machine");
  }
  if (address->is_unspecified() || address->is_multicast()) {
    return Invalid(text, "is no address to connect from");
  }
  if (address->is_link_local_v6()) {
    return Invalid(text,
                   "is a link-local address, which needs an interface; use a "
                   "global one");
  }
  return *address;
}

}  // namespace headgate::config
