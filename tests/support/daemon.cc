#include "support/daemon.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "support/lab.h"
#include "support/wait.h"

namespace headgate::testing {
namespace {

// A sanitizer build starts and stops several times slower.
constexpr absl::Duration kStartTimeout = absl::Seconds(30);
constexpr absl::Duration kStopTimeout = absl::Seconds(30);

constexpr const char* kSanitizerReports[] = {
    "runtime error:", "ERROR: AddressSanitizer", "ERROR: LeakSanitizer",
    "WARNING: ThreadSanitizer"};

void WriteFile(const std::string& path, const std::string& text) {
  std::ofstream file(path, std::ios::trunc);
  file << text;
  if (!file.flush()) Die(absl::StrCat("write ", path));
}

// name{b="2",a="1"} -> name{a="1",b="2"}. Label values in tests have neither
// commas nor braces.
std::string SortLabels(absl::string_view series) {
  const size_t open = series.find('{');
  if (open == absl::string_view::npos) return std::string(series);
  std::vector<std::string> labels =
      absl::StrSplit(series.substr(open + 1, series.size() - open - 2), ',');
  std::sort(labels.begin(), labels.end());
  return absl::StrCat(series.substr(0, open), "{", absl::StrJoin(labels, ","),
                      "}");
}

}  // namespace

MetricMap ParseMetrics(const std::string& text) {
  MetricMap result;
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    if (line.empty() || line.front() == '#') continue;
    const size_t space = line.rfind(' ');
    double value = 0;
    if (space == absl::string_view::npos ||
        !absl::SimpleAtod(line.substr(space + 1), &value)) {
      ADD_FAILURE() << "not a metric: " << std::string(line);
      continue;
    }
    result[SortLabels(line.substr(0, space))] = value;
  }
  return result;
}

Daemon::Daemon(const std::string& config, DaemonOptions options)
    : options_(std::move(options)) {
  WriteConfig(config);
  std::vector<std::string> argv = options_.wrapper;
  argv.insert(argv.end(),
              {Program("headgated"), absl::StrCat("--config=", config_path()),
               absl::StrCat("--socket=", socket_path()),
               absl::StrCat("--pin_dir=", pin_dir()),
               absl::StrCat("--state_dir=", state_dir())});
  if (!options_.keep_state) std::filesystem::remove_all(state_dir());
  ScopedNetns inside(kEdge);
  process_ = std::make_unique<Process>(argv);
  if (options_.wait_until_ready) WaitReady();
}

Daemon::~Daemon() {
  if (!stopped_) Stop();
}

bool Daemon::WaitReady() {
  ProcessResult status;
  const bool ready = WaitUntil(kStartTimeout, [&] {
    status = Ctl({"status"});
    return status.exit_code == 0 || !running();
  });
  if (ready && running()) return true;
  ADD_FAILURE() << "headgated did not get ready; status: " << status.err
                << "\nlog:\n"
                << Log();
  return false;
}

void Daemon::Stop() {
  stopped_ = true;
  process_->Signal(SIGTERM);
  const std::optional<int> status = process_->Wait(kStopTimeout);
  EXPECT_EQ(status.value_or(-1), 0) << "log:\n" << Log();
  for (const char* report : kSanitizerReports) {
    EXPECT_FALSE(LogHas(report)) << Log();
  }
  if (::testing::Test::HasFailure()) {
    std::fprintf(stderr, "log of headgated:\n%s\n", Log().c_str());
  }
}

int Daemon::WaitExit() {
  stopped_ = true;
  return process_->Wait(kStopTimeout).value_or(-1);
}

void Daemon::WriteConfig(const std::string& config) const {
  WriteFile(config_path(), config);
}

void Daemon::Reload(const std::string& config) {
  WriteConfig(config);
  process_->Signal(SIGHUP);
}

HttpResponse Daemon::Api(const std::string& method, const std::string& path,
                         const std::string& body) const {
  return HttpOverUnix(socket_path(), method, path, body);
}

ProcessResult Daemon::Ctl(std::vector<std::string> args) const {
  args.insert(args.begin(), {Program("headgatectl"),
                             absl::StrCat("--socket=", socket_path())});
  return RunCommand(args);
}

nlohmann::json Daemon::Json(std::vector<std::string> args) const {
  args.insert(args.end(), {"-o", "json"});
  const ProcessResult result = Ctl(args);
  EXPECT_EQ(result.exit_code, 0) << absl::StrJoin(args, " ") << result.err;
  nlohmann::json answer = nlohmann::json::parse(result.out, nullptr, false);
  EXPECT_FALSE(answer.is_discarded()) << "not JSON: " << result.out;
  return answer;
}

std::string Daemon::MetricsText() const {
  return HttpGet(kEdge, At("127.0.0.1:9140"), "/metrics").body;
}

nlohmann::json Daemon::Backend(const std::string& service,
                               const std::string& name) const {
  const nlohmann::json list = Json({"backend", "list"});
  for (const nlohmann::json& backend : list.at("backends")) {
    if (backend.at("service") == service && backend.at("name") == name) {
      return backend;
    }
  }
  return nullptr;
}

nlohmann::json Daemon::Service(const std::string& name) const {
  const nlohmann::json list = Json({"service", "list"});
  for (const nlohmann::json& service : list.at("services")) {
    if (service.at("name") == name) return service;
  }
  return nullptr;
}

bool Daemon::WaitBackendState(const std::string& service,
                              const std::string& name, const std::string& state,
                              absl::Duration timeout) const {
  return WaitUntil(timeout, [&] {
    const nlohmann::json backend = Backend(service, name);
    return !backend.is_null() && backend.at("state") == state;
  });
}

int64_t Daemon::ActiveConnections() const {
  return Json({"conn", "count"}).at("connections_active").get<int64_t>();
}

bool Daemon::LogHas(const std::string& text) const {
  return absl::StrContains(Log(), text);
}

size_t Daemon::OpenFiles() const {
  const std::filesystem::directory_iterator files(
      absl::StrCat("/proc/", pid(), "/fd"));
  return static_cast<size_t>(std::distance(begin(files), end(files)));
}

void Daemon::LimitFiles(size_t files) const {
  rlimit limit{};
  ASSERT_EQ(prlimit(pid(), RLIMIT_NOFILE, nullptr, &limit), 0);
  limit.rlim_cur = files;
  ASSERT_EQ(prlimit(pid(), RLIMIT_NOFILE, &limit, nullptr), 0);
}

std::string Daemon::socket_path() const {
  return absl::StrCat("/run/headgate/", options_.name, ".sock");
}

std::string Daemon::pin_dir() const {
  return absl::StrCat("/sys/fs/bpf/", options_.name);
}

std::string Daemon::state_dir() const {
  return absl::StrCat("/run/headgate/", options_.name, ".state");
}

std::string Daemon::config_path() const {
  return absl::StrCat("/run/headgate/", options_.name, ".yaml");
}

ProcessResult CheckConfig(const std::string& config) {
  const std::string path = "/run/headgate/checked.yaml";
  WriteFile(path, config);
  return RunCommand(
      {Program("headgated"), absl::StrCat("--config=", path), "--check"});
}

std::string Program(const std::string& name) {
  // tools/test lets the same tests drive programs built with sanitizers.
  const char* folder = std::getenv("HEADGATE_BIN");
  return absl::StrCat(folder != nullptr ? folder : HG_BIN_DIR, "/", name);
}

}  // namespace headgate::testing
