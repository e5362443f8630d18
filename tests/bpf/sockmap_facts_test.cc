// What the kernel does with sockets in a sockmap, fact by fact: what goes wrong
// under a program that only redirects (naive.bpf.c), and that it does not under
// ours. Rules were made from these facts; when a kernel changes one of them,
// this says which rule can go.
//
//   client ---- source   (spliced to)   sink ---- reader

#include <bpf/bpf.h>
#include <gtest/gtest.h>
#include <naive.skel.h>
#include <netinet/tcp.h>

#include <algorithm>
#include <fstream>
#include <sstream>
#include <thread>

#include "absl/time/clock.h"
#include "datapath/datapath.h"
#include "net/socket.h"
#include "support/lab.h"
#include "support/tcp.h"
#include "support/wait.h"

namespace headgate::testing {
namespace {

constexpr absl::Duration kSoon = absl::Seconds(5);
constexpr absl::Duration kAWhile = absl::Milliseconds(300);
constexpr uint64_t kLimit = 1 << 20;
constexpr size_t kFits = kLimit / 2;  // Too much for the reader's buffer.
constexpr size_t kFlood = 128 << 20;

struct Pair {
  TcpSocket near;  // The forwarder's end.
  TcpSocket far;
};

Pair Dial(const char* from, const char* to, const char* address) {
  const UniqueFd listener = RunIn(to, [&] { return Listen(At(address)); });
  const int small = 64 << 10;  // So that a reader that stops is felt early.
  setsockopt(listener.get(), SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
  Pair pair;
  TcpSocket dialled = TcpSocket::Connect(from, At(address));
  TcpSocket accepted = TcpSocket::Accept(listener);
  const bool edge_dials = from == std::string(kEdge);
  pair.near = std::move(edge_dials ? dialled : accepted);
  pair.far = std::move(edge_dials ? accepted : dialled);
  const int on = 1;
  setsockopt(pair.near.fd(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  return pair;
}

uint64_t Cookie(int fd) {
  uint64_t cookie = 0;
  socklen_t size = sizeof cookie;
  getsockopt(fd, SOL_SOCKET, SO_COOKIE, &cookie, &size);
  return cookie;
}

// Makes the kernel run the verdict on what is queued already.
void Kick(const TcpSocket& socket) {
  char byte = 0;
  recv(socket.fd(), &byte, 1, MSG_PEEK | MSG_DONTWAIT);
}

// What the kernel has allocated, of all namespaces.
uint64_t SlabBytes() {
  std::ifstream slabs("/proc/slabinfo");
  uint64_t bytes = 0;
  for (std::string line; std::getline(slabs, line);) {
    uint64_t active = 0, total = 0, size = 0;
    std::string name;
    std::istringstream fields(line);
    if (fields >> name >> active >> total >> size) {
      bytes += active * size;
    }
  }
  return bytes;
}

class Naive {
 public:
  enum class Probe { kNone, kBacklog };

  explicit Naive(Probe probe = Probe::kNone) : skeleton_(naive_bpf::open()) {
    bpf_program__set_autoload(skeleton_->progs.count_backlog_run,
                              probe == Probe::kBacklog);
    load_error_ = naive_bpf::load(skeleton_);
    attached_ = load_error_ == 0 &&
                bpf_prog_attach(bpf_program__fd(skeleton_->progs.naive_verdict),
                                bpf_map__fd(skeleton_->maps.naive_sources),
                                BPF_SK_SKB_STREAM_VERDICT, 0) == 0;
  }
  ~Naive() { naive_bpf::destroy(skeleton_); }
  Naive(const Naive&) = delete;
  Naive& operator=(const Naive&) = delete;

  bool Splice(const TcpSocket& source, const TcpSocket& sink) {
    return attached_ && Insert(skeleton_->maps.naive_sinks, source, sink) &&
           Insert(skeleton_->maps.naive_sources, source, source);
  }
  bool Unsplice(const TcpSocket& source) {
    const uint64_t key = Cookie(source.fd());
    return bpf_map__delete_elem(skeleton_->maps.naive_sinks, &key, sizeof key,
                                0) == 0;
  }
  int load_error() const { return load_error_; }
  naive_bpf* operator->() const { return skeleton_; }

 private:
  static bool Insert(bpf_map* map, const TcpSocket& key,
                     const TcpSocket& socket) {
    const uint64_t cookie = Cookie(key.fd());
    const auto fd = static_cast<uint64_t>(socket.fd());
    return bpf_map__update_elem(map, &cookie, sizeof cookie, &fd, sizeof fd,
                                BPF_ANY) == 0;
  }

  naive_bpf* skeleton_;
  int load_error_ = 0;
  bool attached_ = false;
};

class SockmapFacts : public ::testing::Test {
 protected:
  void SetUp() override {
    auto opened = datapath::Datapath::Open({"/sys/fs/bpf/facts", 1, 1024});
    ASSERT_TRUE(opened.ok()) << opened.status();
    datapath_ = *std::move(opened);
    ASSERT_TRUE(datapath_->can_splice()) << datapath_->splice_objection();
    datapath_->splice_budget().set_limit(64 * kLimit);
    Connect();
  }

  // Fresh sockets: those of before stay where they are until they close.
  void Connect() {
    in_ = Dial(kClient, kEdge, "198.18.1.1:25");
    out_ = Dial(kEdge, kBackend, "198.18.2.11:25");
    ASSERT_TRUE(in_.near.valid() && out_.near.valid());
  }

  // Ours, `source` to `sink`.
  hg_splice_flow& Splice(const TcpSocket& source, const TcpSocket& sink) {
    datapath::SpliceFlows::Spec spec;
    spec.source = source.fd();
    spec.sink = sink.fd();
    spec.service = 1;
    spec.backlog_limit_bytes = kLimit;
    hg_fallback reason{};
    const auto number = datapath_->splice_flows(0)->Insert(spec, &reason);
    EXPECT_TRUE(number.has_value()) << "reason " << reason;
    return datapath_->splice_flows(0)->flow(number.value_or(0));
  }
  hg_splice_flow& Splice() { return Splice(in_.near, out_.near); }

  bool SinkFails(const TcpSocket& sink, int error, absl::Duration time) {
    return WaitUntil(time, [&] { return SocketError(sink.fd()) == error; });
  }
  bool Redirected(const hg_splice_flow& flow, uint64_t bytes) {
    return WaitUntil(kSoon, [&] { return flow.redirected == bytes; });
  }
  // Whether all of `flow` has entered the sink's send queue by now.
  static bool Drained(const hg_splice_flow& flow, uint64_t base,
                      const TcpSocket& sink) {
    return BytesQueuedEver(sink.fd()) - base >= flow.redirected;
  }
  // What the reader of a naive splice holding kFits bytes gets in all after
  // `accident`.
  size_t NaiveDeliveryAfter(absl::FunctionRef<void(Naive&)> accident) {
    Naive naive;
    EXPECT_TRUE(naive.Splice(in_.near, out_.near));
    EXPECT_EQ(in_.far.Flood(8 * kFits), 8 * kFits);
    accident(naive);
    return out_.far.ReceiveAll(absl::Seconds(1)).size();
  }

  Lab lab_;
  std::unique_ptr<datapath::Datapath> datapath_;
  Pair in_;   // near: the source, far: the client.
  Pair out_;  // near: the sink, far: the reader.
};

TEST_F(SockmapFacts, A_ABareFinThatIsRedirectedKillsTheSink) {
  {
    Naive naive;
    ASSERT_TRUE(naive.Splice(in_.near, out_.near));
    ASSERT_TRUE(in_.far.Send("bye"));
    in_.far.ShutdownWrite();
    EXPECT_EQ(out_.far.Receive(3), "bye");
    EXPECT_TRUE(SinkFails(out_.near, EPIPE, kSoon));
  }
  Connect();
  Splice();
  ASSERT_TRUE(in_.far.Send("bye"));
  in_.far.ShutdownWrite();
  EXPECT_EQ(out_.far.Receive(3), "bye");
  EXPECT_TRUE(in_.near.ReceivesEnd());
  EXPECT_FALSE(SinkFails(out_.near, EPIPE, kAWhile));
  out_.near.ShutdownWrite();
  EXPECT_TRUE(out_.far.ReceivesEnd());
}

TEST_F(SockmapFacts, B_APartlyReadSkbIsRedirectedFromItsFirstByte) {
  const auto read_part = [&] {
    ASSERT_TRUE(in_.far.Send("0123456789"));
    ASSERT_EQ(in_.near.Receive(4), "0123");
  };
  {
    Naive naive;
    read_part();
    ASSERT_TRUE(naive.Splice(in_.near, out_.near));
    Kick(in_.near);
    EXPECT_EQ(out_.far.Receive(10), "0123456789") << "fixed: needs no cut";
  }
  Connect();
  read_part();
  Splice();
  Kick(in_.near);
  ASSERT_TRUE(in_.far.Send("ab"));
  EXPECT_EQ(out_.far.Receive(8), "456789ab");
  EXPECT_TRUE(out_.far.Quiet(kAWhile));
}

TEST_F(SockmapFacts, C_AnOverlappingRetransmissionIsRedirectedWhole) {
  const auto overlap = [&] {
    ASSERT_TRUE(in_.far.Send("0123456789"));
    ASSERT_EQ(out_.far.Receive(10), "0123456789");
    ASSERT_TRUE(RunIn(kClient, [&] { return in_.far.Rewind(4); }));
    ASSERT_TRUE(in_.far.Send("6789ab"));
  };
  {
    Naive naive;
    ASSERT_TRUE(naive.Splice(in_.near, out_.near));
    overlap();
    EXPECT_EQ(out_.far.Receive(6), "6789ab") << "fixed: needs no cut";
  }
  Connect();
  const hg_splice_flow& flow = Splice();
  overlap();
  ASSERT_TRUE(in_.far.Send("cd"));
  EXPECT_EQ(out_.far.Receive(4), "abcd");
  EXPECT_TRUE(out_.far.Quiet(kAWhile));
  EXPECT_EQ(flow.redirected, 14u);
}

TEST_F(SockmapFacts, D_NothingInTheKernelBoundsTheBacklog) {
  {
    Naive naive;
    ASSERT_TRUE(naive.Splice(in_.near, out_.near));
    EXPECT_EQ(in_.far.Flood(kFlood), kFlood) << "fixed: the sender waits";
  }
  Connect();
  const uint64_t base = BytesQueuedEver(out_.near.fd());
  const hg_splice_flow& flow = Splice();
  EXPECT_LT(in_.far.Flood(kFlood), kFlood);
  EXPECT_LE(flow.redirected + base - BytesQueuedEver(out_.near.fd()), kLimit);
}

// An skb costs the host about a kilobyte, however little is in it.
TEST_F(SockmapFacts, D_SmallSegmentsAreCountedByWhatTheyCost) {
  const int on = 1;
  setsockopt(in_.far.fd(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  Splice();
  // The sink's own queue, which merges them, is full.
  ASSERT_EQ(in_.far.Flood(kLimit), kLimit);
  const uint64_t before = SlabBytes();
  size_t sent = 0;
  while (sent < kFits && in_.far.Flood(1) == 1) ++sent;
  EXPECT_LE(SlabBytes(), before + 64 * kLimit) << sent << " sent";
}

TEST_F(SockmapFacts, E_QueuedBytesWaitForAKick) {
  const auto low_water = [](const TcpSocket& socket) {
    const int one = 1;
    setsockopt(socket.fd(), SOL_SOCKET, SO_RCVLOWAT, &one, sizeof one);
  };
  for (absl::FunctionRef<void(const TcpSocket&)> kick :
       {absl::FunctionRef<void(const TcpSocket&)>(Kick),
        absl::FunctionRef<void(const TcpSocket&)>(low_water)}) {
    ASSERT_TRUE(in_.far.Send("early"));
    ASSERT_FALSE(in_.near.Quiet(kSoon));
    Splice();
    EXPECT_TRUE(out_.far.Quiet(kAWhile));
    kick(in_.near);
    EXPECT_EQ(out_.far.Receive(5), "early");
    Connect();
  }
}

TEST_F(SockmapFacts, F_ClosingOrShuttingTheSinkDownTruncates) {
  EXPECT_LT(NaiveDeliveryAfter([&](Naive&) { out_.near.Close(); }), 8 * kFits);
  Connect();
  EXPECT_LT(NaiveDeliveryAfter([&](Naive&) { out_.near.ShutdownWrite(); }),
            8 * kFits);
  Connect();
  const uint64_t base = BytesQueuedEver(out_.near.fd());
  const hg_splice_flow& flow = Splice();
  ASSERT_TRUE(in_.far.Send(std::string(kFits, 'x')));
  ASSERT_TRUE(Redirected(flow, kFits));
  EXPECT_FALSE(Drained(flow, base, out_.near)) << "there was no backlog";
  std::string got;
  std::thread reader([&] { got = out_.far.Receive(kFits); });
  const bool drained =
      WaitUntil(kSoon, [&] { return Drained(flow, base, out_.near); });
  out_.near.ShutdownWrite();
  reader.join();
  EXPECT_TRUE(drained);
  EXPECT_EQ(got.size(), kFits);
  EXPECT_TRUE(out_.far.ReceivesEnd());
}

TEST_F(SockmapFacts, G_TakingALiveSocketOutOfTheMapLoses) {
  EXPECT_LT(NaiveDeliveryAfter(
                [&](Naive& naive) { EXPECT_TRUE(naive.Unsplice(in_.near)); }),
            8 * kFits);
  // Ours is switched off instead, and everything is still there.
  Connect();
  hg_splice_flow& flow = Splice();
  ASSERT_TRUE(in_.far.Send(std::string(kFits, 'x')));
  ASSERT_TRUE(Redirected(flow, kFits));
  flow.mode = HG_SPLICE_OFF;
  ASSERT_TRUE(in_.far.Send("later"));
  EXPECT_EQ(out_.far.Receive(kFits).size(), kFits);
  EXPECT_EQ(in_.near.Receive(5), "later");
}

// The client has half-closed and downloads slowly: its socket is a source that
// gets a FIN and a sink with a backlog.
TEST_F(SockmapFacts, H_AFinThatIsPassedBehindABacklogKillsTheSocket) {
  {
    Naive naive;
    naive->bss->pass_fin = 1;
    ASSERT_TRUE(naive.Splice(in_.near, out_.near));
    ASSERT_TRUE(naive.Splice(out_.near, in_.near));
    ASSERT_EQ(out_.far.Flood(8 * kFits), 8 * kFits);
    in_.far.ShutdownWrite();
    // The FIN has its turn behind the backlog.
    EXPECT_EQ(in_.far.ReceiveAll(kAWhile).size(), 8 * kFits);
    EXPECT_TRUE(SinkFails(in_.near, EPIPE, kSoon)) << "fixed: FINs may pass";
  }
  Connect();
  Splice(in_.near, out_.near);
  const hg_splice_flow& download = Splice(out_.near, in_.near);
  ASSERT_TRUE(out_.far.Send(std::string(kFits, 'd')));
  ASSERT_TRUE(Redirected(download, kFits));
  in_.far.ShutdownWrite();
  EXPECT_FALSE(SinkFails(in_.near, EPIPE, kAWhile));
  EXPECT_EQ(in_.far.Receive(kFits).size(), kFits);
}

TEST_F(SockmapFacts, I_TheVerifierAndTheProbeTakeWhatWeNeed) {
  // Loaded: bpf_cast_to_kern_ctx and bpf_rdonly_cast in an sk_skb program.
  EXPECT_EQ(datapath_->splice_objection(), "");
  hg_splice_flow& flow = Splice();
  ASSERT_TRUE(in_.far.Send("seen"));
  EXPECT_EQ(out_.far.Receive(4), "seen");
  EXPECT_EQ(flow.redirected, 4u);
  // Nothing of ours traces the kernel, so one that forbids it will do.
  Naive naive(Naive::Probe::kBacklog);
  if (naive.load_error() == -EPERM) return;
  bpf_link* probe = bpf_program__attach(naive->progs.count_backlog_run);
  ASSERT_NE(probe, nullptr);
  ASSERT_TRUE(in_.far.Send("seen"));
  EXPECT_EQ(out_.far.Receive(4), "seen");
  EXPECT_TRUE(WaitUntil(kSoon, [&] { return naive->bss->backlog_runs > 0; }));
  bpf_link__destroy(probe);
}

TEST_F(SockmapFacts, J_NoTimerIsInTheWayOfASmallMessage) {
  Splice();
  Splice(out_.near, in_.near);
  const std::string ping(64, 'p');
  std::vector<absl::Duration> round_trips;
  for (int i = 0; i < 500; ++i) {
    const absl::Time start = absl::Now();
    ASSERT_TRUE(in_.far.Send(ping));
    ASSERT_EQ(out_.far.Receive(64), ping);
    ASSERT_TRUE(out_.far.Send(ping));
    ASSERT_EQ(in_.far.Receive(64), ping);
    round_trips.push_back(absl::Now() - start);
  }
  std::sort(round_trips.begin(), round_trips.end());
  // Less than one jiffy at HZ=250, which a timer would take each time; a busy
  // machine takes it now and then.
  EXPECT_LT(round_trips[round_trips.size() / 10], absl::Milliseconds(4));
}

// A full sink is retried a jiffy later (sk_psock_backlog), whatever frees it:
// a limited reader must still get more than a few packets each time.
TEST_F(SockmapFacts, J_ALimitedReaderIsNotHeldToAPacketAJiffy) {
  constexpr double kPacketAJiffy = 1448.0 * 250;
  // Nobody here would take what passes at the limit.
  Splice().backlog_limit = 4 * kLimit;
  size_t sent = 0;
  std::thread sender([&] { sent = in_.far.Flood(kLimit, kSoon); });
  const absl::Time start = absl::Now();
  const size_t got = out_.far.Receive(kLimit).size();
  const double seconds = absl::ToDoubleSeconds(absl::Now() - start);
  sender.join();
  EXPECT_EQ(sent, kLimit);
  EXPECT_EQ(got, kLimit);
  EXPECT_GT(static_cast<double>(got) / seconds, 10 * kPacketAJiffy);
}

}  // namespace
}  // namespace headgate::testing
