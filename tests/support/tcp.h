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
UniqueFd StartConnect(const IpAddress& source, const Endpoint& target);
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
  static TcpSocket Connect(const std::string& netns, const Endpoint& target);
  // Takes the next connection of a listener; not valid() after kTcpTimeout.
  static TcpSocket Accept(const UniqueFd& listener);

  bool valid() const { return fd_.valid(); }
  int fd() const { return fd_.get(); }
  // errno of the last failed call; 0 after an end of file.
  int error() const { return error_; }

  bool Send(absl::string_view bytes);
  // Exactly `size` bytes, or what came before the end, the error or the
  // time-out.
  std::string Receive(size_t size);
  // True when the peer ends its stream, in order, without sending more.
  bool ReceivesEnd();
  // True when the peer resets the connection.
  bool ReceivesReset();
  // True when nothing at all happens for that long.
  bool Quiet(absl::Duration duration) const;
  void ShutdownWrite();
  void Close();
  void Reset();  // Close with RST.

 private:
  explicit TcpSocket(UniqueFd fd);
  UniqueFd fd_;
  int error_ = 0;
};

}  // namespace headgate::testing
