// Clients that cannot be served, or not yet: what they are told, the queue, and
// connections whose backend goes down.
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <algorithm>
#include <optional>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/substitute.h"
#include "support/daemon.h"
#include "support/lab.h"
#include "support/load.h"
#include "support/server.h"
#include "support/session.h"
#include "support/wait.h"

namespace headgate::testing {
namespace {

// $0: more keys of the services.
constexpr char kConfig[] = R"(
metrics: {listen: 127.0.0.1:9140}
pools:
  nodes:
    backends:
      - {name: one, address: 198.18.2.11}
services:
  smtp:
    listen: [198.18.1.1:25]
    pool: nodes
    backend_port: 30125
    health: {type: none}
    on_no_backend: smtp_421
$0
  imap:
    listen: [198.18.1.1:143]
    pool: nodes
    backend_port: 30125
    health: {type: none}
    on_no_backend: imap_bye
  other:
    listen: [198.18.1.1:993]
    pool: nodes
    backend_port: 30125
    health: {type: none}
)";
constexpr char kQueue[] =
    "    max_connections: 2\n    queue: {size: 3, timeout: 4s}\n";
constexpr char k421[] = "421 4.3.2 Service not available, try again later\r\n";
constexpr char kBye[] =
    "* BYE [UNAVAILABLE] Service not available, try again later\r\n";

std::string Configured(const char* more) {
  return absl::Substitute(kConfig, more);
}

class TurnedAwayTest : public ::testing::Test {
 protected:
  static UniqueFd ListenAtOne() {
    return RunIn(kBackend, [] { return Listen(At("198.18.2.11:30125")); });
  }
  static void ExpectLine(TcpSocket& client, const std::string& line) {
    EXPECT_EQ(client.Receive(line.size()), line) << client.error();
    EXPECT_TRUE(client.ReceivesEnd()) << client.error();
  }
  TcpSocket Client() const { return TcpSocket::Connect(kClient, vip_); }

