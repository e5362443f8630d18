// One row per command: what it is called, what it takes, what runs it.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "ctl/session.h"

namespace headgate::ctl {

using Words = std::vector<std::string>;

// kPace: --over and --order, and --wait. kNew: --weight and --backup. kList:
// --service, --client and --limit. kTrace: --service, --client and --count.
enum class Flags {
  kNone,
  kService,
  kWait,
  kPace,
  kNew,
  kExplain,
  kList,
  kTrace
};

struct Command {
  const char* noun;
  const char* verb;  // "": the noun stands alone.
  const char* args;  // Their names, one word each; all are required.
  Flags flags;       // Those that it understands, of the ones not for all.
  const char* help;  // One line.
  // `args` has as many words as are named above. The value is the exit code, 0
  // or 1; an error is printed by the caller and has its code from run.h.
  absl::StatusOr<int> (*run)(Session& session, const Words& args);
};

std::span<const Command> StatusCommands();
std::span<const Command> ServiceCommands();
std::span<const Command> BackendCommands();
std::span<const Command> ConnCommands();
std::span<const Command> FlowCommands();
std::span<const Command> ConfigCommands();

}  // namespace headgate::ctl
