// The daemon under test, started in the edge namespace with a control socket
// and a pin directory of its own, and its ctl tool. Not thread-safe.
#pragma once

#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "support/http.h"
#include "support/process.h"

namespace headgate::testing {

struct DaemonOptions {
  std::string name = "headgate";  // Of the socket and the pin directory.
  std::vector<std::string> wrapper = {};  // Put before the command line.
  // False for a daemon that is expected to refuse to start.
  bool wait_until_ready = true;
  // What an earlier daemon of this name has kept for its next start.
  bool keep_state = false;
};

// Series to value; a series reads name{a="1",b="2"}, labels sorted by name.
using MetricMap = std::map<std::string, double>;

MetricMap ParseMetrics(const std::string& text);

class Daemon {
 public:
  explicit Daemon(const std::string& config, DaemonOptions options = {});
  ~Daemon();  // Calls Stop() if nobody has.

  // Fails the test, with the log, unless the daemon got ready.
  bool WaitReady();
  // Ends it by SIGTERM; fails the test unless it exits with 0 and the log
  // has no sanitizer report.
  void Stop();
  // For a daemon that ends by itself: its exit status, -1 when it does not.
  int WaitExit();

  void WriteConfig(const std::string& config) const;
  // WriteConfig(), SIGHUP; the caller waits for what it expects.
  void Reload(const std::string& config);

  HttpResponse Api(const std::string& method, const std::string& path,
                   const std::string& body = "") const;
  ProcessResult Ctl(std::vector<std::string> args) const;
  // The answer of a ctl command under -o json; fails the test if it fails.
  nlohmann::json Json(std::vector<std::string> args) const;
  // From `metrics: {listen: 127.0.0.1:9140}`.
  std::string MetricsText() const;
  MetricMap Metrics() const { return ParseMetrics(MetricsText()); }

  // The entry of `backend list` for SERVICE/NAME, null if there is none.
  nlohmann::json Backend(const std::string& service,
                         const std::string& name) const;
  nlohmann::json Service(const std::string& name) const;
  bool WaitBackendState(const std::string& service, const std::string& name,
                        const std::string& state,
                        absl::Duration timeout = absl::Seconds(15)) const;
  int64_t ActiveConnections() const;

  bool LogHas(const std::string& text) const;
  std::string Log() const { return process_->err(); }
  // Descriptors the daemon has open.
  size_t OpenFiles() const;
  // None can be opened above that, those that are open stay. (Nought would
  // forbid poll(), too.)
  void LimitFiles(size_t files) const;
  pid_t pid() const { return process_->pid(); }
  bool running() const { return process_->running(); }
  std::string socket_path() const;
  std::string pin_dir() const;
  std::string state_dir() const;
  std::string config_path() const;

 private:
  const DaemonOptions options_;
  std::unique_ptr<Process> process_;
  bool stopped_ = false;
};

// `headgated --config=FILE --check` for a text.
ProcessResult CheckConfig(const std::string& config);
// The path of a program of the build, "headgated" or "headgatectl".
std::string Program(const std::string& name);

}  // namespace headgate::testing
