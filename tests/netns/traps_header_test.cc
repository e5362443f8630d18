// The traps of PROXY headers that forwarders have fallen into, by their number
// in the survey of peers: when the header comes, what is in it, and that it
// comes once.
#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <linux/tcp.h>

#include <algorithm>
#include <cstdlib>
#include <random>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/substitute.h"
#include "proxyproto/decode.h"
#include "proxyproto/encode.h"
#include "support/daemon.h"
#include "support/lab.h"
#include "support/load.h"
#include "support/server.h"
#include "support/session.h"
#include "support/wait.h"

namespace headgate::testing {
namespace {

constexpr char kConfig[] = R"(
metrics: {listen: 127.0.0.1:9140}
pools:
  nodes:
    backends:
      - {name: one, address: 198.18.2.11}
      - {name: spare, address: 198.18.2.12, backup: true}
  nodes6:
    backends: [{name: one, address: "2001:db8:2::11"}]
services:
  mail:
    listen: [198.18.1.1:25]
    pool: nodes
    backend_port: 30125
    health: {type: none}
  mail6:
    listen: ["[2001:db8:1::1]:25"]
    pool: nodes6
    backend_port: 30125
    health: {type: none}
)";
constexpr char kGreeting[] = "220 ready\r\n";

class HeaderTraps : public ::testing::Test {
 protected:
  static std::unique_ptr<Server> Serve(ServerOptions options,
                                       const char* node = "198.18.2.11:30125") {
    return std::make_unique<Server>(std::vector<Endpoint>{At(node)},
                                    std::move(options));
  }
  static UniqueFd ListenAt(const char* node) {
    return RunIn(kBackend, [&] { return Listen(At(node)); });
  }
  static LoadReport Load(size_t total, const std::string& send,
                         const std::string& expect) {
    return RunLoad({.target = At("198.18.1.1:25"),
                    .total = total,
                    .concurrency = 8,
                    .send = send,
                    .expect = expect});
  }
  // Of every connection, the first packet that an nftables expression matches
  // is lost.
  static void LoseFirst(const std::string& hook, const std::string& match) {
    Shell(absl::Substitute(
        R"(ip netns exec edge nft 'table ip lose_$0 {
             set seen { type ipv4_addr . inet_service; flags dynamic;
                        size 1000; }
             chain lose {
               type filter hook $0 priority 0
               $1 ip saddr . tcp sport != @seen \
                 add @seen { ip saddr . tcp sport } drop
             }; }')",
        hook, match));
  }

  Lab lab_;
  Daemon daemon_{kConfig};
  const Endpoint vip_ = At("198.18.1.1:25");
  const Endpoint vip6_ = At("[2001:db8:1::1]:25");
};

TEST_F(HeaderTraps, A1_ServerThatWaitsForTheHeaderGreetsASilentClient) {
  const auto server = Serve({.greeting = kGreeting});
  const LoadReport report = Load(200, "", kGreeting);
  EXPECT_EQ(report.ok, 200u) << report.ToString();
  // HAProxy's inspect-delay and TCP_DEFER_ACCEPT would take a second or more.
  const bool soak = std::getenv("HG_SOAK") != nullptr;
  EXPECT_LT(report.Percentile(0.5), absl::Milliseconds(soak ? 50 : 300));
}

TEST_F(HeaderTraps, A2_HeaderIsFirstEvenIfTheServerGreetsBeforeIt) {
  const auto server =
      Serve({.greeting = kGreeting, .greets_before_header = true});
  EXPECT_EQ(Load(200, "", kGreeting).ok, 200u);
  ASSERT_TRUE(
      WaitUntil(kTcpTimeout, [&] { return server->accepted() == 200; }));
  for (const Accepted& accepted : server->TakeAccepted()) {
    EXPECT_EQ(accepted.header.size(), 28u);
    EXPECT_TRUE(accepted.in_one_recv);
  }
}

