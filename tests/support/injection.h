// System calls of a running program that the kernel refuses or delays, as
// strace makes it do: no limit of the whole machine has to be touched.
#pragma once

#include <sys/types.h>

#include <string>

#include "support/process.h"

namespace headgate::testing {

class Injection {
 public:
  // Into all threads that `pid` has. `fault`: as in strace's --inject, for
  // example "connect:error=ENOBUFS". Fails the test unless it takes effect.
  Injection(pid_t pid, const std::string& fault);
  ~Injection();  // The program goes on undisturbed.

 private:
  bool AllTracedBy(pid_t tracer) const;
  pid_t pid_;
  Process tracer_;
};

}  // namespace headgate::testing
