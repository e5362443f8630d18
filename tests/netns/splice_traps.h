// The daemon with every connection spliced from its first byte on, for the
// tests of the traps of sockmap forwarding.
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/substitute.h"
#include "support/bpf_map.h"
#include "support/daemon.h"
#include "support/lab.h"
#include "support/load.h"
#include "support/session.h"
#include "support/wait.h"

namespace headgate::testing {

inline constexpr char kTrapConfig[] = R"(
metrics: {listen: 127.0.0.1:9140}
workers: $2
splice: {mode: $0, backlog_per_connection: $1$5}
pools:
  nodes:
    backends: [{name: one, address: 198.18.2.11}]
  nodes6:
    backends: [{name: one, address: "2001:db8:2::11"}]
services:
  mail:
    listen: [198.18.1.1:25]
    pool: nodes
    backend_port: 30125
    health: {type: none}
    timeouts: {idle: $3, dead_peer: $4}
  mail6:
    listen: ["[2001:db8:1::1]:25"]
    pool: nodes6
    backend_port: 30125
    health: {type: none}
  relayed:
    listen: [198.18.1.1:26]
    pool: nodes
    backend_port: 30125
    datapath: relay
    health: {type: none}
)";

struct Settings {
  const char* mode = "always";
  const char* backlog = "1MiB";
  int workers = 2;
  const char* idle = "1h";
  const char* dead_peer = "5m";
  const char* backlog_total = "";  // ", backlog_total: SIZE"
};

inline constexpr int64_t kCap = 1 << 20;
// What may be under way besides: one skb, and one read of the daemon.
inline constexpr int64_t kSlack = 128 << 10;
inline constexpr absl::Duration kSoon = absl::Seconds(5);

inline bool Soak() { return std::getenv("HG_SOAK") != nullptr; }

class SpliceTraps : public ::testing::Test {
 protected:
  static std::string Config(const Settings& settings) {
    return absl::Substitute(kTrapConfig, settings.mode, settings.backlog,
                            settings.workers, settings.idle, settings.dead_peer,
                            settings.backlog_total);
  }
  void Start(const Settings& settings = {}) {
    daemon_ = std::make_unique<Daemon>(Config(settings));
    files_ = daemon_->OpenFiles();
  }
  void ListenAtNode() {
    node_ = RunIn(kBackend, [] { return Listen(At("198.18.2.11:30125")); });
  }
  // Spliced in the direction that speaks first.
  enum class First { kUp, kDown };
  Session Spliced(First first = First::kUp) {
    Session session = OpenSession(vip_, node_);
    TcpSocket& from = first == First::kUp ? session.client : session.backend;
    TcpSocket& to = first == First::kUp ? session.backend : session.client;
    EXPECT_TRUE(from.Send("first"));
    EXPECT_EQ(to.Receive(5), "first");
    EXPECT_TRUE(WaitUntil(kSoon, [&] { return Datapath(session) == "splice"; }))
        << Datapath(session);
    return session;
  }
  std::string Datapath(const Session& session) const {
    const std::string client = LocalEndpoint(session.client.fd()).ToString();
    const nlohmann::json list = daemon_->Json({"conn", "list"});
    for (const nlohmann::json& row : list.at("connections")) {
      if (row.at("client") == client) return row.at("datapath");
    }
    return "none";
  }
  double Metric(const std::string& series) const {
    const MetricMap metrics = daemon_->Metrics();
    const auto found = metrics.find(series);
    if (found != metrics.end()) return found->second;
    ADD_FAILURE() << series << " is not among " << metrics.size();
    return -1;
  }
  double Verdicts(const std::string& verdict) const {
    return Metric(absl::StrCat("headgate_splice_verdicts_total{verdict=\"",
                               verdict, "\"}"));
  }
  double Fallbacks(const std::string& reason) const {
    return Metric(absl::StrCat("headgate_splice_fallbacks_total{reason=\"",
                               reason, "\"}"));
  }
  void SwitchTo(const char* mode) {
    daemon_->Reload(Config({.mode = mode}));
    EXPECT_TRUE(WaitUntil(kSoon, [&] {
      return daemon_->Json({"status"}).at("datapaths").at("splice") ==
             (mode != std::string("off"));
    }));
    // Told behind the switch, each worker answers after it.
    daemon_->Json({"conn", "list"});
  }
  // When `files_` was counted, who had asked whether it is ready may still have
  // been there.
  bool NothingIsLeft() const {
    return WaitUntil(absl::Seconds(10), [&] {
      return daemon_->ActiveConnections() == 0 &&
             daemon_->OpenFiles() <= files_ &&
             DumpMapOf(daemon_->pid(), "splice_index").empty();
    });
  }
  static LoadReport Load(size_t total, const std::string& bytes) {
    return RunLoad({.target = At("198.18.1.1:25"),
                    .total = total,
                    .send = bytes,
                    .expect = bytes});
  }

  Lab lab_;
  std::unique_ptr<Daemon> daemon_;
  size_t files_ = 0;
  UniqueFd node_;
  const Endpoint vip_ = At("198.18.1.1:25");
};

}  // namespace headgate::testing
