// Where the packet path is attached and what it has pinned, and where not any
// more: over restarts, other configurations, and interfaces that come and go.
#include "packet_hooks.h"

#include <gmock/gmock.h>
#include <signal.h>

#include "absl/strings/str_replace.h"
#include "packet_fixture.h"
#include "support/injection.h"

namespace headgate::testing {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::SizeIs;

// By each way to be attached.
class PacketHooksTest : public PacketLab,
                        public ::testing::WithParamInterface<std::string> {
 protected:
  static std::string Config(const std::string& interfaces = "[e0, e1]",
                            const std::string& ports = "10240-32767") {
    std::string config =
        PacketConfig({.attach = GetParam() == "xdp" ? "xdp" : "tc",
                      .packet = absl::StrCat("  ports: ", ports),
                      .health = "{type: none}"});
    return config.replace(config.find("[e0, e1]"), 8, interfaces);
  }
  static std::string WithoutPacketSection() {
    std::string config = absl::StrReplaceAll(
        Config(), {{"datapath: packet", "datapath: splice"}});
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
  }
};
INSTANTIATE_TEST_SUITE_P(Each, PacketHooksTest,
                         ::testing::Values("tcx", "clsact", "xdp"),
                         [](const auto& hook) { return hook.param; });

TEST_P(PacketHooksTest, OfTheLastRunAnUnwantedOneGoes) {
  const auto server = Node();
  for (const int signal : {SIGKILL, SIGUSR2}) {
    Start(Config());
    End(signal);
    EXPECT_EQ(HooksAt("e0"), Attached()) << "it is for the next daemon";
    EXPECT_EQ(HooksAt("e1"), Attached());
    const std::string status = daemon_->Ctl({"status"}).err;
    EXPECT_THAT(status, HasSubstr("; the packet path of " + daemon_->pin_dir() +
                                  " goes on"));
    Start(Config("[e1]"));
    EXPECT_TRUE(daemon_->LogHas("the packet path goes on"));
    EXPECT_THAT(HooksAt("e0"), IsEmpty());
    EXPECT_EQ(HooksAt("e1"), Attached());
    EXPECT_EQ(Load(5).ok, 5u) << "spliced";
    StopAndExpectNothingLeft({"e0", "e1"});
    EXPECT_EQ(TcpSocket::Connect(kClient, vip_).error(), ECONNREFUSED);
  }
}

TEST_P(PacketHooksTest, ARenamedInterfaceHasOneHookOrNone) {
  const auto server = Node();
  Start(Config());
  TcpSocket held = TcpSocket::Connect(kClient, vip_);
  ASSERT_EQ(held.Receive(11), kGreeting);
  End();
  Shell("ip -n edge link set e0 name away");
  Start(Config("[away, e1]"));
  EXPECT_EQ(HooksAt("away"), Attached());
  EXPECT_TRUE(held.Send("x") && held.Receive(1) == "x");
  End();
  Shell("ip -n edge link set away name e0");
  Start(Config("[away, e1]"));
  EXPECT_THAT(HooksAt("e0"), IsEmpty());
  StopAndExpectNothingLeft({"e0", "e1"});
}

TEST_P(PacketHooksTest, AnInterfaceMayTakeTheNameOfAnother) {
  Start(Config());
  Shell(R"(ip -n edge link set e0 name away
           ip -n edge link set e1 name e0)");
  ASSERT_TRUE(WaitUntil(absl::Seconds(5), [&] {
    return daemon_->LogHas("e1: no such interface");
  }));
  EXPECT_THAT(HooksAt("away"), IsEmpty());
  EXPECT_EQ(HooksAt("e0"), Attached());
  End();
  EXPECT_EQ(HooksAt("e0"), Attached()) << "it was not pinned";
  Shell("ip -n edge link set away name e1");
  Start(Config());
  EXPECT_EQ(HooksAt("e1"), Attached());
  StopAndExpectNothingLeft({"e0", "e1"});
}

TEST_P(PacketHooksTest, OneThatDoesNotForwardAtAStartKeepsItUntilTheEnd) {
  const auto server = Node();
  const auto forward = [](int on) {
    Shell(absl::StrCat(
        "ip netns exec edge sysctl -qw net.ipv4.conf.e0.forwarding=", on));
  };
  Start(Config());
  TcpSocket held = TcpSocket::Connect(kClient, vip_);
  ASSERT_EQ(held.Receive(11), kGreeting);
  End();
  forward(0);
  Start(Config());
  EXPECT_FALSE(OnPacketPath());
  EXPECT_EQ(HooksAt("e0"), Attached());
  forward(1);
  EXPECT_TRUE(WaitUntil(absl::Seconds(5), [&] { return OnPacketPath(); }));
  EXPECT_TRUE(held.Send("x") && held.Receive(1) == "x");
  End();
  forward(0);
  Start(Config());
  StopAndExpectNothingLeft({"e0", "e1"});
}

TEST_P(PacketHooksTest, ALinksPinGoesWithItsInterface) {
  Shell(R"(ip -n edge link add x0 type veth peer name x1
           ip -n edge link set x0 up)");
  Start(Config("[e0, e1, x0]"));
  EXPECT_TRUE(OnPacketPath());
  End();
  Shell("ip -n edge link del x0");
  Start(Config());
  EXPECT_TRUE(daemon_->LogHas("the packet path goes on"));
  EXPECT_THAT(PacketPins(daemon_->pin_dir(), "packet_link_"),
              SizeIs(GetParam() == "clsact" ? 0 : 2));
  StopAndExpectNothingLeft({"e0", "e1"});
}

TEST_P(PacketHooksTest, WithoutItsSectionNothingOfTheLastRunIsLeft) {
  const auto server = Node();
  Start(Config());
  End();
  Start(WithoutPacketSection());
  EXPECT_THAT(HooksAt("e0"), IsEmpty());
  EXPECT_THAT(HooksAt("e1"), IsEmpty());
  EXPECT_THAT(PacketPins(daemon_->pin_dir(), "packet_"), IsEmpty());
  EXPECT_EQ(Load(5).ok, 5u) << "spliced";
  End();
  const ProcessResult status = daemon_->Ctl({"status"});
  EXPECT_EQ(status.err.find("packet path"), std::string::npos) << status.err;
  Start(Config());
  EXPECT_FALSE(daemon_->LogHas("of the last run"));
  EXPECT_EQ(HooksAt("e0"), Attached());
  StopAndExpectNothingLeft({"e0", "e1"});
}

TEST_P(PacketHooksTest, AnInterfacesNameMayHaveADotAsThoseOfVlansHave) {
  const auto server = Node();
  Shell(R"(ip -n edge link set e0 name e0.5
           ip netns exec edge sysctl -qw net.ipv4.conf.e0/5.forwarding=0)");
  Start(Config("[e0.5, e1]"));
  const std::string problems = daemon_->Json({"status"})["problems"].dump();
  const size_t remedy = problems.find("sysctl -w ");
  ASSERT_NE(remedy, std::string::npos) << problems;
  const size_t end = problems.find(';', remedy);
  const std::string command =
      "ip netns exec edge " + problems.substr(remedy, end - remedy);
  EXPECT_EQ(RunCommand({"sh", "-c", command}).exit_code, 0) << command;
  EXPECT_TRUE(WaitUntil(absl::Seconds(5), [&] { return OnPacketPath(); }))
      << daemon_->Log();
  EXPECT_EQ(HooksAt("e0.5"), Attached());
  TcpSocket held = TcpSocket::Connect(kClient, vip_);
  ASSERT_EQ(held.Receive(11), kGreeting);
  EXPECT_EQ(daemon_->Json({"conn", "list"}).at("connections")[0]["datapath"],
            "packet");
  End();
  Start(Config("[e0.5, e1]"));
  EXPECT_EQ(HooksAt("e0.5"), Attached());
  EXPECT_TRUE(held.Send("x") && held.Receive(1) == "x");
  StopAndExpectNothingLeft({"e0.5", "e1"});
}

// ---- somebody else ----------------------------------------------------------

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
    EXPECT_THAT(other.Ctl({"status"}).err, Not(HasSubstr("goes on")))
        << "it is not without its daemon";
    EXPECT_EQ(HooksAt("e0"), Attached());
    EXPECT_EQ(HooksAt("e1"), Attached());
  }
  EXPECT_EQ(Metric(R"(headgate_packets_forwarded_total{as="header"})"), 10);
  StopAndExpectNothingLeft({"e0", "e1"});
}

