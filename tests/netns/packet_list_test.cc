// A table full of connections, looked at and ended while the daemon has other
// things to do. HG_SOAK=1: a million of them, and figures.
#include <bpf/bpf.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <future>
#include <iostream>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_replace.h"
#include "bpf/abi/packet.h"
#include "packet_fixture.h"
#include "support/edge.h"

namespace headgate::testing {
namespace {

class PacketListTest : public PacketLab {
 protected:
  static uint32_t Many() {
    return std::getenv("HG_SOAK") == nullptr ? 200'000 : 1'000'000;
  }
  UniqueFd Pinned(const char* map) const {
    UniqueFd fd(
        bpf_obj_get(absl::StrCat(daemon_->pin_dir(), "/", map).c_str()));
    EXPECT_TRUE(fd.valid()) << map;
    return fd;
  }
  // `count` connections like the first one, but for the client's address and
  // port. There must be no other, and come none: their numbers pass for free.
  void Fill(uint32_t count) const {
    const UniqueFd flows = Pinned("packet_flows");
    const uint32_t first = 0;
    hg_flow flow{};
    ASSERT_EQ(bpf_map_lookup_elem(flows.get(), &first, &flow), 0);
    ASSERT_EQ(flow.state, uint32_t{HG_FLOW_ESTABLISHED});
    const uint8_t host = flow.client[15];
    for (uint32_t number = 1; number < count; ++number) {
      flow.client_port = static_cast<uint16_t>(1024 + number % 60000);
      flow.client[15] = static_cast<uint8_t>(host + number / 60000);
      ASSERT_EQ(bpf_map_update_elem(flows.get(), &number, &flow, BPF_ANY), 0);
    }
    AddActive<hg_service_stats>("service_stats", flow.service, count - 1);
    AddActive<hg_backend_stats>("backend_stats", flow.backend, count - 1);
  }
  // Its SYN was not answered: the sweep frees it when it comes there.
  void LeaveUnanswered(uint32_t number) const {
    const UniqueFd flows = Pinned("packet_flows");
    hg_flow flow{};
    ASSERT_EQ(bpf_map_lookup_elem(flows.get(), &number, &flow), 0);
    flow.state = HG_FLOW_SYN_SENT;
    flow.last_seen -= 60;
    ASSERT_EQ(bpf_map_update_elem(flows.get(), &number, &flow, BPF_ANY), 0);
  }
  bool IsFree(uint32_t number) const {
    const UniqueFd flows = Pinned("packet_flows");
    hg_flow flow{};
    EXPECT_EQ(bpf_map_lookup_elem(flows.get(), &number, &flow), 0);
    return flow.state == HG_FLOW_FREE;
  }
  template <typename Stats>
  void AddActive(const char* map, uint32_t id, uint32_t count) const {
    const UniqueFd fd = Pinned(map);
    Stats stats{};
    ASSERT_EQ(bpf_map_lookup_elem(fd.get(), &id, &stats), 0);
    stats.connections_active += count;
    ASSERT_EQ(bpf_map_update_elem(fd.get(), &id, &stats, BPF_ANY), 0);
  }
  // From now on, in kB.
  void ForgetPeakMemory() const {
    std::ofstream(absl::StrCat("/proc/", daemon_->pid(), "/clear_refs")) << 5;
  }
  int64_t PeakMemory() const {
    std::ifstream status(absl::StrCat("/proc/", daemon_->pid(), "/status"));
    int64_t kb = 0;
    for (std::string word; status >> word;) {
      if (word == "VmHWM:") status >> kb;
    }
    return kb;
  }
  // The slowest answer to anybody else while `work` lasts.
  template <typename Work>
  absl::Duration SlowestAnswerDuring(const Work& work) const {
    std::future<void> done = std::async(std::launch::async, work);
    absl::Duration slowest;
    while (done.wait_for(std::chrono::seconds(0)) !=
           std::future_status::ready) {
      const absl::Time asked = absl::Now();
      EXPECT_EQ(daemon_->Api("GET", "/v1/connections/count").status, 200);
      slowest = std::max(slowest, absl::Now() - asked);
    }
    return slowest;
  }
  // All of Many() go, `one` among them, and nobody else waits for the last.
  void ExpectEndByAndBy(Session& one) const {
    bool by_and_by = false;
    absl::Duration slowest;
    EXPECT_TRUE(WaitUntil(absl::Seconds(60), [&] {
      const absl::Time asked = absl::Now();
      const double left = Metric(R"(headgate_flows{state="established"})");
      slowest = std::max(slowest, absl::Now() - asked);
      by_and_by = by_and_by || (left > 0 && left < Many());
      return left == 0;
    }));
    std::cout << Many() << " ended, slowest other answer " << slowest
              << std::endl;
    EXPECT_TRUE(by_and_by);
    EXPECT_TRUE(one.client.ReceivesReset());
    EXPECT_TRUE(one.backend.ReceivesReset());
  }
  static size_t Rows(const std::string& list) {
    size_t rows = 0;
    for (size_t at = 0; (at = list.find("{\"id\":", at)) != std::string::npos;
         ++at) {
      ++rows;
    }
    return rows;
  }
};

TEST_F(PacketListTest, HasThoseThatWereAskedFor) {
  const auto node = Node(), node6 = Node("[2001:db8:2::11]");
  daemon_ = std::make_unique<Daemon>(absl::StrCat(PacketConfig(), R"(
  plain:
    listen: [198.18.1.1:26]
    pool: nodes
    health: {type: none}
)"));
  std::vector<TcpSocket> held;
  for (const char* vip : {"198.18.1.1:25", "198.18.1.1:25", "198.18.1.1:26",
                          "[2001:db8:1::1]:25"}) {
    held.push_back(TcpSocket::Connect(kClient, At(vip)));
    ASSERT_EQ(held.back().Receive(11), kGreeting);
  }
  const auto sizes = [this](const std::string& flag) {
    std::vector<size_t> found;
    for (const char* noun : {"conn", "flow"}) {
      const nlohmann::json list = daemon_->Json({noun, "list", flag});
      const bool flows = list.contains("flows");
      found.push_back(list[flows ? "flows" : "connections"].size());
      found.push_back(list["total"].get<size_t>());
    }
    return found;
  };
  using Sizes = std::vector<size_t>;
  EXPECT_EQ(sizes("--limit=9"), Sizes({4, 4, 3, 3}));
  EXPECT_EQ(sizes("--limit=2"), Sizes({2, 4, 2, 3}));
  EXPECT_EQ(sizes("--service=mail"), Sizes({2, 2, 2, 2}));
  EXPECT_EQ(sizes("--service=plain"), Sizes({1, 1, 0, 0}));
  EXPECT_EQ(sizes("--client=198.18.0.2"), Sizes({3, 3, 2, 2}));
  for (const size_t one : {size_t{1}, size_t{3}}) {
    const Endpoint client = LocalEndpoint(held[one].fd());
    EXPECT_EQ(sizes("--client=" + client.ToString()), Sizes({1, 1, 1, 1}));
  }
  EXPECT_EQ(daemon_->Ctl({"flow", "list", "--service=none"}).exit_code, 4);
  EXPECT_EQ(daemon_->Ctl({"conn", "list", "--client=nobody"}).exit_code, 2);
  const ProcessResult table = daemon_->Ctl({"conn", "list", "--limit=1"});
  EXPECT_EQ(std::count(table.out.begin(), table.out.end(), '\n'), 2);
  EXPECT_TRUE(absl::StartsWith(table.err, "1 of 4;")) << table.err;
}

// Their list comes in parts, too.
TEST_F(PacketListTest, HasAllThatTheWorkersCarry) {
  const auto node = Node();
  daemon_ = std::make_unique<Daemon>(absl::StrReplaceAll(
      PacketConfig(), {{"datapath: packet", "datapath: relay"}}));
  std::vector<TcpSocket> held;
  for (int i = 0; i < 600; ++i) {
    held.push_back(TcpSocket::Connect(kClient, vip_));
    ASSERT_EQ(held.back().Receive(11), kGreeting) << i;
  }
  std::set<uint64_t> ids;
  const nlohmann::json list = daemon_->Json({"conn", "list"});
  for (const auto& row : list["connections"]) {
    ids.insert(row["id"].get<uint64_t>());
  }
  EXPECT_EQ(ids.size(), 600u);
  EXPECT_EQ(list["total"], 600);
}

TEST_F(PacketListTest, HoldsNobodyUpAndTakesNoMemory) {
  const UniqueFd listener = ListenAt("198.18.2.11:25");
  Start({.packet = absl::StrCat("  max_flows: ", Many() + 1000)});
  Session session = OpenSession(vip_, listener);
  const absl::Time asked = absl::Now();
  EXPECT_EQ(Rows(daemon_->Ctl({"flow", "list", "-o", "json"}).out), 1u);
  std::cout << "flow list, 1 of " << Many() << ": " << absl::Now() - asked
            << std::endl;
  Fill(Many());
  for (const char* noun : {"flow", "conn"}) {
    ForgetPeakMemory();
    const int64_t before = PeakMemory();
    ProcessResult list;
    const absl::Time start = absl::Now();
    const absl::Duration slowest = SlowestAnswerDuring([&] {
      list = daemon_->Ctl({noun, "list", "-o", "json"});
    });
    const absl::Duration took = absl::Now() - start;
    const int64_t grown = PeakMemory() - before;
    std::cout << noun << " list, " << Many() << " flows: " << took << ", "
              << grown << " kB more in the daemon, slowest other answer "
              << slowest << std::endl;
    EXPECT_EQ(list.exit_code, 0) << list.err;
    EXPECT_EQ(Rows(list.out), Many());
    EXPECT_LT(grown, 16 << 10);
    EXPECT_LT(slowest, took / 4);
  }
  EXPECT_TRUE(session.Exchange(1000));
}

// The sweep, too, takes the daemon next to no time. It is at work while this
// waits: a third of the table further on it frees the one that is over.
TEST_F(PacketListTest, CostsNextToNothingWhileNobodyMoves) {
  const UniqueFd listener = ListenAt("198.18.2.11:25");
  Start({.packet = absl::StrCat("  max_flows: ", Many() + 1000),
         .health = "{type: none}"});
  Session session = OpenSession(vip_, listener);
  Fill(Many());
  LeaveUnanswered(Many() / 3);
  const absl::Time start = absl::Now();
  const CpuTime before = CpuTimeOf(daemon_->pid());
  ASSERT_TRUE(WaitUntil(absl::Seconds(60), [&] { return IsFree(Many() / 3); }));
  const double cpu = CpuTimeOf(daemon_->pid()).total() - before.total();
  const double share = cpu / absl::ToDoubleSeconds(absl::Now() - start);
  std::cout << Many() << " idle flows: " << share * 100 << " % of a core for "
            << absl::Now() - start << std::endl;
  EXPECT_LT(share, 0.03);
  EXPECT_TRUE(session.Exchange(1000));
}

TEST_F(PacketListTest, WhatABackendTakesAlongIsEndedByAndBy) {
  UniqueFd listener = ListenAt("198.18.2.11:25");
  Start({.packet = absl::StrCat("  max_flows: ", Many() + 1000),
         .service = "    on_backend_down: reset"});
  Session session = OpenSession(vip_, listener);
  Fill(Many());
  listener.reset();
  ExpectEndByAndBy(session);
  EXPECT_EQ(Metric(R"(headgate_backend_down_resets_total{backend="one",)"
                   R"(service="mail"})"),
            Many());
  EXPECT_EQ(daemon_->ActiveConnections(), 0);
}

TEST_F(PacketListTest, WhatAServiceTakesAlongIsEndedByAndBy) {
  const UniqueFd listener = ListenAt("198.18.2.11:25");
  const std::string config =
      PacketConfig({.packet = absl::StrCat("  max_flows: ", Many() + 1000)});
  daemon_ = std::make_unique<Daemon>(config);
  Session session = OpenSession(vip_, listener);
  Fill(Many());
  const size_t gone = config.find("  mail:");
  daemon_->Reload(config.substr(0, gone) +
                  config.substr(config.find("  mail6:")));
  ExpectEndByAndBy(session);
}

}  // namespace
}  // namespace headgate::testing
