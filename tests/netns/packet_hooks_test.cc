// Where the packet path is attached and what it has pinned, and where not any
// more: over restarts, other configurations, and interfaces that come and go.
#include "packet_hooks.h"

#include <gmock/gmock.h>
#include <signal.h>

#include "absl/strings/str_replace.h"
#include "packet_fixture.h"

namespace headgate::testing {
namespace {

using ::testing::IsEmpty;

// By each way to be attached.
class PacketHooksTest : public PacketLab,
                        public ::testing::WithParamInterface<std::string> {
 protected:
  static std::string Config(const std::string& interfaces = "[e0, e1]",
                            const std::string& ports = "10240-32767") {
    std::string config = PacketConfig(
        {.packet = absl::StrCat("  ports: ", ports,
                                GetParam() == "xdp" ? "\n  attach: xdp" : ""),
         .health = "{type: none}"});
    return config.replace(config.find("[e0, e1]"), 8, interfaces);
  }
  static std::string Spliced(const std::string& config) {
    return absl::StrReplaceAll(config,
                               {{"datapath: packet", "datapath: splice"}});
  }
  static std::string WithoutPacketSection() {
    std::string config = Spliced(Config());
    const size_t begin = config.find("packet:");
    return config.erase(begin, config.find("pools:") - begin);
  }
  static DaemonOptions Options(const std::string& name = "headgate") {
    DaemonOptions options{.name = name, .keep_state = true};
    if (GetParam() == "clsact") options.wrapper = WithoutTcx();
    return options;
  }
  void Start(const std::string& config) {
    daemon_ = std::make_unique<Daemon>(config, Options());
  }
  // What it has attached is left to the next one.
  void End(int signal = SIGKILL) {
    ::kill(daemon_->pid(), signal);
    EXPECT_EQ(daemon_->WaitExit(), signal == SIGKILL ? 128 + SIGKILL : 0);
  }
  static std::vector<std::string> Attached() {
    if (GetParam() == "clsact") return {"clsact packet_ingress"};
    if (GetParam() == "xdp") return {"xdp", "tcx packet_ingress"};
    return {"tcx packet_ingress"};
  }
  void StopAndExpectNothingLeft(const std::vector<std::string>& devices) {
    daemon_->Stop();
    for (const std::string& device : devices) {
      EXPECT_THAT(HooksAt(device), IsEmpty()) << device;
    }
    EXPECT_FALSE(std::filesystem::exists(daemon_->pin_dir()));
    EXPECT_EQ(TcpSocket::Connect(kClient, vip_).error(), ECONNREFUSED);
  }
};
INSTANTIATE_TEST_SUITE_P(Each, PacketHooksTest,
                         ::testing::Values("tcx", "clsact", "xdp"),
                         [](const auto& hook) { return hook.param; });

// ---- somebody else
// -------------------------------------------------------------

TEST_P(PacketHooksTest, DaemonsSideBySideKeepToTheirOwn) {
  const auto server = Node();
  const auto beside = [](const std::string& config) {
    return absl::StrReplaceAll(config,
                               {{"metrics: {listen: 127.0.0.1:9140}", ""},
                                {"]:25\"]", "]:26\"]"},
                                {"198.18.1.1:25", "198.18.1.1:26"}});
  };
  Start(Config("[e0, e1]", "10240-19999"));
  for (const std::string& config :
       {WithoutPacketSection(), Config("[e0, e1]", "20000-29999")}) {
    Daemon other(beside(config), Options("other"));
    for (const int port : {25, 26}) {
      const Endpoint vip = At(absl::StrCat("198.18.1.1:", port));
      EXPECT_EQ(LoadOn(vip, 5).ok, 5u) << port;
    }
    other.Stop();
    EXPECT_EQ(HooksAt("e0"), Attached());
    EXPECT_EQ(HooksAt("e1"), Attached());
  }
  EXPECT_EQ(Metric(R"(headgate_packets_forwarded_total{as="header"})"), 10);
  StopAndExpectNothingLeft({"e0", "e1"});
}

}  // namespace
}  // namespace headgate::testing
