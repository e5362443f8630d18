// Byte streams through the daemon, both ways at once: unchanged, half-closed
// in any order, and ended the way the other side ended them.
#include "support/stream.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <ostream>

#include "absl/strings/numbers.h"
#include "absl/strings/substitute.h"
#include "support/bpf_map.h"
#include "support/daemon.h"
#include "support/lab.h"
#include "support/tcp.h"
#include "support/wait.h"

namespace headgate::testing {
namespace {

constexpr char kConfig[] = R"(
splice: {mode: $0, promote_after: $1}
pools:
  nodes:
    backends:
      - {name: one, address: 198.18.2.11}
  nodes6:
    backends:
      - {name: one, address: "2001:db8:2::11"}
services:
  mail:
    listen: [198.18.1.1:25]
    pool: nodes
    backend_port: 30125
    datapath: $2
    health: {type: none}
  mail6:
    listen: ["[2001:db8:1::1]:25"]
    pool: nodes6
    backend_port: 30125
    datapath: $2
    health: {type: none}
)";

struct Case {
  const char* name;
  const char* mode;
  const char* promote_after;
  const char* datapath;
  // What `conn list` calls a connection that has moved bytes.
  const char* carried_by;
};

void PrintTo(const Case& tested, std::ostream* out) { *out << tested.name; }

const Case kCases[] = {
    {"Relay", "auto", "256KiB", "relay", "relay"},
    {"SpliceFromTheStart", "always", "256KiB", "splice", "splice"},
    {"SpliceWhenSteady", "auto", "1", "splice", "relay"},
    {"SpliceByDefault", "auto", "256KiB", "splice", "relay"},
};

class StreamTest : public ::testing::TestWithParam<Case> {
 protected:
  // The header of `client`'s connection has been read from `backend`.
  void Open() {
    client_ = TcpSocket::Connect(kClient, vip_);
    backend_ = TcpSocket::Accept(listener_);
    ASSERT_TRUE(client_.valid() && backend_.valid());
    ASSERT_EQ(
        backend_.Receive(28),
        ExpectedHeader(HeaderKind::kV2, LocalEndpoint(client_.fd()), vip_));
  }
  // A round trip of `size` bytes each way.
  void Exchange(size_t size) {
    const std::string bytes(size, 'x');
    ASSERT_TRUE(client_.Send(bytes));
    ASSERT_EQ(backend_.Receive(size).size(), size);
    ASSERT_TRUE(backend_.Send(bytes));
    ASSERT_EQ(client_.Receive(size).size(), size);
  }

