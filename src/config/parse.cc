#include "config/parse.h"

#include <algorithm>
#include <map>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "config/parse_health.h"
#include "config/reader.h"
#include "config/validate.h"
#include "config/values.h"
#include "config/yaml.h"

namespace headgate::config {
namespace {

using Nodes = std::vector<const Node*>;

constexpr auto kPort = IntegerIn<uint16_t>(1, 65535);
constexpr uint32_t kMaxConnections = 10'000'000;
constexpr uint64_t kKiB = 1024;
constexpr uint64_t kMiB = 1024 * kKiB;
constexpr uint64_t kGiB = 1024 * kMiB;

// "pool mail-nodes: backend spare", as far as it has a name.
std::string BackendObject(absl::string_view pool_object, const Node& node) {
  std::string object = absl::StrCat(pool_object, ": backend");
  for (const Node& child : node.children) {
    if (child.key != "name" || child.text.empty()) continue;
    return absl::StrCat(object, " ", child.text);
  }
  return object;
}

// Ports of SMTP, IMAP and POP3 where TLS comes first (RFC 8314): the client
// speaks first there, and a line in clear would only be an error to it.
const Endpoint* ImplicitTlsListener(const Service& service) {
  for (const Endpoint& endpoint : service.listen) {
    for (const int port : {465, 993, 995}) {
      if (endpoint.port == port) return &endpoint;
    }
  }
  return nullptr;
}

// Adds to a list that must not have anything twice.
template <typename T>
void AddOnce(const MapReader& map, const Node& node, absl::string_view key,
             const T& value, absl::string_view text, std::vector<T>& list) {
  if (std::find(list.begin(), list.end(), value) == list.end()) {
    list.push_back(value);
  } else {
    map.Report(node.at, key, absl::StrCat(text, " is listed twice"));
  }
}

// The grammar: one function for each kind of map in the file.
class Grammar {
 public:
  explicit Grammar(Errors& errors) : errors_(errors) {}

  Config Read(const Node& root);

 private:
  void ReadMetrics(const MapReader& top);
  void ReadSplice(const MapReader& top);
  void ReadPacket(const MapReader& top);
  void ReadPool(const Node& node);
  void ReadSource(const MapReader& map, Pool& pool);
  bool ReadBackend(const Node& node, const std::string& object,
                   Backend& backend);
  void ReadService(const Node& node);
  void ReadListen(const MapReader& map, Service& service, ServicePlace& place);
  void ReadTimeouts(const MapReader& map, Service& service);
  void ReadQueue(const MapReader& map, Service& service);
  void ReadOnNoBackend(const MapReader& map, Service& service);
  void ReadEjection(const MapReader& map, Service& service);

  // The 1 to `max` children of the list or map under `key`; `one` names one.
  Nodes Children(const MapReader& map, absl::string_view key, Node::Kind kind,
                 absl::string_view one, size_t max);
  // A list of addresses, or one without brackets.
  Nodes OneOrMore(const MapReader& map, absl::string_view key, size_t max);
  // As Children(), for a map whose keys are names.
  Nodes Named(const MapReader& map, absl::string_view key,
              absl::string_view one, size_t max);

