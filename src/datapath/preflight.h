// What must be true before the programs can be loaded, each failure as one
// sentence that says how to mend it.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace headgate::datapath {

// CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON: PermissionDenied.
absl::Status CheckCapabilities();
// The kernel's type information: FailedPrecondition.
absl::Status CheckBtf();
// Makes `pin_dir`, on bpffs, owned by us, not writable by others. Mounts bpffs
// on /sys/fs/bpf, as bpftool does, when nobody has.
absl::Status PreparePinDirectory(const std::string& pin_dir);
// Whether a kernel of this release ("6.18.44-amd64") has the sockmap repairs
// without which redirected bytes get lost or doubled: commits 3b4f14b79428,
// 7683167196bd and 76be5fae32fe, in 6.17 and the stable series of August 2025.
bool KernelCarriesSockmapFixes(absl::string_view release);

}  // namespace headgate::datapath
