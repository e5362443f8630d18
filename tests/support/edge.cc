#include "support/edge.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "support/lab.h"
#include "support/process.h"

namespace headgate::testing {
namespace {

// "key:number" is added to *sum.
void AddIf(absl::string_view word, absl::string_view key, int64_t* sum) {
  int64_t value = 0;
  if (!absl::ConsumePrefix(&word, key)) return;
  EXPECT_TRUE(absl::SimpleAtoi(word, &value)) << "ss: " << std::string(word);
  *sum += value;
}

// The number after the word `key` in the part of a file behind `section`;
// empty: the whole file.
int64_t NumberIn(const char* path, const std::string& section,
                 const std::string& key) {
  std::ifstream file(path);
  std::string word;
  while (!section.empty() && file >> word && word != section) {
  }
  while (word != key && file >> word) {
  }
  int64_t value = -1;
  file >> value;
  EXPECT_GE(value, 0) << path << ": no " << section << " " << key;
  return value;
}

// Pages that a CPU keeps for itself when they are freed, hundreds of MB of
// them.
int64_t KeptByCpusBytes() {
  std::ifstream zones("/proc/zoneinfo");
  int64_t pages = 0;
  std::string word;
  while (zones >> word) {
    if (word != "count:") continue;
    int64_t count = 0;
    zones >> count;
    pages += count;
  }
  return pages * sysconf(_SC_PAGESIZE);
}

}  // namespace

EdgeQueues QueuesAtEdge() {
  const ProcessResult shown =
      RunCommand({"ip", "netns", "exec", kEdge, "ss", "-tinHO"});
  EXPECT_EQ(shown.exit_code, 0) << shown.err;
  EdgeQueues sum;
  for (const absl::string_view line : absl::StrSplit(shown.out, '\n')) {
    std::istringstream words{std::string(line)};
    std::string word;
    int64_t unread = 0;
    int64_t unacknowledged = 0;
    if (!(words >> word >> unread >> unacknowledged)) continue;
    ++sum.sockets;
    sum.unread += unread;
    sum.unacknowledged += unacknowledged;
    while (words >> word) {
      AddIf(word, "bytes_received:", &sum.received);
      AddIf(word, "bytes_acked:", &sum.acknowledged);
    }
  }
  return sum;
}

int64_t SocketMemoryBytes() {
  return NumberIn("/proc/net/sockstat", "TCP:", "mem") * sysconf(_SC_PAGESIZE);
}

int64_t AvailableMemoryBytes() {
  return NumberIn("/proc/meminfo", "MemAvailable:", "MemAvailable:") * 1024 +
         KeptByCpusBytes();
}

std::map<std::string, int64_t> MemoryUseBytes() {
  std::map<std::string, int64_t> uses = {
      {"kept by CPUs:", KeptByCpusBytes()},
      {"sockets:", SocketMemoryBytes()},
  };
  std::ifstream file("/proc/meminfo");
  std::string name, unit;
  int64_t kib = 0;
  while (file >> name >> kib && std::getline(file, unit)) {
    uses[name] = kib * 1024;
  }
  return uses;
}

std::string Changes(const std::map<std::string, int64_t>& before,
                    const std::map<std::string, int64_t>& after) {
  std::string text;
  for (const auto& [name, bytes] : after) {
    const auto was = before.find(name);
    const int64_t grown = bytes - (was == before.end() ? 0 : was->second);
    if (std::abs(grown) >= 1 << 20) {
      absl::StrAppend(&text, name, " ", grown, " B\n");
    }
  }
  return text;
}

CpuTime CpuTimeOf(pid_t pid) {
  const std::string proc = absl::StrCat("/proc/", pid);
  double run_ns = 0;
  for (const auto& task :
       std::filesystem::directory_iterator(absl::StrCat(proc, "/task"))) {
    double ns = 0;
    std::ifstream(task.path() / "schedstat") >> ns;
    run_ns += ns;
  }
  std::ifstream stat(absl::StrCat(proc, "/stat"));
  std::string word;
  for (int i = 0; i < 13; ++i) stat >> word;  // No space in the name.
  double user = 0, system = 0;
  stat >> user >> system;
  const double share = user + system > 0 ? user / (user + system) : 0;
  return {run_ns / 1e9 * share, run_ns / 1e9 * (1 - share)};
}

int64_t ResidentBytes(pid_t pid) {
  const std::string status = absl::StrCat("/proc/", pid, "/status");
  return NumberIn(status.c_str(), "", "VmRSS:") * 1024;
}

int64_t ConnectsBegun() {
  const ScopedNetns inside(kEdge);
  std::ifstream snmp("/proc/thread-self/net/snmp");
  std::string word;
  for (int seen = 0; seen < 2 && snmp >> word;) seen += word == "Tcp:" ? 1 : 0;
  int64_t value = -1;
  for (int i = 0; i < 5; ++i) snmp >> value;
  EXPECT_GE(value, 0);
  return value;
}

}  // namespace headgate::testing
