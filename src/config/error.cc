#include "config/error.h"

#include <algorithm>
#include <tuple>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"

namespace headgate::config {

std::string Format(absl::string_view file, const Error& error) {
  return absl::StrCat(file, ":", error.line, ":", error.column,
                      ": error: ", error.message);
}

void Errors::Add(Position at, absl::string_view message) {
  std::string text(message.substr(0, kMaxMessage));
  if (message.size() > kMaxMessage) {
    // Not in the middle of a UTF-8 character: JSON would refuse it.
    size_t end = kMaxMessage - 3;
    while ((static_cast<unsigned char>(text[end]) & 0xc0) == 0x80) --end;
    text.replace(end, std::string::npos, "...");
  }
  std::replace_if(
      text.begin(), text.end(),
      [](char c) { return absl::ascii_iscntrl(static_cast<unsigned char>(c)); },
      '?');
  errors_.push_back({at.line, at.column, std::move(text)});
}

std::vector<Error> Errors::TakeSorted() {
  std::stable_sort(
      errors_.begin(), errors_.end(), [](const Error& a, const Error& b) {
        return std::tie(a.line, a.column) < std::tie(b.line, b.column);
      });
  return std::exchange(errors_, {});
}

}  // namespace headgate::config
