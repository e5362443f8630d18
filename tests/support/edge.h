// What the edge's kernel and daemon hold, seen from outside.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <string>

namespace headgate::testing {

// Of all established TCP connections in the edge namespace together.
struct EdgeQueues {
  int64_t sockets = 0;
  int64_t received = 0;      // Bytes, each from its peer.
  int64_t unread = 0;        // Of these, in receive buffers.
  int64_t acknowledged = 0;  // Bytes, by their peers.
  int64_t unacknowledged = 0;
  // What was received and neither given to a send queue nor kept in a receive
  // buffer: in the kernel's splice backlogs, in pipes, in the daemon. The
  // `header_bytes` that the daemon adds are given and never received. Off by
  // one a socket (SYN).
  int64_t HeldBetween(int64_t header_bytes) const {
    return received - unread + header_bytes - acknowledged - unacknowledged;
  }
};
EdgeQueues QueuesAtEdge();

// Of the whole machine: what sockets are charged, and what is free to use, be
// it in the lists of free pages that CPUs keep for themselves.
int64_t SocketMemoryBytes();
int64_t AvailableMemoryBytes();
// What it is used for, by the names of /proc/meminfo; Changes() says what has
// grown or shrunk by a megabyte or more.
std::map<std::string, int64_t> MemoryUseBytes();
std::string Changes(const std::map<std::string, int64_t>& before,
                    const std::map<std::string, int64_t>& after);

// What a process has used so far, all its threads together. The sum is exact;
// the kernel splits it by samples of 1 to 10 ms.
struct CpuTime {
  double user_seconds = 0;
  double system_seconds = 0;
  double total() const { return user_seconds + system_seconds; }
};
CpuTime CpuTimeOf(pid_t pid);
int64_t ResidentBytes(pid_t pid);

// TCP connections that the edge namespace has begun, ever.
int64_t ConnectsBegun();

}  // namespace headgate::testing
