#include "relay/farewell.h"

#include <sys/socket.h>

#include <cerrno>

namespace headgate::relay {

absl::string_view FarewellLine(config::NoBackend answer) {
  switch (answer) {
    case config::NoBackend::kReset:
      return "";
    case config::NoBackend::kSmtp421:
      return "421 4.3.2 Service not available, try again later\r\n";
    case config::NoBackend::kImapBye:
      return "* BYE [UNAVAILABLE] Service not available, try again later\r\n";
  }
  return "";
}

bool Farewell::Send(int client, absl::string_view line) {
  // Nothing was sent before: the send buffer has room for it.
  const ssize_t sent =
      send(client, line.data(), line.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
  return sent == static_cast<ssize_t>(line.size()) &&
         shutdown(client, SHUT_WR) == 0;
}

bool Farewell::Drain(int client) {
  while (left_ > 0) {
    const ssize_t got =
        recv(client, nullptr, left_, MSG_TRUNC | MSG_DONTWAIT);  // tcp(7).
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return errno == EAGAIN;
    if (got == 0) return false;
    left_ -= static_cast<size_t>(got);
  }
  return false;
}

}  // namespace headgate::relay
