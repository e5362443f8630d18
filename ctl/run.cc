#include "ctl/run.h"

#include <algorithm>
#include <iterator>
#include <ostream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "base/status.h"
#include "base/suggest.h"
#include "ctl/args.h"
#include "ctl/command.h"
#include "ctl/session.h"

namespace headgate::ctl {
namespace {

using Commands = std::vector<Command>;

Commands AllCommands() {
  Commands all;
  for (std::span<const Command> part :
       {StatusCommands(), ServiceCommands(), BackendCommands(), ConnCommands(),
        FlowCommands(), ConfigCommands()}) {
    all.insert(all.end(), part.begin(), part.end());
  }
  return all;
}

int ExitCode(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kOk:
      return 0;
    case absl::StatusCode::kInvalidArgument:
      return 2;
    case absl::StatusCode::kUnavailable:
      return 3;
    case absl::StatusCode::kNotFound:
      return 4;
    case absl::StatusCode::kPermissionDenied:
      return 5;
    case absl::StatusCode::kDeadlineExceeded:
      return 6;
    case absl::StatusCode::kAborted:
      return 7;
    default:
      return 1;
  }
}

bool TakesWait(const Command& command) {
  return command.flags == Flags::kWait || command.flags == Flags::kPace;
}

bool TakesClient(const Command& command) {
  return command.flags == Flags::kList || command.flags == Flags::kTrace;
}

bool TakesService(const Command& command) {
  return command.flags == Flags::kService || TakesClient(command);
}

std::string Synopsis(const Command& command) {
  std::string text(command.noun);
  for (absl::string_view part : {command.verb, command.args}) {
    if (!part.empty()) absl::StrAppend(&text, " ", part);
  }
  if (TakesService(command)) absl::StrAppend(&text, " [--service=SERVICE]");
  if (TakesClient(command)) {
    absl::StrAppend(&text, " [--client=ADDRESS[:PORT]]");
  }
  if (command.flags == Flags::kList) absl::StrAppend(&text, " [--limit=N]");
  if (command.flags == Flags::kTrace) absl::StrAppend(&text, " [--count=N]");
  if (command.flags == Flags::kPace) {
    absl::StrAppend(&text, " [--over=DURATION] [--order=oldest|idle]");
  }
  if (command.flags == Flags::kExplain) absl::StrAppend(&text, " [--explain]");
  if (TakesWait(command)) {
    absl::StrAppend(&text, " [--wait] [--timeout=DURATION]");
  }
  if (command.flags == Flags::kNew) {
    absl::StrAppend(&text, " [--weight=N] [--backup]");
  }
  return text;
}

void PrintHelp(const Commands& commands, std::ostream& stream) {
  stream << "usage: headgatectl [--socket=PATH] NOUN VERB [ARG...] "
            "[-o table|json]\n\n";
  for (const Command& command : commands) {
    stream << absl::StrFormat("  %s\n      %s\n", Synopsis(command),
                              command.help);
  }
  stream << "\nflags:\n"
         << FlagHelp()
         << "\nexit codes: 0 done; 1 failed or a negative answer; 2 usage; "
            "3 daemon not\nreachable; 4 no such object; 5 permission denied; "
            "6 timed out; 7 conflict\n";
}

// The names that `name` gives to `commands`, each once, in their order.
template <typename Name>
std::vector<std::string> Names(const Commands& commands, Name name) {
  std::vector<std::string> names;
  for (const Command& command : commands) {
    if (names.empty() || names.back() != name(command)) {
      names.emplace_back(name(command));
    }
  }
  return names;
}

// Keeps the commands that the first words name, and removes those words. False
// when a word is missing: several commands, or those of a noun, are left.
absl::StatusOr<bool> Narrow(Commands& commands, Words& words) {
  for (const auto& [kind, name] :
       {std::pair{"noun", +[](const Command& c) { return c.noun; }},
        std::pair{"verb", +[](const Command& c) { return c.verb; }}}) {
    if (*name(commands[0]) == '\0') return true;
    if (words.empty()) return false;
    const std::vector<std::string> known = Names(commands, name);
    std::erase_if(commands, [&, wanted = name](const Command& c) {
      return words[0] != wanted(c);
    });
    if (commands.empty()) {
      return absl::InvalidArgumentError(
          absl::StrCat("unknown ", kind, " \"", words[0], "\"",
                       Suggestion(words[0], {known.begin(), known.end()})));
    }
    words.erase(words.begin());
  }
  return true;
}

absl::Status CheckUse(const Command& command, const Words& words,
                      const Options& options) {
  const std::vector<std::string> args =
      absl::StrSplit(command.args, ' ', absl::SkipEmpty());
  std::string wrong;
  if (words.size() < args.size()) {
    wrong = absl::StrCat(args[words.size()], " is missing");
  } else if (words.size() > args.size()) {
    wrong = absl::StrCat("unexpected \"", words[args.size()], "\"");
  } else if (options.service && !TakesService(command)) {
    wrong = "takes no --service";
  } else if (options.client && !TakesClient(command)) {
    wrong = "takes no --client";
  } else if (options.limit && command.flags != Flags::kList) {
    wrong = "takes no --limit";
  } else if (options.count && command.flags != Flags::kTrace) {
    wrong = "takes no --count";
  } else if (options.wait && !TakesWait(command)) {
    wrong = "takes no --wait";
  } else if (options.over && command.flags != Flags::kPace) {
    wrong = "takes no --over";
  } else if (options.order && command.flags != Flags::kPace) {
    wrong = "takes no --order";
  } else if (options.order && !options.over) {
    wrong = "--order needs --over";
  } else if (options.weight && command.flags != Flags::kNew) {
    wrong = "takes no --weight";
  } else if (options.backup && command.flags != Flags::kNew) {
    wrong = "takes no --backup";
  } else if (options.explain && command.flags != Flags::kExplain) {
    wrong = "takes no --explain";
  }
  if (wrong.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(wrong, "; usage: headgatectl ", Synopsis(command)));
}

absl::StatusOr<int> Dispatch(const std::vector<std::string>& args,
                             std::ostream& out, std::ostream& err) {
  ASSIGN_OR_RETURN(Args parsed, ParseArgs(args));
  Options& options = parsed.options;
  Words& words = parsed.words;
  if (options.version) {
    out << "headgatectl " << HG_VERSION << "\n";
    return 0;
  }
  if (!words.empty() && words[0] == "help") {
    options.help = true;
    words.erase(words.begin());
  }
  Commands commands = AllCommands();
  ASSIGN_OR_RETURN(const bool complete, Narrow(commands, words));
  if (options.help || !complete) {
    PrintHelp(commands, options.help ? out : err);
    return options.help ? 0 : 2;
  }
  RETURN_IF_ERROR(CheckUse(commands[0], words, options));
  Session session(options, out, err);
  return commands[0].run(session, words);
}

}  // namespace

int Run(const std::vector<std::string>& args, std::ostream& out,
        std::ostream& err) {
  absl::StatusOr<int> code = Dispatch(args, out, err);
  if (code.ok() && !out.flush()) {
    code = absl::InternalError("write output: failed");
  }
  if (code.ok()) return *code;
  err << "headgatectl: " << Json::Clean(code.status().message()) << std::endl;
  return ExitCode(code.status());
}

}  // namespace headgate::ctl
