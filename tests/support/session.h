// One connection through the daemon with both of its ends in the test's hands,
// and what the edge holds of it.
#pragma once

#include <cstdint>

#include "support/header.h"
#include "support/tcp.h"

namespace headgate::testing {

struct Session {
  TcpSocket client;
  TcpSocket backend;
  std::string header;  // What the backend got first.

  bool valid() const { return client.valid() && backend.valid(); }
  // `size` bytes to the backend and back; false unless both come unchanged.
  bool Exchange(size_t size = 1000);
};

// Connects to `vip`; `listener` is the backend that is chosen. The version 2
// header has been read, and is the right one; fails the test otherwise.
Session OpenSession(const Endpoint& vip, const UniqueFd& listener);
// The same on a client socket that is connected already.
Session AcceptSession(TcpSocket client, const UniqueFd& listener);

// Bytes that the edge has received from the backend, acknowledged, and neither
// given to the client's send queue nor kept in a receive buffer: what is
// charged to no socket. Off by one or two (SYN, FIN).
int64_t UnchargedBytes(const Session& session);

}  // namespace headgate::testing
