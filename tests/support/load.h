// Many short client connections, driven by one thread: connect, send, receive
// an exact answer, close.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "net/address.h"

namespace headgate::testing {

struct LoadPlan {
  std::vector<IpAddress> sources = {};  // Used in turn; empty: the default.
  Endpoint target = {};
  size_t total = 1;
  size_t concurrency = 64;
  double per_second = 0;    // Connections started; 0: as fast as it goes.
  std::string send = {};    // At once after the handshake.
  std::string expect = {};  // The whole answer; never empty.
  bool resets = false;      // Closes with RST.
  absl::Duration timeout = absl::Seconds(10);  // For each connection.
};

struct LoadReport {
  size_t ok = 0;
  std::map<std::string, size_t> errors;  // "connect: ECONNREFUSED" and so on.
  std::vector<Endpoint> locals;          // Of the connections that were ok.
  std::vector<absl::Duration> answered;  // Start to first byte, ascending.

  size_t failed() const;
  // 0 < share <= 1; 0 when there were no answers.
  absl::Duration Percentile(double share) const;
  std::string ToString() const;
};

// Runs in the client namespace, until every connection has ended.
LoadReport RunLoad(const LoadPlan& plan);

}  // namespace headgate::testing
