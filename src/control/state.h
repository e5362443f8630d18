// What the daemon knows, as rows: for the admin API, metrics and ctl.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "absl/types/span.h"
#include "bpf/abi/types.h"
#include "config/types.h"
#include "control/ejections.h"
#include "control/source_ports.h"
#include "datapath/packet.h"
#include "health/result.h"
#include "health/rise_fall.h"
#include "net/address.h"

namespace headgate::control {

struct ListenerRow {
  Endpoint address;
  bool bound = false;
  std::string error;  // Why not.
};

struct ServiceRow {
  uint32_t id = 0;
  config::Service config;
  std::vector<ListenerRow> listeners;
  int backends_up = 0;
  int backends_total = 0;
  // So few backends are up that health is ignored (panic_threshold).
  bool panic = false;
  hg_service_stats stats{};  // A copy.
};

// Of a drain that ends connections by itself.
struct DrainProgress {
  uint64_t left = 0;    // Connections.
  int64_t ends_ns = 0;  // MonotonicNs()
};

// Left out, because connections to it failed in this way.
struct Ejection {
  int64_t until_ns = 0;  // MonotonicNs()
  Failure reason = Failure::kRefused;
};

struct BackendRow {
  uint32_t id = 0;
  std::string service;
  std::string name;
  Endpoint address;
  hg_admin admin = HG_ADMIN_READY;
  health::State health = health::State::kStarting;
  uint32_t weight = 0;
  double weight_effective = 0;  // Less than `weight` during a slow start.
  bool backup = false;
  std::optional<DrainProgress> draining;
  uint32_t max_connections = 0;  // 0: no limit.
  std::optional<health::CheckResult> last_check;
  std::array<uint64_t, health::kOutcomes.size()> checks{};  // By outcome.
  uint64_t times_up = 0;  // Transitions, the first verdict included.
  uint64_t times_down = 0;
  std::optional<Ejection> ejected;
  std::array<uint64_t, kFailures> ejections{};  // By Failure.
  hg_backend_stats stats{};                     // A copy.
  hg_greeting_times greetings{};                // A copy.
  SourcePorts::Use source_ports;

  // The contract's word: up, down, drain, maint or starting.
  const char* state() const;
  bool takes_connections() const;  // Its weight aside.
};

// Out of the configuration, or removed by the operator, and not empty yet.
struct LeavingRow {
  std::string service;
  std::string name;
  Endpoint address;
  uint64_t connections_active = 0;
};

struct StatusRow {
  bool ready = false;  // Every backend has had its first verdict.
  int services = 0;
  int backends_up = 0;
  int backends_total = 0;
  uint64_t connections_active = 0;
  bool splice = false;
  std::string splice_reason;  // Why not.
  bool packet = false;
  std::string packet_reason;  // Why not.
  std::vector<datapath::PacketPath::Hook> packet_hooks;
  uint64_t generation = 0;  // Of the configuration.
  absl::Time started;       // By the wall clock of then.
  absl::Duration uptime;
  std::vector<std::string> problems;  // What an operator should look at.
  // What operators changed at run time, and have not undone.
  std::vector<std::string> runtime;
};

// Which connections are meant.
struct ConnectionFilter {
  std::string service;  // Empty: of any.
  Endpoint client;      // Address ::, any; port 0, any.
};

struct ConnectionRow {
  uint64_t id = 0;
  std::string service;
  std::string backend;  // Empty: still connecting.
  Endpoint client;
  const char* datapath = "relay";  // The contract's word.
  absl::Duration age;
  absl::Duration idle;
  uint64_t bytes_in = 0;
  uint64_t bytes_out = 0;
};

// A connection of the packet path, as both ends have it.
struct FlowRow {
  uint64_t id = 0;  // As in ConnectionRow.
  Endpoint client;
  Endpoint listen;
  Endpoint source;  // What the backend sees.
  Endpoint backend;
  const char* state = "";   // syn_sent, syn_received, established or closing.
  const char* header = "";  // none, due, sent or acknowledged.
  absl::Duration idle;
};

// What became of a packet of the packet path.
struct TraceRow {
  // A frame as it came, or as it left.
  struct Side {
    std::string interface;
    uint32_t size = 0;                // Bytes; 0: it has not left.
    absl::Span<const uint8_t> bytes;  // The first ones, of the event.
  };
  int64_t time_ns = 0;      // It came; CLOCK_MONOTONIC.
  uint64_t connection = 0;  // As in ConnectionRow; 0: of none.
  std::string service;
  std::string backend;
  const char* from = "";  // client, backend; empty: of no connection.
  // forwarded, consumed, dropped, or answered by a RST (reset) or ICMP
  // (answered).
  const char* verdict = "";
  const char* reason = "";  // Of metrics.
  // It is the data of the last packet, which became their header.
  bool again = false;
  Side before, after;
};

const char* AdminName(hg_admin admin);
// What the last check found to be configured wrongly here or at the backend;
// empty: nothing. It is no outage and looks like one, so it is told by name.
std::string Misconfiguration(const BackendRow& backend);

}  // namespace headgate::control
