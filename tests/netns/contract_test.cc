// The names that scripts, dashboards and alerts rely on, seen from outside:
// JSON fields and their types, exit codes, metrics, map fields.
#include <gtest/gtest.h>
#include <unistd.h>

#include <tuple>
#include <utility>

#include "absl/strings/match.h"
#include "support/bpf_map.h"
#include "support/daemon.h"
#include "support/lab.h"
#include "support/load.h"
#include "support/server.h"
#include "support/tcp.h"
#include "support/wait.h"

namespace headgate::testing {
namespace {

using nlohmann::json;
using Type = json::value_t;

constexpr char kConfig[] = R"(
metrics: {listen: 127.0.0.1:9140}
packet: {interfaces: [e0, e1], source: [198.18.2.1], ports: 10240-32767}
pools:
  nodes:
    backends:
      - {name: one, address: 198.18.2.11}
      - {name: two, address: 198.18.2.12}
services:
  smtp:
    listen: [198.18.1.1:25, "[2001:db8:1::1]:25"]
    pool: nodes
    backend_port: 30125
    health: {type: tcp, interval: 200ms, timeout: 100ms, rise: 1, fall: 1}
  imap:
    listen: [198.18.1.1:143]
    pool: nodes
    backend_port: 30125
    datapath: relay
    health: {type: tcp, interval: 200ms, timeout: 100ms, rise: 1, fall: 1}
  held:
    listen: [198.18.1.1:993]
    pool: nodes
    backend_port: 30125
    datapath: relay
    health: {type: none}
  submission:
    listen: [198.18.1.1:587]
    pool: nodes
    backend_port: 30125
    datapath: packet
    health: {type: tcp, interval: 200ms, timeout: 100ms, rise: 1, fall: 1}
  held-packet:
    listen: [198.18.1.1:465]
    pool: nodes
    backend_port: 30125
    datapath: packet
    health: {type: none}
)";

constexpr size_t kSmtpConnections = 60;
constexpr size_t kImapConnections = 40;
constexpr size_t kPacketConnections = 20;
const std::string kSent(100, 'q');
constexpr char kGreeting[] = "220 ok\r\n";

// Shared by all tests: none of them changes what another one counts.
class ContractTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    lab_ = new Lab;
    Shell(
        "ip netns exec edge sysctl -qw "
        "net.ipv4.ip_local_reserved_ports=10240-32767");
    server_ = new Server({At("198.18.2.11:30125")},
                         {.greeting = kGreeting, .echo = true});
    daemon_ = new Daemon(kConfig);
    EXPECT_TRUE(daemon_->WaitBackendState("smtp", "one", "up"));
    EXPECT_TRUE(daemon_->WaitBackendState("smtp", "two", "down"));
    EXPECT_TRUE(daemon_->WaitBackendState("imap", "two", "down"));
    EXPECT_TRUE(daemon_->WaitBackendState("submission", "two", "down"));
    Load("198.18.1.1:25", kSmtpConnections / 2);
    Load("[2001:db8:1::1]:25", kSmtpConnections / 2);
    Load("198.18.1.1:143", kImapConnections);
    Load("198.18.1.1:587", kPacketConnections);
    EXPECT_TRUE(WaitUntil(absl::Seconds(5),
                          [] { return daemon_->ActiveConnections() == 0; }));
  }
  static void TearDownTestSuite() {
    delete daemon_;
    delete server_;
    delete lab_;
  }
  static void Load(const std::string& target, size_t total) {
    const LoadReport report = RunLoad({.target = At(target),
                                       .total = total,
                                       .send = kSent,
                                       .expect = kGreeting + kSent});
    EXPECT_EQ(report.ok, total) << report.ToString();
  }
  static int Exit(const std::vector<std::string>& args) {
    return daemon_->Ctl(args).exit_code;
  }

  static Lab* lab_;
  static Server* server_;
  static Daemon* daemon_;
};
Lab* ContractTest::lab_ = nullptr;
Server* ContractTest::server_ = nullptr;
Daemon* ContractTest::daemon_ = nullptr;

