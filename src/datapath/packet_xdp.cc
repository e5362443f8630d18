#include "datapath/packet_xdp.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <linux/if_link.h>
#include <xdp/libxdp.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status.h"
#include "base/unique_fd.h"

namespace headgate::datapath {
namespace {

constexpr uint32_t kMaxMaps = 64;  // Of a program.

int PrintLibxdp(libxdp_print_level level, const char* format, va_list args) {
  if (level == LIBXDP_DEBUG) return 0;
  char line[512];
  if (vsnprintf(line, sizeof line, format, args) > 0) {
    log::Debug("%s", line);
  }
  return 0;
}

// What is attached to an interface, by whatever mode.
struct Attached {
  UniqueFd program;
  uint32_t id = 0;  // 0: none.
  XdpMode mode = XdpMode::kNative;
  bool ours = false;
  std::string name;
};

uint32_t FlagOf(XdpMode mode) {
  return mode == XdpMode::kNative ? XDP_FLAGS_DRV_MODE : XDP_FLAGS_SKB_MODE;
}

// Not by xdp_multiprog__get_from_ifindex(): that of libxdp 1.3.1 leaves a
// descriptor open at each call.
absl::StatusOr<Attached> Find(uint32_t ifindex, uint32_t map_id) {
  bpf_xdp_query_opts query{};
  query.sz = sizeof query;
  if (const int error = bpf_xdp_query(static_cast<int>(ifindex), 0, &query);
      error != 0) {
    return ErrnoStatus(-error, "ask for its XDP program");
  }
  Attached found;
  if (query.attach_mode == XDP_ATTACHED_SKB) found.mode = XdpMode::kGeneric;
  found.id = std::max(
      {query.prog_id, query.drv_prog_id, query.skb_prog_id, query.hw_prog_id});
  if (found.id == 0) return found;
  found.program.reset(bpf_prog_get_fd_by_id(found.id));
  std::array<uint32_t, kMaxMaps> maps{};
  bpf_prog_info info{};
  info.map_ids = reinterpret_cast<uintptr_t>(maps.data());
  info.nr_map_ids = kMaxMaps;
  uint32_t size = sizeof info;
  if (!found.program.valid() ||
      bpf_obj_get_info_by_fd(found.program.get(), &info, &size) != 0) {
    return ErrnoStatus(errno, "look at its XDP program");
  }
  const auto end = maps.begin() + std::min(info.nr_map_ids, kMaxMaps);
  found.ours = std::find(maps.begin(), end, map_id) != end;
  found.name = info.name;
  return found;
}

absl::Status Replace(const Attached& old, int program_fd, uint32_t ifindex) {
  bpf_xdp_attach_opts options{};
  options.sz = sizeof options;
  options.old_prog_fd = old.program.get();
  const int error =
      bpf_xdp_attach(static_cast<int>(ifindex), program_fd,
                     FlagOf(old.mode) | XDP_FLAGS_REPLACE, &options);
  return error == 0 ? absl::OkStatus()
                    : ErrnoStatus(-error, "replace its XDP program");
}

}  // namespace

void PrepareLibxdp() {
  libxdp_set_print(PrintLibxdp);
  // Its dispatcher wants to load the program itself, once for each interface,
  // and kernels that have what it takes.
  setenv("LIBXDP_SKIP_DISPATCHER", "1", 1);  // NOLINT(concurrency-mt-unsafe)
}

absl::StatusOr<uint32_t> MapId(int map_fd) {
  bpf_map_info info{};
  uint32_t size = sizeof info;
  if (bpf_obj_get_info_by_fd(map_fd, &info, &size) != 0) {
    return ErrnoStatus(errno, "ask for a map's id");
  }
  return info.id;
}

const char* XdpModeName(XdpMode mode) {
  return mode == XdpMode::kNative ? "native" : "generic";
}

absl::Status AttachXdp(int program_fd, XdpMode mode, uint32_t ifindex,
                       uint32_t map_id) {
  bpf_prog_info wanted{};
  uint32_t size = sizeof wanted;
  if (bpf_obj_get_info_by_fd(program_fd, &wanted, &size) != 0) {
    return ErrnoStatus(errno, "ask for a program's id");
  }
  ASSIGN_OR_RETURN(const Attached old, Find(ifindex, map_id));
  if (old.id == wanted.id) return absl::OkStatus();
  if (old.ours && old.mode == mode) return Replace(old, program_fd, ifindex);
  if (old.ours) {
    return absl::FailedPreconditionError(absl::StrCat(
        "it is attached by mode ", XdpModeName(old.mode), " already"));
  }
  if (old.id != 0) {
    return absl::AlreadyExistsError(absl::StrCat(
        "another XDP program is attached: ", old.name, ", id ", old.id));
  }
  xdp_program* const program = xdp_program__from_fd(program_fd);
  if (const auto error = libxdp_get_error(program); error != 0) {
    return ErrnoStatus(static_cast<int>(-error), "open the XDP program");
  }
  const int error = xdp_program__attach(
      program, static_cast<int>(ifindex),
      mode == XdpMode::kNative ? XDP_MODE_NATIVE : XDP_MODE_SKB, 0);
  xdp_program__close(program);
  return error == 0 ? absl::OkStatus() : ErrnoStatus(-error, "attach XDP");
}

void DetachXdp(uint32_t ifindex, uint32_t map_id, std::optional<XdpMode> mode) {
  const auto found = Find(ifindex, map_id);
  if (!found.ok() || !found->ours) return;
  if (mode.has_value() && mode != found->mode) return;
  bpf_xdp_attach_opts options{};
  options.sz = sizeof options;
  options.old_prog_fd = found->program.get();
  bpf_xdp_detach(static_cast<int>(ifindex), FlagOf(found->mode), &options);
}

}  // namespace headgate::datapath
