#include "datapath/packet_hook.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <linux/ethtool.h>
#include <linux/membarrier.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "base/status.h"

namespace headgate::datapath {
namespace {

// enum bpf_attach_type of Linux 6.6; Debian 12's header is older.
constexpr auto kTcxIngress = static_cast<bpf_attach_type>(46);
constexpr uint32_t kPriority = 0x4847;  // Of the filters of all daemons.

absl::StatusOr<bool> Forwards(const char* family, const std::string& name) {
  std::ifstream file(
      absl::StrCat("/proc/sys/net/", family, "/conf/", name, "/forwarding"));
  if (!file && errno != ENOENT) {
    return ErrnoStatus(errno, "ask whether it forwards");
  }
  char value = '0';
  file >> value;
  return value != '0';
}

absl::Status Ask(const std::string& name, unsigned long what,
                 const char* question, ifreq* request) {
  const UniqueFd fd(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!fd.valid()) return ErrnoStatus(errno, question);
  if (name.size() >= sizeof request->ifr_name) {
    return absl::NotFoundError("no such interface");
  }
  std::memcpy(request->ifr_name, name.data(), name.size());
  if (ioctl(fd.get(), what, request) == 0) return absl::OkStatus();
  return errno == ENODEV ? absl::NotFoundError("no such interface")
                         : ErrnoStatus(errno, question);
}

bool IsLinkOf(int fd, uint32_t ifindex) {
  // struct bpf_link_info as of Linux 6.6: for TCX, the interface comes first.
  struct {
    bpf_link_info info;
    uint8_t later[64];
  } buffer{};
  __u32 size = sizeof buffer;
  if (bpf_obj_get_info_by_fd(fd, &buffer, &size) != 0) return false;
  uint32_t of = 0;
  std::memcpy(&of, &buffer.info.xdp.ifindex, sizeof of);
  return of == ifindex;
}

bpf_tc_hook ClsactOf(uint32_t ifindex) {
  bpf_tc_hook hook{};
  hook.sz = sizeof hook;
  hook.ifindex = static_cast<int>(ifindex);
  hook.attach_point = BPF_TC_INGRESS;
  return hook;
}

// No other map has the id while a filter's program uses this one.
bpf_tc_opts FilterOf(uint32_t table_id) {
  bpf_tc_opts options{};
  options.sz = sizeof options;
  options.handle = table_id;
  options.priority = kPriority;
  return options;
}

absl::StatusOr<UniqueFd> AttachClsact(int program_fd, uint32_t ifindex,
                                      uint32_t table_id) {
  bpf_tc_hook hook = ClsactOf(ifindex);
  const int made = bpf_tc_hook_create(&hook);
  if (made != 0 && made != -EEXIST) return ErrnoStatus(-made, "add clsact");
  bpf_tc_opts options = FilterOf(table_id);
  options.prog_fd = program_fd;
  options.flags = BPF_TC_F_REPLACE;
  if (const int error = bpf_tc_attach(&hook, &options); error != 0) {
    return ErrnoStatus(-error, "attach to clsact");
  }
  return UniqueFd();
}

}  // namespace

absl::Status CheckPacketInterface(const std::string& name, bool v4, bool v6) {
  ifreq request{};
  RETURN_IF_ERROR(Ask(name, SIOCGIFHWADDR, "ask for its type", &request));
  if (request.ifr_hwaddr.sa_family != ARPHRD_ETHER) {
    return absl::FailedPreconditionError("not an Ethernet interface");
  }
  for (const char* family : {"ipv4", "ipv6"}) {
    const bool needed = std::strcmp(family, "ipv4") == 0 ? v4 : v6;
    if (!needed) continue;
    ASSIGN_OR_RETURN(const bool forwards, Forwards(family, name));
    if (forwards) continue;
    return absl::FailedPreconditionError(
        absl::StrCat("does not forward; sysctl -w net.", family, ".conf.",
                     absl::StrReplaceAll(name, {{".", "/"}}), ".forwarding=1"));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::array<uint8_t, 6>> MacOf(const std::string& name) {
  ifreq request{};
  RETURN_IF_ERROR(Ask(name, SIOCGIFHWADDR, "ask for its MAC", &request));
  std::array<uint8_t, 6> mac{};
  std::copy_n(request.ifr_hwaddr.sa_data, mac.size(), mac.begin());
  return mac;
}

uint64_t ReceivedBy(const std::string& name) {
  std::ifstream devices("/proc/net/dev");
  std::string word;
  while (devices >> word) {
    uint64_t bytes = 0, frames = 0;
    if (word == name + ":" && devices >> bytes >> frames) return frames;
  }
  return 0;
}

bool HasVlan(std::istream& config, const std::string& name) {
  std::string line;
  while (std::getline(config, line)) {
    const std::vector<std::string> fields = absl::StrSplit(line, '|');
    if (fields.size() == 3 && absl::StripAsciiWhitespace(fields[2]) == name) {
      return true;
    }
  }
  return false;
}

absl::Status CheckXdpInterface(const std::string& name, XdpMode mode) {
  std::ifstream config("/proc/net/vlan/config");
  if (!HasVlan(config, name)) return absl::OkStatus();
  if (mode == XdpMode::kGeneric) {
    return absl::FailedPreconditionError(
        "it has VLANs, whose tags generic XDP may not see");
  }
  ethtool_value flags{ETHTOOL_GFLAGS, 0};
  ifreq request{};
  request.ifr_data = reinterpret_cast<char*>(&flags);
  RETURN_IF_ERROR(Ask(name, SIOCETHTOOL, "ask for its offloads", &request));
  if ((flags.data & ETH_FLAG_RXVLAN) == 0) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("its hardware takes VLAN tags off, unseen; ethtool -K ",
                   name, " rxvlan off"));
}

std::vector<uint32_t> Interfaces() {
  std::vector<uint32_t> found;
  struct if_nameindex* const all = if_nameindex();
  if (all == nullptr) return found;
  for (const struct if_nameindex* each = all; each->if_index != 0; ++each) {
    found.push_back(each->if_index);
  }
  if_freenameindex(all);
  return found;
}

std::string PacketLinkPin(const std::string& pin_dir, uint32_t ifindex) {
  return absl::StrCat(pin_dir, "/", kPacketLinks, ifindex);
}

std::vector<std::string> PacketPins(const std::string& pin_dir,
                                    absl::string_view prefix) {
  std::vector<std::string> pins;
  std::error_code ignored;
  for (const auto& entry :
       std::filesystem::directory_iterator(pin_dir, ignored)) {
    const std::string name = entry.path().filename();
    if (absl::StartsWith(name, prefix)) {
      pins.push_back(absl::StrCat(pin_dir, "/", name));
    }
  }
  return pins;
}

absl::StatusOr<UniqueFd> AttachPacketHook(int program_fd, uint32_t ifindex,
                                          const std::string& pin,
                                          uint32_t table_id) {
  UniqueFd old(bpf_obj_get(pin.c_str()));
  if (old.valid() && IsLinkOf(old.get(), ifindex) &&
      bpf_link_update(old.get(), program_fd, nullptr) == 0) {
    return old;
  }
  old.reset();
  unlink(pin.c_str());
  UniqueFd link(bpf_link_create(program_fd, static_cast<int>(ifindex),
                                kTcxIngress, nullptr));
  if (!link.valid()) {
    if (errno == EINVAL || errno == EOPNOTSUPP) {
      return AttachClsact(program_fd, ifindex, table_id);
    }
    return ErrnoStatus(errno, "attach");
  }
  if (bpf_obj_pin(link.get(), pin.c_str()) != 0) {
    return ErrnoStatus(errno, absl::StrCat("pin ", pin));
  }
  return link;
}

bool HasPacketHook(const UniqueFd& link, uint32_t ifindex, uint32_t table_id) {
  if (link.valid()) return IsLinkOf(link.get(), ifindex);
  const bpf_tc_hook hook = ClsactOf(ifindex);
  bpf_tc_opts options = FilterOf(table_id);
  const int error = bpf_tc_query(&hook, &options);
  return error != -ENOENT && error != -EINVAL && error != -ENODEV;
}

void DetachClsact(uint32_t ifindex, uint32_t table_id) {
  const bpf_tc_hook hook = ClsactOf(ifindex);
  const bpf_tc_opts options = FilterOf(table_id);
  bpf_tc_detach(&hook, &options);
}

// They run in RCU read sections, whose end the global command waits for.
void AwaitRunningPrograms() {
  syscall(SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0);
}

void RemovePacketPath(const std::string& pin_dir) {
  const UniqueFd table(bpf_obj_get((pin_dir + "/packet_flows").c_str()));
  if (const absl::StatusOr<uint32_t> table_id = MapId(table.get());
      table_id.ok()) {
    for (const uint32_t ifindex : Interfaces()) {
      DetachXdp(ifindex, *table_id);
      DetachClsact(ifindex, *table_id);
    }
  }
  for (const std::string& pin : PacketPins(pin_dir, "packet_")) {
    unlink(pin.c_str());
  }
}

}  // namespace headgate::datapath
