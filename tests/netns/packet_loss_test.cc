// Segments that get lost on the way: every stream arrives whole, and waits for
// no longer than the retransmission timers of its ends do.
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <net/if.h>

#include <iterator>
#include <thread>
#include <vector>

#include "lose.skel.h"
#include "netns/lose.h"
#include "packet_fixture.h"

namespace headgate::testing {
namespace {

struct Loss {
  const char* name;
  lose_what what;
  uint32_t times = 0;
  uint32_t percent = 0;
};

// What is lost, by the client's port.
class Losses {
 public:
  Losses() : programs_(lose_bpf__open_and_load()) {
    if (programs_ == nullptr) Die("lose.bpf.c does not load");
    RunIn(kClient, [&] {
      AddHooks("c0");
      Attach("c0", BPF_TC_INGRESS, programs_->progs.at_client);
      Attach("c0", BPF_TC_EGRESS, programs_->progs.from_client);
    });
    RunIn(kBackend, [&] {
      AddHooks("b0");
      Attach("b0", BPF_TC_INGRESS, programs_->progs.at_backend);
    });
  }
  ~Losses() { lose_bpf__destroy(programs_); }
  Losses(const Losses&) = delete;
  Losses& operator=(const Losses&) = delete;

  void Put(uint32_t port, const Loss& loss) {
    const lose_rule rule = {loss.what, loss.times, loss.percent, 0, {}, 0};
    EXPECT_EQ(bpf_map__update_elem(programs_->maps.lose_rules, &port,
                                   sizeof port, &rule, sizeof rule, BPF_ANY),
              0);
  }
  lose_rule At(uint32_t port) const {
    lose_rule rule{};
    EXPECT_EQ(bpf_map__lookup_elem(programs_->maps.lose_rules, &port,
                                   sizeof port, &rule, sizeof rule, 0),
              0);
    return rule;
  }

 private:
  // They go with their namespace.
  static bpf_tc_hook HookOf(const char* device, int where) {
    bpf_tc_hook hook{};
    hook.sz = sizeof hook;
    hook.ifindex = static_cast<int>(if_nametoindex(device));
    hook.attach_point = static_cast<bpf_tc_attach_point>(where);
    return hook;
  }
  static void AddHooks(const char* device) {
    bpf_tc_hook both = HookOf(device, BPF_TC_INGRESS | BPF_TC_EGRESS);
    EXPECT_EQ(bpf_tc_hook_create(&both), 0) << device;
  }
  static void Attach(const char* device, bpf_tc_attach_point where,
                     const bpf_program* program) {
    const bpf_tc_hook hook = HookOf(device, where);
    bpf_tc_opts options{};
    options.sz = sizeof options;
    options.prog_fd = bpf_program__fd(program);
    EXPECT_EQ(bpf_tc_attach(&hook, &options), 0) << device;
  }

  lose_bpf* programs_;
};

// Each by a client that is silent until it is greeted, so that the backend's
// SYN-ACK is all that comes again, and by one that is not.
constexpr Loss kAtTheBeginning[] = {
    {"header", LOSE_HEADER, 1},   {"header", LOSE_HEADER, 2},
    {"header", LOSE_HEADER, 3},   {"header", LOSE_HEADER, 4},
    {"header", LOSE_HEADER, 5},   {"ACK", LOSE_ACK, 1},
    {"ACK", LOSE_ACK, 2},         {"SYN-ACK", LOSE_SYN_ACK, 1},
    {"SYN-ACK", LOSE_SYN_ACK, 2},
};
constexpr Loss kLater[] = {
    {"data", LOSE_DATA, 0, 1},  {"data", LOSE_DATA, 0, 5},
    {"data", LOSE_DATA, 0, 10}, {"data", LOSE_DATA, 0, 1},
    {"data", LOSE_DATA, 0, 5},  {"data", LOSE_DATA, 0, 10},
};

std::vector<Loss> AllLosses() {
  std::vector<Loss> losses(std::begin(kAtTheBeginning),
                           std::end(kAtTheBeginning));
  losses.insert(losses.end(), std::begin(kAtTheBeginning),
                std::end(kAtTheBeginning));
  losses.insert(losses.end(), std::begin(kLater), std::end(kLater));
  return losses;
}

// How long the timers take over so many losses in a row: the first is a second
// where a SYN or its answer has to come again (RFC 6298, 2.1), and twice 200 ms
// at most for data (Linux's least, with what a loaded machine adds to the round
// trip). The machine itself may be a second late.
absl::Duration LongestPause(const Loss& loss, bool quiet,
                            const lose_rule& seen) {
  const absl::Duration first = quiet || loss.what == LOSE_SYN_ACK
                                   ? absl::Seconds(1)
                                   : absl::Milliseconds(400);
  return first * ((1 << seen.longest_row) - 1) + absl::Seconds(1);
}

class PacketLossTest : public PacketHookTest {
 protected:
  struct Family {
    const char* name;
    Endpoint vip;
    const char* backend;
    uint16_t first_port;
  };

