// What a worker needs to know of a service: its configuration, its number in
// the BPF maps and its queue. Immutable but for the queue; replaced whole on
// reload, when the queue stays.
#pragma once

#include <cstdint>
#include <memory>

#include "config/types.h"
#include "relay/queue.h"

namespace headgate::relay {

struct Service {
  uint32_t id = 0;  // In the maps.
  config::Service config;
  std::shared_ptr<Queue> queue;  // Never null.
};

using ServicePtr = std::shared_ptr<const Service>;

}  // namespace headgate::relay
