#include "base/status.h"
#include "ctl/command.h"
#include "ctl/render.h"

namespace headgate::ctl {
namespace {

constexpr Column kColumns[] = {
    {"ID", "id"},
    {"CLIENT", "client"},
    {"LISTEN", "listen"},
    {"SOURCE", "source"},
    {"BACKEND", "backend"},
    {"STATE", "state"},
    {"HEADER", "header"},
    {"IDLE", "idle_seconds", AsSeconds, Align::kRight},
};

absl::StatusOr<int> List(Session& session, const Words& /*args*/) {
  ASSIGN_OR_RETURN(Reply reply, session.Call({"GET", "/v1/flows", ""}));
  if (session.json_output()) {
    session.PrintJson(reply);
  } else {
    PrintTable(reply.json["flows"].Items(), kColumns, session.color(),
               session.out());
  }
  return 0;
}

constexpr Command kCommands[] = {
    {"flow", "list", "", Flags::kNone,
     "what the packet path translates, and to what", List},
};

}  // namespace

std::span<const Command> FlowCommands() { return kCommands; }

}  // namespace headgate::ctl
