// To be preloaded: a kernel that refuses the splice program. libbpf loads by
// syscall().
#include <dlfcn.h>
#include <linux/bpf.h>
#include <sys/syscall.h>

#include <array>
#include <cerrno>
#include <cstdarg>

extern "C" long syscall(long number, ...) {
  std::array<long, 6> arguments{};  // At most; what is not given is not used.
  va_list list;
  va_start(list, number);
  for (long& argument : arguments) argument = va_arg(list, long);
  va_end(list);
  const auto [a, b, c, d, e, f] = arguments;
  if (number == SYS_bpf && a == BPF_PROG_LOAD &&
      reinterpret_cast<const bpf_attr*>(b)->prog_type == BPF_PROG_TYPE_SK_SKB) {
    errno = EINVAL;
    return -1;
  }
  static const auto real =
      reinterpret_cast<long (*)(long, ...)>(dlsym(RTLD_NEXT, "syscall"));
  return real(number, a, b, c, d, e, f);
}
