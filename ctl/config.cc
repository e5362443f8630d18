#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <ostream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/status.h"
#include "base/unique_fd.h"
#include "ctl/command.h"
#include "ctl/render.h"

namespace headgate::ctl {
namespace {

constexpr size_t kMaxFileBytes = 16 << 20;

// Not with the code of errno: 4 and 5 speak of the daemon's objects and socket.
absl::Status ReadError(int error, absl::string_view what) {
  return absl::FailedPreconditionError(ErrnoStatus(error, what).message());
}

// "-" is stdin.
absl::StatusOr<std::string> ReadFile(const std::string& name) {
  const std::string what = absl::StrCat("read ", name);
  UniqueFd file(name == "-" ? ::dup(STDIN_FILENO)
                            : ::open(name.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file.valid()) return ReadError(errno, what);
  std::string text;
  char buffer[16384];
  while (true) {
    const ssize_t got = ::read(file.get(), buffer, sizeof buffer);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return ReadError(errno, what);
    if (got == 0) return text;
    text.append(buffer, static_cast<size_t>(got));
    if (text.size() > kMaxFileBytes) return ReadError(EFBIG, what);
  }
}

absl::StatusOr<Reply> Post(Session& session, absl::string_view action,
                           std::string text) {
  ASSIGN_OR_RETURN(Reply reply,
                   session.Send({"POST", absl::StrCat("/v1/config/", action),
                                 std::move(text)}));
  // A refusal (422) has an answer in its body.
  if (reply.status != 422) RETURN_IF_ERROR(session.Accept(reply));
  return reply;
}

// As compilers print them, so that editors can jump there. Errors that belong
// to no line (a listener that cannot be bound) have no line.
void PrintErrors(Session& session, const std::string& file,
                 const Json& errors) {
  for (const Json& error : errors.Items()) {
    std::string place = Json::Clean(file);
    for (const char* key : {"line", "column"}) {
      if (error[key].Number().value_or(0) < 1) break;
      absl::StrAppend(&place, ":", error[key].Text());
    }
    session.err() << place << ": error: " << error["message"].Text() << "\n";
  }
}

absl::Status Refused(Session& session, const std::string& file,
                     const Reply& reply) {
  PrintErrors(session, file, reply.json["errors"]);
  absl::Status status = session.Accept(reply);
  if (reply.json["error"].String()) return status;
  return absl::FailedPreconditionError("the daemon refuses the configuration");
}

void PrintChanges(Session& session, const Json& changes) {
  for (const Json& change : changes.Items()) {
    session.out() << change.Text() << "\n";
  }
}

absl::StatusOr<int> Check(Session& session, const Words& args) {
  ASSIGN_OR_RETURN(std::string text, ReadFile(args[0]));
  ASSIGN_OR_RETURN(Reply reply, Post(session, "check", std::move(text)));
  if (reply.status == 422) return Refused(session, args[0], reply);
  const bool valid = reply.json["valid"].Bool().value_or(false);
  if (!valid) PrintErrors(session, args[0], reply.json["errors"]);
  if (session.json_output()) {
    session.PrintJson(reply);
  } else if (valid) {
    session.out() << Json::Clean(args[0]) << ": valid\n";
  }
  return valid ? 0 : 1;
}

absl::StatusOr<int> Diff(Session& session, const Words& args) {
  ASSIGN_OR_RETURN(std::string text, ReadFile(args[0]));
  ASSIGN_OR_RETURN(Reply reply, Post(session, "diff", std::move(text)));
  if (reply.status == 422) return Refused(session, args[0], reply);
  // Changes at run time stay whatever file is applied: they make no difference.
  const bool same = reply.json["changes"].Items().empty();
  if (session.json_output()) {
    session.PrintJson(reply);
  } else if (same) {
    session.out() << "no changes\n";
  } else {
    PrintChanges(session, reply.json["changes"]);
  }
  if (!session.json_output()) {
    for (const Json& line : reply.json["runtime"].Items()) {
      session.out() << "runtime: " << line.Text() << "\n";
    }
  }
  return same ? 0 : 1;
}

int Applied(Session& session, const Reply& reply) {
  if (session.json_output()) {
    session.PrintJson(reply);
  } else {
    PrintChanges(session, reply.json["changes"]);
    session.out() << "applied: generation " << reply.json["generation"].Text()
                  << "\n";
  }
  return 0;
}

absl::StatusOr<int> Apply(Session& session, const Words& args) {
  ASSIGN_OR_RETURN(std::string text, ReadFile(args[0]));
  ASSIGN_OR_RETURN(Reply reply, Post(session, "apply", std::move(text)));
  if (reply.status == 422) return Refused(session, args[0], reply);
  return Applied(session, reply);
}

absl::StatusOr<int> Reload(Session& session, const Words& /*args*/) {
  ASSIGN_OR_RETURN(Reply reply, Post(session, "reload", ""));
  if (reply.status != 422) return Applied(session, reply);
  // Only the daemon knows which file it read.
  ASSIGN_OR_RETURN(Reply config, session.Call({"GET", "/v1/config", ""}));
  return Refused(session, config.json["file"].Text(), reply);
}

absl::StatusOr<int> Show(Session& session, const Words& /*args*/) {
  ASSIGN_OR_RETURN(Reply reply, session.Call({"GET", "/v1/config", ""}));
  if (session.json_output()) {
    session.PrintJson(reply);
    return 0;
  }
  const std::optional<std::string> yaml = reply.json["yaml"].String();
  if (!yaml) return absl::DataLossError("reply has no yaml");
  std::vector<std::string> lines = absl::StrSplit(*yaml, '\n');
  if (lines.back().empty()) lines.pop_back();
  for (const std::string& line : lines) {
    session.out() << Json::Clean(line) << "\n";
  }
  return 0;
}

constexpr Command kCommands[] = {
    {"config", "check", "FILE", Flags::kNone,
     "is FILE (-: stdin) valid; changes nothing", Check},
    {"config", "show", "", Flags::kNone, "the running configuration as YAML",
     Show},
    {"config", "diff", "FILE", Flags::kNone,
     "what apply would change; exits 0 if nothing, 1 if it differs", Diff},
    {"config", "apply", "FILE", Flags::kNone, "run FILE, whole or not at all",
     Apply},
    {"config", "reload", "", Flags::kNone,
     "apply the file that the daemon was started with", Reload},
};

}  // namespace

std::span<const Command> ConfigCommands() { return kCommands; }

}  // namespace headgate::ctl
