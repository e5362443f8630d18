// The first bytes every backend sees, on every one of many connections: the
// client's real address and port, and the address and port it dialled.
#include "support/header.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <ostream>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/substitute.h"
#include "support/daemon.h"
#include "support/lab.h"
#include "support/load.h"
#include "support/server.h"
#include "support/wait.h"

namespace headgate::testing {
namespace {

constexpr char kConfig[] = R"(
pools:
  nodes:
    backends: [{name: one, address: "$0"}]
services:
  mail:
    listen: ["$1"]
    pool: nodes
    proxy_protocol: $2
    health: {type: none}
)";

struct Case {
  const char* name;
  HeaderKind kind;
  const char* kind_name;
  bool v6;
  bool client_first;  // Data right behind the handshake; else never a byte.
  size_t connections;
};

void PrintTo(const Case& tested, std::ostream* out) { *out << tested.name; }

const Case kCases[] = {
    {"V2Ip4ServerFirst", HeaderKind::kV2, "v2", false, false, 20000},
    {"V2Ip4ClientFirst", HeaderKind::kV2, "v2", false, true, 20000},
    {"V2Ip6ServerFirst", HeaderKind::kV2, "v2", true, false, 20000},
    {"V2Ip6ClientFirst", HeaderKind::kV2, "v2", true, true, 20000},
    {"V1Ip4ServerFirst", HeaderKind::kV1, "v1", false, false, 1000},
    {"V1Ip6ClientFirst", HeaderKind::kV1, "v1", true, true, 1000},
    {"NoneIp4ServerFirst", HeaderKind::kNone, "none", false, false, 1000},
    {"NoneIp6ClientFirst", HeaderKind::kNone, "none", true, true, 1000},
};

Endpoint Vip(bool v6) {
  return At(v6 ? "[2001:db8:1::1]:25" : "198.18.1.1:25");
}
Endpoint Node(bool v6) {
  return At(v6 ? "[2001:db8:2::11]:30125" : "198.18.2.11:30125");
}

std::string Config(bool v6, absl::string_view header) {
  return absl::Substitute(kConfig, Node(v6).ToString(), Vip(v6).ToString(),
                          header);
}

// HG_SOAK multiplies the connections by five.
size_t Connections(const Case& tested) {
  return tested.connections * (std::getenv("HG_SOAK") != nullptr ? 5 : 1);
}

// Both sorted. The headers that are in `left` only, in hex.
std::vector<std::string> Missing(const std::vector<std::string>& left,
                                 const std::vector<std::string>& right) {
  std::vector<std::string> result;
  std::set_difference(left.begin(), left.end(), right.begin(), right.end(),
                      std::back_inserter(result));
  for (std::string& header : result) header = absl::BytesToHexString(header);
  if (result.size() > 5) result.resize(5);
  return result;
}

class HeaderTest : public ::testing::TestWithParam<Case> {
 protected:
  Lab lab_;
};

TEST_P(HeaderTest, IsExactOnEveryConnection) {
  const Case& tested = GetParam();
  const size_t total = Connections(tested);
  Server server(
      {Node(tested.v6)},
      {.header = tested.kind, .greeting = "220 hello\r\n", .echo = true});
  Daemon daemon(Config(tested.v6, tested.kind_name));
  const std::string data = tested.client_first ? "EHLO client\r\n" : "";
  std::vector<IpAddress> sources;
  if (!tested.v6) {
    lab_.AddClientAddress("198.18.0.3");
    sources = {At("198.18.0.2:1").address, At("198.18.0.3:1").address};
  }
  const LoadReport report =
      RunLoad({.sources = sources,
               .target = Vip(tested.v6),
               .total = total,
               .send = data,
               .expect = absl::StrCat("220 hello\r\n", data)});
  EXPECT_EQ(report.ok, total) << report.ToString();

  std::vector<std::string> expected, seen;
  size_t split = 0;
  for (const Endpoint& client : report.locals) {
    expected.push_back(ExpectedHeader(tested.kind, client, Vip(tested.v6)));
  }
  for (const Accepted& accepted : server.TakeAccepted()) {
    seen.push_back(accepted.header);
    if (!accepted.in_one_recv) ++split;
  }
  std::sort(expected.begin(), expected.end());
  std::sort(seen.begin(), seen.end());
  EXPECT_EQ(Missing(expected, seen), std::vector<std::string>());
  EXPECT_EQ(Missing(seen, expected), std::vector<std::string>());
  EXPECT_EQ(split, 0u);
  EXPECT_TRUE(WaitUntil(absl::Seconds(5), [&] { return server.open() == 0; }));
}

INSTANTIATE_TEST_SUITE_P(All, HeaderTest, ::testing::ValuesIn(kCases),
                         [](const auto& tested) { return tested.param.name; });

class HeaderOrderTest : public ::testing::Test {
 protected:
  Lab lab_;
};

TEST_F(HeaderOrderTest, PrecedesAGreetingThatDoesNotWaitForIt) {
  Server server({Node(false)},
                {.greeting = "220 eager\r\n", .greets_before_header = true});
  Daemon daemon(Config(false, "v2"));
  const LoadReport report =
      RunLoad({.target = Vip(false), .total = 500, .expect = "220 eager\r\n"});
  EXPECT_EQ(report.ok, 500u) << report.ToString();
  EXPECT_TRUE(
      WaitUntil(absl::Seconds(5), [&] { return server.accepted() == 500; }));
  for (const Accepted& accepted : server.TakeAccepted()) {
    EXPECT_EQ(accepted.header.size(), 28u);
    EXPECT_TRUE(accepted.in_one_recv);
  }
}

TEST_F(HeaderOrderTest, OfTheClientsOwnIsPayloadBehindOurs) {
  Server server({Node(false)}, {.echo = true});
  Daemon daemon(Config(false, "v2"));
  for (HeaderKind kind : {HeaderKind::kV1, HeaderKind::kV2}) {
    const std::string forged =
        ExpectedHeader(kind, At("192.0.2.66:666"), At("198.18.1.1:25"));
    const LoadReport report =
        RunLoad({.target = Vip(false), .send = forged, .expect = forged});
    ASSERT_EQ(report.ok, 1u) << report.ToString();
    const std::vector<Accepted> accepted = server.TakeAccepted();
    ASSERT_EQ(accepted.size(), 1u);
    EXPECT_EQ(accepted[0].header,
              ExpectedHeader(HeaderKind::kV2, report.locals[0], Vip(false)));
  }
}

}  // namespace
}  // namespace headgate::testing
