#include "config/fields.h"

#include <algorithm>
#include <array>
#include <optional>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "config/values.h"

namespace headgate::config {
namespace {

template <typename T>
std::string Number(const std::optional<T>& value) {
  return value.has_value() ? absl::StrCat(*value) : "";
}

std::string Optional(const std::string& text) {
  return text.empty() ? "" : QuotedText(text);
}

std::string Optional(const std::optional<absl::Duration>& value) {
  return value.has_value() ? DurationText(*value) : "";
}

std::string Text(bool value) { return value ? "true" : "false"; }

// Keys that have no meaning for most types appear only when they are set.
std::string IfSet(bool value) { return value ? Text(value) : ""; }

// IPv6 begins with '[' or may end with ':', which mean something in YAML.
std::string Quoted(const IpAddress& address, const std::string& text) {
  return address.is_v4() ? text : absl::StrCat("\"", text, "\"");
}

std::string Text(const Endpoint& endpoint) {
  return Quoted(endpoint.address, endpoint.ToString());
}

std::string Text(const IpAddress& address) {
  return Quoted(address, address.ToString());
}

std::string Text(const std::string& text) { return YamlName(text); }

template <typename T>
std::string Text(const std::vector<T>& list) {
  const auto join = [](std::string* out, const T& value) {
    absl::StrAppend(out, Text(value));
  };
  return absl::StrCat("[", absl::StrJoin(list, ", ", join), "]");
}

}  // namespace

Fields GlobalFields(const Config& config) {
  const auto& metrics = config.metrics_listen;
  const auto& packet = config.packet;
  return {
      {"metrics.listen", metrics.has_value() ? Text(*metrics) : ""},
      {"workers", Number(config.workers)},
      {"splice.mode", NameOf(kSpliceModes, config.splice.mode)},
      {"splice.promote_after", SizeText(config.splice.promote_after_bytes)},
      {"splice.backlog_per_connection",
       SizeText(config.splice.backlog_per_connection_bytes)},
      {"splice.backlog_total",
       config.splice.backlog_total_bytes.has_value()
           ? SizeText(*config.splice.backlog_total_bytes)
           : ""},
      {"packet.interfaces", packet.has_value() ? Text(packet->interfaces) : ""},
      {"packet.source", packet.has_value() ? Text(packet->source) : ""},
      {"packet.ports", packet.has_value() ? absl::StrCat(packet->first_port,
                                                         "-", packet->last_port)
                                          : ""},
      {"packet.max_flows",
       packet.has_value() ? absl::StrCat(packet->max_flows) : ""},
      {"packet.attach",
       packet.has_value() ? NameOf(kPacketAttaches, packet->attach) : ""},
  };
}

Fields FieldsOf(const Service& service) {
  const Health& health = service.health;
  const auto& queue = service.queue;
  const auto& ejection = service.ejection;
  return {
      {"listen", Text(service.listen)},
      {"pool", YamlName(service.pool)},
      {"backend_port", Number(service.backend_port)},
      {"datapath", NameOf(kDatapaths, service.datapath)},
      {"balance", NameOf(kBalances, service.balance)},
      {"panic_threshold", absl::StrCat(service.panic_threshold)},
      {"last_resort", NameOf(kLastResorts, service.last_resort)},
      {"proxy_protocol", NameOf(kProxyProtocols, service.proxy_protocol)},
      {"health.type", NameOf(kHealthTypes, health.type)},
      {"health.port", Number(health.port)},
      {"health.proxy_protocol",
       health.proxy_protocol.has_value()
           ? NameOf(kCheckHeaders, *health.proxy_protocol)
           : ""},
      {"health.interval", DurationText(health.interval)},
      {"health.fast_interval", Optional(health.fast_interval)},
      {"health.down_interval", Optional(health.down_interval)},
      {"health.timeout", Optional(health.timeout)},
      {"health.rise", absl::StrCat(health.rise)},
      {"health.fall", absl::StrCat(health.fall)},
      {"health.share", health.share == CheckShare::kNone
                           ? ""
                           : NameOf(kCheckShares, health.share)},
      {"health.expect", Optional(health.expect)},
      {"health.postscreen", health.postscreen == Postscreen::kTeaser
                                ? ""
                                : NameOf(kPostscreens, health.postscreen)},
      {"health.ehlo", Optional(health.ehlo)},
      {"health.tls", IfSet(health.tls)},
      {"health.starttls", IfSet(health.starttls)},
      {"health.server_name", Optional(health.server_name)},
      {"health.verify", IfSet(health.verify)},
      {"health.min_certificate_days", Number(health.min_certificate_days)},
      {"health.path", health.path == "/" ? "" : QuotedText(health.path)},
      {"health.host", Optional(health.host)},
      {"health.status",
       health.status == 200 ? "" : absl::StrCat(health.status)},
      {"health.weight_header", Optional(health.weight_header)},
      {"timeouts.connect", DurationText(service.connect_timeout)},
      {"timeouts.try_next", DurationText(service.try_next_timeout)},
      {"timeouts.greeting", Optional(service.greeting_timeout)},
      {"timeouts.idle", DurationText(service.idle_timeout)},
      {"timeouts.dead_peer", DurationText(service.dead_peer_timeout)},
      {"max_connections", absl::StrCat(service.max_connections)},
      {"queue.size", queue.has_value() ? absl::StrCat(queue->size) : ""},
      {"queue.timeout", queue.has_value() ? DurationText(queue->timeout) : ""},
      {"on_no_backend", NameOf(kNoBackends, service.on_no_backend)},
      {"on_backend_down", NameOf(kBackendDowns, service.on_backend_down)},
      {"ejection.failures",
       ejection.has_value() ? absl::StrCat(ejection->failures) : ""},
      {"ejection.time",
       ejection.has_value() ? DurationText(ejection->time) : ""},
      {"ejection.max_percent",
       ejection.has_value() ? absl::StrCat(ejection->max_percent) : ""},
      {"slow_start", Optional(service.slow_start)},
  };
}

Fields FieldsOf(const Pool& pool) {
  return {{"source", pool.source.empty() ? "" : Text(pool.source)}};
}

Fields FieldsOf(const Backend& backend) {
  const std::string address =
      backend.port.has_value()
          ? Endpoint{backend.address, *backend.port}.ToString()
          : backend.address.ToString();
  return {
      {"address", Quoted(backend.address, address)},
      {"weight", absl::StrCat(backend.weight)},
      {"backup", backend.backup ? "true" : "false"},
      {"max_connections", absl::StrCat(backend.max_connections)},
  };
}

std::string YamlName(const std::string& name) {
  // Words that YAML 1.1 or 1.2 reads as something else than a string.
  constexpr std::array<absl::string_view, 9> kReserved = {
      "null", "true", "false", "yes", "no", "on", "off", "y", "n"};
  const bool plain =
      !name.empty() &&
      absl::ascii_isalpha(static_cast<unsigned char>(name.front())) &&
      std::find(kReserved.begin(), kReserved.end(),
                absl::AsciiStrToLower(name)) == kReserved.end();
  return plain ? name : absl::StrCat("\"", name, "\"");
}

}  // namespace headgate::config
