// The rules that span fields: listeners that overlap, services and their
// pools, limits on the whole.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "bpf/abi/packet.h"
#include "config/error.h"
#include "config/types.h"

namespace headgate::config {

// Sizes of the tables that hold services and backends in the kernel.
inline constexpr size_t kMaxServices = HG_MAX_SERVICES - 1;
inline constexpr size_t kMaxPools = 255;
inline constexpr size_t kMaxBackendsPerPool = HG_MAX_SERVICE_BACKENDS;
inline constexpr size_t kMaxListenPerService = 64;
inline constexpr size_t kMaxSourcesPerPool = 64;
inline constexpr size_t kMaxPacketInterfaces = 64;
// Over all services:
inline constexpr size_t kMaxServiceBackends = HG_MAX_BACKENDS - 1;
// With the sources:
inline constexpr size_t kMaxPacketAddresses = HG_MAX_PACKET_ADDRESSES - 1;
inline constexpr size_t kMaxPacketListeners = HG_MAX_PACKET_LISTENERS;

// Where a service says what these rules may object to.
struct ServicePlace {
  Position name;
  Position pool;
  std::vector<Position> listen;     // One for each of Service::listen.
  bool lacks_backend_port = false;  // And no other error explains it.
  // Its queue is for its backends' max_connections, if for any.
  std::optional<Position> queue_without_limit;
};

struct Places {
  Position metrics_listen;
  Position services;
  std::map<std::string, ServicePlace> services_by_name;
};

// `config` may be incomplete where reading it met errors. It has no pools if
// pools could not be read at all.
void Validate(const Config& config, const Places& places, Errors& errors);

}  // namespace headgate::config
