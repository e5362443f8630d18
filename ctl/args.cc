#include "ctl/args.h"

#include <algorithm>
#include <cstddef>
#include <iterator>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
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

absl::Status SetClient(Options& options, const std::string& value) {
  options.client = value;
  return absl::OkStatus();
}

absl::Status SetNumber(std::optional<uint64_t>& out, const std::string& value) {
  uint64_t number = 0;
  if (!absl::SimpleAtoi(value, &number) || number == 0) {
    return absl::InvalidArgumentError("a number from 1 on");
  }
  out = number;
  return absl::OkStatus();
}

absl::Status SetLimit(Options& options, const std::string& value) {
  return SetNumber(options.limit, value);
}

absl::Status SetCount(Options& options, const std::string& value) {
  return SetNumber(options.count, value);
}

absl::Status SetDuration(std::optional<absl::Duration>& out,
                         const std::string& value) {
  absl::Duration duration;
  if (!absl::ParseDuration(value, &duration) ||
      duration <= absl::ZeroDuration() ||
      duration == absl::InfiniteDuration()) {
    return absl::InvalidArgumentError("a duration like 500ms, 5s, 10m or 1h");
  }
  out = duration;
  return absl::OkStatus();
}

absl::Status SetTimeout(Options& options, const std::string& value) {
  return SetDuration(options.timeout, value);
}

absl::Status SetOver(Options& options, const std::string& value) {
  return SetDuration(options.over, value);
}

absl::Status SetOrder(Options& options, const std::string& value) {
  if (value != "oldest" && value != "idle") {
    return absl::InvalidArgumentError("oldest or idle");
  }
  options.order = value;
  return absl::OkStatus();
}

absl::Status SetWeight(Options& options, const std::string& value) {
  uint32_t weight = 0;
  if (!absl::SimpleAtoi(value, &weight)) {
    return absl::InvalidArgumentError("a number from 0 to 256");
  }
  options.weight = weight;
  return absl::OkStatus();
}

absl::Status SetBackup(Options& options, const std::string& /*value*/) {
  options.backup = true;
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

absl::Status SetExplain(Options& options, const std::string& /*value*/) {
  options.explain = true;
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
    {"--service", "", "SERVICE", "lists, flow: only this service", SetService},
    {"--client", "", "ADDRESS[:PORT]", "conn list, flow: only this client",
     SetClient},
    {"--limit", "", "N", "conn list, flow list: only the first N", SetLimit},
    {"--count", "", "N", "flow: ends after so many packets", SetCount},
    {"--wait", "", "", "status, backend: wait for the outcome", SetWait},
    {"--explain", "", "", "backend check: each step", SetExplain},
    {"--timeout", "", "DURATION", "give up after 500ms, 5s, 10m, 1h",
     SetTimeout},
    {"--over", "", "DURATION", "drain: end the connections too, evenly",
     SetOver},
    {"--order", "", "oldest|idle", "drain --over: who goes first", SetOrder},
    {"--weight", "", "N", "add: share of new connections, 0 to 256", SetWeight},
    {"--backup", "", "", "add: only when no other is eligible", SetBackup},
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
