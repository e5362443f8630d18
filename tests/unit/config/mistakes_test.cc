// Each mistake alone, and the one message it gets.
#include <gtest/gtest.h>

#include <ostream>

#include "tests/unit/config/config_texts.h"

namespace headgate::config {
namespace {

struct Mistake {
  const char* name;
  std::string text;
  std::vector<std::string> errors;
};
void PrintTo(const Mistake& mistake, std::ostream* out) {
  *out << mistake.text;
}
std::string Name(const ::testing::TestParamInfo<Mistake>& info) {
  return info.param.name;
}

class MistakeTest : public ::testing::TestWithParam<Mistake> {};

TEST_P(MistakeTest, GetsItsMessage) {
  EXPECT_EQ(ErrorsOf(GetParam().text), GetParam().errors);
}

// `line` becomes line 9 of the minimal configuration, part of the service.
Mistake InService(const char* name, absl::string_view line,
                  absl::string_view error) {
  return {name,
          absl::StrCat(kMinimal, "    ", line, "\n"),
          {absl::StrCat("9:", error)}};
}

INSTANTIATE_TEST_SUITE_P(
    Service, MistakeTest,
    ::testing::Values(
        InService("PanicThresholdAboveAll", "panic_threshold: 101",
                  "22: service smtp: panic_threshold: \"101\" is outside 0 to "
                  "100"),
        InService("PanicThresholdWithSign", "panic_threshold: 50%",
                  "22: service smtp: panic_threshold: \"50%\" is not a whole "
                  "number"),
        InService("LastResort", "last_resort: drain",
                  "18: service smtp: last_resort: unknown value \"drain\"; one "
                  "of: none, draining"),
        InService("BalanceByHaproxysName", "balance: leastconn",
                  "14: service smtp: balance: unknown value \"leastconn\"; one "
                  "of: round_robin, least_connections, maglev, source, first"),
        InService("NearlyAChoice", "balance: roundrobin",
                  "14: service smtp: balance: unknown value \"roundrobin\"; "
                  "did you mean \"round_robin\"?"),
        InService("NoChoice", "proxy_protocol: always",
                  "21: service smtp: proxy_protocol: unknown value "
                  "\"always\"; one of: none, v1, v2"),
        InService("NoCheckHeader", "health: {proxy_protocol: v2}",
                  "30: service smtp: health.proxy_protocol: unknown value "
                  "\"v2\"; one of: none, local, own"),
        InService("KeyOfAnotherType", "health: {type: imap, ehlo: a.b}",
                  "26: service smtp: health.ehlo: only for type smtp; the type "
                  "is imap"),
        InService("KeyOfAnotherAuto", "health: {path: /x}",
                  "14: service smtp: health.path: only for type http; the type "
                  "is auto, here smtp"),
        InService("TlsTwice", "health: {type: imap, tls: true, starttls: true}",
                  "37: service smtp: health.starttls: the connection is in TLS "
                  "from the start already"),
        InService("CertificateWithoutTls",
                  "health: {type: imap, min_certificate_days: 7}",
                  "26: service smtp: health.min_certificate_days: without TLS "
                  "there is no certificate; add tls: true or starttls: true"),
        InService("NoRegex", "health: {type: greeting, expect: \"(\"}",
                  "38: service smtp: health.expect: \"(\" is not a regular "
                  "expression (RE2): missing ): ("),
        InService("NoPath", "health: {type: http, path: healthz}",
                  "32: service smtp: health.path: \"healthz\" is not a path "
                  "such as /healthz"),
        InService("NoFieldName", "health: {type: http, weight_header: \"a b\"}",
                  "41: service smtp: health.weight_header: \"a b\" is not the "
                  "name of an HTTP header field such as "
                  "X-Load-Balancing-Endpoint-Weight"),
        InService(
            "NoServerName", "health: {type: tls, server_name: 192.0.2.1}",
            "38: service smtp: health.server_name: \"192.0.2.1\" is not a "
            "host name such as mail.example.com"),
        InService("NoEhlo", "health: {type: smtp, ehlo: \"a b\"}",
                  "32: service smtp: health.ehlo: \"a b\" is not 1 to 255 "
                  "visible ASCII characters without a space"),
        InService("NoSharing", "health: {share: pool}",
                  "21: service smtp: health.share: unknown value \"pool\"; one "
                  "of: none, group"),
        InService("NothingToShare", "health: {type: tcp, share: group}",
                  "32: service smtp: health.share: group is for checks that "
                  "talk to the server; the type is tcp"),
        InService("NoPostscreen", "health: {postscreen: some}",
                  "26: service smtp: health.postscreen: unknown value "
                  "\"some\"; one of: teaser, full"),
        InService("UnknownKey", "backlog: 5",
                  "5: service smtp: unknown key \"backlog\"; one of: listen, "
                  "pool, backend_port, datapath, balance, panic_threshold, "
                  "last_resort, proxy_protocol, health, timeouts, "
                  "max_connections, queue, on_no_backend, on_backend_down, "
                  "ejection, slow_start"),
        InService("UnknownKeyInSection", "health: {intervall: 5s}",
                  "14: service smtp: unknown key \"health.intervall\"; did you "
                  "mean \"interval\"?"),
        InService("DuplicateKey", "pool: mail",
                  "5: service smtp: duplicate key \"pool\"; first on line 8"),
        InService("DuplicateKeyInSection", "health: {rise: 1, rise: 2}",
                  "23: service smtp: duplicate key \"health.rise\"; first on "
                  "line 9"),
        InService("PortZero", "backend_port: 0",
                  "19: service smtp: backend_port: \"0\" is outside 1 to "
                  "65535"),
        InService("PortSigned", "backend_port: -1",
                  "19: service smtp: backend_port: \"-1\" is not a whole "
                  "number"),
        InService("PortOctal", "backend_port: 025",
                  "19: service smtp: backend_port: \"025\" is not a whole "
                  "number"),
        InService("PortTooManyDigits",
                  "health: {port: 99999999999999999999999}",
                  "20: service smtp: health.port: \"99999999999999999999999\" "
                  "is outside 1 to 65535"),
        InService("PortIsList", "backend_port: [25]",
                  "19: service smtp: backend_port: expected a single value, "
                  "found a list"),
        InService("PortIsMap", "backend_port: {a: 25}",
                  "19: service smtp: backend_port: expected a single value, "
                  "found a map"),
        InService("PortIsNothing", "backend_port:",
                  "5: service smtp: backend_port: expected a single value, "
                  "found nothing"),
        InService("SectionIsValue", "health: tcp",
                  "13: service smtp: health: expected a map, found a single "
                  "value"),
        InService("SectionIsNothing", "timeouts:",
                  "5: service smtp: timeouts: expected a map, found nothing"),
        InService("DurationWithoutUnit", "timeouts: {connect: 5}",
                  "25: service smtp: timeouts.connect: \"5\" has no unit; add "
                  "ms, s, m or h"),
        InService("DurationOfUnknownUnit", "timeouts: {idle: 1d}",
                  "22: service smtp: timeouts.idle: \"1d\" is not a duration "
                  "such as 500ms, 5s, 10m or 1h"),
        InService("DurationFraction", "timeouts: {idle: 1.5h}",
                  "22: service smtp: timeouts.idle: \"1.5h\" is not a duration "
                  "such as 500ms, 5s, 10m or 1h"),
        InService("ConnectTooLong", "timeouts: {connect: 301s}",
                  "25: service smtp: timeouts.connect: \"301s\" is outside "
                  "10ms to 5m"),
        InService("IdleTooShort", "timeouts: {idle: 999ms}",
                  "22: service smtp: timeouts.idle: \"999ms\" is outside 1s "
                  "to 168h"),
        InService("IdleOverflows", "timeouts: {idle: 18446744073709551615h}",
                  "22: service smtp: timeouts.idle: \"18446744073709551615h\" "
                  "is outside 1s to 168h"),
        InService("IntervalTooShort", "health: {interval: 99ms}",
                  "24: service smtp: health.interval: \"99ms\" is outside "
                  "100ms to 1h"),
        InService("FastIntervalTooShort", "health: {fast_interval: 99ms}",
                  "29: service smtp: health.fast_interval: \"99ms\" is outside "
                  "100ms to 1h"),
        InService("FastIntervalIsLonger", "health: {fast_interval: 6s}",
                  "29: service smtp: health.fast_interval: 6s is longer than "
                  "interval, 5s"),
        InService("DownIntervalTooLong", "health: {down_interval: 61m}",
                  "29: service smtp: health.down_interval: \"61m\" is outside "
                  "100ms to 1h"),
        InService("TimeoutTooLong", "health: {timeout: 61s}",
                  "23: service smtp: health.timeout: \"61s\" is outside 10ms "
                  "to 1m"),
        InService("RiseZero", "health: {rise: 0}",
                  "20: service smtp: health.rise: \"0\" is outside 1 to 100"),
        InService("FallTooHigh", "health: {fall: 101}",
                  "20: service smtp: health.fall: \"101\" is outside 1 to "
                  "100"),
        InService("TooManyConnections", "max_connections: 10000001",
                  "22: service smtp: max_connections: \"10000001\" is outside "
                  "0 to 10000000"),
        InService("QueueWithoutLimit", "queue: {size: 5}",
                  "5: service smtp: queue: nobody ever waits without "
                  "max_connections, here or of a backend of pool mail"),
        InService("NoAnswer", "on_no_backend: 421",
                  "20: service smtp: on_no_backend: unknown value \"421\"; "
                  "one of: reset, smtp_421, imap_bye"),
        InService("NoChoiceOnDown", "on_backend_down: drop",
                  "22: service smtp: on_backend_down: unknown value \"drop\"; "
                  "one of: keep, reset"),
        InService("GreetingTooLong", "timeouts: {greeting: 6m}",
                  "26: service smtp: timeouts.greeting: \"6m\" is outside "
                  "10ms to 5m"),
        InService("TryNextZero", "timeouts: {try_next: 0ms}",
                  "26: service smtp: timeouts.try_next: \"0ms\" is outside "
                  "10ms to 5m"),
        InService("EjectionSwitch", "ejection: on",
                  "15: service smtp: ejection: expected a map, found a single "
                  "value"),
        InService("EjectionWithoutValue", "ejection:",
                  "5: service smtp: ejection: expected a map, found nothing"),
        InService("EjectionUnknownKey", "ejection: {errors: 5}",
                  "16: service smtp: unknown key \"ejection.errors\"; one of: "
                  "failures, time, max_percent"),
        InService("EjectionAtOnce", "ejection: {failures: 0}",
                  "26: service smtp: ejection.failures: \"0\" is outside 1 to "
                  "1000"),
        InService("EjectionTooShort", "ejection: {time: 500ms}",
                  "22: service smtp: ejection.time: \"500ms\" is outside 1s "
                  "to 1h"),
        InService("EjectionOfMoreThanAll", "ejection: {max_percent: 101}",
                  "29: service smtp: ejection.max_percent: \"101\" is outside "
                  "1 to 100"),
        InService("SlowStartTooShort", "slow_start: 999ms",
                  "17: service smtp: slow_start: \"999ms\" is outside 1s to "
                  "1h"),
        InService("MergeKey", "<<: {backend_port: 25}",
                  "5: service smtp: merge keys are not supported"),
        InService("Tag", "backend_port: !!int 25",
                  "19: tags are not supported"),
        InService("Anchor", "backend_port: &port 25",
                  "19: anchors are not supported"),
        InService("EscapedNul", "backend_port: \"25\\0\"",
                  "19: control character in a value")),
    Name);

INSTANTIATE_TEST_SUITE_P(
    FailingBackends, MistakeTest,
    ::testing::Values(
        Mistake{"QueueWithoutSize",
                absl::StrCat(kMinimal,
                             "    max_connections: 1\n"
                             "    queue: {timeout: 5s}\n"),
                {"10:5: service smtp: missing key \"queue.size\""}},
        Mistake{"QueueOfNobody",
                absl::StrCat(kMinimal,
                             "    max_connections: 1\n"
                             "    queue: {size: 0}\n"),
                {"10:19: service smtp: queue.size: \"0\" is outside 1 to "
                 "1000000"}},
        // One mistake, one message.
        Mistake{"QueueBesideABadLimit",
                absl::StrCat(kMinimal,
                             "    max_connections: many\n"
                             "    queue: {size: 5}\n"),
                {"9:22: service smtp: max_connections: \"many\" is not a whole "
                 "number"}},
        Mistake{"LineWhereTlsComesFirst",
                absl::StrCat(kMinimal,
                             "  imaps:\n"
                             "    listen: [198.18.1.1:143, 198.18.1.1:993]\n"
                             "    pool: mail\n"
                             "    on_no_backend: imap_bye\n"),
                {"12:20: service imaps: on_no_backend: no client understands a "
                 "line in clear on 198.18.1.1:993, where TLS comes first; use "
                 "reset"}},
        Mistake{"GreetingWhereTlsComesFirst",
                absl::StrCat(kMinimal,
                             "  smtps:\n"
                             "    listen: \"[2001:db8::1]:465\"\n"
                             "    pool: mail\n"
                             "    timeouts: {greeting: 5s}\n"),
                {"12:26: service smtps: timeouts.greeting: no server speaks "
                 "first on [2001:db8::1]:465, where TLS comes first"}}),
    Name);

// `line` becomes line 9 of the minimal configuration, at the top.
Mistake AtTop(const char* name, absl::string_view line,
              absl::string_view error) {
  return {
      name, absl::StrCat(kMinimal, line, "\n"), {absl::StrCat("9:", error)}};
}

INSTANTIATE_TEST_SUITE_P(
    Top, MistakeTest,
    ::testing::Values(
        AtTop("UnknownKey", "service: {}",
              "1: unknown key \"service\"; did you mean \"services\"?"),
        AtTop("DuplicateKey", "services: {}",
              "1: duplicate key \"services\"; first on line 5"),
        AtTop("Workers", "workers: 257",
              "10: workers: \"257\" is outside 1 to 256"),
        AtTop("PacketInterface",
              "packet: {interfaces: [eth0/1], source: 198.18.2.1}",
              "23: packet.interfaces: \"eth0/1\" is not the name of a network "
              "interface (1 to 15 characters)"),
        AtTop("PacketInterfaceTwice",
              "packet: {interfaces: [e0, e0], source: 198.18.2.1}",
              "27: packet.interfaces: e0 is listed twice"),
        AtTop("PacketPorts",
              "packet: {interfaces: [e0], source: 198.18.2.1, ports: 80-90}",
              "55: packet.ports: expected FIRST-LAST, ports of 1024 to 65535, "
              "such as 10240-32767, not \"80-90\""),
        AtTop("PacketPortsBackwards",
              "packet: {interfaces: [e0], source: 198.18.2.1, "
              "ports: 3000-2000}",
              "55: packet.ports: expected FIRST-LAST, ports of 1024 to 65535, "
              "such as 10240-32767, not \"3000-2000\""),
        AtTop("PacketAttach",
              "packet: {interfaces: [e0], source: 198.18.2.1, attach: tcx}",
              "56: packet.attach: unknown value \"tcx\"; did you mean \"tc\"?"),
        AtTop("PacketWithoutSource", "packet: {interfaces: [e0]}",
              "1: missing key \"packet.source\""),
        AtTop("WorkersText", "workers: auto",
              "10: workers: \"auto\" is not a whole number"),
        AtTop("MetricsWithoutListen", "metrics: {}",
              "1: missing key \"metrics.listen\""),
        AtTop("MetricsIsNothing",
              "metrics:", "1: metrics: expected a map, found nothing"),
        AtTop("MetricsMisspelt", "metrics: {lisen: 127.0.0.1:9140}",
              "11: unknown key \"metrics.lisen\"; did you mean \"listen\"?"),
        AtTop("MetricsOverlap", "metrics: {listen: 198.18.1.1:25}",
              "19: metrics: listen: 198.18.1.1:25 overlaps 198.18.1.1:25 of "
              "service smtp on line 7"),
        AtTop("SpliceMode", "splice: {mode: never}",
              "16: splice.mode: unknown value \"never\"; one of: auto, always, "
              "off"),
        AtTop("SizeUnit", "splice: {promote_after: 256KB}",
              "25: splice.promote_after: \"256KB\" is not a size in bytes, "
              "KiB, MiB or GiB, such as 256KiB"),
        AtTop("PromoteTooLarge", "splice: {promote_after: 2GiB}",
              "25: splice.promote_after: \"2GiB\" is outside 0 to 1GiB"),
        AtTop("BacklogTooSmall", "splice: {backlog_per_connection: 65535}",
              "34: splice.backlog_per_connection: \"65535\" is outside 64KiB "
              "to 1GiB"),
        AtTop("BacklogTotalBelowOne",
              "splice: {backlog_per_connection: 4MiB, backlog_total: 2MiB}",
              "55: splice.backlog_total: less than backlog_per_connection; no "
              "connection would be spliced (splice.mode: off says so)"),
        Mistake{"Tab",
                absl::StrCat(kMinimal, "splice:\n\tmode: auto\n"),
                {"10:6: YAML: illegal map value; YAML is indented with spaces, "
                 "not with tabs"}},
        AtTop("TwoDocuments", "---\nworkers: 1",
              "1: the YAML document ends before this; only one is allowed"),
        AtTop("ListAsKey", "[a, b]: 1",
              "1: a key must be a single word (an IPv6 address needs quotes)"),
        AtTop("EndOfFileByte", "# \x04\nworkers: 0",
              "3: control character; is this a text file in UTF-8?"),
        AtTop("Syntax", "workers: {1: }]", "15: YAML: illegal flow end")),
    Name);

// A backend on line 4 of the minimal configuration.
Mistake OnBackend(const char* name, absl::string_view backend,
                  absl::string_view error) {
  return {name,
          absl::StrCat("pools:\n  mail:\n    backends:\n      - ", backend,
                       "\n", kMinimal.substr(kMinimal.find("services"))),
          {absl::StrCat("4:", error)}};
}

// `source: VALUE` on line 3 of the minimal configuration.
Mistake OnSource(const char* name, absl::string_view value,
                 absl::string_view error) {
  std::string text(kMinimal);
  text.insert(text.find("    backends"),
              absl::StrCat("    source: ", value, "\n"));
  return {name, text, {absl::StrCat("3:", error)}};
}

std::string ManySources() {
  std::string list = "[";
  for (int i = 1; i <= 65; ++i) absl::StrAppend(&list, "198.18.2.", i, ", ");
  return list + "]";
}

INSTANTIATE_TEST_SUITE_P(
    Source, MistakeTest,
    ::testing::Values(
        OnSource("Empty", "[]",
                 "5: pool mail: source: at least one address is needed"),
        OnSource("IsMap", "{a: 1}",
                 "13: pool mail: source: expected a list, found a map"),
        OnSource("Port", "[198.18.2.1:1024]",
                 "14: pool mail: source: \"198.18.2.1:1024\" has a port; "
                 "connections take any that is free"),
        OnSource("Interface", "[eth0]",
                 "14: pool mail: source: \"eth0\" is not an IP address of "
                 "this machine"),
        OnSource("Unspecified", "[198.18.2.1, 0.0.0.0]",
                 "26: pool mail: source: \"0.0.0.0\" is no address to connect "
                 "from"),
        OnSource("Multicast", "[\"ff02::1\"]",
                 "14: pool mail: source: \"ff02::1\" is no address to connect "
                 "from"),
        OnSource("LinkLocal", "[\"fe80::1\"]",
                 "14: pool mail: source: \"fe80::1\" is a link-local address, "
                 "which needs an interface; use a global one"),
        OnSource("Twice", "[198.18.2.1, \"::ffff:198.18.2.1\"]",
                 "26: pool mail: source: 198.18.2.1 is listed twice"),
        OnSource("TooMany", ManySources(),
                 "837: pool mail: source: more than 64; the rest is not read"),
        OnSource("OtherFamily", "[\"2001:db8:2::1\"]",
                 "5: pool mail: source: no IPv4 address in it, which backend a "
                 "needs")),
    Name);

INSTANTIATE_TEST_SUITE_P(
    Backend, MistakeTest,
    ::testing::Values(
        OnBackend("IsValue", "198.18.2.1:25",
                  "9: pool mail: backend: expected a map, found a single "
                  "value"),
        OnBackend("WithoutName", "{address: 198.18.2.1:25}",
                  "9: pool mail: backend: missing key \"name\""),
        OnBackend("WithoutAddress", "{name: a}",
                  "9: pool mail: backend a: missing key \"address\""),
        OnBackend("AddressMisspelt", "{name: a, adress: 198.18.2.1:25}",
                  "19: pool mail: backend a: unknown key \"adress\"; did you "
                  "mean \"address\"?"),
        OnBackend("BadName", "{name: -a, address: 198.18.2.1:25}",
                  "16: pool mail: backend -a: name: \"-a\" is not a name: 1 to "
                  "63 letters, digits, '_', '.' or '-', and neither '.' nor "
                  "'-' first"),
        OnBackend("HostName", "{name: a, address: mx.example.org:25}",
                  "28: pool mail: backend a: address: \"mx.example.org:25\" is "
                  "not an IP address; host names are not resolved"),
        OnBackend("HostNameLikeHex", "{name: a, address: cafe}",
                  "28: pool mail: backend a: address: \"cafe\" is not an IP "
                  "address; host names are not resolved"),
        OnBackend("PortTooHigh", "{name: a, address: 198.18.2.1:65536}",
                  "28: pool mail: backend a: address: \"198.18.2.1:65536\" has "
                  "a port outside 1 to 65535; use 192.0.2.1:25 or "
                  "\"[2001:db8::1]:25\""),
        OnBackend("Ipv6PortWithoutBrackets",
                  "{name: a, address: \"2001:db8::9:30125\"}",
                  "28: pool mail: backend a: address: \"2001:db8::9:30125\" "
                  "has an IPv6 address without brackets; use 192.0.2.1:25 or "
                  "\"[2001:db8::1]:25\""),
        OnBackend("Unspecified", "{name: a, address: 0.0.0.0:25}",
                  "28: pool mail: backend a: address: \"0.0.0.0:25\" is no "
                  "address to connect to"),
        OnBackend("Weight", "{name: a, address: 198.18.2.1:25, weight: 257}",
                  "51: pool mail: backend a: weight: \"257\" is outside 0 to "
                  "256"),
        OnBackend("MaxConnections",
                  "{name: a, address: 198.18.2.1:25, max_connections: -1}",
                  "60: pool mail: backend a: max_connections: \"-1\" is not a "
                  "whole number"),
        OnBackend("Backup", "{name: a, address: 198.18.2.1:25, backup: yes}",
                  "51: pool mail: backend a: backup: \"yes\" is neither true "
                  "nor false")),
    Name);

INSTANTIATE_TEST_SUITE_P(
    File, MistakeTest,
    ::testing::Values(
        Mistake{"Empty", "", {"1:1: missing key \"services\""}},
        Mistake{"OnlyComments", "# none\n", {"1:1: missing key \"services\""}},
        // yaml-cpp alone would look for its end forever.
        Mistake{"BeginsWithComma",
                ", a: 1",
                {"1:1: the YAML document ends before this; only one is "
                 "allowed"}},
        Mistake{
            "IsValue", "hello", {"1:1: expected a map, found a single value"}},
        Mistake{"IsList", "- a", {"1:1: expected a map, found a list"}},
        Mistake{"NoServices",
                absl::StrCat(kMinimal.substr(0, kMinimal.find("services")),
                             "services: {}\n"),
                {"5:1: services: at least one service is needed"}},
        Mistake{"NoPools",
                std::string(kMinimal.substr(kMinimal.find("services"))),
                {"1:1: missing key \"pools\""}},
        Mistake{"EmptyPools",
                absl::StrCat("pools:\n",
                             kMinimal.substr(kMinimal.find("services"))),
                {"1:1: pools: at least one pool is needed"}},
        Mistake{"PoolsMisspelt",
                absl::StrCat("pool", kMinimal.substr(5)),
                {"1:1: unknown key \"pool\"; did you mean \"pools\"?"}},
        Mistake{"NoBackends",
                "pools:\n  mail: {backends: []}\nservices:\n"
                "  smtp: {listen: 198.18.1.1:25, pool: mail}\n",
                {"2:10: pool mail: backends: at least one backend is needed"}},
        Mistake{"DuplicateBackend",
                "pools:\n  mail:\n    backends:\n"
                "      - {name: a, address: 198.18.2.1:25}\n"
                "      - {name: a, address: 198.18.2.2:25}\n"
                "services:\n  smtp: {listen: 198.18.1.1:25, pool: mail}\n",
                {"5:9: pool mail: duplicate backend \"a\"; first on line 4"}},
        Mistake{"NoBackendPort",
                "pools:\n  mail:\n    backends:\n"
                "      - {name: a, address: 198.18.2.1:25}\n"
                "      - {name: b, address: \"[2001:db8::1]\"}\n"
                "services:\n  smtp: {listen: 198.18.1.1:25, pool: mail}\n",
                {"7:3: service smtp: missing key \"backend_port\": backend b "
                 "of pool mail has no port of its own"}},
        Mistake{"BackendPortMisspelt",
                "pools:\n  mail: {backends: [{name: b, address: ::1}]}\n"
                "services:\n  smtp: {listen: 198.18.1.1:25, pool: mail, "
                "backend-port: 25}\n",
                {"4:45: service smtp: unknown key \"backend-port\"; did you "
                 "mean \"backend_port\"?"}},
        Mistake{"ListenMisspelt",
                "pools:\n  mail: {backends: [{name: b, address: ::1}]}\n"
                "services:\n  smtp: {lisen: 198.18.1.1:25, pool: mail, "
                "backend_port: 25}\n",
                {"4:10: service smtp: unknown key \"lisen\"; did you mean "
                 "\"listen\"?"}},
        Mistake{"BadServiceName",
                absl::StrCat(kMinimal,
                             "  .x: {listen: 198.18.1.2:25, pool: mail}\n"),
                {"9:3: services: \".x\" is not a name: 1 to 63 letters, "
                 "digits, '_', '.' or '-', and neither '.' nor '-' first"}},
        Mistake{"EmptyListen",
                absl::StrCat(kMinimal, "  x: {listen: [], pool: mail}\n"),
                {"9:7: service x: listen: at least one address is needed"}},
        Mistake{
            "ListenWithoutPort",
            absl::StrCat(kMinimal, "  x: {listen: [198.18.1.2], pool: mail}\n"),
            {"9:16: service x: listen: \"198.18.1.2\" has no port; use "
             "192.0.2.1:25 or \"[2001:db8::1]:25\""}},
        Mistake{"ListenUnquotedIpv6",
                absl::StrCat(kMinimal, "  x: {listen: [::1]:25, pool: mail}\n"),
                {"9:20: YAML: end of map flow not found; an IPv6 address needs "
                 "quotes: \"[2001:db8::1]:25\""}},
        Mistake{
            "ListenUnquotedIpv6InList",
            absl::StrCat(kMinimal, "  x: {listen: [[::1]:25], pool: mail}\n"),
            {"9:16: a key must be a single word (an IPv6 address needs "
             "quotes)"}},
        Mistake{"UnknownPoolNothingNear",
                absl::StrCat(kMinimal,
                             "  x: {listen: 198.18.1.2:25, pool: web-nodes}\n"),
                {"9:36: service x: pool: unknown pool \"web-nodes\"; one of: "
                 "mail"}},
        Mistake{"AliasIsOneMistake",
                absl::StrCat(kMinimal,
                             "  x: &x {listen: 198.18.1.2:25, pool: mail}\n"
                             "  y: *x\n"
                             "  z: {<<: *x}\n"),
                {"9:6: anchors are not supported",
                 "10:6: aliases are not supported; write the value out",
                 "11:11: aliases are not supported; write the value out"}}),
    Name);

INSTANTIATE_TEST_SUITE_P(
    Overlap, MistakeTest,
    ::testing::Values(
        Mistake{"Same",
                absl::StrCat(kMinimal,
                             "  x: {listen: 198.18.1.1:25, pool: mail}\n"),
                {"9:15: service x: listen: 198.18.1.1:25 overlaps "
                 "198.18.1.1:25 of service smtp on line 7"}},
        Mistake{"Mapped",
                absl::StrCat(kMinimal,
                             "  x: {listen: \"[::ffff:198.18.1.1]:25"
                             "\", pool: mail}\n"),
                {"9:15: service x: listen: 198.18.1.1:25 overlaps "
                 "198.18.1.1:25 of service smtp on line 7"}},
        Mistake{
            "LaterWildcard",
            absl::StrCat(kMinimal, "  x: {listen: 0.0.0.0:25, pool: mail}\n"),
            {"9:15: service x: listen: 0.0.0.0:25 overlaps 198.18.1.1:25 "
             "of service smtp on line 7"}},
        // In file order, whatever the order of the names.
        Mistake{"EarlierWildcard",
                absl::StrCat(kMinimal,
                             "  b: {listen: \"[::]:25\", pool: mail}"
                             "\n  a: {listen: \"[::1]:25\", "
                             "pool: mail}\n"),
                {"10:15: service a: listen: [::1]:25 overlaps [::]:25 of "
                 "service b on line 9"}},
        Mistake{"WithinOneService",
                absl::StrCat(kMinimal,
                             "  x: {listen: [198.18.1.2:25, "
                             "198.18.1.2:25], pool: mail}\n"),
                {"9:31: service x: listen: 198.18.1.2:25 overlaps "
                 "198.18.1.2:25 of service x on line 9"}}),
    Name);

}  // namespace
// What the packet path cannot do, in a service at 7:3 that is on it.
Mistake OnPacketPath(const char* name, absl::string_view service,
                     absl::string_view problem) {
  return {name,
          absl::StrCat("packet: {interfaces: [e0], source: [198.18.2.1]}\n"
                       "pools:\n"
                       "  mail:\n"
                       "    backends:\n"
                       "      - {name: a, address: 198.18.2.1:25}\n"
                       "services:\n"
                       "  smtp:\n"
                       "    pool: mail\n"
                       "    datapath: packet\n",
                       service),
          {absl::StrCat("7:3: service smtp: datapath: packet ", problem)}};
}

INSTANTIATE_TEST_SUITE_P(
    Packet, MistakeTest,
    ::testing::Values(
        OnPacketPath("V1",
                     "    listen: 198.18.1.1:25\n    proxy_protocol: v1\n",
                     "sends proxy_protocol v2 or none, not v1"),
        OnPacketPath("Queue",
                     "    listen: 198.18.1.1:25\n    max_connections: 5\n"
                     "    queue: {size: 5}\n",
                     "has no queue"),
        OnPacketPath("Greeting",
                     "    listen: 198.18.1.1:25\n"
                     "    timeouts: {greeting: 5s}\n",
                     "has no timeouts.greeting"),
        OnPacketPath(
            "Connect",
            "    listen: 198.18.1.1:25\n    timeouts: {connect: 10s}\n",
            "has no timeouts.connect; another backend is tried at "
            "the client's next SYN"),
        OnPacketPath(
            "TryNext",
            "    listen: 198.18.1.1:25\n    timeouts: {try_next: 100ms}\n",
            "has no timeouts.try_next; another backend is tried at "
            "the client's next SYN"),
        OnPacketPath(
            "DeadPeer",
            "    listen: 198.18.1.1:25\n    timeouts: {dead_peer: 1m}\n",
            "has no timeouts.dead_peer, only idle"),
        OnPacketPath("Line",
                     "    listen: 198.18.1.1:25\n"
                     "    on_no_backend: smtp_421\n",
                     "only has on_no_backend: reset"),
        OnPacketPath("Wildcard", "    listen: 0.0.0.0:25\n",
                     "needs exact listen addresses, not 0.0.0.0:25"),
        Mistake{"PacketOtherFamily",
                "packet: {interfaces: [e0], source: [198.18.2.1]}\n"
                "pools:\n"
                "  mail:\n"
                "    backends:\n"
                "      - {name: a, address: 198.18.2.1:25}\n"
                "services:\n"
                "  smtp: {pool: mail, datapath: packet, "
                "listen: \"[2001:db8::1]:25\"}\n",
                {"7:3: service smtp: datapath: packet cannot take IPv6 clients "
                 "to backend a of pool mail, 198.18.2.1; it translates no "
                 "family into the other",
                 "7:3: service smtp: datapath: packet needs an IPv6 address in "
                 "packet.source"}},
        Mistake{"PacketWithoutSection",
                absl::StrCat(kMinimal, "    datapath: packet\n"),
                {"6:3: service smtp: datapath: packet needs a \"packet\" "
                 "section with interfaces and source"}}),
    Name);

}  // namespace headgate::config