TEST_P(PacketHooksTest, WhatSomebodyTakesOffIsPutBack) {
  const auto server = Node();
  Start(Config());
  TcpSocket held = TcpSocket::Connect(kClient, vip_);
  ASSERT_EQ(held.Receive(11), kGreeting);
  if (GetParam() == "clsact") {
    Shell("tc -n edge qdisc del dev e0 clsact");
  } else {
    for (const std::string& pin :
         PacketPins(daemon_->pin_dir(), "packet_link_")) {
      Shell(absl::StrCat("bpftool link detach pinned ", daemon_->pin_dir(), "/",
                         pin));
    }
  }
  if (GetParam() == "xdp") Shell("ip -n edge link set e0 xdp off");
  for (const char* device : {"e0", "e1"}) {
    EXPECT_TRUE(WaitUntil(absl::Seconds(5), [&] {
      return HooksAt(device) == Attached();
    })) << device;
  }
  EXPECT_TRUE(held.Send("x") && held.Receive(1) == "x");
  EXPECT_TRUE(daemon_->LogHas("e0: the packet path's hook was gone"));
  StopAndExpectNothingLeft({"e0", "e1"});
}

// What it cannot look at for a moment is taken to be as it was.
TEST_P(PacketHooksTest, WithoutDescriptorsItStaysAttached) {
  SetOffload(kClient, "c0", ETHTOOL_STXCSUM, false);  // Or XDP is taken off.
  SetOffload(kBackend, "b0", ETHTOOL_STXCSUM, false);
  const auto server = Node();
  Start(Config());
  TcpSocket held = TcpSocket::Connect(kClient, vip_);
  ASSERT_EQ(held.Receive(11), kGreeting);
  const auto is_lost = [&] {
    TcpSocket fresh = TcpSocket::Connect(kClient, vip_);
    return HooksAt("e0") != Attached() || fresh.Receive(11) != kGreeting ||
           !held.Send("x") || held.Receive(1) != "x";
  };
  daemon_->LimitFiles(1);
  EXPECT_FALSE(WaitUntil(absl::Seconds(3), is_lost));
  EXPECT_TRUE(daemon_->LogHas("e0: ask for its type: Too many open files"));
  daemon_->LimitFiles(1024);
  {
    const Injection fault(daemon_->pid(), "openat:error=ENFILE");
    EXPECT_FALSE(WaitUntil(absl::Seconds(3),
                           [&] { return is_lost() || !OnPacketPath(); }));
    EXPECT_TRUE(daemon_->LogHas("Too many open files in system"));
  }
  EXPECT_TRUE(WaitUntil(absl::Seconds(5), [&] {
    const std::string problems = daemon_->Json({"status"})["problems"].dump();
    return problems.find("open files") == std::string::npos;
  }));
  StopAndExpectNothingLeft({"e0", "e1"});
}

