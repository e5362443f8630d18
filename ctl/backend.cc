#include <ostream>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "base/status.h"
#include "ctl/command.h"
#include "ctl/render.h"

namespace headgate::ctl {
namespace {

// "ok in 0.8ms", "failed in 2s: connection refused"
Cell AsCheck(const Json& check) {
  if (!check.is_object()) return {"-"};
  std::string text = check["result"].Text();
  if (check["duration_seconds"].Number()) {
    absl::StrAppend(&text, " in ", AsSeconds(check["duration_seconds"]).text);
  }
  const std::string detail = check["detail"].Text();
  if (!detail.empty() && detail != "-") absl::StrAppend(&text, ": ", detail);
  return {text};
}

// With what connections say beside it: "ejected until 12:00:00: refused; ..."
Cell AsLastCheck(const Json& backend) {
  const Cell check = AsCheck(backend["last_check"]);
  const Json ejected = backend["ejected"];
  if (!ejected.is_object()) return check;
  return {absl::StrCat("ejected until ", ejected["until"].Text(), ": ",
                       ejected["reason"].Text(), "; ", check.text)};
}

constexpr Column kColumns[] = {
    {"SERVICE", "service"},
    {"NAME", "name"},
    {"ADDRESS", "address"},
    {"STATE", "state", AsState},
    {"ADMIN", "admin"},
    {"WEIGHT", "weight", AsText, Align::kRight},
    {"ACTIVE", "connections_active", AsText, Align::kRight},
    {"TOTAL", "connections_total", AsText, Align::kRight},
    {"LAST CHECK", nullptr, AsLastCheck},
};

struct BackendName {
  std::string service;
  std::string name;
  std::string ToString() const { return absl::StrCat(service, "/", name); }
};

absl::StatusOr<BackendName> ParseName(const std::string& text) {
  const size_t slash = text.find('/');
  if (slash == 0 || slash == std::string::npos || slash + 1 == text.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("backend \"", text, "\": not SERVICE/NAME"));
  }
  return BackendName{text.substr(0, slash), text.substr(slash + 1)};
}

std::string ListPath(const std::string& service) {
  return absl::StrCat("/v1/backends?service=", UrlEscape(service));
}

HttpRequest Change(const BackendName& backend, absl::string_view action,
                   std::string body = "") {
  return {"POST",
          absl::StrCat("/v1/backends/", UrlEscape(backend.service), "/",
                       UrlEscape(backend.name), "/", action),
          std::move(body)};
}

absl::StatusOr<int> List(Session& session, const Words& /*args*/) {
  const std::optional<std::string>& service = session.options().service;
  ASSIGN_OR_RETURN(
      Reply reply,
      session.Call({"GET", service ? ListPath(*service) : "/v1/backends", ""}));
  if (session.json_output()) {
    session.PrintJson(reply);
  } else {
    PrintTable(reply.json["backends"].Items(), kColumns, session.color(),
               session.out());
  }
  return 0;
}

absl::StatusOr<Json> Find(Session& session, const BackendName& backend) {
  ASSIGN_OR_RETURN(Reply reply,
                   session.Call({"GET", ListPath(backend.service), ""}));
  for (const Json& item : reply.json["backends"].Items()) {
    if (item["name"].String() == backend.name) return item;
  }
  return absl::NotFoundError(
      absl::StrCat("backend ", backend.ToString(), ": is gone"));
}

// What --wait waits for. Says how far it is in `progress`.
using Goal = absl::StatusOr<bool> (*)(const Json& backend,
                                      std::string& progress);

absl::StatusOr<bool> IsEmpty(const Json& backend, std::string& progress) {
  const Json active = backend["connections_active"];
  if (!active.Number()) {
    return absl::DataLossError("reply has no connections_active");
  }
  progress = absl::StrCat(active.Text(), " connections left");
  if (const Json ends = backend["draining"]["ends"]; ends.String()) {
    absl::StrAppend(&progress, ", the last one ends at ", ends.Text());
  }
  return *active.Number() == 0;
}

absl::StatusOr<bool> IsUp(const Json& backend, std::string& progress) {
  progress = absl::StrCat("state is ", backend["state"].Text());
  return backend["state"].String() == "up";
}

// `admin` is what was set: if somebody sets another state meanwhile, the goal
// may never be reached.
absl::Status Wait(Session& session, const BackendName& backend,
                  const Json& admin, Goal goal) {
  Progress line(session.err());
  std::string progress;
  absl::Status waited = session.Poll([&]() -> absl::StatusOr<bool> {
    ASSIGN_OR_RETURN(Json now, Find(session, backend));
    if (now["admin"].String() != admin.String()) {
      return absl::AbortedError(
          absl::StrCat("backend ", backend.ToString(), ": was set to ",
                       now["admin"].Text(), " by somebody else"));
    }
    ASSIGN_OR_RETURN(const bool done, goal(now, progress));
    if (!done) line.Show(absl::StrCat(backend.ToString(), ": ", progress));
    return done;
  });
  if (!absl::IsDeadlineExceeded(waited) || progress.empty()) return waited;
  return absl::DeadlineExceededError(absl::StrCat(
      "wait for backend ", backend.ToString(), " timed out: ", progress));
}

absl::StatusOr<int> SetAdmin(Session& session, const Words& args,
                             absl::string_view action, Goal goal,
                             std::string body = "") {
  ASSIGN_OR_RETURN(const BackendName backend, ParseName(args[0]));
  ASSIGN_OR_RETURN(Reply reply,
                   session.Call(Change(backend, action, std::move(body))));
  const Json admin = reply.json["admin"];
  if (session.json_output()) {
    session.PrintJson(reply);
  } else {
    session.out() << Json::Clean(backend.ToString()) << ": " << admin.Text()
                  << std::endl;  // Seen before a long wait starts.
  }
  if (session.options().wait) {
    RETURN_IF_ERROR(Wait(session, backend, admin, goal));
  }
  return 0;
}

absl::StatusOr<int> Drain(Session& session, const Words& args) {
  const Options& options = session.options();
  std::string body;
  if (options.over) {
    body =
        absl::StrCat("{\"over_seconds\":", absl::ToDoubleSeconds(*options.over),
                     ",\"order\":\"", options.order.value_or("oldest"), "\"}");
  }
  return SetAdmin(session, args, "drain", IsEmpty, std::move(body));
}

absl::StatusOr<int> Ready(Session& session, const Words& args) {
  return SetAdmin(session, args, "ready", IsUp);
}

absl::StatusOr<int> Maint(Session& session, const Words& args) {
  return SetAdmin(session, args, "maint", IsEmpty);
}

absl::StatusOr<int> Weight(Session& session, const Words& args) {
  ASSIGN_OR_RETURN(const BackendName backend, ParseName(args[0]));
  uint32_t weight = 0;  // The daemon knows the range.
  if (!absl::SimpleAtoi(args[1], &weight)) {
    return absl::InvalidArgumentError(
        absl::StrCat("weight \"", args[1], "\": not a number from 0 to 256"));
  }
  ASSIGN_OR_RETURN(
      Reply reply,
      session.Call(Change(backend, "weight",
                          absl::StrCat("{\"weight\":", weight, "}"))));
  if (session.json_output()) {
    session.PrintJson(reply);
  } else {
    session.out() << Json::Clean(backend.ToString()) << ": weight "
                  << reply.json["weight"].Text() << "\n";
  }
  return 0;
}

std::string Quoted(absl::string_view text) {
  return absl::StrCat(
      "\"",
      absl::StrReplaceAll(Json::Clean(text), {{"\\", "\\\\"}, {"\"", "\\\""}}),
      "\"");
}

// The answer to add and del.
void PrintDone(Session& session, const BackendName& backend,
               const Reply& reply) {
  if (session.json_output()) {
    session.PrintJson(reply);
  } else {
    session.out() << Json::Clean(backend.ToString()) << ": "
                  << reply.json["done"].Text() << std::endl;
  }
}

absl::StatusOr<int> Add(Session& session, const Words& args) {
  ASSIGN_OR_RETURN(const BackendName backend, ParseName(args[0]));
  const Options& options = session.options();
  const std::string body =
      absl::StrCat("{\"address\":", Quoted(args[1]),
                   ",\"weight\":", options.weight.value_or(1),
                   ",\"backup\":", options.backup ? "true" : "false", "}");
  ASSIGN_OR_RETURN(Reply reply, session.Call(Change(backend, "add", body)));
  PrintDone(session, backend, reply);
  return 0;
}

// Connections of a backend that is out of the list already.
absl::StatusOr<double> CountLeaving(Session& session,
                                    const BackendName& backend) {
  ASSIGN_OR_RETURN(Reply reply,
                   session.Call({"GET", ListPath(backend.service), ""}));
  double left = 0;
  for (const Json& item : reply.json["leaving"].Items()) {
    if (item["name"].String() != backend.name) continue;
    left += item["connections_active"].Number().value_or(0);
  }
  return left;
}

absl::Status WaitGone(Session& session, const BackendName& backend) {
  Progress line(session.err());
  std::string progress;
  const absl::Status waited = session.Poll([&]() -> absl::StatusOr<bool> {
    ASSIGN_OR_RETURN(const double left, CountLeaving(session, backend));
    progress = absl::StrCat(left, " connections left");
    if (left > 0) line.Show(absl::StrCat(backend.ToString(), ": ", progress));
    return left == 0;
  });
  if (!absl::IsDeadlineExceeded(waited) || progress.empty()) return waited;
  return absl::DeadlineExceededError(absl::StrCat(
      "wait for backend ", backend.ToString(), " timed out: ", progress));
}

absl::StatusOr<int> Delete(Session& session, const Words& args) {
  ASSIGN_OR_RETURN(const BackendName backend, ParseName(args[0]));
  ASSIGN_OR_RETURN(
      Reply reply,
      session.Call({"DELETE",
                    absl::StrCat("/v1/backends/", UrlEscape(backend.service),
                                 "/", UrlEscape(backend.name)),
                    ""}));
  PrintDone(session, backend, reply);
  if (session.options().wait) RETURN_IF_ERROR(WaitGone(session, backend));
  return 0;
}

// "smtp/node1: passed in 0.8ms: 220 mail ESMTP", then what is known besides.
void PrintCheck(const BackendName& backend, const Json& check,
                std::ostream& out) {
  for (const Json& step : check["steps"].Items()) {
    out << AsSeconds(step["at_seconds"]).text << "  " << step["what"].Text()
        << "\n";
  }
  out << Json::Clean(backend.ToString()) << ": " << AsCheck(check).text << "\n";
  if (check["tls"].String()) out << "  " << check["tls"].Text() << "\n";
  const Json certificate = check["certificate"];
  if (certificate.is_object()) {
    out << "  certificate " << certificate["subject"].Text() << ", expires "
        << certificate["not_after"].Text() << " ("
        << certificate["days_left"].Text() << " days left)\n";
  }
  if (check["hint"].String()) out << "  hint: " << check["hint"].Text() << "\n";
}

absl::StatusOr<int> Check(Session& session, const Words& args) {
  ASSIGN_OR_RETURN(const BackendName backend, ParseName(args[0]));
  session.AllowReply(absl::Seconds(70));  // health.timeout is 60 s at most.
  ASSIGN_OR_RETURN(Reply reply, session.Call(Change(backend, "check",
                                                    session.options().explain
                                                        ? R"({"explain":true})"
                                                        : "")));
  if (session.json_output()) {
    session.PrintJson(reply);
  } else {
    PrintCheck(backend, reply.json, session.out());
  }
  return reply.json["result"].String() == "passed" ? 0 : 1;
}

constexpr Command kCommands[] = {
    {"backend", "list", "", Flags::kService,
     "the backends, their state and last check", List},
    {"backend", "drain", "SERVICE/NAME", Flags::kPace,
     "no new connections; --over: the others are reset one by one, the last "
     "one after so long; --wait: until it has ended",
     Drain},
    {"backend", "ready", "SERVICE/NAME", Flags::kWait,
     "back to work; --wait: until it is up", Ready},
    {"backend", "maint", "SERVICE/NAME", Flags::kWait,
     "out of service, not checked; --wait: until it has no connections", Maint},
    {"backend", "weight", "SERVICE/NAME N", Flags::kNone,
     "its share of new connections, 0 to 256; 0: none", Weight},
    {"backend", "add", "SERVICE/NAME ADDRESS", Flags::kNew,
     "one more, until it is deleted or the configuration has that name", Add},
    {"backend", "del", "SERVICE/NAME", Flags::kWait,
     "no new connections, out of the list; --wait: until the last one has "
     "ended",
     Delete},
    {"backend", "check", "SERVICE/NAME", Flags::kExplain,
     "checks once, now; --explain: each step, and what to change", Check},
};

}  // namespace

std::span<const Command> BackendCommands() { return kCommands; }

}  // namespace headgate::ctl
