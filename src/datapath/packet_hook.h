// Where the packet program is hooked in: ingress of an interface, by a TCX link
// (Linux 6.6) or else as a clsact filter. Both go on without a daemon; a link
// because it is pinned.
#pragma once

#include <array>
#include <cstdint>
#include <istream>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/unique_fd.h"
#include "datapath/packet_xdp.h"

namespace headgate::datapath {

// FailedPrecondition: not an Ethernet interface, or it does not forward, with
// the fix. NotFound. Others: nobody can tell now, for want of a descriptor say.
absl::Status CheckPacketInterface(const std::string& name, bool v4, bool v6);

absl::StatusOr<std::array<uint8_t, 6>> MacOf(const std::string& name);
// Frames that have come in, as the kernel counts them; 0: no such interface.
uint64_t ReceivedBy(const std::string& name);

// FailedPrecondition: XDP would not see the tags of the interface's VLANs, for
// the hardware takes them off; or what is below the interface may, ahead of
// generic XDP.
absl::Status CheckXdpInterface(const std::string& name, XdpMode mode);
// Whether /proc/net/vlan/config has one of this interface.
bool HasVlan(std::istream& config, const std::string& name);

std::vector<uint32_t> Interfaces();  // Indices of all.

// By the interface's index: no name on bpffs may have a dot, as VLANs' have.
std::string PacketLinkPin(const std::string& pin_dir, uint32_t ifindex);
// What is pinned there by a name that begins so.
std::vector<std::string> PacketPins(const std::string& pin_dir,
                                    absl::string_view prefix);
inline constexpr char kPacketLinks[] = "packet_link_";

// Replaces the program of a link pinned at `pin`, if it is of this interface,
// so that no packet is missed. An invalid descriptor: a clsact filter, told
// from those of other daemons by the id of our map packet_flows.
absl::StatusOr<UniqueFd> AttachPacketHook(int program_fd, uint32_t ifindex,
                                          const std::string& pin,
                                          uint32_t table_id);
// Whether the link is there or, for an invalid descriptor, the filter: it is
// unless the kernel says that it is not.
bool HasPacketHook(const UniqueFd& link, uint32_t ifindex, uint32_t table_id);
void DetachClsact(uint32_t ifindex, uint32_t table_id);

// Returns when no BPF program runs any more that did at the call. Some ms.
void AwaitRunningPrograms();

// All that is attached for the flow table pinned there, and all its pins.
void RemovePacketPath(const std::string& pin_dir);

}  // namespace headgate::datapath