// What it can do without.
TEST_P(PacketHooksTest, ConnectionsOutliveTheSpliceProgram) {
  const auto server = Node();
  Start(Config());
  TcpSocket held = TcpSocket::Connect(kClient, vip_);
  ASSERT_EQ(held.Receive(11), kGreeting);
  End();
  DaemonOptions options = Options();
  if (options.wrapper.empty()) options.wrapper = {"env"};
  options.wrapper.push_back("LD_PRELOAD=" HG_NO_SPLICE_LIBRARY);
  daemon_ = std::make_unique<Daemon>(Config(), options);
  EXPECT_TRUE(daemon_->LogHas("goes on with 1 connections"));
  EXPECT_FALSE(daemon_->Json({"status"})["datapaths"]["splice"].get<bool>());
  EXPECT_TRUE(held.Send("x") && held.Receive(1) == "x");
  EXPECT_EQ(Load(5).ok, 5u);
  StopAndExpectNothingLeft({"e0", "e1"});
}

// ---- a start that is cut short ----------------------------------------------

using PacketPinsTest = PacketLab;

TEST_F(PacketPinsTest, WhoIsKilledWhileItStartsLeavesATableThatIsWhole) {
  const std::string config = PacketConfig({.packet = "  max_flows: 1048576"});
  daemon_ = std::make_unique<Daemon>(config,
                                     DaemonOptions{.wait_until_ready = false});
  ASSERT_TRUE(WaitUntil(kTcpTimeout, [&] {
    return std::filesystem::exists(daemon_->pin_dir() + "/packet_flows");
  }));
  ::kill(daemon_->pid(), SIGKILL);
  EXPECT_EQ(daemon_->WaitExit(), 128 + SIGKILL);
  daemon_ = std::make_unique<Daemon>(config, DaemonOptions{.keep_state = true});
  const UniqueFd numbers(
      bpf_obj_get((daemon_->pin_dir() + "/packet_free").c_str()));
  uint32_t count = 0, number = 0;
  while (bpf_map_lookup_and_delete_elem(numbers.get(), nullptr, &number) == 0) {
    ++count;
  }
  EXPECT_EQ(count, 1048576u);
}