// Every name is there and has the type; `number` stands for any number.
void ExpectFields(const json& object,
                  const std::vector<std::pair<const char*, Type>>& fields) {
  for (const auto& [name, type] : fields) {
    const auto found = object.find(name);
    if (found == object.end()) {
      ADD_FAILURE() << name << " is missing in " << object;
      continue;
    }
    const bool integer = type == Type::number_unsigned;
    EXPECT_TRUE(integer                      ? found->is_number_integer()
                : type == Type::number_float ? found->is_number()
                                             : found->type() == type)
        << name << " is " << *found;
  }
}

constexpr Type kText = Type::string;
constexpr Type kInteger = Type::number_unsigned;
constexpr Type kNumber = Type::number_float;
constexpr Type kBool = Type::boolean;

// RFC 3339: 2024-06-07T08:09:10Z, with a fraction or an offset.
bool IsTime(const json& value) {
  const std::string text = value.get<std::string>();
  return text.size() >= 20 && text[4] == '-' && text[10] == 'T' &&
         text[13] == ':' &&
         (text.back() == 'Z' || text[text.size() - 6] == '+' ||
          text[text.size() - 6] == '-');
}

TEST_F(ContractTest, Status) {
  json status = daemon_->Json({"status"});
  ExpectFields(status, {{"version", kText},
                        {"ready", kBool},
                        {"services", kInteger},
                        {"backends_up", kInteger},
                        {"backends_total", kInteger},
                        {"connections_active", kInteger},
                        {"datapaths", Type::object}});
  ExpectFields(status["datapaths"], {{"splice", kBool}, {"packet", kBool}});
  EXPECT_EQ(status["ready"], true);
  EXPECT_EQ(status["datapaths"]["packet"], true);
  EXPECT_EQ(status["services"], 5);
  EXPECT_EQ(status["backends_up"], 7);  // Unchecked ones are up.
  EXPECT_EQ(status["backends_total"], 10);
  EXPECT_EQ(Exit({"status", "--wait", "--timeout=5s"}), 0);
}

TEST_F(ContractTest, Services) {
  json smtp = daemon_->Service("smtp");
  ExpectFields(smtp, {{"name", kText},
                      {"listen", Type::array},
                      {"pool", kText},
                      {"datapath", kText},
                      {"balance", kText},
                      {"backends_up", kInteger},
                      {"backends_total", kInteger},
                      {"connections_active", kInteger},
                      {"connections_total", kInteger},
                      {"queue_length", kInteger},
                      {"bytes_in_total", kInteger},
                      {"bytes_out_total", kInteger}});
  EXPECT_EQ(smtp["listen"], json({"198.18.1.1:25", "[2001:db8:1::1]:25"}));
  EXPECT_EQ(smtp["datapath"], "splice");
  EXPECT_EQ(smtp["balance"], "round_robin");
  EXPECT_EQ(daemon_->Service("submission")["datapath"], "packet");
  // Payload only: the header is not counted.
  for (const auto& [name, connections] :
       {std::pair("smtp", kSmtpConnections),
        std::pair("submission", kPacketConnections)}) {
    json service = daemon_->Service(name);
    EXPECT_EQ(service["connections_total"], connections);
    EXPECT_EQ(service["bytes_in_total"], connections * kSent.size());
    EXPECT_EQ(service["bytes_out_total"],
              connections * (kSent.size() + sizeof kGreeting - 1));
  }
  const HttpResponse api = daemon_->Api("GET", "/v1/services");
  EXPECT_EQ(api.status, 200);
  EXPECT_EQ(api.content_type.rfind("application/json", 0), 0u);
  EXPECT_EQ(json::parse(api.body, nullptr, false),
            daemon_->Json({"service", "list"}));
}

