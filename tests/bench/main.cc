// headgate_bench_load: one load, one measurement. Prints "begin" and "end" when
// the measured window does, then a line of JSON. Exit status: 0; 1 when a
// connection failed, and why; 2 for wrong flags.
//
//   bytes         received in the window (download, upload)
//   operations    exchanges or greetings in the window (echo, connect)
//   latency_us    of these: p50, p99, p999
//   connections   open at its end

#include <fcntl.h>
#include <gflags/gflags.h>
#include <sched.h>
#include <sys/resource.h>

#include <cmath>
#include <cstdio>
#include <future>
#include <optional>
#include <thread>

#include "absl/strings/str_format.h"
#include "base/status.h"
#include "base/unique_fd.h"
#include "bench/client.h"
#include "bench/plan.h"
#include "bench/server.h"
#include "net/event_loop.h"

DEFINE_string(mode, "echo", "download | upload | echo | connect | idle");
DEFINE_string(target, "", "where the client connects to, address:port");
DEFINE_string(listen, "", "where the server listens, address:port");
DEFINE_string(client_netns, "", "the client's network namespace, a path");
DEFINE_string(server_netns, "", "the server's network namespace, a path");
DEFINE_bool(header, true, "the server gets a PROXY header first");
DEFINE_uint64(connections, 1, "open at once");
DEFINE_uint64(size, 64, "bytes of an echo");
DEFINE_uint64(receive_rate, 0, "bytes/s that receivers take; 0: all");
DEFINE_string(warmup, "200ms", "before the window");
DEFINE_string(window, "1s", "what is measured");

namespace headgate::bench {
namespace {

std::optional<Mode> ParseMode(absl::string_view text) {
  if (text == "download") return Mode::kDownload;
  if (text == "upload") return Mode::kUpload;
  if (text == "echo") return Mode::kEcho;
  if (text == "connect") return Mode::kConnect;
  if (text == "idle") return Mode::kIdle;
  return std::nullopt;
}

absl::StatusOr<Plan> PlanFromFlags() {
  Plan plan;
  const std::optional<Mode> mode = ParseMode(FLAGS_mode);
  if (!mode) {
    return absl::InvalidArgumentError(
        absl::StrCat("parse --mode: no such mode: ", FLAGS_mode));
  }
  plan.mode = *mode;
  ASSIGN_OR_RETURN(plan.target, Endpoint::Parse(FLAGS_target));
  ASSIGN_OR_RETURN(plan.listen, Endpoint::Parse(FLAGS_listen));
  plan.client_netns = FLAGS_client_netns;
  plan.server_netns = FLAGS_server_netns;
  plan.header = FLAGS_header;
  plan.connections = FLAGS_connections;
  plan.size = FLAGS_size;
  plan.receive_rate = FLAGS_receive_rate;
  if (plan.connections == 0 || plan.size == 0) {
    return absl::InvalidArgumentError("parse flags: a count is 0");
  }
  if (!absl::ParseDuration(FLAGS_warmup, &plan.warmup) ||
      !absl::ParseDuration(FLAGS_window, &plan.window)) {
    return absl::InvalidArgumentError("parse flags: not a duration");
  }
  return plan;
}

// Only the calling thread moves.
absl::Status EnterNetns(const std::string& path) {
  if (path.empty()) return absl::OkStatus();
  const UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid() || setns(fd.get(), CLONE_NEWNET) != 0) {
    return ErrnoStatus(errno, absl::StrCat("enter ", path));
  }
  return absl::OkStatus();
}

void RaiseDescriptorLimit() {
  rlimit limit{};
  getrlimit(RLIMIT_NOFILE, &limit);
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
}

// Owns the server's thread.
class ServerThread {
 public:
  ServerThread(EventLoop* loop, const Plan& plan, ByteCounter* received)
      : loop_(loop), thread_([this, &plan, received] {
          Server server(loop_, plan, received);
          absl::Status status = EnterNetns(plan.server_netns);
          if (status.ok()) status = server.Listen();
          const bool ok = status.ok();
          listening_.set_value(std::move(status));
          if (ok) loop_->Run();
        }) {}
  ~ServerThread() {
    loop_->Stop();
    thread_.join();
  }

  absl::Status WaitUntilListening() { return listening_.get_future().get(); }

 private:
  EventLoop* loop_;
  std::promise<absl::Status> listening_;
  std::thread thread_;  // Last: it uses the others.
};

// Nearest rank; `ascending` is not empty.
double PercentileUs(const std::vector<int64_t>& ascending, double share) {
  const auto rank = static_cast<size_t>(
      std::ceil(share * static_cast<double>(ascending.size())));
  return static_cast<double>(ascending[std::max<size_t>(rank, 1) - 1]) / 1e3;
}

void Print(const Report& report) {
  absl::PrintF("{\"seconds\":%.6f,\"bytes\":%d,\"connections\":%d",
               report.seconds, report.bytes, report.connections);
  if (!report.latency_ns.empty()) {
    absl::PrintF(
        ",\"operations\":%d,"
        "\"latency_us\":{\"p50\":%.1f,\"p99\":%.1f,\"p999\":%.1f}",
        report.latency_ns.size(), PercentileUs(report.latency_ns, 0.5),
        PercentileUs(report.latency_ns, 0.99),
        PercentileUs(report.latency_ns, 0.999));
  }
  absl::PrintF("}\n");
}

void PrintWindow(absl::string_view event) {
  absl::PrintF("%s\n", event);
  std::fflush(stdout);
}

absl::Status Run(const Plan& plan) {
  RaiseDescriptorLimit();
  ByteCounter received{0};
  ASSIGN_OR_RETURN(auto server_loop, EventLoop::Make());
  ASSIGN_OR_RETURN(auto client_loop, EventLoop::Make());
  ServerThread server(server_loop.get(), plan, &received);
  RETURN_IF_ERROR(server.WaitUntilListening());
  RETURN_IF_ERROR(EnterNetns(plan.client_netns));
  Client client(client_loop.get(), plan, &received, PrintWindow);
  ASSIGN_OR_RETURN(const Report report, client.Run());
  Print(report);
  return absl::OkStatus();
}

int Main() {
  const absl::StatusOr<Plan> plan = PlanFromFlags();
  const absl::Status status = plan.ok() ? Run(*plan) : plan.status();
  if (status.ok()) return 0;
  absl::FPrintF(stderr, "headgate_bench_load: %s\n", status.message());
  return plan.ok() ? 1 : 2;
}

}  // namespace
}  // namespace headgate::bench

int main(int argc, char** argv) {
  gflags::ParseCommandLineFlags(&argc, &argv, true);
  return headgate::bench::Main();
}
