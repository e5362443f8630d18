#include "datapath/preflight.h"

#include <linux/capability.h>
#include <linux/magic.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/log.h"
#include "base/status.h"

namespace headgate::datapath {
namespace {

constexpr char kBpfFs[] = "/sys/fs/bpf";
constexpr char kBtf[] = "/sys/kernel/btf/vmlinux";

struct Release {
  unsigned major = 0, minor = 0, patch = 0;
};

bool OnBpfFs(const std::string& path) {
  struct statfs info {};
  return statfs(path.c_str(), &info) == 0 &&
         static_cast<uint64_t>(info.f_type) == BPF_FS_MAGIC;
}

}  // namespace

absl::Status CheckCapabilities() {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  std::array<__user_cap_data_struct, 2> data{};
  if (syscall(SYS_capget, &header, data.data()) != 0) {
    return ErrnoStatus(errno, "read capabilities");
  }
  struct Needed {
    unsigned bit;
    const char* name;
  };
  constexpr std::array<Needed, 3> kNeeded = {{{CAP_NET_ADMIN, "CAP_NET_ADMIN"},
                                              {CAP_PERFMON, "CAP_PERFMON"},
                                              {CAP_BPF, "CAP_BPF"}}};
  const auto has = [&](unsigned bit) {
    return (data[bit / 32].effective & (1U << (bit % 32))) != 0;
  };
  std::vector<std::string> missing;
  for (const Needed& needed : kNeeded) {
    // Kernels before 5.8 had one capability for all of it.
    if (!has(needed.bit) && !has(CAP_SYS_ADMIN)) missing.push_back(needed.name);
  }
  if (missing.empty()) return absl::OkStatus();
  return absl::PermissionDeniedError(
      absl::StrCat("loading BPF programs needs ", absl::StrJoin(missing, ", "),
                   ": run headgated as root or grant these capabilities"));
}

absl::Status CheckBtf() {
  if (access(kBtf, R_OK) == 0) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(
      "this kernel offers no BTF (", kBtf,
      " cannot be read): use a kernel built with CONFIG_DEBUG_INFO_BTF"));
}

absl::Status PreparePinDirectory(const std::string& pin_dir) {
  const std::filesystem::path path(pin_dir);
  const std::string parent = path.parent_path().string();
  if (!path.is_absolute() || parent.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("pin directory ", pin_dir, " is not an absolute path"));
  }
  if (!OnBpfFs(parent) && parent == kBpfFs) {
    if (mount("bpf", kBpfFs, "bpf", 0, "mode=0700") != 0) {
      return ErrnoStatus(errno, absl::StrCat("mount bpffs on ", kBpfFs));
    }
    log::Info("mounted bpffs on %s", kBpfFs);
  }
  if (!OnBpfFs(parent)) {
    return absl::FailedPreconditionError(
        absl::StrCat(parent,
                     " is not on bpffs: mount -t bpf bpf /sys/fs/bpf, or give "
                     "--pin_dir a directory whose parent is"));
  }
  if (mkdir(pin_dir.c_str(), 0700) != 0 && errno != EEXIST) {
    return ErrnoStatus(errno, absl::StrCat("make pin directory ", pin_dir));
  }
  // On a bpffs that everybody may write, anybody could have made it first.
  struct stat info {};
  if (lstat(pin_dir.c_str(), &info) != 0) {
    return ErrnoStatus(errno, absl::StrCat("look at ", pin_dir));
  }
  const bool ours = info.st_uid == 0 || info.st_uid == geteuid();
  if (!S_ISDIR(info.st_mode) || !ours || (info.st_mode & 0022) != 0) {
    return absl::FailedPreconditionError(absl::StrCat(
        pin_dir,
        " is not a directory that only root or this user may write: "
        "remove it or give another --pin_dir"));
  }
  return absl::OkStatus();
}

bool KernelCarriesSockmapFixes(absl::string_view release) {
  Release r;
  if (std::sscanf(std::string(release).c_str(), "%u.%u.%u", &r.major, &r.minor,
                  &r.patch) < 2) {
    return false;
  }
  if (r.major != 6) return r.major > 6;
  if (r.minor == 12) return r.patch >= 42;
  if (r.minor == 6) return r.patch >= 102;
  return r.minor >= 17;
}

}  // namespace headgate::datapath
