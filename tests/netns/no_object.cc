// To be preloaded: what a kernel says that does not take the programs of the
// object that HG_REFUSED_OBJECT names, but others.
#include <bpf/libbpf.h>
#include <dlfcn.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

extern "C" int bpf_object__load_skeleton(bpf_object_skeleton* skeleton) {
  const char* const refused = std::getenv("HG_REFUSED_OBJECT");
  if (refused != nullptr && std::strcmp(skeleton->name, refused) == 0) {
    errno = EACCES;
    return -EACCES;
  }
  static const auto load = reinterpret_cast<int (*)(bpf_object_skeleton*)>(
      dlsym(RTLD_NEXT, "bpf_object__load_skeleton"));
  return load(skeleton);
}