  // A segment a frame, so that each may be lost by itself.
  static void SendSingleSegments() {
    for (const auto& [netns, device] :
         {std::pair(kClient, "c0"), std::pair(kBackend, "b0")}) {
      SetOffload(netns, device, ETHTOOL_STSO, false);
      SetOffload(netns, device, ETHTOOL_SGSO, false);
    }
  }
  // A stream for each of `wanted`, all at once.
  static StreamReport RunAll(const Family& family,
                             const std::vector<Loss>& wanted) {
    StreamPlan plan;
    plan.target = family.vip;
    plan.listen = {At(family.backend)};
    plan.count = plan.concurrency = plan.large = wanted.size();
    plan.quiet = std::size(kAtTheBeginning);
    plan.max_size = 256 << 10;
    plan.first_port = family.first_port;
    plan.patience = absl::Seconds(60);
    return RunStreams(plan);
  }
  static void ExpectInTime(const Loss& loss, bool quiet, const lose_rule& seen,
                           absl::Duration pause) {
    SCOPED_TRACE(absl::StrCat(quiet ? "quiet client, " : "", loss.name, " ",
                              loss.times, " times, ", loss.percent, " %"));
    if (loss.times > 0) {
      EXPECT_EQ(seen.lost, loss.times);
    }
    EXPECT_LE(pause, LongestPause(loss, quiet, seen))
        << seen.lost << " lost, " << seen.longest_row << " in a row";
  }
  static int64_t SackRecoveries() {
    const char* name = "TcpExtTCPSackRecovery";
    return Counter(kClient, name) + Counter(kBackend, name);
  }

  const Family kFamilies[2] = {{"IPv4", vip_, "198.18.2.11:25", 20000},
                               {"IPv6", vip6_, "[2001:db8:2::11]:25", 21000}};
};
INSTANTIATE_TEST_SUITE_P(At, PacketLossTest, ::testing::Values("tc"), HookName);

TEST_P(PacketLossTest, B6_B7_B8_B9_WhateverIsLostComesAgainInTime) {
  SendSingleSegments();  // XDP takes these offloads away.
  Start({.packet = "  ports: 10240-19999", .health = "{type: none}"});
  for (const char* netns : {kClient, kBackend}) {
    // Timers begin with what the connection itself has seen.
    Shell(absl::StrCat("ip netns exec ", netns,
                       " sysctl -qw net.ipv4.tcp_no_metrics_save=1"));
  }
  ExpectStreams(1, 1000);  // So that all neighbours are known.
  Losses losses;
  const std::vector<Loss> wanted = AllLosses();
  for (const Family& family : kFamilies) {
    for (size_t i = 0; i < wanted.size(); ++i) {
      losses.Put(family.first_port + static_cast<uint32_t>(i), wanted[i]);
    }
  }
  StreamReport reports[2];
  std::thread six([&] { reports[1] = RunAll(kFamilies[1], wanted); });
  reports[0] = RunAll(kFamilies[0], wanted);
  six.join();
  uint32_t lost = 0;
  for (const size_t of : {0UL, 1UL}) {
    SCOPED_TRACE(kFamilies[of].name);
    EXPECT_EQ(reports[of].first_error, "");
    EXPECT_EQ(reports[of].equal, wanted.size());
    for (size_t i = 0; i < wanted.size(); ++i) {
      const lose_rule seen =
          losses.At(kFamilies[of].first_port + static_cast<uint32_t>(i));
      ExpectInTime(wanted[i], i < std::size(kAtTheBeginning), seen,
                   reports[of].pauses[i]);
      if (wanted[i].what == LOSE_DATA) lost += seen.lost;
    }
  }
  std::cout << lost << " segments of data were lost\n";
  EXPECT_GT(lost, 50u);
  EXPECT_GT(SackRecoveries(), 0);
  EXPECT_EQ(ChecksumErrors(kClient) + ChecksumErrors(kBackend), 0);
}

}  // namespace
}  // namespace headgate::testing
