// What was sent before an end still arrives, and what an operator sees stays
// true, in the corners: RST behind data, idle time with a slow reader, no
// descriptors, ids reused by a reload.
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "absl/strings/substitute.h"
#include "support/daemon.h"
#include "support/lab.h"
#include "support/tcp.h"
#include "support/wait.h"

namespace headgate::testing {
namespace {

constexpr char kConfig[] = R"(
metrics: {listen: 127.0.0.1:9140}
splice: {mode: $0}
pools:
  nodes:
    backends:
      - {name: one, address: 198.18.2.11}
services:
  mail:
    listen: [198.18.1.1:25]
    pool: nodes
    backend_port: 30125
    health: $1
    timeouts: {idle: $2}
)";

class LastWordsTest : public ::testing::Test {
 protected:
  void Open() {
    client_ = TcpSocket::Connect(kClient, vip_);
    backend_ = TcpSocket::Accept(listener_);
    ASSERT_TRUE(client_.valid() && backend_.valid());
    ASSERT_EQ(backend_.Receive(28).size(), 28u);
  }

  Lab lab_;
  const Endpoint vip_ = At("198.18.1.1:25");
  UniqueFd listener_ =
      RunIn(kBackend, [] { return Listen(At("198.18.2.11:30125")); });
  TcpSocket client_;
  TcpSocket backend_;
};

// A server that rejects a client that has talked too early.
TEST_F(LastWordsTest, AReplyBeforeAResetArrives) {
  Daemon daemon(absl::Substitute(kConfig, "auto", "{type: none}", "1h"));
  const std::string reply = "554 rejected\r\n";
  for (int i = 0; i < 50; ++i) {
    Open();
    ASSERT_TRUE(client_.Send("PIPELINED\r\n"));
    pollfd unread{backend_.fd(), POLLIN, 0};
    ASSERT_EQ(poll(&unread, 1, 5000), 1);
    ASSERT_TRUE(backend_.Send(reply));
    backend_.Close();  // With unread bytes: a RST follows the reply.
    EXPECT_EQ(client_.Receive(reply.size()), reply) << "connection " << i;
    EXPECT_TRUE(client_.ReceivesReset());
  }
}

// Receives at most `step` bytes at a time, 10 ms apart, to the end.
size_t ReadSlowly(const TcpSocket& socket, size_t step) {
  std::string buffer(step, '\0');
  size_t got = 0;
  for (;;) {
    pollfd waiting{socket.fd(), POLLIN, 0};
    if (poll(&waiting, 1, 8000) != 1) return got;
    const ssize_t n = recv(socket.fd(), buffer.data(), step, 0);
    if (n <= 0) return got;
    got += static_cast<size_t>(n);
    poll(nullptr, 0, 10);  // The pace is the point here.
  }
}

TEST_F(LastWordsTest, ASlowReaderIsNotIdle) {
  // Small, so that the bytes wait in the kernel's backlog, not in a buffer.
  Shell("ip netns exec edge sysctl -qw net.ipv4.tcp_wmem='4096 16384 65536'");
  for (const char* mode : {"always", "off"}) {
    Daemon daemon(absl::Substitute(kConfig, mode, "{type: none}", "1s"),
                  {.name = mode});
    Open();
    const int small = 32768;
    setsockopt(client_.fd(), SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
    const std::string bytes(500'000, 'q');
    size_t sent = 0;
    for (pollfd room{backend_.fd(), POLLOUT, 0};
         sent < bytes.size() && poll(&room, 1, 300) == 1;) {
      const ssize_t n = send(backend_.fd(), bytes.data() + sent,
                             bytes.size() - sent, MSG_NOSIGNAL | MSG_DONTWAIT);
      ASSERT_GT(n, 0);
      sent += static_cast<size_t>(n);
    }
    // Longer than the idle time, and nobody says anything meanwhile.
    EXPECT_EQ(ReadSlowly(client_, 2000), sent) << mode;
  }
}

TEST_F(LastWordsTest, WithoutDescriptorsClientsWaitAndBackendsStayUp) {
  Daemon daemon(
      absl::Substitute(kConfig, "auto",
                       "{type: tcp, interval: 200ms, timeout: 100ms, fall: 2}",
                       "1h"),
      {.wrapper = {"prlimit", "--nofile=128:128"}});
  ASSERT_TRUE(daemon.WaitBackendState("mail", "one", "up"));
  std::vector<TcpSocket> clients;
  for (int i = 0; i < 150; ++i) {
    clients.push_back(TcpSocket::Connect(kClient, vip_));
    ASSERT_TRUE(clients.back().valid());
  }
  EXPECT_TRUE(WaitUntil(absl::Seconds(5),
                        [&] { return daemon.LogHas("raise LimitNOFILE"); }));
  const std::string checks =
      "headgate_backend_checks_total{backend=\"one\",service=\"mail\"}";
  const double before = daemon.Metrics()[checks];
  EXPECT_TRUE(WaitUntil(absl::Seconds(5), [&] {
    return daemon.Metrics()[checks] >= before + 5;
  })) << "no checks, or no metrics, any more";
  EXPECT_EQ(daemon.Backend("mail", "one")["state"], "up");
  for (TcpSocket& client : clients) {
    EXPECT_TRUE(client.Quiet(absl::Milliseconds(1)))
        << "a client was turned away";
  }
}

TEST_F(LastWordsTest, AdminStaysReachableWhileSplicingIsSwitchedOffUnderLoad) {
  Daemon daemon(absl::Substitute(kConfig, "always", "{type: none}", "1h"));
  std::vector<std::pair<TcpSocket, TcpSocket>> flows;
  for (int i = 0; i < 4; ++i) {
    Open();
    // The kernel gets, and keeps, what the daemon has nothing left to read of:
    // under load that may be never.
    ASSERT_TRUE(client_.Send("first"));
    ASSERT_EQ(backend_.Receive(5), "first");
    flows.emplace_back(std::move(client_), std::move(backend_));
  }
  EXPECT_TRUE(WaitUntil(absl::Seconds(5), [&] {
    const nlohmann::json list = daemon.Json({"conn", "list"});
    return std::ranges::count_if(list.at("connections"), [](const auto& row) {
             return row.at("datapath") == "splice";
           }) == 4;
  })) << daemon.Json({"conn", "list"});
  std::atomic<bool> stop{false};
  std::atomic<size_t> received{0};
  std::thread load([&] {
    std::string block(256 * 1024, 'k');
    while (!stop) {
      for (auto& [client, backend] : flows) {
        send(client.fd(), block.data(), block.size(),
             MSG_DONTWAIT | MSG_NOSIGNAL);
        ssize_t got = 0;
        while ((got = recv(backend.fd(), block.data(), block.size(),
                           MSG_DONTWAIT)) > 0) {
          received += static_cast<size_t>(got);
        }
      }
    }
  });
  EXPECT_TRUE(
      WaitUntil(absl::Seconds(10), [&] { return received > 16 << 20; }));
  EXPECT_GT(daemon.Metrics()["headgate_splice_verdicts_total{verdict="
                             "\"redirected\"}"],
            0);
  daemon.Reload(absl::Substitute(kConfig, "off", "{type: none}", "1h"));
  for (int i = 0; i < 20; ++i) {
    const absl::Time asked = absl::Now();
    EXPECT_EQ(daemon.Api("GET", "/v1/connections").status, 200);
    EXPECT_LT(absl::Now() - asked, absl::Seconds(1));
  }
  stop = true;
  load.join();
}

constexpr char kNodes[] = R"(
pools:
  nodes:
    backends:
$0
services:
  mail:
    listen: [198.18.1.1:25]
    pool: nodes
    backend_port: 30125
    health: {type: none}
    timeouts: {connect: 20s, idle: 1h}
)";

std::string Nodes(const std::vector<int>& numbers) {
  std::string list;
  for (const int n : numbers) {
    absl::StrAppend(&list, "      - {name: n", n, ", address: 198.18.2.", n,
                    "}\n");
  }
  return absl::Substitute(kNodes, list);
}

TEST_F(LastWordsTest, IdsOfRemovedBackendsAreNotReusedUnderTheirConnections) {
  const UniqueFd twelve =
      RunIn(kBackend, [] { return Listen(At("198.18.2.12:30125")); });
  lab_.BlackHole("198.18.2.12");
  Daemon daemon(Nodes({12}));
  const auto apply = [&](const std::vector<int>& numbers) {
    EXPECT_EQ(daemon.Api("POST", "/v1/config/apply", Nodes(numbers)).status,
              200);
  };
  TcpSocket client = TcpSocket::Connect(kClient, vip_);  // Connecting to n12.
  ASSERT_TRUE(WaitUntil(absl::Seconds(5), [&] {
    return daemon.Json({"conn", "list"})["connections"].size() == 1;
  }));
  for (const int other : {11, 13, 14, 11, 13}) apply({other});
  lab_.Heal("198.18.2.12");
  TcpSocket backend = TcpSocket::Accept(twelve);
  ASSERT_TRUE(backend.valid());
  EXPECT_EQ(backend.Receive(28).size(), 28u);
  EXPECT_EQ(daemon.Json({"conn", "list"})["connections"][0]["backend"], "n12");
  apply({12, 11});
  client.Reset();
  EXPECT_TRUE(WaitUntil(absl::Seconds(5),
                        [&] { return daemon.ActiveConnections() == 0; }));
  const nlohmann::json list = daemon.Json({"backend", "list"});
  for (const auto& row : list["backends"]) {
    EXPECT_EQ(row["connections_active"], 0) << row;
  }
}

TEST_F(LastWordsTest, TheSocketFlagNeverDeletesAFile) {
  const std::string path = "/run/headgate/precious";
  std::ofstream(path) << "keep me";
  const ProcessResult result = RunIn(kEdge, [&] {
    return RunCommand({Program("headgated"), "--config=/run/none.yaml",
                       absl::StrCat("--socket=", path)});
  });
  EXPECT_EQ(result.exit_code, 1);
  std::string content;
  std::getline(std::ifstream(path), content);
  EXPECT_EQ(content, "keep me");
}

TEST_F(LastWordsTest, MetricsFollowTheConfigurationAndARetriedPort) {
  const UniqueFd busy =
      RunIn(kEdge, [] { return Listen(At("127.0.0.1:9140")); });
  Daemon daemon(absl::Substitute(kConfig, "auto", "{type: none}", "1h"));
  EXPECT_TRUE(daemon.LogHas("metrics: listen on 127.0.0.1:9140"));
  EXPECT_NE(daemon.Api("GET", "/v1/status").body.find("127.0.0.1:9140"),
            std::string::npos);
  shutdown(busy.get(), SHUT_RDWR);  // No listener any more.
  EXPECT_TRUE(
      WaitUntil(absl::Seconds(5), [&] { return !daemon.Metrics().empty(); }));
}

}  // namespace
}  // namespace headgate::testing
