// headgated: reads the flags, builds the parts and runs the control loop.

#include <gflags/gflags.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <optional>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "admin/http_server.h"
#include "admin/public_server.h"
#include "admin/routes.h"
#include "base/log.h"
#include "base/status.h"
#include "config/parse.h"
#include "control/controller.h"
#include "datapath/datapath.h"
#include "datapath/preflight.h"
#include "net/event_loop.h"
#include "net/socket.h"

constexpr char kDefaultPinDir[] = "/sys/fs/bpf/headgate";

DEFINE_string(config, "", "the configuration file (YAML)");
DEFINE_string(socket, "/run/headgate/control.sock", "the control socket");
DEFINE_string(pin_dir, kDefaultPinDir, "where the BPF maps are pinned");
DEFINE_string(state_dir, "",
              "where changes at run time and health are kept over a restart; "
              "default: /var/lib/headgate, or a folder in it that is named "
              "after a --pin_dir of one's own");
DEFINE_bool(check, false, "only check the configuration, and exit");
DEFINE_bool(debug, false, "log every connection");

namespace headgate {
namespace {

// Of a request on the control socket: a configuration file at most.
constexpr size_t kMaxAdminBody = 1024 * 1024;

// --check: 0 or 1, every mistake as FILE:LINE:COLUMN: error: ...
int Check(const std::string& file) {
  const absl::StatusOr<std::string> text = config::ReadFile(file);
  if (!text.ok()) {
    std::fprintf(stderr, "headgated: %s\n",
                 std::string(text.status().message()).c_str());
    return 1;
  }
  const config::Parsed parsed = config::Parse(*text);
  for (const config::Error& error : parsed.errors) {
    std::fprintf(stderr, "%s\n", config::Format(file, error).c_str());
  }
  if (!parsed.errors.empty()) return 1;
  std::printf("%s: valid\n", file.c_str());
  return 0;
}

// As many descriptors as we may have: two a connection.
uint64_t RaiseDescriptorLimit() {
  rlimit limit{};
  getrlimit(RLIMIT_NOFILE, &limit);
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
  getrlimit(RLIMIT_NOFILE, &limit);
  return limit.rlim_cur;
}

// Daemons side by side have a --pin_dir each; they must not share their state.
std::string StateFile() {
  std::filesystem::path folder = FLAGS_state_dir;
  if (folder.empty()) {
    folder = "/var/lib/headgate";
    const std::filesystem::path pin_dir = FLAGS_pin_dir;
    if (pin_dir != kDefaultPinDir) folder /= pin_dir.filename();
  }
  return folder / "state.json";
}

class Daemon final : public IoHandler {
 public:
  absl::Status Start() {
    RETURN_IF_ERROR(datapath::CheckCapabilities());
    RETURN_IF_ERROR(WatchSignals());
    // First of all: another daemon on this socket must not be disturbed.
    std::error_code ignored;  // To serve the socket fails, then, and says so.
    std::filesystem::create_directories(
        std::filesystem::path(FLAGS_socket).parent_path(), ignored);
    ASSIGN_OR_RETURN(UniqueFd control_socket, ListenUnix(FLAGS_socket));
    owns_socket_ = true;
    RETURN_IF_ERROR(StartController());
    ASSIGN_OR_RETURN(
        admin_, admin::HttpServer::Make(loop_.get(), std::move(control_socket),
                                        {.max_body_bytes = kMaxAdminBody},
                                        [this](const admin::Request& request) {
                                          return admin::HandleAdmin(
                                              *controller_, request);
                                        }));
    datapath_->TakeOver();
    return absl::OkStatus();
  }

  void Run() {
    controller_->OnReady([] { sd_notify(0, "READY=1"); });
    loop_->Run();
  }

  ~Daemon() {
    if (leaves_packet_) datapath_->LeavePacket();
    if (owns_socket_) unlink(FLAGS_socket.c_str());
  }

  // Signals.
  void OnIo(uint32_t) override {
    signalfd_siginfo info{};
    if (read(signals_.get(), &info, sizeof info) != sizeof info) return;
    if (info.ssi_signo == SIGHUP) {
      if (!stopping_) Reload();
      return;
    }
    leaves_packet_ = info.ssi_signo == SIGUSR2;  // The last one says.
    Stop();
  }

