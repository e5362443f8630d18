// What a command works with: the options, the streams and the daemon. The
// status codes of its errors are the exit codes of run.h.
#pragma once

#include <chrono>
#include <iosfwd>
#include <optional>
#include <string>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "ctl/args.h"
#include "ctl/client.h"
#include "ctl/json.h"

namespace headgate::ctl {

struct Reply {
  int status = 0;  // HTTP.
  std::string body;
  Json json;  // Absent when the body is not JSON.
};

class Session {
 public:
  // --timeout starts to run here.
  Session(Options options, std::ostream& out, std::ostream& err);

  const Options& options() const { return options_; }
  bool json_output() const { return options_.output == Output::kJson; }
  bool color() const;
  std::ostream& out() { return out_; }
  std::ostream& err() { return err_; }

  // One request; a reply of any HTTP status is a success. A reply takes 10 s at
  // most (see AllowReply), or what is left of --timeout.
  absl::StatusOr<Reply> Send(const HttpRequest& request);
  // What a reply says: fine (2xx with a JSON object), or why not. Under
  // -o json the body of a refusal is printed as it came.
  absl::Status Accept(const Reply& reply);
  // Send and Accept.
  absl::StatusOr<Reply> Call(const HttpRequest& request);
  // For a reply that is long, or has no end: hands over its lines, as they
  // come, until `take` has had enough, or the daemon. Nothing but --timeout
  // limits it, and a daemon that sends no byte for 10 s (see AllowReply).
  absl::Status Stream(const HttpRequest& request,
                      absl::FunctionRef<bool(const std::string&)> take);
  // The API's own words, for -o json.
  void PrintJson(const Reply& reply);

  // What a reply may take instead.
  void AllowReply(absl::Duration timeout) { reply_timeout_ = timeout; }
  // Sets the limit for a wait without --timeout.
  void LimitTo(absl::Duration timeout);
  // Asks `done` five times a second. kDeadlineExceeded when time is up.
  absl::Status Poll(absl::FunctionRef<absl::StatusOr<bool>()> done);

 private:
  absl::Duration Remaining() const;

  absl::Duration reply_timeout_ = absl::Seconds(10);
  Options options_;
  std::ostream& out_;
  std::ostream& err_;
  // Steady: at boot, when people wait most, the wall clock jumps.
  std::optional<std::chrono::steady_clock::time_point> deadline_;
};

}  // namespace headgate::ctl
