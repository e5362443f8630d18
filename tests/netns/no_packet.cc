// To be preloaded: what a kernel says that does not take the packet path's
// programs, but the others.
#include <bpf/libbpf.h>
#include <dlfcn.h>

#include <cerrno>
#include <cstring>

extern "C" int bpf_object__load_skeleton(bpf_object_skeleton* skeleton) {
  if (std::strcmp(skeleton->name, "headgate_packet_bpf") == 0) {
    errno = EACCES;
    return -EACCES;
  }
  static const auto load = reinterpret_cast<int (*)(bpf_object_skeleton*)>(
      dlsym(RTLD_NEXT, "bpf_object__load_skeleton"));
  return load(skeleton);
}
