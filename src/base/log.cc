#include "base/log.h"

#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <cstdlib>

namespace headgate::log {
namespace {

spdlog::level::level_enum ToSpdlog(Level level) {
  switch (level) {
    case Level::kDebug:
      return spdlog::level::debug;
    case Level::kInfo:
      return spdlog::level::info;
    case Level::kWarning:
      return spdlog::level::warn;
    case Level::kError:
      return spdlog::level::err;
  }
  return spdlog::level::err;
}

const char* JournalPriority(Level level) {
  switch (level) {
    case Level::kDebug:
      return "<7>";
    case Level::kInfo:
      return "<6>";
    case Level::kWarning:
      return "<4>";
    case Level::kError:
      return "<3>";
  }
  return "<3>";
}

bool under_journal = false;

spdlog::logger& Logger() {
  static spdlog::logger* logger = [] {
    auto* made = new spdlog::logger(  // Never freed: threads may outlive main.
        "headgate", std::make_shared<spdlog::sinks::stderr_sink_mt>());
    made->set_pattern("%Y-%m-%dT%H:%M:%S.%e%z %l %v");
    made->flush_on(spdlog::level::debug);
    return made;
  }();
  return *logger;
}

}  // namespace

void Init(Level threshold) {
  // systemd sets JOURNAL_STREAM for a stderr that the journal reads; it has
  // its own clock there.
  under_journal = std::getenv("JOURNAL_STREAM") != nullptr;
  if (under_journal) Logger().set_pattern("%v");
  Logger().set_level(ToSpdlog(threshold));
}

bool Enabled(Level level) { return Logger().should_log(ToSpdlog(level)); }

void Write(Level level, absl::string_view line) {
  spdlog::string_view_t text(line.data(), line.size());
  if (under_journal) {
    Logger().log(ToSpdlog(level), "{}{}", JournalPriority(level), text);
  } else {
    Logger().log(ToSpdlog(level), "{}", text);
  }
}

}  // namespace headgate::log
