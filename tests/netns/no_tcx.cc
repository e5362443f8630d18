// To be preloaded: what a kernel before Linux 6.6 says to a TCX link.
#include <bpf/bpf.h>

#include <cerrno>

extern "C" int bpf_link_create(int, int, bpf_attach_type,
                               const bpf_link_create_opts*) {
  errno = EINVAL;
  return -EINVAL;
}
