// TCP sockets for tests. Sockets belong to the namespace of the thread that
// makes them. Every blocking call gives up after kTcpTimeout.
#pragma once

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/unique_fd.h"
#include "net/address.h"

namespace headgate::testing {

inline constexpr absl::Duration kTcpTimeout = absl::Seconds(10);

// Non-blocking listener with a deep backlog. Ends the program when it cannot
// bind.
UniqueFd Listen(const Endpoint& endpoint);
// Non-blocking socket whose connect() is under way; `source` may be ::.
// Invalid, with errno set, when that failed at once.
UniqueFd StartConnect(const IpAddress& source, const Endpoint& target,
                      uint16_t port = 0);
Endpoint LocalEndpoint(int fd);
Endpoint PeerEndpoint(int fd);
// The pending SO_ERROR, which is then cleared.
int SocketError(int fd);
// close() sends RST.
void ResetOnClose(int fd);

class TcpSocket {
 public:
  TcpSocket() = default;
  // Not valid(), with error() set, when the connection fails.
  // From that address and port; ::, 0: any.
  static TcpSocket Connect(const std::string& netns, const Endpoint& target,
                           uint16_t port = 0, const IpAddress& source = {});
  // Takes the next connection of a listener; not valid() after kTcpTimeout.
  static TcpSocket Accept(const UniqueFd& listener);

  bool valid() const { return fd_.valid(); }
  int fd() const { return fd_.get(); }
  // errno of the last failed call; 0 after an end of file.
  int error() const { return error_; }

  // `flags` as send(2)'s: MSG_OOB makes the last byte urgent.
  bool Send(absl::string_view bytes, int flags = 0);
  // Sends 'x' until `most` bytes are gone or none was taken for `patience`;
  // returns how many were.
  size_t Flood(size_t most, absl::Duration patience = absl::Milliseconds(300));
  // Exactly `size` bytes, or what came before the end, the error or the
  // time-out.
  std::string Receive(size_t size);
  // All until the end, an error, or until nothing comes for `patience`.
  std::string ReceiveAll(absl::Duration patience);
  // True when the peer ends its stream, in order, without sending more.
  bool ReceivesEnd();
  // True when the peer resets the connection.
  bool ReceivesReset();
  // True when nothing at all happens for that long.
  bool Quiet(absl::Duration duration) const;
  // Replaces the socket by one that has sent `bytes` less, everything sent
  // being acknowledged: what is sent next overlaps that much, as the
  // retransmissions of some stacks and middleboxes do. Call it in the
  // socket's namespace (TCP_REPAIR).
  bool Rewind(uint32_t bytes);
  void ShutdownWrite();
  void Close();
  void Reset();   // Close with RST.
  void Forget();  // Close without a word, as by a loss of power (TCP_REPAIR).

 private:
  explicit TcpSocket(UniqueFd fd);
  std::string Receive(size_t size, absl::Duration patience);
  UniqueFd fd_;
  int error_ = 0;
};

}  // namespace headgate::testing
