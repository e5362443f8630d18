// The wall clock is set, by a year or a day, while the daemon runs: only what
// it shows may follow.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <csignal>
#include <fstream>
#include <functional>
#include <iterator>
#include <memory>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "net/event_loop.h"
#include "support/daemon.h"
#include "support/edge.h"
#include "support/lab.h"
#include "support/load.h"
#include "support/server.h"
#include "support/tcp.h"
#include "support/wait.h"

namespace headgate::testing {
namespace {

constexpr char kConfig[] = R"(
metrics: {listen: 127.0.0.1:9140}
pools:
  nodes:
    backends:
      - {name: one, address: 198.18.2.11}
      - {name: two, address: 198.18.2.12}
services:
  steady:
    listen: [198.18.1.1:25]
    pool: nodes
    backend_port: 30125
    health: {type: tcp, port: 30145, interval: 100ms}
  short:
    listen: [198.18.1.1:26]
    pool: nodes
    backend_port: 30125
    health: {type: tcp, port: 30145, interval: 100ms}
    timeouts: {idle: 4s}
  failing:
    listen: [198.18.1.1:27]
    pool: nodes
    backend_port: 30225
    ejection: {failures: 1, time: 4s}
    health: {type: tcp, port: 30145, interval: 100ms}
)";
constexpr char kGreeting[] = "220 ok\r\n";
constexpr absl::Duration kTime = absl::Seconds(4);  // Of all three.
// The services share their checks, of two backends.
constexpr double kChecksPerSecond = 20;

double SecondsSince(int64_t start_ns) {
  return static_cast<double>(MonotonicNs() - start_ns) / 1e9;
}

struct Event {
  const char* what;
  std::function<bool()> over;
  double after_seconds = 0;  // 0: not over yet.
};

template <size_t kSize>
bool AllOver(Event (&events)[kSize], int64_t start_ns) {
  bool all = true;
  for (Event& event : events) {
    if (event.after_seconds != 0) continue;
    if (event.over()) {
      event.after_seconds = SecondsSince(start_ns);
    } else {
      all = false;
    }
  }
  return all;
}

// By how much the daemon's wall clock is wrong.
class ClockJump {
 public:
  ClockJump() {
    const UniqueFd file(
        ::open(kPath, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
    if (::ftruncate(file.get(), sizeof *jump_ns_) != 0) Die(kPath);
    void* memory = ::mmap(nullptr, sizeof *jump_ns_, PROT_READ | PROT_WRITE,
                          MAP_SHARED, file.get(), 0);
    if (memory == MAP_FAILED) Die(kPath);
    jump_ns_ = static_cast<int64_t*>(memory);
  }
  ~ClockJump() { ::munmap(jump_ns_, sizeof *jump_ns_); }
  ClockJump(const ClockJump&) = delete;
  ClockJump& operator=(const ClockJump&) = delete;

  void Set(absl::Duration jump) {
    __atomic_store_n(jump_ns_, absl::ToInt64Nanoseconds(jump),
                     __ATOMIC_RELAXED);
  }
  static std::vector<std::string> Wrapper() {
    return {"env", absl::StrCat("LD_PRELOAD=", HG_CLOCK_JUMP_LIBRARY),
            absl::StrCat("HG_CLOCK_JUMP=", kPath)};
  }

 private:
  static constexpr char kPath[] = "/run/headgate/clock";
  int64_t* jump_ns_ = nullptr;
};

class ClockTest : public ::testing::Test {
 protected:
  static std::unique_ptr<Server> Serve(const std::vector<const char*>& at,
                                       const ServerOptions& options) {
    std::vector<Endpoint> endpoints;
    for (const char* endpoint : at) endpoints.push_back(At(endpoint));
    return std::make_unique<Server>(endpoints, options);
  }
  void Start(bool keep_state = false) {
    daemon_ = std::make_unique<Daemon>(
        kConfig, DaemonOptions{.wrapper = ClockJump::Wrapper(),
                               .keep_state = keep_state});
  }
  static TcpSocket Greeted(const char* listener) {
    TcpSocket socket = TcpSocket::Connect(kClient, At(listener));
    EXPECT_EQ(socket.Receive(8), kGreeting);
    return socket;
  }
  // One of these connections finds out that nobody listens.
  void Eject() {
    ASSERT_TRUE(WaitUntil(kTcpTimeout, [&] {
      Greeted("198.18.1.1:27");
      return Ejected();
    }));
  }
  bool Ejected() const {
    return daemon_->Backend("failing", "two")["ejected"].is_object();
  }
  double LeftOfDrained() const {
    return daemon_->Backend("steady", "two")["connections_active"];
  }
  double Checks() const {
    double checks = 0;
    for (const auto& [series, value] : daemon_->Metrics()) {
      if (absl::StrContains(series, "backend_checks_total{") &&
          absl::StrContains(series, "\"steady\"")) {
        checks += value;
      }
    }
    return checks;
  }
  // The wall clock as checks have it, which read it through Abseil: that looks
  // at the kernel's every two seconds.
  absl::Time ShownTime() const {
    absl::Time time;
    std::string error;
    const std::string text =
        daemon_->Backend("steady", "one")["last_check"]["time"];
    EXPECT_TRUE(absl::ParseTime(absl::RFC3339_full, text, &time, &error));
    return time;
  }
  bool Shows(absl::Duration jump) const {
    return absl::AbsDuration(ShownTime() - absl::Now() - jump) <
           absl::Minutes(1);
  }

  Lab lab_;
  std::unique_ptr<Server> check_ports_ =
      Serve({"198.18.2.11:30145", "198.18.2.12:30145"},
            {.header = HeaderKind::kNone});
  // Nobody is at 198.18.2.12:30225.
  const std::unique_ptr<Server> nodes_ =
      Serve({"198.18.2.11:30125", "198.18.2.12:30125", "198.18.2.11:30225"},
            {.greeting = kGreeting, .echo = true});
  ClockJump clock_;
  std::unique_ptr<Daemon> daemon_;
};

class ClockJumpTest : public ClockTest,
                      public ::testing::WithParamInterface<absl::Duration> {};

TEST_P(ClockJumpTest, ChangesNothingButWhatIsShown) {
  Start();
  for (const char* backend : {"one", "two"}) {
    ASSERT_TRUE(daemon_->WaitBackendState("failing", backend, "up"));
  }
  TcpSocket steady[4];
  for (TcpSocket& socket : steady) socket = Greeted("198.18.1.1:25");
  Eject();
  const int64_t start_ns = MonotonicNs();
  TcpSocket idle = Greeted("198.18.1.1:26");
  ASSERT_EQ(
      daemon_->Ctl({"backend", "drain", "steady/two", "--over=4s"}).exit_code,
      0);
  const double checks = Checks();
  const CpuTime used = CpuTimeOf(daemon_->pid());
  const std::string log = daemon_->Log();

  clock_.Set(GetParam());
  Event shown[] = {{"the jump", [&] { return Shows(GetParam()); }}};
  // What is under way goes on, and is over when it would have been.
  Event events[] = {
      {"idle time-out", [&] { return !idle.Quiet(absl::ZeroDuration()); }},
      {"ejection", [&] { return !Ejected(); }},
      {"paced drain", [&] { return LeftOfDrained() == 0; }}};
  EXPECT_TRUE(WaitUntil(2 * kTime, [&] {
    const bool seen = AllOver(shown, start_ns);
    return AllOver(events, start_ns) && seen;
  }));
  EXPECT_TRUE(Shows(GetParam())) << ShownTime();
  EXPECT_LT(shown[0].after_seconds, absl::ToDoubleSeconds(kTime));
  for (const Event& event : events) {
    EXPECT_NEAR(event.after_seconds, absl::ToDoubleSeconds(kTime), 2)
        << event.what;
  }
  size_t alive = 0;
  for (TcpSocket& socket : steady) {
    alive += socket.Send("NOOP") && socket.Receive(4) == "NOOP";
  }
  EXPECT_EQ(alive, 2u);
  const double seconds = SecondsSince(start_ns);
  const double checks_per_second = (Checks() - checks) / seconds;
  EXPECT_GT(checks_per_second, kChecksPerSecond / 2);
  EXPECT_LT(checks_per_second, kChecksPerSecond * 2);
  const double cpu =
      (CpuTimeOf(daemon_->pid()).total() - used.total()) / seconds;
  EXPECT_LT(cpu, 0.2) << "of a core";
  EXPECT_FALSE(absl::StrContains(daemon_->Log().substr(log.size()), "Layer"))
      << "a check found something: " << daemon_->Log();
  daemon_->Stop();
}

INSTANTIATE_TEST_SUITE_P(By, ClockJumpTest,
                         ::testing::Values(absl::Hours(365 * 24),
                                           -absl::Hours(24)));

// Health that the last run has left is as old as it is.
TEST_F(ClockTest, MayBeSetBetweenTwoRuns) {
  check_ports_.reset();
  Start();
  ASSERT_TRUE(daemon_->WaitBackendState("steady", "one", "down"));
  ASSERT_TRUE(WaitUntil(kTcpTimeout, [&] {
    std::ifstream file(daemon_->state_dir() + "/state.json");
    const std::string state((std::istreambuf_iterator<char>(file)), {});
    return absl::StrContains(state, "\"down\"");
  }));
  daemon_->Stop();
  clock_.Set(absl::Hours(24));
  Start(/*keep_state=*/true);
  EXPECT_EQ(daemon_->Backend("steady", "one")["state"], "down");
  EXPECT_FALSE(daemon_->LogHas(" is DOWN")) << "forgotten: " << daemon_->Log();
}

}  // namespace
}  // namespace headgate::testing