TEST_F(ContractTest, Backends) {
  EXPECT_EQ(daemon_->Json({"backend", "list"})["backends"].size(), 10u);
  EXPECT_EQ(
      daemon_->Json({"backend", "list", "--service=imap"})["backends"].size(),
      2u);
  for (const char* name : {"one", "two"}) {
    json backend = daemon_->Backend("smtp", name);
    ExpectFields(backend, {{"service", kText},
                           {"name", kText},
                           {"address", kText},
                           {"state", kText},
                           {"admin", kText},
                           {"weight", kInteger},
                           {"connections_active", kInteger},
                           {"connections_total", kInteger},
                           {"last_check", Type::object}});
    ExpectFields(backend["last_check"], {{"result", kText},
                                         {"detail", kText},
                                         {"duration_seconds", kNumber},
                                         {"time", kText}});
    EXPECT_TRUE(IsTime(backend["last_check"]["time"])) << backend;
  }
  EXPECT_EQ(daemon_->Backend("smtp", "one")["address"], "198.18.2.11:30125");
  EXPECT_EQ(daemon_->Backend("smtp", "one")["connections_total"],
            kSmtpConnections);
}

TEST_F(ContractTest, Connections) {
  for (const auto& [service, datapath, at] :
       {std::tuple("held", "relay", "198.18.1.1:993"),
        std::tuple("held-packet", "packet", "198.18.1.1:465")}) {
    TcpSocket socket = TcpSocket::Connect(kClient, At(at));
    ASSERT_EQ(socket.Receive(8), kGreeting);
    json list = daemon_->Json(
        {"conn", "list", absl::StrCat("--service=", service)})["connections"];
    ASSERT_EQ(list.size(), 1u) << list;
    ExpectFields(list[0], {{"id", kInteger},
                           {"service", kText},
                           {"backend", kText},
                           {"client", kText},
                           {"datapath", kText},
                           {"age_seconds", kNumber},
                           {"idle_seconds", kNumber},
                           {"bytes_in", kInteger},
                           {"bytes_out", kInteger}});
    EXPECT_EQ(list[0]["client"], LocalEndpoint(socket.fd()).ToString());
    EXPECT_EQ(list[0]["datapath"], datapath);
    EXPECT_EQ(list[0]["bytes_in"], 0);
    EXPECT_EQ(list[0]["bytes_out"], 8);
    EXPECT_TRUE(daemon_->Json({"conn", "list", "--service=smtp"})["connections"]
                    .empty());
    EXPECT_EQ(daemon_->ActiveConnections(), 1);
    EXPECT_EQ(Exit({"conn", "kill", list[0]["id"].dump()}), 0);
    EXPECT_EQ(socket.Receive(1), "");
    EXPECT_NE(socket.error(), ETIMEDOUT);
    EXPECT_TRUE(WaitUntil(absl::Seconds(5),
                          [] { return daemon_->ActiveConnections() == 0; }));
  }
}

TEST_F(ContractTest, ExitCodes) {
  EXPECT_EQ(Exit({"status"}), 0);
  EXPECT_EQ(Exit({"config", "check", "/run/headgate/absent.yaml"}), 1);
  EXPECT_EQ(Exit({}), 2);
  EXPECT_EQ(Exit({"backend", "explode"}), 2);
  EXPECT_EQ(Exit({"service", "list", "--no_such_flag"}), 2);
  EXPECT_EQ(
      RunCommand({Program("headgatectl"), "--socket=/run/absent", "status"})
          .exit_code,
      3);
  EXPECT_EQ(Exit({"backend", "drain", "smtp/nobody"}), 4);
  EXPECT_EQ(Exit({"conn", "kill", "999999999"}), 4);
  EXPECT_EQ(Exit({"backend", "list", "--service=nothing"}), 4);
  EXPECT_EQ(RunCommand({Program("headgatectl"), "--socket=/run/absent",
                        "status", "--wait", "--timeout=200ms"})
                .exit_code,
            6);
}

TEST_F(ContractTest, OthersThanRootMayNotControl) {
  const ProcessResult result =
      RunCommand({"setpriv", "--reuid=65534", "--regid=65534", "--clear-groups",
                  Program("headgatectl"), "--socket=" + daemon_->socket_path(),
                  "backend", "drain", "smtp/one"});
  EXPECT_EQ(result.exit_code, 5) << result.err;
  EXPECT_EQ(daemon_->Backend("smtp", "one")["admin"], "ready");
}