  Lab lab_;
  const Endpoint vip_ = At("198.18.1.1:25");
};

TEST_F(TurnedAwayTest, D5_EachServiceInItsOwnWords) {
  Daemon daemon(Configured(""));
  TcpSocket smtp = Client();
  ExpectLine(smtp, k421);
  TcpSocket imap = TcpSocket::Connect(kClient, At("198.18.1.1:143"));
  ExpectLine(imap, kBye);
  TcpSocket other = TcpSocket::Connect(kClient, At("198.18.1.1:993"));
  EXPECT_TRUE(!other.valid() || other.ReceivesReset());
  EXPECT_EQ(daemon.Metrics()["headgate_no_backend_total{service=\"smtp\"}"], 1);
}

// Unread bytes in the daemon's socket would make its close a RST.
TEST_F(TurnedAwayTest, WhatTheClientHadSaidDoesNotCostItTheLine) {
  Daemon daemon(Configured(""));
  for (int i = 0; i < 200; ++i) {
    TcpSocket client = Client();
    client.Send(std::string(20'000, 'e'));
    ExpectLine(client, k421);
  }
}

TEST_F(TurnedAwayTest, AClientThatStaysIsNotKept) {
  Daemon daemon(Configured(""));
  TcpSocket quiet = Client();
  TcpSocket talker = Client();
  ExpectLine(quiet, k421);
  talker.Flood(100 << 20);
  EXPECT_TRUE(
      WaitUntil(kTcpTimeout, [&] { return daemon.ActiveConnections() == 0; }));
}

TEST_F(TurnedAwayTest, TheQueueIsServedInOrder) {
  Daemon daemon(Configured(kQueue));
  const UniqueFd one = ListenAtOne();
  std::vector<Session> served;
  served.push_back(OpenSession(vip_, one));
  served.push_back(OpenSession(vip_, one));
  const auto length = [&] {
    return daemon.Service("smtp")["queue_length"].get<int>();
  };
  std::vector<TcpSocket> waiting;
  for (int i = 1; i <= 3; ++i) {
    waiting.push_back(Client());
    ASSERT_TRUE(waiting.back().Send("EHLO\r\n"));
    ASSERT_TRUE(WaitUntil(absl::Seconds(2), [&] { return length() == i; }));
  }
  EXPECT_EQ(daemon.Metrics()["headgate_queue_length{service=\"smtp\"}"], 3);
  EXPECT_EQ(daemon.ActiveConnections(), 2);
  TcpSocket beyond = Client();
  ExpectLine(beyond, k421);

  for (size_t i = 0; i < 2; ++i) {
    served[i].client.Close();
    served[i].backend.Close();
    // Its header names who has come first.
    Session next = AcceptSession(std::move(waiting[i]), one);
    EXPECT_EQ(next.backend.Receive(6), "EHLO\r\n");
    served.push_back(std::move(next));
  }
  ExpectLine(waiting[2], k421);  // Its time was up.
  MetricMap metrics = daemon.Metrics();
  const auto rejections = [&](const char* reason) {
    return metrics[absl::StrCat("headgate_queue_rejections_total{reason=\"",
                                reason, "\",service=\"smtp\"}")];
  };
  EXPECT_EQ(rejections("full"), 1);
  EXPECT_EQ(rejections("timeout"), 1);
  EXPECT_EQ(length(), 0);
}

TEST_F(TurnedAwayTest, WhoLeavesTheQueueMakesRoomInIt) {
  Daemon daemon(Configured(
      "    max_connections: 1\n    queue: {size: 1, timeout: 1h}\n"));
  const UniqueFd one = ListenAtOne();
  Session served = OpenSession(vip_, one);
  const auto length = [&] {
    return daemon.Service("smtp")["queue_length"].get<int>();
  };
  for (int i = 0; i < 20; ++i) {
    TcpSocket client = Client();
    ASSERT_TRUE(WaitUntil(kTcpTimeout, [&] { return length() == 1; }));
    client.Reset();
    ASSERT_TRUE(WaitUntil(kTcpTimeout, [&] { return length() == 0; }));
  }
  TcpSocket last = Client();
  ASSERT_TRUE(WaitUntil(kTcpTimeout, [&] { return length() == 1; }));
  served.client.Reset();
  Session next = AcceptSession(std::move(last), one);
  EXPECT_TRUE(next.Exchange());
}

TEST_F(TurnedAwayTest, AReloadWithMoreRoomServesWhoWaits) {
  Daemon daemon(Configured(
      "    max_connections: 1\n    queue: {size: 9, timeout: 1h}\n"));
  const UniqueFd one = ListenAtOne();
  Session served = OpenSession(vip_, one);
  TcpSocket first = Client();
  ASSERT_TRUE(WaitUntil(kTcpTimeout, [&] {
    return daemon.Service("smtp")["queue_length"] == 1;
  }));
  daemon.Reload(Configured(""));
  Session next = AcceptSession(std::move(first), one);
  EXPECT_TRUE(next.Exchange());
  EXPECT_TRUE(served.Exchange());
}

TEST_F(TurnedAwayTest, UnderLoadTheLimitHoldsAndAllAreServed) {
  Daemon daemon(Configured(
      "    max_connections: 8\n    queue: {size: 1000, timeout: 10s}\n"));
  Server server({At("198.18.2.11:30125")},
                {.greeting = "220 ready\r\n", .echo = true});
  const LoadReport report = RunLoad({.target = vip_,
                                     .total = 5000,
                                     .concurrency = 500,
                                     .send = "NOOP\r\n",
                                     .expect = "220 ready\r\nNOOP\r\n"});
  EXPECT_EQ(report.ok, 5000u) << report.ToString();
  EXPECT_TRUE(
      WaitUntil(kTcpTimeout, [&] { return daemon.ActiveConnections() == 0; }));
  EXPECT_EQ(daemon.Service("smtp")["queue_length"], 0);
}

// ---- full backends ---------------------------------------------------------

// $0: more keys of the service.
constexpr char kFullConfig[] = R"(
workers: 4
metrics: {listen: 127.0.0.1:9140}
pools:
  nodes:
    backends:
      - {name: one, address: 198.18.2.11, max_connections: 2}
services:
  smtp:
    listen: [198.18.1.1:25]
    pool: nodes
    backend_port: 30125
    health: {type: none}
    on_no_backend: smtp_421
    $0
)";

TEST_F(TurnedAwayTest, FullBackendsAreWaitedForInOrder) {
  Daemon daemon(absl::Substitute(kFullConfig, "queue: {size: 3, timeout: 4s}"));
  const UniqueFd one = ListenAtOne();
  std::vector<Session> served;
  served.push_back(OpenSession(vip_, one));
  served.push_back(OpenSession(vip_, one));
  const auto length = [&] {
    return daemon.Service("smtp")["queue_length"].get<int>();
  };
  std::vector<TcpSocket> waiting;
  for (int i = 1; i <= 3; ++i) {
    waiting.push_back(Client());
    ASSERT_TRUE(waiting.back().Send("EHLO\r\n"));
    ASSERT_TRUE(WaitUntil(absl::Seconds(2), [&] { return length() == i; }));
  }
  TcpSocket beyond = Client();
  ExpectLine(beyond, k421);
  for (size_t i = 0; i < 2; ++i) {
    served[i].client.Close();
    served[i].backend.Close();
    Session next = AcceptSession(std::move(waiting[i]), one);
    EXPECT_EQ(next.backend.Receive(6), "EHLO\r\n");
    served.push_back(std::move(next));
  }
  ExpectLine(waiting[2], k421);  // Its time was up.
  MetricMap metrics = daemon.Metrics();
  EXPECT_EQ(metrics["headgate_queue_rejections_total{reason=\"full\","
                    "service=\"smtp\"}"],
            1);
  EXPECT_EQ(metrics["headgate_queue_rejections_total{reason=\"timeout\","
                    "service=\"smtp\"}"],
            1);
  EXPECT_EQ(metrics["headgate_no_backend_total{service=\"smtp\"}"], 0);
  EXPECT_EQ(length(), 0);
}

TEST_F(TurnedAwayTest, WithoutAQueueFullBackendsAreNobody) {
  Daemon daemon(absl::Substitute(kFullConfig, ""));
  const UniqueFd one = ListenAtOne();
  Session first = OpenSession(vip_, one);
  Session second = OpenSession(vip_, one);
  TcpSocket beyond = Client();
  ExpectLine(beyond, k421);
}

// Of several workers, each finds the last place at the same moment.
TEST_F(TurnedAwayTest, OnlyOneTakesTheLastPlace) {
  constexpr int kRounds = 20, kClients = 60;
  const Daemon daemon(absl::Substitute(kFullConfig, ""));
  const UniqueFd one = ListenAtOne();
  for (int round = 0; round < kRounds; ++round) {
    std::vector<UniqueFd> clients = RunIn(kClient, [&] {
      std::vector<UniqueFd> begun;
      for (int i = 0; i < kClients; ++i) {
        begun.push_back(StartConnect({}, vip_));
      }
      return begun;
    });
    const auto turned_away = [&] {
      const auto told = [](const UniqueFd& client) {
        char byte = 0;
        return ::recv(client.get(), &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 1;
      };
      return std::count_if(clients.begin(), clients.end(), told);
    };
    EXPECT_TRUE(
        WaitUntil(kTcpTimeout, [&] { return turned_away() >= kClients - 2; }));
    EXPECT_EQ(turned_away(), kClients - 2);
    for (const UniqueFd& client : clients) ResetOnClose(client.get());
    clients.clear();
    ASSERT_TRUE(WaitUntil(kTcpTimeout,
                          [&] { return daemon.ActiveConnections() == 0; }));
  }
}

TEST_F(TurnedAwayTest, WhoWaitsForFullBackendsHearsOfChanges) {
  Daemon daemon(absl::Substitute(kFullConfig, "queue: {size: 9, timeout: 1h}"));
  const UniqueFd one = ListenAtOne();
  Session first = OpenSession(vip_, one);
  Session second = OpenSession(vip_, one);
  const auto waits = [&](int clients) {
    return WaitUntil(kTcpTimeout, [&, clients] {
      return daemon.Service("smtp")["queue_length"] == clients;
    });
  };
  TcpSocket more = Client();
  ASSERT_TRUE(waits(1));
  // With its only backend in maintenance nobody is left to wait for.
  ASSERT_EQ(daemon.Ctl({"backend", "maint", "smtp/one"}).exit_code, 0);
  ExpectLine(more, k421);
  ASSERT_EQ(daemon.Ctl({"backend", "ready", "smtp/one"}).exit_code, 0);
  const UniqueFd two =
      RunIn(kBackend, [] { return Listen(At("198.18.2.11:30126")); });
  std::vector<TcpSocket> waiting;
  waiting.push_back(Client());
  waiting.push_back(Client());
  ASSERT_TRUE(waits(2));
  ASSERT_EQ(
      daemon.Ctl({"backend", "add", "smtp/two", "198.18.2.11:30126"}).exit_code,
      0);
  EXPECT_TRUE(waits(0));
}

TEST_F(TurnedAwayTest, UnderLoadBackendsAreNeverFullerThanAllowed) {
  Daemon daemon(
      absl::Substitute(kFullConfig, "queue: {size: 1000, timeout: 10s}"));
  Server server({At("198.18.2.11:30125")},
                {.greeting = "220 ready\r\n", .echo = true});
  const LoadReport report = RunLoad({.target = vip_,
                                     .total = 3000,
                                     .concurrency = 300,
                                     .send = "NOOP\r\n",
                                     .expect = "220 ready\r\nNOOP\r\n"});
  EXPECT_EQ(report.ok, 3000u) << report.ToString();
  EXPECT_TRUE(
      WaitUntil(kTcpTimeout, [&] { return daemon.ActiveConnections() == 0; }));
  EXPECT_EQ(daemon.Service("smtp")["queue_length"], 0);
}

// ---- a backend that goes down ----------------------------------------------

// $0: keep or reset
constexpr char kDownConfig[] = R"(
metrics: {listen: 127.0.0.1:9140}
pools:
  nodes:
    backends:
      - {name: one, address: 198.18.2.11}
      - {name: two, address: 198.18.2.12}
services:
  smtp:
    listen: [198.18.1.1:25]
    pool: nodes
    backend_port: 30125
    health: {type: tcp, port: 30145, interval: 100ms, timeout: 100ms, rise: 1,
             fall: 1}
    on_backend_down: $0
)";

class BackendDownTest : public TurnedAwayTest {
 protected:
  // A connection to each of two backends, one of which then goes down.
  void LetOneGoDown(const char* what) {
    daemon_.emplace(absl::Substitute(kDownConfig, what));
    ASSERT_TRUE(daemon_->WaitBackendState("smtp", "one", "up"));
    ASSERT_TRUE(daemon_->WaitBackendState("smtp", "two", "up"));
    for (int i = 0; i < 2; ++i) {
      clients_.push_back(Client());
      ASSERT_EQ(clients_.back().Receive(4), "220 ");
    }
    ASSERT_EQ(one_.accepted(), 1u);
    check_one_.reset();
    ASSERT_TRUE(daemon_->WaitBackendState("smtp", "one", "down"));
  }
  size_t Alive() {
    size_t alive = 0;
    for (TcpSocket& client : clients_) {
      alive += client.Send("NOOP") && client.Receive(4) == "NOOP";
    }
    return alive;
  }

  Server one_{{At("198.18.2.11:30125")}, {.greeting = "220 ", .echo = true}};
  Server two_{{At("198.18.2.12:30125")}, {.greeting = "220 ", .echo = true}};
  UniqueFd check_one_ =
      RunIn(kBackend, [] { return Listen(At("198.18.2.11:30145")); });
  UniqueFd check_two_ =
      RunIn(kBackend, [] { return Listen(At("198.18.2.12:30145")); });
  std::optional<Daemon> daemon_;
  std::vector<TcpSocket> clients_;
};

TEST_F(BackendDownTest, KeepsItsConnectionsByDefault) {
  LetOneGoDown("keep");
  EXPECT_EQ(Alive(), 2u);
}

TEST_F(BackendDownTest, ResetsItsConnectionsIfAskedTo) {
  LetOneGoDown("reset");
  EXPECT_TRUE(WaitUntil(kTcpTimeout,
                        [&] { return daemon_->ActiveConnections() == 1; }));
  EXPECT_EQ(Alive(), 1u);
  EXPECT_TRUE(WaitUntil(kTcpTimeout, [&] { return one_.open() == 0; }));
  EXPECT_EQ(daemon_->Metrics()["headgate_backend_down_resets_total{backend="
                               "\"one\",service=\"smtp\"}"],
            1);
}

}  // namespace
}  // namespace headgate::testing
