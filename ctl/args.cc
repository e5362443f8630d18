#include "ctl/args.h"

#include <algorithm>
#include <cstddef>
#include <iterator>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/status.h"
#include "base/suggest.h"

namespace headgate::ctl {
namespace {

absl::Status SetSocket(Options& options, const std::string& value) {
  options.socket = value;
  return absl::OkStatus();
}

absl::Status SetOutput(Options& options, const std::string& value) {
  if (value != "table" && value != "json") {
    return absl::InvalidArgumentError("table or json");
  }
  options.output = value == "json" ? Output::kJson : Output::kTable;
  return absl::OkStatus();
}

absl::Status SetService(Options& options, const std::string& value) {
  options.service = value;
  return absl::OkStatus();
}

absl::Status SetTimeout(Options& options, const std::string& value) {
  absl::Duration timeout;
  if (!absl::ParseDuration(value, &timeout) ||
      timeout <= absl::ZeroDuration() || timeout == absl::InfiniteDuration()) {
    return absl::InvalidArgumentError("a duration like 500ms, 5s, 10m or 1h");
  }
  options.timeout = timeout;
  return absl::OkStatus();
}

absl::Status SetColor(Options& options, const std::string& value) {
  if (value == "auto") {
    options.color = Color::kAuto;
  } else if (value == "always") {
    options.color = Color::kAlways;
  } else if (value == "never") {
    options.color = Color::kNever;
  } else {
    return absl::InvalidArgumentError("auto, always or never");
  }
  return absl::OkStatus();
}

absl::Status SetWait(Options& options, const std::string& /*value*/) {
  options.wait = true;
  return absl::OkStatus();
}

absl::Status SetHelp(Options& options, const std::string& /*value*/) {
  options.help = true;
  return absl::OkStatus();
}

absl::Status SetVersion(Options& options, const std::string& /*value*/) {
  options.version = true;
  return absl::OkStatus();
}

struct Flag {
  absl::string_view name;
  absl::string_view alias;
  absl::string_view value;  // Its name in the help; empty: takes none.
  absl::string_view help;
  // An error says what the value should have been.
  absl::Status (*set)(Options&, const std::string& value);
};

constexpr Flag kFlags[] = {
    {"--socket", "", "PATH", "the daemon's control socket", SetSocket},
    {"--output", "-o", "table|json", "for people or for programs", SetOutput},
    {"--service", "", "SERVICE", "lists: only this service", SetService},
    {"--wait", "", "", "status, backend: wait for the outcome", SetWait},
    {"--timeout", "", "DURATION", "give up after 500ms, 5s, 10m, 1h",
     SetTimeout},
    {"--color", "", "auto|always|never", "auto: on a terminal, not if NO_COLOR",
     SetColor},
    {"--help", "-h", "", "this text; after a noun or a verb, theirs", SetHelp},
    {"--version", "", "", "print the version", SetVersion},
};

absl::StatusOr<const Flag*> FindFlag(absl::string_view name) {
  std::vector<absl::string_view> known;
  for (const Flag& flag : kFlags) {
    if (name == flag.name || name == flag.alias) return &flag;
    known.emplace_back(flag.name);
  }
  return absl::InvalidArgumentError(
      absl::StrCat("unknown flag ", name, Suggestion(name, known)));
}

using Cursor = std::vector<std::string>::const_iterator;

// Parses the flag at `*at` and moves `*at` to the last argument it used.
absl::Status ParseFlag(Cursor* at, Cursor end, Options& options) {
  const std::string& arg = **at;
  const size_t equals = arg.find('=');
  ASSIGN_OR_RETURN(const Flag* flag, FindFlag(arg.substr(0, equals)));
  std::string value;
  if (equals != std::string::npos) {
    value = arg.substr(equals + 1);
    if (flag->value.empty()) {
      return absl::InvalidArgumentError(
          absl::StrCat("flag ", flag->name, ": takes no value"));
    }
  } else if (!flag->value.empty() && std::next(*at) != end) {
    value = *++*at;
  }
  if (!flag->value.empty() && value.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("flag ", flag->name, ": ", flag->value, " is missing"));
  }
  if (absl::Status set = flag->set(options, value); !set.ok()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "flag ", flag->name, ": \"", value, "\" is not ", set.message()));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Args> ParseArgs(const std::vector<std::string>& args) {
  Args parsed;
  for (auto at = args.begin(); at != args.end(); ++at) {
    if (*at == "--") {
      std::copy(std::next(at), args.end(), std::back_inserter(parsed.words));
      break;
    }
    if (*at == "-" || !absl::StartsWith(*at, "-")) {  // "-" is a file: stdin.
      parsed.words.push_back(*at);
      continue;
    }
    RETURN_IF_ERROR(ParseFlag(&at, args.end(), parsed.options));
  }
  return parsed;
}

std::string FlagHelp() {
  std::string help;
  for (const Flag& flag : kFlags) {
    std::string spelling(flag.name);
    if (!flag.alias.empty())
      spelling = absl::StrCat(flag.alias, ", ", spelling);
    if (!flag.value.empty()) absl::StrAppend(&spelling, "=", flag.value);
    absl::StrAppendFormat(&help, "  %-32s %s\n", spelling, flag.help);
  }
  return help;
}

}  // namespace headgate::ctl
