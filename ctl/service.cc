#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status.h"
#include "ctl/command.h"
#include "ctl/render.h"

namespace headgate::ctl {
namespace {

Cell AsListeners(const Json& listen) {
  std::vector<std::string> texts;
  for (const Json& item : listen.Items()) texts.push_back(item.Text());
  return {texts.empty() ? "-" : absl::StrJoin(texts, ",")};
}

Cell AsBackendsUp(const Json& service) {
  const std::optional<double> up = service["backends_up"].Number();
  const std::optional<double> total = service["backends_total"].Number();
  Tint tint = Tint::kNone;
  if (up && total) {
    tint =
        *up == 0 ? Tint::kBad : (*up < *total ? Tint::kWarning : Tint::kGood);
  }
  return {absl::StrCat(service["backends_up"].Text(), "/",
                       service["backends_total"].Text()),
          tint};
}

constexpr Column kColumns[] = {
    {"NAME", "name"},
    {"LISTEN", "listen", AsListeners},
    {"POOL", "pool"},
    {"DATAPATH", "datapath"},
    {"BALANCE", "balance"},
    {"UP", nullptr, AsBackendsUp},
    {"ACTIVE", "connections_active", AsText, Align::kRight},
    {"QUEUE", "queue_length", AsText, Align::kRight},
    {"TOTAL", "connections_total", AsText, Align::kRight},
    {"IN", "bytes_in_total", AsBytes, Align::kRight},
    {"OUT", "bytes_out_total", AsBytes, Align::kRight},
};

absl::StatusOr<int> List(Session& session, const Words& /*args*/) {
  ASSIGN_OR_RETURN(Reply reply, session.Call({"GET", "/v1/services", ""}));
  if (session.json_output()) {
    session.PrintJson(reply);
  } else {
    PrintTable(reply.json["services"].Items(), kColumns, session.color(),
               session.out());
  }
  return 0;
}

constexpr Command kCommands[] = {
    {"service", "list", "", Flags::kNone,
     "the services, their backends and traffic", List},
};

}  // namespace

std::span<const Command> ServiceCommands() { return kCommands; }

}  // namespace headgate::ctl
