// The splice program on real sockets: what a source receives comes out of the
// sink, in order and once, whatever userspace and the sink do meanwhile.
//
//   client ---- source   (spliced to)   sink ---- reader

#include <gtest/gtest.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>

#include <array>
#include <string>

#include "datapath/datapath.h"
#include "net/socket.h"

namespace headgate::datapath {
namespace {

struct Pair {
  UniqueFd near;  // The forwarder's end.
  UniqueFd far;
};

Pair MakePair() {
  UniqueFd listener(socket(AF_INET, SOCK_STREAM, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  EXPECT_EQ(bind(listener.get(), reinterpret_cast<sockaddr*>(&address),
                 sizeof address),
            0);
  EXPECT_EQ(listen(listener.get(), 1), 0);
  int error = 0;
  Pair pair;
  pair.far = ConnectTcp(LocalEndpoint(listener.get()), &error);
  pair.near.reset(accept(listener.get(), nullptr, nullptr));
  const int on = 1;
  setsockopt(pair.near.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  return pair;
}

bool Readable(int fd, int ms = 5000) {
  pollfd waiting{fd, POLLIN, 0};
  return poll(&waiting, 1, ms) == 1;
}

void Write(int fd, const std::string& bytes) {
  ASSERT_EQ(send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL),
            static_cast<ssize_t>(bytes.size()));
}

// Waits for `size` bytes; fewer at the end of the stream or after 5 s.
std::string Read(int fd, size_t size) {
  std::string got(size, '\0');
  size_t filled = 0;
  while (filled < size && Readable(fd)) {
    const ssize_t n = recv(fd, got.data() + filled, size - filled, 0);
    if (n <= 0) break;
    filled += static_cast<size_t>(n);
  }
  got.resize(filled);
  return got;
}

template <typename Condition>
bool WaitFor(Condition condition) {
  for (int i = 0; i < 5000 && !condition(); ++i) poll(nullptr, 0, 1);
  return condition();
}

class SpliceTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_EQ(system("ip link set lo up"), 0);  // NOLINT(cert-env33-c)
    in_ = MakePair();
    out_ = MakePair();
    auto opened = Datapath::Open({"/sys/fs/bpf/splice_test", 1, 1024});
    ASSERT_TRUE(opened.ok()) << opened.status();
    datapath_ = *std::move(opened);
    ASSERT_TRUE(datapath_->can_splice()) << datapath_->splice_objection();
    datapath_->splice_budget().set_limit(64 << 20);
  }

  void Splice(uint64_t limit = 1 << 20) {
    SpliceFlows::Spec spec;
    spec.source = in_.near.get();
    spec.sink = out_.near.get();
    spec.service = 1;
    spec.outward = true;
    spec.backlog_limit_bytes = limit;
    hg_fallback reason{};
    number_ = flows().Insert(spec, &reason);
    ASSERT_TRUE(number_.has_value()) << "reason " << reason;
  }

  SpliceFlows& flows() { return *datapath_->splice_flows(0); }
  hg_splice_flow& flow() { return flows().flow(*number_); }
  uint64_t Verdicts(hg_verdict verdict) {
    return (*datapath_->SpliceVerdicts())[verdict];
  }
  // What userspace has read of the source and sent on.
  std::string Relay() {
    std::array<char, 65536> buffer{};
    const ssize_t n =
        recv(in_.near.get(), buffer.data(), buffer.size(), MSG_DONTWAIT);
    return n > 0 ? std::string(buffer.data(), static_cast<size_t>(n)) : "";
  }

  std::unique_ptr<Datapath> datapath_;
  Pair in_;   // near: the source, far: the client.
  Pair out_;  // near: the sink, far: the reader.
  std::optional<uint32_t> number_;
};

TEST_F(SpliceTest, BytesComeOutOfTheSinkAndAreCounted) {
  Splice();
  Write(in_.far.get(), "hello");
  EXPECT_EQ(Read(out_.far.get(), 5), "hello");
  EXPECT_EQ(flow().redirected, 5U);
  EXPECT_EQ(flow().passed, 0U);
  EXPECT_GT(flow().last_active, 0U);
  EXPECT_EQ(datapath_->service_stats(1).bytes_out, 5U);
  EXPECT_EQ(Verdicts(HG_VERDICT_REDIRECTED), 1U);
}

TEST_F(SpliceTest, BytesQueuedBeforeTheInsertionGoAlongWithAKick) {
  Write(in_.far.get(), "early");
  ASSERT_TRUE(Readable(in_.near.get()));
  Splice();
  char byte = 0;
  EXPECT_EQ(recv(in_.near.get(), &byte, 1, MSG_PEEK | MSG_DONTWAIT), -1);
  EXPECT_EQ(Read(out_.far.get(), 5), "early");
}

// sockmap.md 12 b: tcp_read_skb() hands over the skb whole, however much of it
// has been read.
TEST_F(SpliceTest, WhatUserspaceHasReadOfAnSkbIsNotSentAgain) {
  Write(in_.far.get(), "0123456789");
  ASSERT_TRUE(Readable(in_.near.get()));
  std::array<char, 4> head{};
  ASSERT_EQ(recv(in_.near.get(), head.data(), 4, 0), 4);
  Splice();
  char byte = 0;
  recv(in_.near.get(), &byte, 1, MSG_PEEK | MSG_DONTWAIT);
  Write(in_.far.get(), "ab");
  EXPECT_EQ(Read(out_.far.get(), 8), "456789ab");
  EXPECT_EQ(flow().redirected, 8U);
}

TEST_F(SpliceTest, AFinIsNotSentOnButSeenByUserspace) {
  Splice();
  Write(in_.far.get(), "bye");
  shutdown(in_.far.get(), SHUT_WR);
  EXPECT_EQ(Read(out_.far.get(), 3), "bye");
  ASSERT_TRUE(WaitFor([&] { return Verdicts(HG_VERDICT_EMPTY) == 1; }));
  char byte = 0;
  EXPECT_EQ(recv(in_.near.get(), &byte, 1, MSG_DONTWAIT), 0);
  EXPECT_EQ(TakeSocketError(out_.near.get()), 0) << "EPIPE: the FIN was sent";
  EXPECT_FALSE(Readable(out_.far.get(), 20)) << "the sink's reader saw an end";
}

TEST_F(SpliceTest, OffPassesAndTellsOnce) {
  Splice();
  flow().mode = HG_SPLICE_OFF;
  Write(in_.far.get(), "one");
  ASSERT_TRUE(Readable(flows().event_fd()));
  Write(in_.far.get(), "two");
  ASSERT_TRUE(WaitFor([&] { return flow().passed == 6; }));
  int told = 0;
  flows().Consume([&](uint32_t number) {
    ++told;
    EXPECT_EQ(number, *number_);
  });
  EXPECT_EQ(told, 1);
  EXPECT_EQ(Relay() + Relay(), "onetwo");
}

TEST_F(SpliceTest, NothingOvertakesPassedBytes) {
  Splice();
  flow().mode = HG_SPLICE_OFF;
  Write(in_.far.get(), "first");
  ASSERT_TRUE(WaitFor([&] { return flow().passed == 5; }));
  flow().mode = HG_SPLICE_ON;
  // Userspace still has "first": what follows must queue up behind it.
  Write(in_.far.get(), "second");
  ASSERT_TRUE(WaitFor([&] { return flow().passed == 11; }));
  EXPECT_EQ(flow().redirected, 0U);
  const std::string held = Relay() + Relay();
  EXPECT_EQ(held, "firstsecond");
  Write(out_.near.get(), held);
  __atomic_fetch_add(&flow().relayed, held.size(), __ATOMIC_SEQ_CST);
  Write(in_.far.get(), "third");
  EXPECT_EQ(Read(out_.far.get(), 16), "firstsecondthird");
  EXPECT_EQ(flow().redirected, 5U);
}

TEST_F(SpliceTest, ASinkThatIsNotReadStopsTheSenderAtTheLimit) {
  constexpr uint64_t kLimit = 256 * 1024;
  Splice(kLimit);
  // Nobody reads out_.far and nobody relays: the sender must come to a halt.
  const int buffer = 64 * 1024;
  setsockopt(out_.far.get(), SOL_SOCKET, SO_RCVBUF, &buffer, sizeof buffer);
  const std::string block(64 * 1024, 'x');
  uint64_t sent = 0;
  bool blocked = false;
  while (!blocked && sent < 512ULL << 20) {
    const ssize_t n = send(in_.far.get(), block.data(), block.size(),
                           MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n > 0) {
      sent += static_cast<uint64_t>(n);
      continue;
    }
    pollfd waiting{in_.far.get(), POLLOUT, 0};
    blocked = poll(&waiting, 1, 300) == 0;
  }
  EXPECT_TRUE(blocked) << sent << " bytes went in";
  EXPECT_GT(Verdicts(HG_VERDICT_PASSED_BACKLOG), 0U);
  // In the sink's own queues and the backlog; the rest is in the source's
  // receive buffer, which the kernel bounds.
  EXPECT_LE(flow().redirected - BytesQueuedEver(out_.near.get()),
            kLimit + 65536);
}

TEST_F(SpliceTest, AGoneSinkPassesInsteadOfLosing) {
  Splice();
  out_.near.reset();
  Write(in_.far.get(), "late");
  ASSERT_TRUE(WaitFor([&] { return flow().passed == 4; }));
  EXPECT_EQ(Relay(), "late");
  EXPECT_EQ(flow().redirected, 0U);
}

TEST_F(SpliceTest, AClosedSourceIsRefusedAndNothingIsLeftBehind) {
  shutdown(in_.far.get(), SHUT_WR);
  ASSERT_TRUE(Readable(in_.near.get()));  // CLOSE_WAIT now.
  SpliceFlows::Spec spec;
  spec.source = in_.near.get();
  spec.sink = out_.near.get();
  spec.backlog_limit_bytes = 1;
  hg_fallback reason{};
  EXPECT_EQ(flows().Insert(spec, &reason), std::nullopt);
  EXPECT_EQ(reason, HG_FALLBACK_CLOSING);
  EXPECT_EQ(flows().in_use(), 0U);
  EXPECT_EQ(datapath_->splice_budget().reserved(), 0U);
}

TEST_F(SpliceTest, TheBudgetBoundsWhatAllFlowsMayHold) {
  datapath_->splice_budget().set_limit(100);
  SpliceFlows::Spec spec;
  spec.source = in_.near.get();
  spec.sink = out_.near.get();
  spec.backlog_limit_bytes = 101;
  hg_fallback reason{};
  EXPECT_EQ(flows().Insert(spec, &reason), std::nullopt);
  EXPECT_EQ(reason, HG_FALLBACK_BACKLOG);
  EXPECT_EQ(datapath_->splice_budget().reserved(), 0U);
}

TEST_F(SpliceTest, NumbersRunOutAndComeBack) {
  std::vector<uint32_t> numbers;
  std::vector<Pair> sources;
  datapath_.reset();
  auto opened = Datapath::Open({"/sys/fs/bpf/splice_test", 1, 2});
  ASSERT_TRUE(opened.ok()) << opened.status();
  datapath_ = *std::move(opened);
  datapath_->splice_budget().set_limit(1 << 20);
  hg_fallback reason{};
  for (int i = 0; i < 3; ++i) {
    sources.push_back(MakePair());
    SpliceFlows::Spec spec;
    spec.source = sources.back().near.get();
    spec.sink = out_.near.get();
    if (const auto number = flows().Insert(spec, &reason)) {
      numbers.push_back(*number);
    }
  }
  EXPECT_EQ(numbers.size(), 2U);
  EXPECT_EQ(reason, HG_FALLBACK_NO_FLOW);
  sources.clear();
  out_.near.reset();
  for (const uint32_t number : numbers) flows().Release(number);
  EXPECT_EQ(flows().in_use(), 0U);
}

}  // namespace
}  // namespace headgate::datapath