 private:
  absl::Status WatchSignals() {
    ASSIGN_OR_RETURN(loop_, EventLoop::Make());
    sigset_t set{};
    sigemptyset(&set);
    for (const int signal : {SIGHUP, SIGTERM, SIGINT, SIGUSR2}) {
      sigaddset(&set, signal);
    }
    // A reader of our log or socket that goes away must not end us.
    signal(SIGPIPE, SIG_IGN);
    // Before any thread starts, so that all inherit it.
    pthread_sigmask(SIG_BLOCK, &set, nullptr);
    signals_.reset(signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
    if (!signals_.valid()) return ErrnoStatus(errno, "watch signals");
    return loop_->Add(signals_.get(), EPOLLIN, this);
  }

  absl::Status StartController() {
    ASSIGN_OR_RETURN(const std::string text, config::ReadFile(FLAGS_config));
    const config::Parsed parsed = config::Parse(text);
    if (!parsed.errors.empty()) {
      std::string message = "the configuration is not valid";
      for (const config::Error& error : parsed.errors) {
        absl::StrAppend(&message, "\n", config::Format(FLAGS_config, error));
      }
      return absl::InvalidArgumentError(message);
    }
    const uint32_t workers = parsed.config.workers.value_or(
        std::clamp(std::thread::hardware_concurrency(), 1U, 256U));
    datapath::Datapath::Options options;
    options.pin_dir = FLAGS_pin_dir;
    options.workers = workers;
    const uint64_t descriptors = RaiseDescriptorLimit();
    options.max_flows = static_cast<uint32_t>(
        std::clamp<uint64_t>(descriptors / 2, 1024, 262144));
    options.adopt = control::PacketServices::Needed(parsed.config);
    ASSIGN_OR_RETURN(datapath_, datapath::Datapath::Open(options));
    ASSIGN_OR_RETURN(controller_,
                     control::Controller::Make({.config_file = FLAGS_config,
                                                .loop = loop_.get(),
                                                .datapath = datapath_.get(),
                                                .workers = workers,
                                                .max_descriptors = descriptors,
                                                .state_file = StateFile()}));
    if (!datapath_->splice_objection().empty()) {
      log::Warning("connections are carried by userspace: %s",
                   datapath_->splice_objection());
    }
    metrics_.emplace(loop_.get(), controller_.get());
    controller_->OnApplied([this] { metrics_->Refresh(); });
    RETURN_IF_ERROR(
        controller_
            ->Apply(parsed.config, control::Controller::Binding::kLenient)
            .status());
    log::Info("serving %d services with %d workers, configuration %s",
              parsed.config.services.size(), workers, FLAGS_config);
    return absl::OkStatus();
  }

  void Reload() {
    const std::string reloading =
        absl::StrCat("RELOADING=1\nMONOTONIC_USEC=", MonotonicNs() / 1000);
    sd_notify(0, reloading.c_str());
    // The controller logs how it went.
    controller_->Reload(nullptr).status().IgnoreError();
    sd_notify(0, "READY=1");
  }

  // At once when asked again.
  void Stop() {
    if (std::exchange(stopping_, true)) {
      loop_->Stop();
      return;
    }
    sd_notify(0, "STOPPING=1");
    log::Info("stopping");
    controller_->EndChecks([this] { loop_->Stop(); });
  }

  // In the order in which they need each other.
  std::unique_ptr<EventLoop> loop_;
  UniqueFd signals_;
  std::unique_ptr<datapath::Datapath> datapath_;
  std::unique_ptr<control::Controller> controller_;
  std::optional<admin::PublicServer> metrics_;
  std::unique_ptr<admin::HttpServer> admin_;
  bool owns_socket_ = false;
  bool stopping_ = false;
  bool leaves_packet_ = false;
};

int Main() {
  if (FLAGS_config.empty()) {
    std::fprintf(stderr,
                 "headgated: --config=FILE is needed; see headgated --help\n");
    return 1;
  }
  if (FLAGS_check) return Check(FLAGS_config);
  log::Init(FLAGS_debug ? log::Level::kDebug : log::Level::kInfo);
  Daemon daemon;
  if (const absl::Status status = daemon.Start(); !status.ok()) {
    log::Error("cannot start: %s", status.message());
    return 1;
  }
  daemon.Run();
  return 0;
}

}  // namespace
}  // namespace headgate

int main(int argc, char** argv) {
  gflags::SetUsageMessage(
      "--config=FILE [--check] [--socket=PATH] [--pin_dir=DIR] "
      "[--state_dir=DIR] [--debug]");
  gflags::SetVersionString(HG_VERSION);
  gflags::ParseCommandLineFlags(&argc, &argv, true);
  if (argc > 1) {
    std::fprintf(stderr, "headgated: unexpected argument %s\n", argv[1]);
    return 1;
  }
  return headgate::Main();
}