  Lab lab_;
  Daemon daemon_{absl::Substitute(
      kConfig, GetParam().mode, GetParam().promote_after, GetParam().datapath)};
  const Endpoint vip_ = At("198.18.1.1:25");
  UniqueFd listener_;
  TcpSocket client_, backend_;
};

class SingleStreamTest : public StreamTest {
 protected:
  void SetUp() override {
    listener_ = RunIn(kBackend, [] { return Listen(At("198.18.2.11:30125")); });
  }
};

uint64_t Seed() {
  uint64_t seed = 20240607;
  const char* given = std::getenv("HG_SEED");
  if (given != nullptr && !absl::SimpleAtoi(given, &seed)) {
    ADD_FAILURE() << "HG_SEED is not a number";
  }
  return seed;
}

TEST_P(StreamTest, EverySha256IsEqual) {
  const size_t count = std::getenv("HG_SOAK") != nullptr ? 5000 : 150;
  StreamPlan plan;
  plan.seed = Seed();
  plan.count = count;
  plan.large = 1;
  RecordProperty("seed", std::to_string(plan.seed));
  for (const char* vip : {"198.18.1.1:25", "[2001:db8:1::1]:25"}) {
    plan.target = At(vip);
    plan.listen = {At(plan.target.address.is_v4() ? "198.18.2.11:30125"
                                                  : "[2001:db8:2::11]:30125")};
    const StreamReport report = RunStreams(plan);
    EXPECT_EQ(report.first_error, "");
    EXPECT_EQ(report.equal, count);
  }
  EXPECT_TRUE(WaitUntil(absl::Seconds(10),
                        [&] { return daemon_.ActiveConnections() == 0; }));
}

TEST_P(SingleStreamTest, IsCarriedAsConfigured) {
  Open();
  Exchange(1000);
  EXPECT_TRUE(WaitUntil(absl::Seconds(5), [&] {
    const nlohmann::json list = daemon_.Json({"conn", "list"});
    return list.at("connections").size() == 1 &&
           list["connections"][0].at("datapath") == GetParam().carried_by;
  })) << daemon_.Json({"conn", "list"});
  const bool spliced = GetParam().carried_by == std::string("splice");
  EXPECT_EQ(DumpMapOf(daemon_.pid(), "splice_index").size(), spliced ? 1u : 0u);
}

// Without `always`, whatever it was configured to be.
TEST_P(SingleStreamTest, GoesToTheKernelWhenItIsSteady) {
  if (GetParam().mode != std::string("auto")) GTEST_SKIP();
  Open();
  for (int i = 0; i < 64; ++i) ASSERT_NO_FATAL_FAILURE(Exchange(16 * 1024));
  EXPECT_TRUE(WaitUntil(absl::Seconds(5), [&] {
    const nlohmann::json list = daemon_.Json({"conn", "list"});
    return list.at("connections").at(0).at("datapath") == GetParam().datapath;
  })) << daemon_.Json({"conn", "list"});
}

TEST_P(SingleStreamTest, GoesOnTowardsAClientThatHasHalfClosed) {
  Open();
  Exchange(1000);
  client_.ShutdownWrite();
  ASSERT_TRUE(backend_.ReceivesEnd());
  EXPECT_TRUE(client_.Quiet(absl::Seconds(1)));
  const std::string bytes(100000, 'd');
  for (int i = 0; i < 50; ++i) {
    ASSERT_TRUE(backend_.Send(bytes));
    ASSERT_EQ(client_.Receive(bytes.size()), bytes);
  }
  backend_.ShutdownWrite();
  EXPECT_TRUE(client_.ReceivesEnd());
}

TEST_P(SingleStreamTest, GoesOnTowardsABackendThatHasHalfClosed) {
  Open();
  Exchange(1000);
  backend_.ShutdownWrite();
  ASSERT_TRUE(client_.ReceivesEnd());
  EXPECT_TRUE(backend_.Quiet(absl::Seconds(1)));
  const std::string bytes(100000, 'u');
  for (int i = 0; i < 50; ++i) {
    ASSERT_TRUE(client_.Send(bytes));
    ASSERT_EQ(backend_.Receive(bytes.size()), bytes);
  }
  client_.ShutdownWrite();
  EXPECT_TRUE(backend_.ReceivesEnd());
}

TEST_P(SingleStreamTest, DeliversAllBeforeTheEnd) {
  // The sender is long gone when the reader begins to read.
  Open();
  Exchange(1000);
  const std::string bytes(200000, 'e');
  ASSERT_TRUE(backend_.Send(bytes));
  backend_.Close();
  ASSERT_EQ(client_.Receive(bytes.size()), bytes);
  EXPECT_TRUE(client_.ReceivesEnd());
}

TEST_P(SingleStreamTest, PassesAResetOfTheClientOn) {
  Open();
  Exchange(1000);
  client_.Reset();
  EXPECT_TRUE(backend_.ReceivesReset());
}

TEST_P(SingleStreamTest, PassesAResetOfTheBackendOn) {
  Open();
  Exchange(1000);
  backend_.Reset();
  EXPECT_TRUE(client_.ReceivesReset());
}

TEST_P(SingleStreamTest, PassesAResetBeforeAnyPayloadOn) {
  Open();
  client_.Reset();
  EXPECT_TRUE(backend_.ReceivesReset());
  Open();
  backend_.Reset();
  EXPECT_TRUE(client_.ReceivesReset());
}

TEST_P(SingleStreamTest, OfASlowReaderHoldsNobodyElseUp) {
  Open();
  TcpSocket slow_client = std::move(client_);
  TcpSocket slow_backend = std::move(backend_);
  Open();
  // Until all buffers are full; the slow client reads nothing meanwhile.
  const std::string chunk(1 << 20, 's');
  size_t sent = 0;
  for (ssize_t n = 0; sent < (64u << 20); sent += static_cast<size_t>(n)) {
    n = ::send(slow_backend.fd(), chunk.data(), chunk.size(), MSG_NOSIGNAL);
    if (n < 0 && slow_backend.Quiet(absl::ZeroDuration())) break;
    ASSERT_GE(n, 0);
    Exchange(1000);
  }
  EXPECT_LT(sent, 64u << 20) << "nothing pushes back on the sender";
  ASSERT_EQ(slow_client.Receive(sent).size(), sent);
}

const auto kName = [](const auto& tested) { return tested.param.name; };
INSTANTIATE_TEST_SUITE_P(All, StreamTest, ::testing::ValuesIn(kCases), kName);
INSTANTIATE_TEST_SUITE_P(All, SingleStreamTest, ::testing::ValuesIn(kCases),
                         kName);

}  // namespace
}  // namespace headgate::testing
