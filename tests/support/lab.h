// The network that tests run in: three namespaces joined by veth, addresses
// from the benchmarking and documentation ranges (RFC 2544, RFC 3849).
//
//   client                    edge                           backend
//   198.18.0.2    --------    198.18.0.1   198.18.2.1  ----  198.18.2.11..14
//   2001:db8::2               2001:db8::1  2001:db8:2::1     2001:db8:2::11..14
//                             lo: 198.18.1.1, 2001:db8:1::1 (the VIPs)
//
// One Lab at a time, only inside tests/support/sandbox.
#pragma once

#include <cstdint>
#include <string>
#include <utility>

#include "base/unique_fd.h"
#include "net/address.h"

namespace headgate::testing {

inline constexpr char kClient[] = "client";  // Namespace names.
inline constexpr char kEdge[] = "edge";
inline constexpr char kBackend[] = "backend";

// "198.18.2.11:30125" and the like; ends the program on a typing mistake.
Endpoint At(const std::string& endpoint);

// The calling thread works in a network namespace while this lives; sockets
// and processes made meanwhile stay there.
class ScopedNetns {
 public:
  explicit ScopedNetns(const std::string& name);
  ~ScopedNetns();
  ScopedNetns(const ScopedNetns&) = delete;
  ScopedNetns& operator=(const ScopedNetns&) = delete;

 private:
  UniqueFd home_;
};

template <typename Body>
auto RunIn(const std::string& netns, Body&& body) {
  ScopedNetns inside(netns);
  return std::forward<Body>(body)();
}

// Runs a shell script with -e; ends the program when it fails.
void Shell(const std::string& script);

// ETHTOOL_STXCSUM, ETHTOOL_SGSO, ETHTOOL_SGRO, ETHTOOL_STSO of a device of the
// namespace that the thread is in; false: refused.
bool SetOffload(const std::string& device, uint32_t command, bool on);

class Lab {
 public:
  Lab();
  ~Lab();
  Lab(const Lab&) = delete;
  Lab& operator=(const Lab&) = delete;

  // One more, 198.18.0.3 or 2001:db8::3 upwards.
  void AddClientAddress(const std::string& address);
  // Frames from the edge to a backend address vanish, as with a host that has
  // lost power.
  void BlackHole(const std::string& backend_address);
  void Heal(const std::string& backend_address);
};

}  // namespace headgate::testing