class PacketLoadTest : public PacketLab {};

TEST_F(PacketLoadTest, WhatCannotBeLoadedIsSplicedAndSaysWhy) {
  const auto server = Node();
  daemon_ = std::make_unique<Daemon>(
      PacketConfig(),
      DaemonOptions{.wrapper = {"env", "LD_PRELOAD=" HG_NO_OBJECT_LIBRARY,
                                "HG_REFUSED_OBJECT=headgate_packet_bpf"}});
  EXPECT_EQ(Load(5).ok, 5u);
  TcpSocket held = TcpSocket::Connect(kClient, vip_);
  ASSERT_EQ(held.Receive(11), kGreeting);
  EXPECT_NE(daemon_->Json({"conn", "list"}).at("connections")[0]["datapath"],
            "packet");
  const std::string reason =
      "load the packet program: Permission denied (EACCES)";
  const auto told = [&] {
    return daemon_->Json({"status"})["packet_reason"].get<std::string>();
  };
  EXPECT_THAT(told(), HasSubstr(reason));
  EXPECT_TRUE(daemon_->LogHas(reason));
  const auto hook = [&](const char* interface) {
    return Metric(absl::StrCat("headgate_packet_hook_info{hook=\"tc\",",
                               "interface=\"", interface,
                               "\",mode=\"\",reason=\"", reason, "\"}"));
  };
  EXPECT_EQ(hook("e0"), 0);
  EXPECT_EQ(hook("e1"), 0);
  // And only while somebody wants it.
  daemon_->Reload(absl::StrReplaceAll(
      PacketConfig(), {{"datapath: packet", "datapath: splice"}}));
  EXPECT_TRUE(WaitUntil(absl::Seconds(5), [&] {
    return told() == "no service has datapath: packet";
  })) << told();
  EXPECT_EQ(hook("e0"), -1);
  EXPECT_EQ(Load(5).ok, 5u);
}

}  // namespace
}  // namespace headgate::testing
