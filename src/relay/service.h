// What a worker needs to know of a service: its configuration and its number
// in the BPF maps. Immutable; replaced whole on reload.
#pragma once

#include <cstdint>
#include <memory>

#include "config/types.h"

namespace headgate::relay {

struct Service {
  uint32_t id = 0;  // In the maps.
  config::Service config;
};

using ServicePtr = std::shared_ptr<const Service>;

}  // namespace headgate::relay
