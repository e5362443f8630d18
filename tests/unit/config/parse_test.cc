#include "config/parse.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "tests/unit/config/config_texts.h"

namespace headgate::config {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

Endpoint At(absl::string_view text) { return Endpoint::Parse(text).value(); }

TEST(ParseTest, ReadsTheDocumentedExample) {
  ASSERT_THAT(ErrorsOf(kExample), IsEmpty());
  const Config config = Parse(kExample).config;

  EXPECT_EQ(config.metrics_listen, At("127.0.0.1:9140"));
  EXPECT_EQ(config.workers, std::nullopt);
  EXPECT_EQ(config.splice, Splice());

  const std::vector<Backend> backends = {
      {"k8s-node1", At("198.18.2.11:1").address, std::nullopt, 1, false},
      {"k8s-node2", At("198.18.2.12:1").address, std::nullopt, 2, false},
      {"spare", At("[2001:db8:2::9]:1").address, 30125, 1, true},
  };
  ASSERT_EQ(config.pools.size(), 1u);
  EXPECT_EQ(config.pools.at("mail-nodes").backends, backends);

  Service smtp;
  smtp.name = "smtp";
  smtp.listen = {At("198.18.1.1:25"), At("[2001:db8:1::1]:25")};
  smtp.pool = "mail-nodes";
  smtp.backend_port = 30125;
  smtp.health.type = HealthType::kTcp;
  smtp.health.port = 30145;
  smtp.health.proxy_protocol = CheckHeader::kNone;
  smtp.health.timeout = absl::Seconds(2);
  ASSERT_EQ(config.services.size(), 1u);
  EXPECT_EQ(config.services.at("smtp"), smtp);
}

TEST(ParseTest, ReadsEveryKeyThatHasADefault) {
  const std::string text = absl::StrCat(kMinimal, R"(    datapath: relay
    balance: least_connections
    panic_threshold: 100
    last_resort: draining
    proxy_protocol: none
    health:
      type: none
      proxy_protocol: own
      interval: 100ms
      timeout: 1m
      rise: 100
      fall: 1
    timeouts: {connect: 10ms, try_next: 5m, greeting: 10ms, idle: 168h,
               dead_peer: 1s}
    max_connections: 10000000
    queue: {size: 1000000, timeout: 100ms}
    on_no_backend: imap_bye
    on_backend_down: reset
    ejection: {failures: 1000, time: 1s, max_percent: 100}
    slow_start: 30s
workers: 256
splice: {mode: "off", promote_after: 0, backlog_per_connection: 64KiB,
         backlog_total: 1MiB}
)");
  ASSERT_THAT(ErrorsOf(text), IsEmpty());
  const Config config = Parse(text).config;
  const Service& smtp = config.services.at("smtp");
  EXPECT_EQ(smtp.datapath, Datapath::kRelay);
  EXPECT_EQ(smtp.balance, Balance::kLeastConnections);
  EXPECT_EQ(smtp.panic_threshold, 100u);
  EXPECT_EQ(smtp.last_resort, LastResort::kDraining);
  EXPECT_EQ(smtp.proxy_protocol, ProxyProtocol::kNone);
  Health health;
  health.type = HealthType::kNone;
  health.proxy_protocol = CheckHeader::kOwn;
  health.interval = absl::Milliseconds(100);
  health.timeout = absl::Minutes(1);
  health.rise = 100;
  health.fall = 1;
  EXPECT_EQ(smtp.health, health);
  EXPECT_EQ(smtp.connect_timeout, absl::Milliseconds(10));
  EXPECT_EQ(smtp.try_next_timeout, absl::Minutes(5));
  EXPECT_EQ(smtp.greeting_timeout, absl::Milliseconds(10));
  EXPECT_EQ(smtp.idle_timeout, absl::Hours(168));
  EXPECT_EQ(smtp.dead_peer_timeout, absl::Seconds(1));
  EXPECT_EQ(smtp.max_connections, 10'000'000u);
  EXPECT_EQ(smtp.queue, (Queue{1'000'000, absl::Milliseconds(100)}));
  EXPECT_EQ(smtp.on_no_backend, NoBackend::kImapBye);
  EXPECT_EQ(smtp.on_backend_down, BackendDown::kReset);
  EXPECT_EQ(smtp.ejection, (Ejection{1000, absl::Seconds(1), 100}));
  EXPECT_EQ(smtp.slow_start, absl::Seconds(30));
  EXPECT_EQ(config.workers, 256u);
  const Splice splice = {SpliceMode::kOff, 0, 64 * 1024, 1024 * 1024};
  EXPECT_EQ(config.splice, splice);
}

TEST(ParseTest, AnEmptyEjectionMeansItsDefaults) {
  EXPECT_EQ(Parse(kMinimal).config.services.at("smtp").ejection, std::nullopt);
  const std::string text = absl::StrCat(kMinimal, "    ejection: {}\n");
  ASSERT_THAT(ErrorsOf(text), IsEmpty());
  EXPECT_EQ(Parse(text).config.services.at("smtp").ejection,
            (Ejection{5, absl::Seconds(10), 50}));
}

// `source: ...` for the minimal configuration's pool.
std::string WithSource(absl::string_view value) {
  std::string text(kMinimal);
  return text.insert(text.find("    backends"),
                     absl::StrCat("    source: ", value, "\n"));
}

TEST(ParseTest, SourcesOfAPool) {
  const auto sources = [](const std::string& text) {
    EXPECT_THAT(ErrorsOf(text), IsEmpty());
    return Parse(text).config.pools.at("mail").source;
  };
  const IpAddress v4 = At("198.18.2.1:1").address;
  const IpAddress v6 = At("[2001:db8:2::1]:1").address;
  EXPECT_THAT(sources(std::string(kMinimal)), IsEmpty());
  EXPECT_THAT(sources(WithSource("198.18.2.1")), ElementsAre(v4));
  // One of a family that no backend has is no mistake.
  EXPECT_THAT(sources(WithSource("[\"2001:db8:2::1\", 198.18.2.1]")),
              ElementsAre(v6, v4));
  EXPECT_THAT(sources(WithSource("[\"::ffff:198.18.2.1\"]")), ElementsAre(v4));
}

TEST(ParseTest, ReadsEveryBalance) {
  const auto balance = [](absl::string_view name) {
    const std::string text =
        absl::StrCat(kMinimal, "    balance: ", name, "\n");
    EXPECT_THAT(ErrorsOf(text), IsEmpty());
    return Parse(text).config.services.at("smtp").balance;
  };
  EXPECT_EQ(balance("round_robin"), Balance::kRoundRobin);
  EXPECT_EQ(balance("least_connections"), Balance::kLeastConnections);
  EXPECT_EQ(balance("maglev"), Balance::kMaglev);
  EXPECT_EQ(balance("source"), Balance::kSource);
  EXPECT_EQ(balance("first"), Balance::kFirst);
}

TEST(ParseTest, ReadsABackendsLimit) {
  std::string text(kMinimal);
  text.replace(text.find(":25}"), 4, ":25, max_connections: 10000000}");
  ASSERT_THAT(ErrorsOf(text), IsEmpty());
  EXPECT_EQ(Parse(text).config.pools.at("mail").backends[0].max_connections,
            10'000'000u);
}

TEST(ParseTest, FourServicesShareOnePool) {
  std::string text(kMinimal);
  for (int port : {110, 143, 993}) {
    absl::StrAppend(&text, "  p", port, ": {listen: 198.18.1.1:", port,
                    ", pool: mail}\n");
  }
  ASSERT_THAT(ErrorsOf(text), IsEmpty());
  EXPECT_EQ(Parse(text).config.services.size(), 4u);
}

TEST(ParseTest, MappedListenerIsTheIpv4One) {
  const std::string text =
      absl::StrCat(kMinimal,
                   "  mapped: {listen: \"[::ffff:198.18.1.1]:26\", pool: "
                   "mail}\n");
  ASSERT_THAT(ErrorsOf(text), IsEmpty());
  EXPECT_THAT(Parse(text).config.services.at("mapped").listen,
              ElementsAre(At("198.18.1.1:26")));
}

TEST(ParseTest, ListenersThatDoNotOverlap) {
  const std::string text = absl::StrCat(kMinimal, R"(  other:
    listen:
      - 198.18.1.1:26          # another port
      - 198.18.1.2:25          # another address
      - "[::]:25"              # another family
    pool: mail
)");
  EXPECT_THAT(ErrorsOf(text), IsEmpty());
}

TEST(ParseTest, BackendPortIsNotNeededWhereAddressesHavePorts) {
  EXPECT_THAT(ErrorsOf(kMinimal), IsEmpty());
}

TEST(ParseTest, UnusedPoolIsNoError) {
  EXPECT_THAT(ErrorsOf(absl::StrCat("pools:\n  idle:\n    backends:\n"
                                    "      - {name: a, address: ::1}\n",
                                    kMinimal.substr(7))),
              IsEmpty());
}

TEST(ParseTest, TenMistakesGetTenMessages) {
  EXPECT_THAT(
      ErrorsOf(R"(metrics:
  listen: 127.0.0.1
workers: 0
pools:
  mail-nodes:
    backends:
      - {name: node1, address: mail.example.org}
      - {name: node2, address: 198.18.2.12:25, wieght: 2}
services:
  smtp:
    listen: 198.18.1.1:25
    pool: mail-node
    backend_port: 70000
    health: {interval: 10}
  imap:
    listen: ["198.18.1.1:143", 0.0.0.0:25]
    backend_port: 143
  smtp:
    pool: mail-nodes
)"),
      ElementsAre(
          "2:11: metrics.listen: \"127.0.0.1\" has no port; use 192.0.2.1:25 "
          "or \"[2001:db8::1]:25\"",
          "3:10: workers: \"0\" is outside 1 to 256",
          "7:32: pool mail-nodes: backend node1: address: \"mail.example.org\" "
          "is not an IP address; host names are not resolved",
          "8:48: pool mail-nodes: backend node2: unknown key \"wieght\"; did "
          "you mean \"weight\"?",
          "12:11: service smtp: pool: unknown pool \"mail-node\"; did you mean "
          "\"mail-nodes\"?",
          "13:19: service smtp: backend_port: \"70000\" is outside 1 to 65535",
          "14:24: service smtp: health.interval: \"10\" has no unit; add ms, "
          "s, m or h",
          "15:3: service imap: missing key \"pool\"",
          "16:32: service imap: listen: 0.0.0.0:25 overlaps 198.18.1.1:25 of "
          "service smtp on line 11",
          "18:3: services: duplicate key \"smtp\"; first on line 10"));
}

TEST(ParseTest, FormatIsWhatEditorsJumpTo) {
  EXPECT_EQ(Format("/etc/headgate.yaml", {3, 10, "workers: no"}),
            "/etc/headgate.yaml:3:10: error: workers: no");
}

TEST(ParseTest, MessagesAreShortAndEndBetweenCharacters) {
  std::string key;
  for (int i = 0; i < 200; ++i) key += "\xf0\x9f\x90\x9f";  // 4 bytes each
  const std::vector<std::string> errors =
      ErrorsOf(absl::StrCat(kMinimal, "\"", key, "\": 1\n"));
  ASSERT_EQ(errors.size(), 1u);
  EXPECT_LE(errors[0].size(), Errors::kMaxMessage + 5);
  const std::string start = "9:1: unknown key \"";
  ASSERT_EQ(errors[0].substr(0, start.size()), start);
  EXPECT_EQ(errors[0].substr(errors[0].size() - 7), "\xf0\x9f\x90\x9f...");
}

// A service `s<n>` for each n, each with its own port.
std::string Services(int count, absl::string_view pool) {
  std::string text = "services:\n";
  for (int n = 0; n < count; ++n) {
    absl::StrAppend(&text, "  s", n, ": {listen: 198.18.1.1:", 1000 + n,
                    ", pool: ", pool, "}\n");
  }
  return text;
}

std::string PoolOf(absl::string_view name, int backends) {
  std::string text = absl::StrCat("  ", name, ":\n    backends:\n");
  for (int n = 0; n < backends; ++n) {
    absl::StrAppend(&text, "      - {name: n", n, ", address: 10.0.", n / 250,
                    ".", n % 250 + 1, ":25}\n");
  }
  return text;
}

TEST(LimitTest, EachAllowsItsMaximum) {
  EXPECT_THAT(
      ErrorsOf(absl::StrCat("pools:\n", PoolOf("p", 16), Services(255, "p"))),
      IsEmpty());
  EXPECT_THAT(
      ErrorsOf(absl::StrCat("pools:\n", PoolOf("p", 512), Services(7, "p"))),
      IsEmpty());
}

TEST(LimitTest, Services) {
  EXPECT_THAT(
      ErrorsOf(absl::StrCat("pools:\n", PoolOf("p", 1), Services(256, "p"))),
      ElementsAre("261:3: services: more than 255; the rest is not read"));
}

TEST(LimitTest, Backends) {
  EXPECT_THAT(
      ErrorsOf(absl::StrCat("pools:\n", PoolOf("p", 513), Services(1, "p"))),
      ElementsAre("516:9: pool p: backends: more than 512; the rest is not "
                  "read"));
}

TEST(LimitTest, Pools) {
  std::string pools = "pools:\n";
  for (int n = 0; n < 256; ++n) pools += PoolOf(absl::StrCat("p", n), 1);
  EXPECT_THAT(ErrorsOf(pools + Services(1, "p0")),
              ElementsAre("767:3: pools: more than 255; the rest is not read"));
}

TEST(LimitTest, ListenAddresses) {
  std::string listen;
  for (int n = 0; n < 65; ++n)
    absl::StrAppend(&listen, "198.18.1.9:", n + 1, ", ");
  EXPECT_THAT(ErrorsOf(absl::StrCat(kMinimal, "  x:\n    pool: mail\n",
                                    "    listen: [", listen, "]\n")),
              ElementsAre("11:965: service x: listen: more than 64; the rest "
                          "is not read"));
}

// As many ports of each.
std::string PacketServicesAt(int addresses, int ports) {
  std::string text = absl::StrCat(
      "packet: {interfaces: [e0], source: [198.18.2.1]}\n", kMinimal);
  for (int n = 0; n < addresses; ++n) {
    if (n % (64 / ports) == 0) {
      absl::StrAppend(&text, "  s", n,
                      ":\n    pool: mail\n    datapath: packet\n"
                      "    listen:\n");
    }
    for (int port = 0; port < ports; ++port) {
      absl::StrAppend(&text, "      - 198.19.0.", n, ":", 25 + port, "\n");
    }
  }
  return text;
}

TEST(LimitTest, AddressesOfThePacketPath) {
  EXPECT_THAT(ErrorsOf(PacketServicesAt(254, 2)), IsEmpty());
  EXPECT_THAT(ErrorsOf(PacketServicesAt(255, 2)),
              ElementsAre("6:1: services: 256 addresses of the packet path, "
                          "packet.source included; at most 255"));
}

TEST(LimitTest, ListenersOfThePacketPath) {
  EXPECT_THAT(ErrorsOf(PacketServicesAt(64, 64)), IsEmpty());
  EXPECT_THAT(ErrorsOf(PacketServicesAt(65, 64)),
              ElementsAre("6:1: services: 4160 listen addresses and ports of "
                          "the packet path; at most 4096"));
}

TEST(LimitTest, BackendsOverAllServices) {
  EXPECT_THAT(
      ErrorsOf(absl::StrCat("pools:\n", PoolOf("p", 512), Services(8, "p"))),
      ElementsAre("516:1: services: 4096 backends, counted once for each "
                  "service; at most 4095"));
}

TEST(LimitTest, FileSize) {
  const std::string comment(1024 * 1024, '#');
  EXPECT_THAT(ErrorsOf(comment), ElementsAre("1:1: missing key \"services\""));
  EXPECT_THAT(ErrorsOf(comment + "#"),
              ElementsAre("1:1: more than 1048576 bytes"));
}

TEST(LimitTest, Levels) {
  const auto nested = [](size_t levels) {
    return ErrorsOf(absl::StrCat(kMinimal, "x: ", std::string(levels, '['),
                                 std::string(levels, ']'), "\n"));
  };
  EXPECT_THAT(nested(63), ElementsAre(::testing::StartsWith("9:1: unknown")));
  EXPECT_THAT(nested(64), ElementsAre("9:67: more than 64 levels"));
  EXPECT_THAT(nested(100'000), ElementsAre("9:67: more than 64 levels"));
}

TEST(ParseTest, AQueueMayBeForTheBackendsLimits) {
  const Parsed parsed = Parse(R"(
pools:
  mail:
    backends: [{name: a, address: "198.18.2.1:25", max_connections: 9}]
services:
  smtp: {listen: "198.18.1.1:25", pool: mail, queue: {size: 5}}
)");
  ASSERT_TRUE(parsed.errors.empty());
  EXPECT_EQ(parsed.config.services.at("smtp").queue->size, 5u);
}

}  // namespace
}  // namespace headgate::config
