// The grammar of a service's `health` section.
#pragma once

#include "config/reader.h"
#include "config/types.h"

namespace headgate::config {

// Sets service.health from the section in `map`, the service's. The listeners
// and proxy_protocol have been read: they decide what type auto is.
void ReadHealth(const MapReader& map, Service& service);

}  // namespace headgate::config
