#include "base/status.h"

#include <ostream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "ctl/command.h"
#include "ctl/render.h"

namespace headgate::ctl {
namespace {

const HttpRequest kGetStatus = {"GET", "/v1/status", ""};

bool IsReady(const Reply& reply) {
  return reply.json["ready"].Bool().value_or(false);
}

// "e0: tc (tcx), xdp (native); e1: tc (tcx)"; what is not attached aside.
std::string HooksText(const Json& status) {
  std::string text, of;
  for (const Json& hook : status["packet_hooks"].Items()) {
    if (hook["mode"].String().value_or("").empty()) continue;
    const std::string interface = hook["interface"].Text();
    const char* between = text.empty() ? "" : interface == of ? ", " : "; ";
    absl::StrAppend(&text, between,
                    interface == of ? "" : absl::StrCat(interface, ": "),
                    hook["hook"].Text(), " (", hook["mode"].Text(), ")");
    of = interface;
  }
  return text;
}

void PrintBlock(Session& session, const Json& status, bool ready) {
  const Cell state =
      ready ? Cell{"ready", Tint::kGood} : Cell{"not ready", Tint::kBad};
  std::vector<std::string> datapaths;
  for (const auto& [name, on] : status["datapaths"].Members()) {
    datapaths.push_back(absl::StrCat(name, on.Bool()
                                               ? (*on.Bool() ? " on" : " off")
                                               : absl::StrCat(" ", on.Text())));
  }
  session.out() << "headgated    " << status["version"].Text() << ", "
                << Paint(state, session.color()) << "\n"
                << "services     " << status["services"].Text() << "\n"
                << "backends     " << status["backends_up"].Text() << " of "
                << status["backends_total"].Text() << " up\n"
                << "connections  " << status["connections_active"].Text()
                << " active\n"
                << "datapaths    "
                << (datapaths.empty() ? "-" : absl::StrJoin(datapaths, ", "))
                << "\n";
  if (const std::string hooks = HooksText(status); !hooks.empty()) {
    session.out() << "packet at    " << hooks << "\n";
  }
  if (const Json reason = status["splice_reason"];
      reason.String().has_value()) {
    session.out() << "splice off   " << reason.Text() << "\n";
  }
  for (const Json& line : status["runtime"].Items()) {
    session.out() << "runtime      " << line.Text() << "\n";
  }
  for (const Json& problem : status["problems"].Items()) {
    session.out() << "problem      "
                  << Paint({problem.Text(), Tint::kWarning}, session.color())
                  << "\n";
  }
}

int Show(Session& session, const Reply& reply) {
  const bool ready = IsReady(reply);
  if (session.json_output()) {
    session.PrintJson(reply);
  } else {
    PrintBlock(session, reply.json, ready);
  }
  return ready ? 0 : 1;
}

// Anything that a daemon on its way up or down may do is waited out; `why` says
// what it was.
absl::StatusOr<bool> TryReady(Session& session, Reply& reply,
                              std::string& why) {
  absl::StatusOr<Reply> sent = session.Send(kGetStatus);
  if (absl::IsPermissionDenied(sent.status())) return sent.status();
  if (!sent.ok()) {
    // Out of time: what it answered before says more.
    if (!absl::IsDeadlineExceeded(sent.status()) || why.empty()) {
      why = std::string(sent.status().message());
    }
    return false;
  }
  reply = *std::move(sent);
  why = "daemon is not ready";
  if (reply.status == 503) return false;
  RETURN_IF_ERROR(session.Accept(reply));
  return IsReady(reply);
}

absl::StatusOr<int> Status(Session& session, const Words& /*args*/) {
  if (!session.options().wait) {
    ASSIGN_OR_RETURN(Reply reply, session.Call(kGetStatus));
    return Show(session, reply);
  }
  if (!session.options().timeout) session.LimitTo(absl::Seconds(30));
  Reply reply;
  std::string why;
  absl::Status waited =
      session.Poll([&] { return TryReady(session, reply, why); });
  if (absl::IsDeadlineExceeded(waited)) {
    return absl::DeadlineExceededError(absl::StrCat("wait timed out: ", why));
  }
  RETURN_IF_ERROR(waited);
  return Show(session, reply);
}

constexpr Command kCommands[] = {
    {"status", "", "", Flags::kWait,
     "what the daemon carries; exits 0 if it is ready, 1 if not", Status},
};

}  // namespace

std::span<const Command> StatusCommands() { return kCommands; }

}  // namespace headgate::ctl