TEST_F(ContractTest, Metrics) {
  const MetricMap metrics = daemon_->Metrics();
  const std::map<std::string, double> expected = {
      {"headgate_connections_total{service=\"smtp\"}", kSmtpConnections},
      {"headgate_connections_total{service=\"imap\"}", kImapConnections},
      {"headgate_connections_total{service=\"submission\"}",
       kPacketConnections},
      {"headgate_connections_active{service=\"smtp\"}", 0},
      {"headgate_bytes_total{direction=\"in\",service=\"imap\"}",
       static_cast<double>(kImapConnections * kSent.size())},
      {"headgate_bytes_total{direction=\"in\",service=\"submission\"}",
       static_cast<double>(kPacketConnections * kSent.size())},
      {"headgate_backend_up{backend=\"one\",service=\"smtp\"}", 1},
      {"headgate_backend_up{backend=\"two\",service=\"smtp\"}", 0},
      {"headgate_backend_state{backend=\"one\",service=\"smtp\",state=\"up\"}",
       1},
      {"headgate_backend_state{backend=\"one\",service=\"smtp\","
       "state=\"down\"}",
       0},
      {"headgate_backend_state{backend=\"two\",service=\"smtp\","
       "state=\"down\"}",
       1},
      {"headgate_connect_failures_total{backend=\"one\",reason=\"refused\","
       "service=\"smtp\"}",
       0},
      {"headgate_connect_failures_total{backend=\"one\",reason=\"refused\","
       "service=\"submission\"}",
       0},
      {"headgate_connect_failures_total{backend=\"one\",reason="
       "\"overtaken\",service=\"submission\"}",
       0},
      {"headgate_drops_total{reason=\"flow_table_full\"}", 0},
      {"headgate_drops_total{reason=\"failed\"}", 0},
  };
  for (const auto& [series, value] : expected) {
    const auto found = metrics.find(series);
    ASSERT_NE(found, metrics.end()) << series << " is missing";
    EXPECT_EQ(found->second, value) << series;
  }
  double fallbacks = 0, connections = 0;
  for (const auto& [series, value] : metrics) {
    if (absl::StartsWith(series, "headgate_splice_fallbacks_total{reason=")) {
      fallbacks += value;
    }
    if (absl::StartsWith(series, "headgate_connections_total{") &&
        series.find("packet") == std::string::npos &&
        series.find("submission") == std::string::npos) {
      connections += value;
    }
  }
  // None of those that have sockets moved enough to be spliced, and each says
  // why.
  EXPECT_EQ(fallbacks, connections);
  EXPECT_TRUE(absl::StrContains(daemon_->MetricsText(),
                                "# TYPE headgate_drops_total counter"));
}

TEST_F(ContractTest, PromtoolFindsNothing) {
  const ProcessResult result =
      RunCommand({"promtool", "check", "metrics"}, daemon_->MetricsText());
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_EQ(result.out + result.err, "");
}

TEST_F(ContractTest, CountersInMapsAgreeWithCtlAndMetrics) {
  const std::vector<json> stats = DumpMap(daemon_->pin_dir(), "service_stats");
  int64_t connections = 0, bytes_in = 0, bytes_out = 0;
  json list = daemon_->Json({"service", "list"});
  for (const json& service : list["services"]) {
    connections += service["connections_total"].get<int64_t>();
    bytes_in += service["bytes_in_total"].get<int64_t>();
    bytes_out += service["bytes_out_total"].get<int64_t>();
  }
  EXPECT_EQ(SumMapField(stats, "connections_total"), connections);
  const std::vector<json> packet = DumpMap(daemon_->pin_dir(), "packet_bytes");
  EXPECT_EQ(SumMapField(stats, "bytes_in") + SumMapField(packet, "in"),
            bytes_in);
  EXPECT_EQ(SumMapField(stats, "bytes_out") + SumMapField(packet, "out"),
            bytes_out);
  double metric = 0;
  for (const auto& [series, value] : daemon_->Metrics()) {
    if (absl::StartsWith(series, "headgate_connections_total{")) {
      metric += value;
    }
  }
  EXPECT_EQ(metric, static_cast<double>(connections));
}

}  // namespace
}  // namespace headgate::testing
