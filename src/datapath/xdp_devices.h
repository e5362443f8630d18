// What the kernel says that XDP can do at network devices (generic netlink's
// family "netdev", Linux 6.3).
#pragma once

#include <cstdint>
#include <map>

#include "absl/status/statusor.h"

namespace headgate::datapath {

struct XdpFeatures {
  bool native = false;     // A program can be attached to the driver, and
                           // redirect what comes in.
  bool transmits = false;  // Takes frames that XDP sends. A veth does while its
                           // peer has a program or GRO.
};

using XdpDevices = std::map<uint32_t, XdpFeatures>;  // By interface index.

// Unimplemented: the kernel cannot tell.
absl::StatusOr<XdpDevices> QueryXdpDevices();

}  // namespace headgate::datapath