  Errors& errors_;
  Config config_;
  Places places_;
};

Config Grammar::Read(const Node& root) {
  const MapReader top(
      root, "", {"metrics", "workers", "splice", "packet", "pools", "services"},
      errors_);
  ReadMetrics(top);
  top.Read("workers", IntegerIn<uint32_t>(1, 256), config_.workers);
  ReadSplice(top);
  ReadPacket(top);
  // Without services, nothing needs a pool.
  if (top.Lacks("services")) {
    top.Require("services");
  } else {
    top.Require("pools");
  }
  for (const Node* node : Named(top, "pools", "pool", kMaxPools)) {
    ReadPool(*node);
  }
  for (const Node* node : Named(top, "services", "service", kMaxServices)) {
    ReadService(*node);
  }
  if (const Node* node = top.Find("services"); node != nullptr) {
    places_.services = node->key_at;
  }
  Validate(config_, places_, errors_);
  return std::move(config_);
}

void Grammar::ReadMetrics(const MapReader& top) {
  if (top.Find("metrics") == nullptr) return;
  const MapReader metrics = top.Section("metrics", {"listen"});
  metrics.Require("listen");
  if (metrics.Read("listen", Endpoint::Parse, config_.metrics_listen)) {
    places_.metrics_listen = metrics.Find("listen")->at;
  }
}

void Grammar::ReadSplice(const MapReader& top) {
  const MapReader splice = top.Section(
      "splice",
      {"mode", "promote_after", "backlog_per_connection", "backlog_total"});
  splice.Read("mode", OneOf(kSpliceModes), config_.splice.mode);
  splice.Read("promote_after", SizeIn(0, kGiB),
              config_.splice.promote_after_bytes);
  splice.Read("backlog_per_connection", SizeIn(64 * kKiB, kGiB),
              config_.splice.backlog_per_connection_bytes);
  if (splice.Read("backlog_total", SizeIn(kMiB, 1024 * kGiB),
                  config_.splice.backlog_total_bytes) &&
      *config_.splice.backlog_total_bytes <
          config_.splice.backlog_per_connection_bytes) {
    splice.Report(splice.Find("backlog_total")->at, "backlog_total",
                  "less than backlog_per_connection; no connection would be "
                  "spliced (splice.mode: off says so)");
  }
}

void Grammar::ReadPacket(const MapReader& top) {
  if (top.Find("packet") == nullptr) return;
  const MapReader section = top.Section(
      "packet", {"interfaces", "source", "ports", "max_flows", "attach"});
  section.Require("interfaces");
  section.Require("source");
  Packet packet;
  for (const Node* node : Children(section, "interfaces", Node::Kind::kList,
                                   "interface", kMaxPacketInterfaces)) {
    std::string name;
    if (!section.ReadNode(*node, "interfaces", ParseInterface, name)) continue;
    AddOnce(section, *node, "interfaces", name, name, packet.interfaces);
  }
  for (const Node* node : OneOrMore(section, "source", kMaxSourcesPerPool)) {
    IpAddress address;
    if (!section.ReadNode(*node, "source", ParseSource, address)) continue;
    AddOnce(section, *node, "source", address, address.ToString(),
            packet.source);
  }
  PortRange ports{packet.first_port, packet.last_port};
  section.Read("ports", ParsePortRange, ports);
  packet.first_port = ports.first;
  packet.last_port = ports.last;
  section.Read("max_flows", IntegerIn<uint32_t>(1024, 16 * 1024 * 1024),
               packet.max_flows);
  section.Read("attach", OneOf(kPacketAttaches), packet.attach);
  config_.packet = std::move(packet);
}

void Grammar::ReadPool(const Node& node) {
  const std::string object = absl::StrCat("pool ", node.key);
  const MapReader map(node, object, {"source", "backends"}, errors_);
  map.Require("backends");
  Pool& pool = config_.pools[node.key];
  pool.name = node.key;
  std::map<std::string, int> lines;
  for (const Node* child : Children(map, "backends", Node::Kind::kList,
                                    "backend", kMaxBackendsPerPool)) {
    Backend backend;
    if (!ReadBackend(*child, object, backend)) continue;
    const auto [first, added] = lines.emplace(backend.name, child->at.line);
    if (added) {
      pool.backends.push_back(std::move(backend));
    } else {
      errors_.Add(child->at,
                  absl::StrCat(object, ": duplicate backend \"", backend.name,
                               "\"; first on line ", first->second));
    }
  }
  ReadSource(map, pool);
}

// After the backends, each of which needs an address of its own family:
// another than the listed ones would surprise whoever lets only those in.
void Grammar::ReadSource(const MapReader& map, Pool& pool) {
  const Nodes nodes = OneOrMore(map, "source", kMaxSourcesPerPool);
  bool all_read = true;
  for (const Node* node : nodes) {
    IpAddress address;
    const bool read = map.ReadNode(*node, "source", ParseSource, address);
    all_read &= read;
    if (!read) continue;
    AddOnce(map, *node, "source", address, address.ToString(), pool.source);
  }
  if (nodes.empty() || !all_read) return;
  for (const Backend& backend : pool.backends) {
    const bool v4 = backend.address.is_v4();
    if (std::any_of(pool.source.begin(), pool.source.end(),
                    [v4](const IpAddress& a) { return a.is_v4() == v4; })) {
      continue;
    }
    map.Report(
        map.Find("source")->key_at, "source",
        absl::StrCat("no ", v4 ? "IPv4" : "IPv6",
                     " address in it, which backend ", backend.name, " needs"));
    return;
  }
}

// Returns whether the backend is one that other rules can look at.
bool Grammar::ReadBackend(const Node& node, const std::string& object,
                          Backend& backend) {
  const MapReader map(
      node, BackendObject(object, node),
      {"name", "address", "weight", "backup", "max_connections"}, errors_);
  map.Require("name");
  map.Require("address");
  map.Read("weight", IntegerIn<uint32_t>(0, 256), backend.weight);
  map.Read("backup", ParseBool, backend.backup);
  map.Read("max_connections", IntegerIn<uint32_t>(0, kMaxConnections),
           backend.max_connections);
  Target target;
  const bool named = map.Read("name", ParseName, backend.name);
  const bool placed = map.Read("address", ParseTarget, target);
  backend.address = target.address;
  backend.port = target.port;
  return named && placed;
}

void Grammar::ReadService(const Node& node) {
  Service& service = config_.services[node.key];
  ServicePlace& place = places_.services_by_name[node.key];
  service.name = node.key;
  const MapReader map(
      node, absl::StrCat("service ", node.key),
      {"listen", "pool", "backend_port", "datapath", "balance",
       "panic_threshold", "last_resort", "proxy_protocol", "health", "timeouts",
       "max_connections", "queue", "on_no_backend", "on_backend_down",
       "ejection", "slow_start"},
      errors_);
  map.Require("listen");
  map.Require("pool");
  ReadListen(map, service, place);
  if (map.Read("pool", ParseName, service.pool)) {
    place.pool = map.Find("pool")->at;
  }
  place.name = node.key_at;
  place.lacks_backend_port = map.Lacks("backend_port");
  map.Read("backend_port", kPort, service.backend_port);
  map.Read("datapath", OneOf(kDatapaths), service.datapath);
  map.Read("balance", OneOf(kBalances), service.balance);
  map.Read("panic_threshold", IntegerIn<uint32_t>(0, 100),
           service.panic_threshold);
  map.Read("last_resort", OneOf(kLastResorts), service.last_resort);
  map.Read("proxy_protocol", OneOf(kProxyProtocols), service.proxy_protocol);
  const bool limit_read =
      map.Read("max_connections", IntegerIn<uint64_t>(0, kMaxConnections),
               service.max_connections);
  ReadQueue(map, service);
  const bool unlimited = limit_read || map.Lacks("max_connections");
  if (service.queue.has_value() && unlimited && service.max_connections == 0) {
    place.queue_without_limit = map.Find("queue")->key_at;
  }
  ReadOnNoBackend(map, service);
  map.Read("on_backend_down", OneOf(kBackendDowns), service.on_backend_down);
  ReadEjection(map, service);
  map.Read("slow_start", DurationIn(absl::Seconds(1), absl::Hours(1)),
           service.slow_start);
  ReadHealth(map, service);
  ReadTimeouts(map, service);
}

void Grammar::ReadListen(const MapReader& map, Service& service,
                         ServicePlace& place) {
  for (const Node* child : OneOrMore(map, "listen", kMaxListenPerService)) {
    Endpoint endpoint;
    if (!map.ReadNode(*child, "listen", Endpoint::Parse, endpoint)) continue;
    service.listen.push_back(endpoint);
    place.listen.push_back(child->at);
  }
}

void Grammar::ReadTimeouts(const MapReader& map, Service& service) {
  const MapReader section = map.Section(
      "timeouts", {"connect", "try_next", "greeting", "idle", "dead_peer"});
  const auto wait = DurationIn(absl::Milliseconds(10), absl::Minutes(5));
  section.Read("connect", wait, service.connect_timeout);
  section.Read("try_next", wait, service.try_next_timeout);
  const Endpoint* tls = ImplicitTlsListener(service);
  if (section.Read("greeting", wait, service.greeting_timeout) &&
      tls != nullptr) {
    section.Report(section.Find("greeting")->at, "greeting",
                   absl::StrCat("no server speaks first on ", tls->ToString(),
                                ", where TLS comes first"));
  }
  section.Read("idle", DurationIn(absl::Seconds(1), absl::Hours(7 * 24)),
               service.idle_timeout);
  section.Read("dead_peer", DurationIn(absl::Seconds(1), absl::Hours(24)),
               service.dead_peer_timeout);
}

void Grammar::ReadQueue(const MapReader& map, Service& service) {
  if (map.Find("queue") == nullptr) return;
  const MapReader section = map.Section("queue", {"size", "timeout"});
  section.Require("size");
  Queue queue;
  section.Read("size", IntegerIn<uint64_t>(1, 1'000'000), queue.size);
  section.Read("timeout", DurationIn(absl::Milliseconds(100), absl::Hours(1)),
               queue.timeout);
  service.queue = queue;
}

void Grammar::ReadOnNoBackend(const MapReader& map, Service& service) {
  if (!map.Read("on_no_backend", OneOf(kNoBackends), service.on_no_backend)) {
    return;
  }
  const Endpoint* tls = ImplicitTlsListener(service);
  if (tls == nullptr || service.on_no_backend == NoBackend::kReset) return;
  map.Report(
      map.Find("on_no_backend")->at, "on_no_backend",
      absl::StrCat("no client understands a line in clear on ", tls->ToString(),
                   ", where TLS comes first; use reset"));
}

// An empty one means the defaults.
void Grammar::ReadEjection(const MapReader& map, Service& service) {
  if (map.Find("ejection") == nullptr) return;
  const MapReader section =
      map.Section("ejection", {"failures", "time", "max_percent"});
  Ejection ejection;
  section.Read("failures", IntegerIn<int>(1, 1000), ejection.failures);
  section.Read("time", DurationIn(absl::Seconds(1), absl::Hours(1)),
               ejection.time);
  section.Read("max_percent", IntegerIn<int>(1, 100), ejection.max_percent);
  service.ejection = ejection;
}

Nodes Grammar::Children(const MapReader& map, absl::string_view key,
                        Node::Kind kind, absl::string_view one, size_t max) {
  const Node* node = map.Find(key);
  if (node == nullptr) return {};
  const bool empty = node->kind == kind && node->children.empty();
  if (empty || node->kind == Node::Kind::kNull) {
    map.Report(node->key_at, key,
               absl::StrCat("at least one ", one, " is needed"));
    return {};
  }
  if (!map.Expect(*node, key, kind)) return {};
  Nodes children;
  if (kind == Node::Kind::kMap) {
    children = UniqueEntries(*node, key, "", errors_);
  } else {
    for (const Node& child : node->children) children.push_back(&child);
  }
  if (children.size() > max) {
    map.Report(children[max]->key_at, key,
               absl::StrCat("more than ", max, "; the rest is not read"));
    children.resize(max);
  }
  return children;
}

Nodes Grammar::OneOrMore(const MapReader& map, absl::string_view key,
                         size_t max) {
  const Node* node = map.Find(key);
  if (node != nullptr && node->kind == Node::Kind::kScalar) return {node};
  return Children(map, key, Node::Kind::kList, "address", max);
}

Nodes Grammar::Named(const MapReader& map, absl::string_view key,
                     absl::string_view one, size_t max) {
  Nodes nodes = Children(map, key, Node::Kind::kMap, one, max);
  for (const Node* node : nodes) {
    const auto name = ParseName(node->key);
    if (!name.ok()) map.Report(node->key_at, key, name.status().message());
  }
  return nodes;
}

}  // namespace

Parsed Parse(absl::string_view text) {
  Parsed parsed;
  Errors errors;
  std::optional<Node> root = ReadYaml(text, errors);
  if (root.has_value()) {
    // An empty file is a map without keys, and is told what it lacks.
    if (root->kind == Node::Kind::kNull) root->kind = Node::Kind::kMap;
    parsed.config = Grammar(errors).Read(*root);
  }
  parsed.errors = errors.TakeSorted();
  return parsed;
}

}  // namespace headgate::config
