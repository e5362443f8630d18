// Child processes with captured output. A child starts in the namespaces of
// the calling thread (see ScopedNetns). Not thread-safe.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "base/unique_fd.h"

namespace headgate::testing {

// Ends the test program: the test bed itself cannot be set up.
[[noreturn]] void Die(const std::string& why);

class Process {
 public:
  // Starts argv[0], searched in PATH, with `input` as standard input.
  explicit Process(const std::vector<std::string>& argv,
                   const std::string& input = "");
  ~Process();  // Kills what still runs.

  pid_t pid() const { return pid_; }
  void Signal(int signal) const;
  // The exit status, or 128 + signal; nothing when `timeout` passed first.
  std::optional<int> Wait(absl::Duration timeout);
  bool running() { return !Wait(absl::ZeroDuration()).has_value(); }

  // What was written so far.
  std::string out() const;
  std::string err() const;

 private:
  pid_t pid_ = -1;
  UniqueFd pidfd_;
  UniqueFd in_, out_, err_;  // memfds: no pipe can fill up, no file is left.
  std::optional<int> status_;
};

struct ProcessResult {
  int exit_code = -1;  // -1: did not end in time and was killed
  std::string out;
  std::string err;
};

ProcessResult RunCommand(const std::vector<std::string>& argv,
                         const std::string& input = "",
                         absl::Duration timeout = absl::Seconds(30));

}  // namespace headgate::testing
