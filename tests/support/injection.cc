#include "support/injection.h"

#include <gtest/gtest.h>
#include <signal.h>

#include <filesystem>
#include <fstream>
#include <iterator>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "support/wait.h"

namespace headgate::testing {
namespace {
constexpr absl::Duration kSoon = absl::Seconds(5);
}  // namespace

Injection::Injection(pid_t pid, const std::string& fault)
    : pid_(pid),
      tracer_({"strace", "-f", "-qqq", "-o", "/dev/null", "-p",
               absl::StrCat(pid), "-e", absl::StrCat("inject=", fault)}) {
  EXPECT_TRUE(WaitUntil(kSoon, [&] { return AllTracedBy(tracer_.pid()); }))
      << tracer_.err();
}

Injection::~Injection() {
  tracer_.Signal(SIGTERM);
  EXPECT_TRUE(tracer_.Wait(kSoon).has_value());
  EXPECT_TRUE(WaitUntil(kSoon, [&] { return AllTracedBy(0); }));
}

bool Injection::AllTracedBy(pid_t tracer) const {
  const std::string line = absl::StrCat("TracerPid:\t", tracer, "\n");
  for (const auto& thread : std::filesystem::directory_iterator(
           absl::StrCat("/proc/", pid_, "/task"))) {
    std::ifstream file(thread.path() / "status");
    const std::string status((std::istreambuf_iterator<char>(file)), {});
    if (!absl::StrContains(status, line)) return false;
  }
  return true;
}

}  // namespace headgate::testing
