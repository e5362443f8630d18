// What a worker needs to know of a service: its configuration, its number in
// the BPF maps and its queue. Immutable but for the queue; replaced whole on
// reload, when the queue stays.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "config/types.h"
#include "relay/queue.h"

namespace headgate::relay {

struct Service {
  uint32_t id = 0;  // In the maps.
  config::Service config;
  std::shared_ptr<Queue> queue;  // Never null.
  // Its pool's, by family: what connections come from, in turn. Empty: the
  // kernel's choice.
  std::vector<IpAddress> sources_v4;
  std::vector<IpAddress> sources_v6;

  const std::vector<IpAddress>& SourcesTo(const Endpoint& backend) const {
    return backend.address.is_v4() ? sources_v4 : sources_v6;
  }
};

using ServicePtr = std::shared_ptr<const Service>;

}  // namespace headgate::relay
