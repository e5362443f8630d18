#include "ctl/session.h"

#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <ostream>
#include <system_error>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "base/status.h"
#include "ctl/render.h"

namespace headgate::ctl {
namespace {

constexpr absl::Duration kPollInterval = absl::Milliseconds(200);

absl::StatusCode CodeOf(int http_status) {
  switch (http_status) {
    case 400:
      return absl::StatusCode::kInvalidArgument;
    case 403:
      return absl::StatusCode::kPermissionDenied;
    case 404:
      return absl::StatusCode::kNotFound;
    case 409:
      return absl::StatusCode::kAborted;
    default:
      return absl::StatusCode::kInternal;
  }
}

// Whether a daemon lives there. Not asked by flock(): to have the lock for a
// moment would keep one from starting.
bool IsLocked(const std::filesystem::path& folder) {
  struct stat info {};
  if (stat(folder.c_str(), &info) != 0) return false;
  const std::string at = absl::StrFormat(" %02x:%02x:%d ", major(info.st_dev),
                                         minor(info.st_dev), info.st_ino);
  std::ifstream locks("/proc/locks");  // fs/locks.c: lock_get_status()
  std::string line;
  while (std::getline(locks, line)) {
    if (absl::StrContains(line, " FLOCK ") && absl::StrContains(line, at)) {
      return true;
    }
  }
  return false;
}

// Flow tables outlive a daemon that was killed, and with them what it carried.
std::string PacketPathsLeft() {
  std::string left;
  std::error_code ignored;
  for (const auto& pins :
       std::filesystem::directory_iterator("/sys/fs/bpf", ignored)) {
    if (!std::filesystem::exists(pins.path() / "packet_flows", ignored) ||
        IsLocked(pins.path())) {
      continue;
    }
    absl::StrAppend(&left, "; the packet path of ", pins.path().string(),
                    " goes on without its daemon; backends that go down now "
                    "are not noticed");
  }
  return left;
}

// Says what to do about a daemon that cannot be talked to.
absl::Status WithHint(const absl::Status& status, const std::string& socket) {
  if (absl::IsUnavailable(status)) {
    const bool usual = socket == kDefaultSocket;
    return absl::UnavailableError(absl::StrCat(
        "daemon not reachable: ", status.message(),
        "; start it with: headgated --config=FILE",
        usual ? "" : absl::StrCat(" --socket=", socket), PacketPathsLeft()));
  }
  if (absl::IsPermissionDenied(status)) {
    return absl::PermissionDeniedError(absl::StrCat(
        status.message(), "; run as root or as the socket's owner or group"));
  }
  return status;
}

}  // namespace

Session::Session(Options options, std::ostream& out, std::ostream& err)
    : options_(std::move(options)), out_(out), err_(err) {
  if (options_.timeout) LimitTo(*options_.timeout);
}

bool Session::color() const { return WantColor(options_.color, out_); }

absl::StatusOr<Reply> Session::Send(const HttpRequest& request) {
  const absl::Duration timeout =
      options_.timeout ? Remaining() : std::min(reply_timeout_, Remaining());
  absl::StatusOr<HttpReply> reply = SendHttp(options_.socket, request, timeout);
  if (!reply.ok()) return WithHint(reply.status(), options_.socket);
  Json json = Json::Parse(reply->body);
  return Reply{reply->status, std::move(reply->body), std::move(json)};
}

absl::Status Session::Accept(const Reply& reply) {
  if (reply.status >= 200 && reply.status < 300) {
    if (reply.json.is_object()) return absl::OkStatus();
    return absl::DataLossError(absl::StrCat("read reply from ", options_.socket,
                                            ": not a JSON object"));
  }
  if (json_output() && reply.json.is_object()) PrintJson(reply);
  const Json error = reply.json["error"];
  return absl::Status(
      CodeOf(reply.status),
      error.String() ? error.Text()
                     : absl::StrCat("daemon answered HTTP ", reply.status));
}

absl::StatusOr<Reply> Session::Call(const HttpRequest& request) {
  ASSIGN_OR_RETURN(Reply reply, Send(request));
  RETURN_IF_ERROR(Accept(reply));
  return reply;
}

absl::Status Session::Stream(const HttpRequest& request,
                             absl::FunctionRef<bool(const std::string&)> take) {
  absl::StatusOr<HttpReply> reply =
      StreamHttp(options_.socket, request, {Remaining(), reply_timeout_}, take);
  if (!reply.ok()) return WithHint(reply.status(), options_.socket);
  if (reply->status / 100 == 2) return absl::OkStatus();
  Json json = Json::Parse(reply->body);
  return Accept({reply->status, std::move(reply->body), std::move(json)});
}

void Session::PrintJson(const Reply& reply) {
  out_ << reply.body << (absl::EndsWith(reply.body, "\n") ? "" : "\n");
}

void Session::LimitTo(absl::Duration timeout) {
  // A year is for ever, and cannot overflow the clock.
  deadline_ =
      std::chrono::steady_clock::now() +
      absl::ToChronoNanoseconds(std::min(timeout, absl::Hours(24 * 365)));
}

absl::Duration Session::Remaining() const {
  if (!deadline_) return absl::InfiniteDuration();
  return absl::FromChrono(*deadline_ - std::chrono::steady_clock::now());
}

absl::Status Session::Poll(absl::FunctionRef<absl::StatusOr<bool>()> done) {
  while (true) {
    ASSIGN_OR_RETURN(const bool finished, done());
    if (finished) return absl::OkStatus();
    const absl::Duration pause = std::min(kPollInterval, Remaining());
    absl::SleepFor(pause);
    if (Remaining() <= absl::ZeroDuration()) {
      return absl::DeadlineExceededError("timed out");
    }
  }
}

}  // namespace headgate::ctl
