// The log: one line per event on stderr, with the journal's <N> priority in
// front when the journal reads it. Any thread may log.
//
//   kError    the operator must act
//   kWarning  degraded; the line says what to do
//   kInfo     changes of state: start, reload, backend up and down
//   kDebug    one line per connection; off by default
#pragma once

#include <string>

#include "absl/strings/str_format.h"
#include "absl/strings/string_view.h"

namespace headgate::log {

enum class Level { kDebug, kInfo, kWarning, kError };

// Call once, before threads start. "debug" lowers the threshold.
void Init(Level threshold);
bool Enabled(Level level);
void Write(Level level, absl::string_view line);

template <typename... Args>
void Error(const absl::FormatSpec<Args...>& format, const Args&... args) {
  Write(Level::kError, absl::StrFormat(format, args...));
}
template <typename... Args>
void Warning(const absl::FormatSpec<Args...>& format, const Args&... args) {
  Write(Level::kWarning, absl::StrFormat(format, args...));
}
template <typename... Args>
void Info(const absl::FormatSpec<Args...>& format, const Args&... args) {
  Write(Level::kInfo, absl::StrFormat(format, args...));
}
template <typename... Args>
void Debug(const absl::FormatSpec<Args...>& format, const Args&... args) {
  if (Enabled(Level::kDebug)) {
    Write(Level::kDebug, absl::StrFormat(format, args...));
  }
}

}  // namespace headgate::log