// Dovecot waits three seconds for the header, Postfix five.
TEST_F(HeaderTraps, A3_HeaderDoesNotWaitForAClientThatSaysNothing) {
  const UniqueFd listener = ListenAt("198.18.2.11:30125");
  const absl::Time start = absl::Now();
  const Session session = OpenSession(vip_, listener);
  ASSERT_EQ(session.header.size(), 28u);
  EXPECT_LT(absl::Now() - start, absl::Seconds(1));
  const bool soak = std::getenv("HG_SOAK") != nullptr;
  EXPECT_TRUE(session.backend.Quiet(absl::Seconds(soak ? 60 : 4)));
}

TEST_F(HeaderTraps, A4_HeaderIsOneSegmentWhateverTheMss) {
  for (const int mss : {88, 256, 536}) {
    for (const char* node : {"198.18.2.11:30125", "[2001:db8:2::11]:30125"}) {
      const UniqueFd listener = ListenAt(node);
      setsockopt(listener.get(), IPPROTO_TCP, TCP_MAXSEG, &mss, sizeof mss);
      const bool v4 = At(node).address.is_v4();
      Session session = OpenSession(v4 ? vip_ : vip6_, listener);
      ASSERT_TRUE(session.valid());
      tcp_info info{};
      socklen_t size = sizeof info;
      getsockopt(session.backend.fd(), IPPROTO_TCP, TCP_INFO, &info, &size);
      EXPECT_EQ(session.header.size(), v4 ? 28u : 52u);
      EXPECT_EQ(info.tcpi_data_segs_in, 1u) << "MSS " << mss;
      EXPECT_TRUE(session.Exchange(5000)) << "MSS " << mss;
    }
  }
}

TEST_F(HeaderTraps, A5_HeaderComesOnceAfterAFailedConnect) {
  // The first choice refuses.
  const auto spare =
      Serve({.greeting = kGreeting, .echo = true}, "198.18.2.12:30125");
  const LoadReport report = Load(50, "EHLO", absl::StrCat(kGreeting, "EHLO"));
  EXPECT_EQ(report.ok, 50u) << report.ToString();
  EXPECT_EQ(spare->TakeAccepted().size(), 50u);
}

TEST_F(HeaderTraps, A5_HeaderComesOnceAfterLostAndRepeatedPackets) {
  const auto server = Serve({.greeting = kGreeting, .echo = true});
  // A SYN of every client, and of every connection to a backend a segment with
  // data, the header's.
  LoseFirst("input", "tcp dport 25 tcp flags & (syn | ack) == syn");
  LoseFirst("output", "tcp dport 30125 tcp flags & psh == psh");
  const LoadReport report = Load(10, "EHLO", absl::StrCat(kGreeting, "EHLO"));
  EXPECT_EQ(report.ok, 10u) << report.ToString();
  EXPECT_GE(report.Percentile(0.5), absl::Seconds(1)) << "nothing was lost";
  EXPECT_EQ(server->TakeAccepted().size(), 10u);
}

TEST_F(HeaderTraps, A5_HeaderComesOnceAcrossAReload) {
  const UniqueFd listener = ListenAt("198.18.2.11:30125");
  Session session = OpenSession(vip_, listener);
  daemon_.Reload(absl::StrCat(kConfig, "    max_connections: 1000\n"));
  ASSERT_TRUE(
      WaitUntil(kTcpTimeout, [&] { return daemon_.LogHas("reloaded"); }));
  ASSERT_TRUE(session.client.Send("EHLO"));
  EXPECT_EQ(session.backend.Receive(4), "EHLO");
}

TEST_F(HeaderTraps, A6_HeaderNamesTheClientAndWhatItDialled) {
  const UniqueFd node = ListenAt("198.18.2.11:30125");
  const UniqueFd node6 = ListenAt("[2001:db8:2::11]:30125");
  // OpenSession compares every byte.
  EXPECT_EQ(OpenSession(vip_, node).header.size(), 28u);
  EXPECT_EQ(OpenSession(vip6_, node6).header.size(), 52u);
}

