// XDP as the packet path's first hook: attached by libxdp, as the only program
// of its interface. It goes on without a daemon.
#pragma once

#include <cstdint>
#include <optional>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace headgate::datapath {

// To be called once, before there are threads: what libxdp says goes to the
// debug log, and it attaches programs as they are.
void PrepareLibxdp();

// A program that uses this map is the packet path's, of whatever version.
absl::StatusOr<uint32_t> MapId(int map_fd);

enum class XdpMode {
  kNative,   // In the driver.
  kGeneric,  // In the stack, on any device: slower.
};
const char* XdpModeName(XdpMode mode);

// Attaches the program, or puts it in the place of the packet path's own
// without a gap; nothing to do when it is there. AlreadyExists: somebody else's
// program is, by whatever mode. FailedPrecondition: ours is, by the other mode,
// which stays.
absl::Status AttachXdp(int program_fd, XdpMode mode, uint32_t ifindex,
                       uint32_t map_id);

// The packet path's only, and only of this mode, if one is given.
void DetachXdp(uint32_t ifindex, uint32_t map_id,
               std::optional<XdpMode> mode = std::nullopt);

}  // namespace headgate::datapath
