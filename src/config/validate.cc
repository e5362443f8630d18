#include "config/validate.h"

#include <algorithm>
#include <set>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/suggest.h"

namespace headgate::config {
namespace {

struct Listener {
  Position at;
  Endpoint endpoint;
  std::string service;  // Empty: metrics.
};

std::string Owner(const Listener& listener) {
  return listener.service.empty() ? "metrics"
                                  : absl::StrCat("service ", listener.service);
}

// In file order, so that the later of two is the one at fault.
std::vector<Listener> AllListeners(const Config& config, const Places& places) {
  std::vector<Listener> all;
  if (config.metrics_listen.has_value()) {
    all.push_back({places.metrics_listen, *config.metrics_listen, ""});
  }
  for (const auto& [name, service] : config.services) {
    const ServicePlace& place = places.services_by_name.at(name);
    for (size_t i = 0; i < service.listen.size(); ++i) {
      all.push_back({place.listen[i], service.listen[i], name});
    }
  }
  std::sort(all.begin(), all.end(),
            [](const Listener& a, const Listener& b) { return a.at < b.at; });
  return all;
}

// The listeners of one family and port: a wildcard takes all addresses.
class Occupied {
 public:
  const Listener* Claim(const Listener& listener) {
    const bool wildcard = listener.endpoint.address.is_unspecified();
    if (wildcard && !by_address_.empty()) return by_address_.begin()->second;
    if (wildcard_ != nullptr) return wildcard_;
    const auto [taken, added] =
        by_address_.emplace(listener.endpoint.address, &listener);
    if (!added) return taken->second;
    if (wildcard) wildcard_ = &listener;
    return nullptr;
  }

