#include <ostream>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "ctl/command.h"
#include "ctl/list.h"
#include "ctl/render.h"

namespace headgate::ctl {
namespace {

constexpr Column kColumns[] = {
    {"ID", "id"},
    {"SERVICE", "service"},
    {"BACKEND", "backend"},
    {"CLIENT", "client"},
    {"DATAPATH", "datapath"},
    {"AGE", "age_seconds", AsSeconds, Align::kRight},
    {"IDLE", "idle_seconds", AsSeconds, Align::kRight},
    {"IN", "bytes_in", AsBytes, Align::kRight},
    {"OUT", "bytes_out", AsBytes, Align::kRight},
};

absl::StatusOr<int> List(Session& session, const Words& /*args*/) {
  return ListConnections(session, "/v1/connections", "connections", kColumns);
}

absl::StatusOr<int> Count(Session& session, const Words& /*args*/) {
  ASSIGN_OR_RETURN(Reply reply,
                   session.Call({"GET", "/v1/connections/count", ""}));
  if (session.json_output()) {
    session.PrintJson(reply);
  } else {
    session.out() << reply.json["connections_active"].Text() << "\n";
  }
  return 0;
}

absl::StatusOr<int> Kill(Session& session, const Words& args) {
  const std::string path = absl::StrCat("/v1/connections/", UrlEscape(args[0]));
  ASSIGN_OR_RETURN(Reply reply, session.Call({"DELETE", path, ""}));
  if (session.json_output()) {
    session.PrintJson(reply);
  } else {
    session.out() << "connection " << Json::Clean(args[0]) << ": closed\n";
  }
  return 0;
}

constexpr Command kCommands[] = {
    {"conn", "list", "", Flags::kList, "the open connections", List},
    {"conn", "count", "", Flags::kNone, "how many connections are open", Count},
    {"conn", "kill", "ID", Flags::kNone, "close one connection", Kill},
};

}  // namespace

std::span<const Command> ConnCommands() { return kCommands; }

}  // namespace headgate::ctl