TEST_F(HeaderTraps, A6_AMappedClientIsAnnouncedAsIp4) {
  const UniqueFd node = ListenAt("198.18.2.11:30125");
  const UniqueFd client = RunIn(kClient, [&] {
    UniqueFd fd(socket(AF_INET6, SOCK_STREAM, 0));
    sockaddr_in6 address{};
    address.sin6_family = AF_INET6;
    address.sin6_port = htons(25);
    inet_pton(AF_INET6, "::ffff:198.18.1.1", &address.sin6_addr);
    EXPECT_EQ(connect(fd.get(), reinterpret_cast<sockaddr*>(&address),
                      sizeof address),
              0);
    return fd;
  });
  TcpSocket backend = TcpSocket::Accept(node);
  EXPECT_EQ(backend.Receive(28),
            ExpectedHeader(HeaderKind::kV2, LocalEndpoint(client.get()), vip_));
}

// There is no inbound PROXY: nothing turns it on, and nobody's header is
// believed.
TEST_F(HeaderTraps, A7_AHeaderFromTheClientIsPayload) {
  const auto server = Serve({.echo = true});
  for (const HeaderKind kind : {HeaderKind::kV1, HeaderKind::kV2}) {
    for (const char* source : {"192.0.2.66:666", "[2001:db8::66]:666"}) {
      const bool v4 = At(source).address.is_v4();
      const std::string forged =
          ExpectedHeader(kind, At(source), v4 ? vip_ : vip6_);
      const LoadReport report = Load(1, forged, forged);
      ASSERT_EQ(report.ok, 1u) << report.ToString();
      EXPECT_EQ(server->TakeAccepted().at(0).header,
                ExpectedHeader(HeaderKind::kV2, report.locals[0], vip_));
    }
  }
  for (const char* key : {"accept_proxy", "inbound_proxy", "trusted"}) {
    const ProcessResult check =
        CheckConfig(absl::StrCat(kConfig, "    ", key, ": true\n"));
    EXPECT_EQ(check.exit_code, 1);
    EXPECT_TRUE(absl::StrContains(check.err, key)) << check.err;
  }
}

// The daemon sends no TLVs; the encoder can.
TEST_F(HeaderTraps, A8_TlvsAreExactAndBounded) {
  const std::string longest(proxyproto::kMaxUniqueIdLength, 'u');
  const auto header = proxyproto::EncodeV2(
      vip6_, vip6_, {.crc32c = true, .unique_id = longest});
  ASSERT_TRUE(header.ok()) << header.status();
  EXPECT_LE(header->bytes().size(), 536u);
  const proxyproto::DecodeResult decoded = proxyproto::Decode(header->bytes());
  ASSERT_EQ(decoded.outcome, proxyproto::Outcome::kProxy) << decoded.error;
  proxyproto::TlvReader tlvs = decoded.tlvs;
  EXPECT_EQ(tlvs.Next()->type, proxyproto::kCrc32c);
  EXPECT_EQ(tlvs.Next()->value, longest);
  EXPECT_FALSE(tlvs.Next().has_value());
  EXPECT_TRUE(tlvs.at_end());
  EXPECT_FALSE(proxyproto::EncodeV2(vip_, vip_,
                                    {.unique_id = absl::StrCat(longest, "u")})
                   .ok());
  // One flipped bit and the checksum says so.
  std::string flipped(header->bytes());
  flipped[20] = static_cast<char>(flipped[20] ^ 1);
  EXPECT_EQ(proxyproto::Decode(flipped).outcome, proxyproto::Outcome::kInvalid);
}

std::string Tlv(uint8_t type, size_t length) {
  return absl::StrCat(
      std::string{static_cast<char>(type), static_cast<char>(length >> 8),
                  static_cast<char>(length & 0xff)},
      std::string(length, 't'));
}

