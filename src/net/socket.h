// TCP sockets: non-blocking, close-on-exec. Errors are errno Statuses that
// name the call and the address.
#pragma once

#include <cerrno>
#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/unique_fd.h"
#include "net/address.h"

namespace headgate {

// `count` listening sockets on exactly `endpoint`, sharing it by SO_REUSEPORT;
// the kernel spreads connections over them. EADDRINUSE also
// when another process listens there with SO_REUSEPORT itself. What the
// connections inherit: TCP_NODELAY.
absl::StatusOr<std::vector<UniqueFd>> ListenTcp(const Endpoint& endpoint,
                                                size_t count);
// Whether ListenTcp would succeed; nobody can connect meanwhile.
absl::Status CheckListenable(const Endpoint& endpoint);

// kHold leaves the handshake's last ACK to the first send or close: a RST
// instead of it, and the server's application never hears of the connection.
enum class HandshakeAck { kSend, kHold };

struct ConnectOptions {
  IpAddress source = {};  // Unspecified: the kernel's choice.
  bool crowded = false;   // A large part of the ports to `endpoint` is in use.
  HandshakeAck ack = HandshakeAck::kSend;
  // TCP_NODELAY; who never sends twice without an answer in between does not
  // need it.
  bool no_delay = true;
};

// A socket on its way to `endpoint`. *error is 0 when it is connected,
// EINPROGRESS when to wait for writability and then ask TakeSocketError, else
// the reason why there is no socket. The kernel has one word for two of them
// (connect(2), bind(2)); here EADDRINUSE says that all ports from the source
// to `endpoint` are in use, EADDRNOTAVAIL that the machine lacks the source.
UniqueFd ConnectTcp(const Endpoint& endpoint, int* error,
                    const ConnectOptions& options = {});
// Whether ConnectTcp failed for want of a source: another may do.
inline bool IsSourceError(int error) {
  return error == EADDRINUSE || error == EADDRNOTAVAIL;
}
// Whether the machine has the address, or any address if it is unspecified, to
// reach `endpoint` from. Sends nothing.
bool HasSource(const IpAddress& source, const Endpoint& endpoint);

// SO_ERROR, which reading clears; 0 is success.
int TakeSocketError(int fd);
// Whether the handshake is done, known of or not.
bool IsConnected(int fd);

Endpoint LocalEndpoint(int fd);

// From now on the connection breaks with ETIMEDOUT when its peer acknowledges
// nothing for so long, be it that data waits for it (TCP_USER_TIMEOUT) or that
// it is asked after as long a silence (keepalive).
void WatchPeer(int fd, absl::Duration dead_after);

// From now on close() sends RST and drops what is unsent.
void ResetOnClose(int fd);

// Bytes that have ever entered the socket's send queue, off by a constant (the
// SYN counts too), at some moment during the call.
uint64_t BytesQueuedEver(int fd);
// Of those, what the peer has acknowledged, and what it has not.
uint64_t BytesAcknowledged(int fd);
uint64_t BytesUnacknowledged(int fd);

// A listening unix stream socket at `path`, mode 0660. A stale file is
// replaced; AlreadyExists when somebody serves it.
absl::StatusOr<UniqueFd> ListenUnix(const std::string& path);

}  // namespace headgate