 private:
  const Listener* wildcard_ = nullptr;
  std::map<IpAddress, const Listener*> by_address_;
};

void CheckListeners(const Config& config, const Places& places,
                    Errors& errors) {
  const std::vector<Listener> all = AllListeners(config, places);
  std::map<std::pair<int, uint16_t>, Occupied> occupied;
  for (const Listener& listener : all) {
    const Endpoint& endpoint = listener.endpoint;
    const Listener* other =
        occupied[{endpoint.family(), endpoint.port}].Claim(listener);
    if (other == nullptr) continue;
    errors.Add(listener.at,
               absl::StrCat(Owner(listener), ": listen: ", endpoint.ToString(),
                            " overlaps ", other->endpoint.ToString(), " of ",
                            Owner(*other), " on line ", other->at.line));
  }
}

void ReportUnknownPool(const Service& service, const ServicePlace& place,
                       const Config& config, Errors& errors) {
  std::vector<absl::string_view> names;
  for (const auto& [name, pool] : config.pools) names.push_back(name);
  errors.Add(place.pool,
             absl::StrCat("service ", service.name, ": pool: unknown pool \"",
                          service.pool, "\"", Suggestion(service.pool, names)));
}

void CheckBackendPorts(const Service& service, const ServicePlace& place,
                       const Pool& pool, Errors& errors) {
  if (!place.lacks_backend_port) return;
  for (const Backend& backend : pool.backends) {
    if (backend.port.has_value()) continue;
    errors.Add(
        place.name,
        absl::StrCat("service ", service.name,
                     ": missing key \"backend_port\": backend ", backend.name,
                     " of pool ", pool.name, " has no port of its own"));
    return;
  }
}

void CheckQueue(const Service& service, const ServicePlace& place,
                const Pool& pool, Errors& errors) {
  if (!place.queue_without_limit.has_value()) return;
  const bool limited =
      std::any_of(pool.backends.begin(), pool.backends.end(),
                  [](const Backend& b) { return b.max_connections != 0; });
  if (limited) return;
  errors.Add(*place.queue_without_limit,
             absl::StrCat("service ", service.name,
                          ": queue: nobody ever waits without "
                          "max_connections, here or of a backend of pool ",
                          pool.name));
}

// The packet path moves packets, and does nothing that takes a socket. What
// spells out a default asks for nothing.
std::vector<std::string> WhatPacketCannot(const Service& service) {
  const Service defaults;
  std::vector<std::string> cannot;
  const auto note = [&](bool asked, const char* what) {
    if (asked) cannot.emplace_back(what);
  };
  note(service.proxy_protocol == ProxyProtocol::kV1,
       "sends proxy_protocol v2 or none, not v1");
  note(service.queue.has_value(), "has no queue");
  note(service.connect_timeout != defaults.connect_timeout,
       "has no timeouts.connect; another backend is tried at the client's next "
       "SYN");
  note(service.try_next_timeout != defaults.try_next_timeout,
       "has no timeouts.try_next; another backend is tried at the client's "
       "next SYN");
  note(service.greeting_timeout.has_value(), "has no timeouts.greeting");
  note(service.dead_peer_timeout != defaults.dead_peer_timeout,
       "has no timeouts.dead_peer, only idle");
  note(service.on_no_backend != NoBackend::kReset,
       "only has on_no_backend: reset");
  return cannot;
}

void CheckPacketService(const Service& service, const ServicePlace& place,
                        const Config& config, const Pool& pool,
                        Errors& errors) {
  if (service.datapath != Datapath::kPacket) return;
  const auto report = [&](absl::string_view problem) {
    errors.Add(place.name, absl::StrCat("service ", service.name,
                                        ": datapath: packet ", problem));
  };
  if (!config.packet.has_value()) {
    report("needs a \"packet\" section with interfaces and source");
    return;
  }
  for (const std::string& cannot : WhatPacketCannot(service)) report(cannot);
  std::set<bool> families;  // Whether IPv4.
  for (const Endpoint& listen : service.listen) {
    families.insert(listen.address.is_v4());
    if (listen.address.is_unspecified()) {
      report(absl::StrCat("needs exact listen addresses, not ",
                          listen.ToString()));
    }
  }
  for (const bool v4 : families) {
    const char* family = v4 ? "IPv4" : "IPv6";
    const auto other = std::find_if(
        pool.backends.begin(), pool.backends.end(),
        [v4](const Backend& b) { return b.address.is_v4() != v4; });
    if (other != pool.backends.end()) {
      report(absl::StrCat("cannot take ", family, " clients to backend ",
                          other->name, " of pool ", pool.name, ", ",
                          other->address.ToString(),
                          "; it translates no family into the other"));
    }
    if (std::none_of(config.packet->source.begin(), config.packet->source.end(),
                     [v4](const IpAddress& a) { return a.is_v4() == v4; })) {
      report(absl::StrCat("needs an ", family, " address in packet.source"));
    }
  }
}

void CheckPacketRoom(const Config& config, const Places& places,
                     Errors& errors) {
  if (!config.packet.has_value()) return;
  std::set<IpAddress> addresses(config.packet->source.begin(),
                                config.packet->source.end());
  size_t listeners = 0;
  for (const auto& [name, service] : config.services) {
    if (service.datapath != Datapath::kPacket) continue;
    for (const Endpoint& listen : service.listen) {
      addresses.insert(listen.address);
    }
    listeners += service.listen.size();
  }
  const auto check = [&](size_t count, const char* what, size_t most) {
    if (count <= most) return;
    errors.Add(places.services, absl::StrCat("services: ", count, " ", what,
                                             "; at most ", most));
  };
  check(addresses.size(),
        "addresses of the packet path, packet.source included",
        kMaxPacketAddresses);
  check(listeners, "listen addresses and ports of the packet path",
        kMaxPacketListeners);
}

}  // namespace

void Validate(const Config& config, const Places& places, Errors& errors) {
  CheckListeners(config, places, errors);
  CheckPacketRoom(config, places, errors);
  size_t service_backends = 0;
  for (const auto& [name, service] : config.services) {
    // No pools at all, or no name of one: reported where it happened.
    if (config.pools.empty() || service.pool.empty()) continue;
    const ServicePlace& place = places.services_by_name.at(name);
    const auto pool = config.pools.find(service.pool);
    if (pool == config.pools.end()) {
      ReportUnknownPool(service, place, config, errors);
      continue;
    }
    CheckBackendPorts(service, place, pool->second, errors);
    CheckQueue(service, place, pool->second, errors);
    CheckPacketService(service, place, config, pool->second, errors);
    service_backends += pool->second.backends.size();
  }
  if (service_backends > kMaxServiceBackends) {
    errors.Add(places.services,
               absl::StrCat("services: ", service_backends,
                            " backends, counted once for each service; at "
                            "most ",
                            kMaxServiceBackends));
  }
}

}  // namespace headgate::config
