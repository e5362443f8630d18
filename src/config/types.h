// The configuration as values: what the YAML file means, with every default
// filled in. Immutable once parsed; shared between threads by
// std::shared_ptr<const Config>.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "net/address.h"

namespace headgate::config {

// kPacket falls back to kSplice where its hook cannot be attached.
enum class Datapath { kSplice, kRelay, kPacket };
enum class Balance { kRoundRobin, kLeastConnections, kMaglev, kSource, kFirst };
// Who is used when nobody else can be.
enum class LastResort { kNone, kDraining };
enum class ProxyProtocol { kNone, kV1, kV2 };
// kAuto: what the listen ports tell; see config/health.h.
enum class HealthType {
  kAuto,
  kNone,
  kTcp,
  kGreeting,
  kSmtp,
  kImap,
  kTls,
  kHttp
};
// What a check says before anything else; a switch of its own, never inherited
// from the service (a header nobody asked for is what broke Postfix).
enum class CheckHeader { kNone, kLocal, kOwn };
// What a client gets that no backend can serve.
enum class NoBackend { kReset, kSmtp421, kImapBye };
// What becomes of a backend's connections when its checks find it down.
enum class BackendDown { kKeep, kReset };
// How much of postscreen's greeting a check waits for: the first line, or what
// follows its tests, some 6 s later.
enum class Postscreen { kTeaser, kFull };
// Whether several backends lead to one process, so that what a check finds out
// about the process is true for all of them; see health/group.h.
enum class CheckShare { kNone, kGroup };
enum class SpliceMode { kAuto, kAlways, kOff };

struct Health {
  HealthType type = HealthType::kAuto;
  std::optional<uint16_t> port;  // Absent: the backend's own port.
  // Absent: none, but for what auto decides.
  std::optional<CheckHeader> proxy_protocol;
  absl::Duration interval = absl::Seconds(5);
  // While the last results speak against the state, or there is none yet; and
  // while it is down for certain. Absent: interval.
  std::optional<absl::Duration> fast_interval;
  std::optional<absl::Duration> down_interval;
  std::optional<absl::Duration> timeout;  // Absent: by type.
  int rise = 2;
  int fall = 3;
  CheckShare share = CheckShare::kNone;
  // What follows is for some types only. Empty: none, or the default.
  std::string expect;  // An RE2 for the greeting.
  Postscreen postscreen = Postscreen::kTeaser;
  std::string ehlo;
  bool tls = false;         // From the first byte.
  bool starttls = false;    // ... or in the dialog.
  std::string server_name;  // For SNI.
  bool verify = false;
  std::optional<int> min_certificate_days;
  std::string path = "/";
  std::string host;  // Empty: the backend's address and port.
  int status = 200;
  std::string weight_header;
  bool operator==(const Health&) const = default;
};

struct Backend {
  std::string name;
  IpAddress address;
  std::optional<uint16_t> port;  // Absent: the service's backend_port.
  uint32_t weight = 1;           // 0 to 256; 0 takes no new connections.
  bool backup = false;           // Used when no other backend is eligible.
  uint32_t max_connections = 0;  // A full one is not eligible; 0: no limit.
  bool operator==(const Backend&) const = default;
};

struct Pool {
  std::string name;
  std::vector<Backend> backends;  // In file order.
  // Addresses of this machine that connections to the backends come from, in
  // turn; if there are any, one or more of each backend's family. Empty: the
  // kernel's choice.
  std::vector<IpAddress> source;
  bool operator==(const Pool&) const = default;
};

// Clients beyond max_connections, in the order they came.
struct Queue {
  uint64_t size = 0;
  absl::Duration timeout = absl::Seconds(10);
  bool operator==(const Queue&) const = default;
};

// When backends are left out because connections to them fail, whatever their
// checks say.
struct Ejection {
  int failures = 5;  // In a row, with no success in between.
  absl::Duration time = absl::Seconds(10);  // The first time; then longer.
  int max_percent = 50;  // Of the service's backends, at once.
  bool operator==(const Ejection&) const = default;
};

struct Service {
  std::string name;
  std::vector<Endpoint> listen;
  std::string pool;
  std::optional<uint16_t> backend_port;
  Datapath datapath = Datapath::kSplice;
  Balance balance = Balance::kRoundRobin;
  // Percent. When fewer of the backends in service are up, health is ignored.
  uint32_t panic_threshold = 0;
  LastResort last_resort = LastResort::kNone;
  ProxyProtocol proxy_protocol = ProxyProtocol::kV2;
  Health health;
  absl::Duration connect_timeout = absl::Seconds(5);
  // A backend that has not answered the connect for so long is not waited for
  // alone: the next one is tried beside it.
  absl::Duration try_next_timeout = absl::Milliseconds(250);
  // Present: the server speaks first, and one that has not spoken by then, or
  // ends before it has, is replaced.
  std::optional<absl::Duration> greeting_timeout;
  absl::Duration idle_timeout = absl::Hours(1);
  // A peer that acknowledges nothing, or takes nothing, for so long is dead.
  absl::Duration dead_peer_timeout = absl::Minutes(5);
  uint64_t max_connections = 0;  // 0: no limit.
  std::optional<Queue> queue;    // Absent: the kernel holds those beyond it.
  NoBackend on_no_backend = NoBackend::kReset;
  BackendDown on_backend_down = BackendDown::kKeep;
  std::optional<Ejection> ejection;  // Absent: only checks take backends out.
  // A backend that comes back takes its full share only after so long. Absent:
  // at once.
  std::optional<absl::Duration> slow_start;
  bool operator==(const Service&) const = default;
};

struct Splice {
  SpliceMode mode = SpliceMode::kAuto;
  // A direction is handed to the kernel once it has moved this many bytes.
  uint64_t promote_after_bytes = 256 * 1024;
  // Cap on bytes that the kernel holds for one connection's slow reader.
  uint64_t backlog_per_connection_bytes = 1024 * 1024;
  // Cap on what kernel and daemon hold for all of them together, socket buffers
  // aside. Absent: a quarter of the memory.
  std::optional<uint64_t> backlog_total_bytes;
  bool operator==(const Splice&) const = default;
};

// kXdp: ahead of tc, which does what XDP cannot do.
enum class PacketAttach { kTc, kXdp };

// What all services with datapath: packet share.
struct Packet {
  // Where clients and backends are; both may be behind one.
  std::vector<std::string> interfaces;
  // Addresses of this machine that backends see, with ports of this range:
  // nobody else's, for what is sent there ends up with a client.
  std::vector<IpAddress> source;
  uint16_t first_port = 10240;
  uint16_t last_port = 32767;
  uint32_t max_flows = 262144;              // Takes effect at the next start.
  PacketAttach attach = PacketAttach::kTc;  // kXdp: at the next start.
  bool operator==(const Packet&) const = default;
};

struct Config {
  std::optional<Endpoint> metrics_listen;
  std::optional<uint32_t> workers;  // Absent: one per core.
  Splice splice;
  std::optional<Packet> packet;
  std::map<std::string, Pool> pools;        // By name.
  std::map<std::string, Service> services;  // By name.
  bool operator==(const Config&) const = default;
};

}  // namespace headgate::config