// A version 2 header for `vip` whose length covers `rest`.
std::string WithRest(const Endpoint& vip, const std::string& rest) {
  std::string header = ExpectedHeader(HeaderKind::kV2, vip, vip);
  const size_t length = header.size() - 16 + rest.size();
  header[14] = static_cast<char>(length >> 8);
  header[15] = static_cast<char>(length & 0xff);
  return header + rest;
}

TEST_F(HeaderTraps, A8_ReceivedTlvsOfAnyLengthAndTypeAreRead) {
  for (const size_t length : {0u, 1u, 255u, 256u, 4000u}) {
    const std::string header = WithRest(vip_, Tlv(0xe7, length));
    const proxyproto::DecodeResult decoded =
        proxyproto::Decode(header + "payload");
    ASSERT_EQ(decoded.outcome, proxyproto::Outcome::kProxy) << decoded.error;
    EXPECT_EQ(decoded.header_length, header.size());
    proxyproto::TlvReader tlvs = decoded.tlvs;
    EXPECT_EQ(tlvs.Next()->value.size(), length);
  }
  // More than is ever buffered.
  std::string endless = WithRest(vip_, "");
  endless[14] = endless[15] = '\xff';
  EXPECT_EQ(proxyproto::Decode(endless).outcome, proxyproto::Outcome::kInvalid);
}

TEST_F(HeaderTraps, A9_ReceivedHeadersThatLie) {
  using proxyproto::Decode;
  using proxyproto::Outcome;
  std::string crossing = Tlv(1, 4);
  crossing[2] = 9;  // Longer than the header.
  EXPECT_EQ(Decode(WithRest(vip_, crossing)).outcome, Outcome::kInvalid);
  EXPECT_EQ(Decode(WithRest(vip_, "xy")).outcome, Outcome::kInvalid)
      << "TLVs must end with the header";

  std::string local = WithRest(vip_, "");
  local[12] = 0x20;  // LOCAL, with addresses: skipped by its length.
  EXPECT_EQ(Decode(local + "data").outcome, Outcome::kLocal);
  EXPECT_EQ(Decode(local + "data").header_length, local.size());
  std::string bare = local.substr(0, 16);
  bare[15] = 0;  // LOCAL with a family and nothing behind it.
  EXPECT_EQ(Decode(bare).outcome, Outcome::kLocal);

  for (const auto& [byte, outcome] :
       {std::pair(0x00, Outcome::kUnspec), std::pair(0x41, Outcome::kInvalid),
        std::pair(0x31, Outcome::kInvalid)}) {
    std::string family = WithRest(vip_, "");
    family[13] = static_cast<char>(byte);
    EXPECT_EQ(Decode(family).outcome, outcome) << byte;
  }
  std::string version = WithRest(vip_, "");
  version[12] = 0x31;
  EXPECT_EQ(Decode(version).outcome, Outcome::kInvalid);
}

TEST_F(HeaderTraps, A9_NoMutationMakesTheParserReadBeyondItsInput) {
  std::mt19937_64 random(9);
  const std::string valid = WithRest(vip6_, Tlv(5, 8) + Tlv(4, 0));
  for (int i = 0; i < 200000; ++i) {
    std::string bytes = valid;
    for (uint64_t flips = random() % 4 + 1; flips > 0; --flips) {
      bytes[random() % bytes.size()] = static_cast<char>(random());
    }
    bytes.resize(random() % (bytes.size() + 1));
    // A heap copy of its own, for the address sanitizer.
    const std::vector<char> exact(bytes.begin(), bytes.end());
    const proxyproto::DecodeResult decoded =
        proxyproto::Decode({exact.data(), exact.size()});
    ASSERT_LE(decoded.header_length, exact.size());
    ASSERT_EQ(decoded.outcome == proxyproto::Outcome::kInvalid,
              !decoded.error.empty());
  }
}

}  // namespace
}  // namespace headgate::testing
