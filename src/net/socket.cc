#include "net/socket.h"

#include <linux/sockios.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/status.h"

namespace headgate {
namespace {

#ifndef IP_LOCAL_PORT_RANGE
#define IP_LOCAL_PORT_RANGE 51  // linux/in.h, later than Debian 12's.
#endif

constexpr int kListenBacklog = 4096;  // Cut to net.core.somaxconn.

absl::Status SetOption(int fd, int level, int option, int value,
                       absl::string_view name) {
  if (setsockopt(fd, level, option, &value, sizeof value) == 0) {
    return absl::OkStatus();
  }
  return ErrnoStatus(errno, absl::StrCat("set ", name));
}

absl::StatusOr<UniqueFd> TcpSocket(int family) {
  UniqueFd fd(
      socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, IPPROTO_TCP));
  if (!fd.valid()) return ErrnoStatus(errno, "make socket");
  return fd;
}

// bind() or connect(): 0 or errno.
int WithSockaddr(int (*call)(int, const sockaddr*, socklen_t), int fd,
                 const Endpoint& endpoint) {
  sockaddr_storage storage{};
  const socklen_t size = endpoint.ToSockaddr(&storage);
  const auto* address = reinterpret_cast<const sockaddr*>(&storage);
  return call(fd, address, size) == 0 ? 0 : errno;
}

absl::StatusOr<UniqueFd> BoundSocket(const Endpoint& endpoint, bool share) {
  ASSIGN_OR_RETURN(UniqueFd fd, TcpSocket(endpoint.family()));
  RETURN_IF_ERROR(
      SetOption(fd.get(), SOL_SOCKET, SO_REUSEADDR, 1, "SO_REUSEADDR"));
  if (endpoint.family() == AF_INET6) {
    RETURN_IF_ERROR(
        SetOption(fd.get(), IPPROTO_IPV6, IPV6_V6ONLY, 1, "IPV6_V6ONLY"));
  }
  if (share) {
    RETURN_IF_ERROR(
        SetOption(fd.get(), SOL_SOCKET, SO_REUSEPORT, 1, "SO_REUSEPORT"));
  }
  if (const int error = WithSockaddr(bind, fd.get(), endpoint); error != 0) {
    return ErrnoStatus(error, absl::StrCat("listen on ", endpoint.ToString()));
  }
  return fd;
}

// Let connect() take the next free port. By itself it looks through all ports
// of one parity first (inet_hashtables.c, __inet_hash_connect()): 0.7 ms once
// these are used up, with 14,000 of them; only sockets with a range of their
// own are spared that. This one is wider than any, and so means
// net.ipv4.ip_local_port_range. Best effort: unknown before Linux 6.3.
void TakeNextPort(int fd) {
  constexpr uint32_t kAllPorts = 0xffff0001;  // The highest, the lowest.
  setsockopt(fd, IPPROTO_IP, IP_LOCAL_PORT_RANGE, &kAllPorts, sizeof kAllPorts);
}

// 0 or errno. The port is left to connect(): it need only be free towards the
// target then.
int BindSource(int fd, const IpAddress& source) {
  const int on = 1;
  setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
  return WithSockaddr(bind, fd, {source, 0});
}

// What a connection would meet, but for TCP's ports: 0 or errno. Sends nothing.
int ProbeError(const IpAddress& source, const Endpoint& endpoint) {
  const UniqueFd fd(
      socket(endpoint.family(), SOCK_DGRAM | SOCK_CLOEXEC, IPPROTO_UDP));
  if (!fd.valid()) return errno;
  const int error = source.is_unspecified() ? 0 : BindSource(fd.get(), source);
  return error != 0 ? error : WithSockaddr(connect, fd.get(), endpoint);
}

// With net.ipv4.ip_nonlocal_bind it is the route lookup, in connect(), that
// minds a source that the machine lacks.
bool MayLackSource(int error, const IpAddress& source) {
  return error == EADDRNOTAVAIL || (!source.is_unspecified() &&
                                    (error == ENETUNREACH || error == EINVAL));
}

// See ConnectTcp().
int TellSourceErrors(int error, const IpAddress& source,
                     const Endpoint& endpoint) {
  if (!MayLackSource(error, source)) return error;
  if (!HasSource(source, endpoint)) return EADDRNOTAVAIL;
  return error == EADDRNOTAVAIL ? EADDRINUSE : error;
}

bool TcpInfo(int fd, tcp_info* info) {
  socklen_t size = sizeof *info;
  return getsockopt(fd, IPPROTO_TCP, TCP_INFO, info, &size) == 0;
}

}  // namespace

// SO_REUSEPORT would share the address silently with a listener of the same
// user; a socket without it is refused then.
absl::Status CheckListenable(const Endpoint& endpoint) {
  return BoundSocket(endpoint, false).status();
}

absl::StatusOr<std::vector<UniqueFd>> ListenTcp(const Endpoint& endpoint,
                                                size_t count) {
  RETURN_IF_ERROR(CheckListenable(endpoint));
  std::vector<UniqueFd> sockets;
  for (size_t i = 0; i < count; ++i) {
    ASSIGN_OR_RETURN(UniqueFd fd, BoundSocket(endpoint, true));
    RETURN_IF_ERROR(
        SetOption(fd.get(), IPPROTO_TCP, TCP_NODELAY, 1, "TCP_NODELAY"));
    if (listen(fd.get(), kListenBacklog) != 0) {
      return ErrnoStatus(errno,
                         absl::StrCat("listen on ", endpoint.ToString()));
    }
    sockets.push_back(std::move(fd));
  }
  return sockets;
}

UniqueFd ConnectTcp(const Endpoint& endpoint, int* error,
                    const ConnectOptions& options) {
  UniqueFd fd(socket(endpoint.family(),
                     SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, IPPROTO_TCP));
  if (!fd.valid()) {
    *error = errno;
    return fd;
  }
  if (options.no_delay) {
    const int on = 1;  // Best effort: a stream without it works too.
    setsockopt(fd.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  }
  if (options.ack == HandshakeAck::kHold) {
    const int off = 0;  // tcp_rcv_synsent_state_process() delays it then.
    setsockopt(fd.get(), IPPROTO_TCP, TCP_QUICKACK, &off, sizeof off);
  }
  const bool bound = !options.source.is_unspecified();
  if (bound || options.crowded) TakeNextPort(fd.get());
  *error = bound ? BindSource(fd.get(), options.source) : 0;
  if (*error == 0) *error = WithSockaddr(connect, fd.get(), endpoint);
  if (*error == 0 || *error == EINPROGRESS) return fd;
  *error = TellSourceErrors(*error, options.source, endpoint);
  return {};
}

bool HasSource(const IpAddress& source, const Endpoint& endpoint) {
  const int error = ProbeError(source, endpoint);
  if (error == EADDRNOTAVAIL) return false;
  // If it is the source, another gets through.
  return !MayLackSource(error, source) || ProbeError({}, endpoint) != 0;
}

int TakeSocketError(int fd) {
  int error = 0;
  socklen_t size = sizeof error;
  if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) != 0) return errno;
  return error;
}

bool IsConnected(int fd) {
  sockaddr_storage storage{};
  socklen_t size = sizeof storage;
  // ENOTCONN in SYN_SENT (inet_getname()).
  return getpeername(fd, reinterpret_cast<sockaddr*>(&storage), &size) == 0;
}

Endpoint LocalEndpoint(int fd) {
  sockaddr_storage storage{};
  socklen_t size = sizeof storage;
  if (getsockname(fd, reinterpret_cast<sockaddr*>(&storage), &size) != 0) {
    return {};
  }
  return Endpoint::FromSockaddr(storage);
}

void WatchPeer(int fd, absl::Duration dead_after) {
  // Fails only on a closed socket, which has no peer.
  const auto set = [fd](int level, int option, int64_t value) {
    const int number = static_cast<int>(value);
    setsockopt(fd, level, option, &number, sizeof number);
  };
  const int64_t seconds = std::clamp<int64_t>(absl::ToInt64Seconds(dead_after),
                                              1, 32767);  // MAX_TCP_KEEPIDLE.
  set(IPPROTO_TCP, TCP_USER_TIMEOUT, absl::ToInt64Milliseconds(dead_after));
  set(IPPROTO_TCP, TCP_KEEPIDLE, seconds);
  set(IPPROTO_TCP, TCP_KEEPINTVL, std::max<int64_t>(seconds / 8, 1));
  set(SOL_SOCKET, SO_KEEPALIVE, 1);
}

void ResetOnClose(int fd) {
  const linger now{1, 0};
  setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
}

uint64_t BytesAcknowledged(int fd) {
  tcp_info info{};
  return TcpInfo(fd, &info) ? info.tcpi_bytes_acked : 0;
}

uint64_t BytesUnacknowledged(int fd) {
  int queued = 0;
  if (ioctl(fd, SIOCOUTQ, &queued) != 0 || queued < 0) return 0;
  return static_cast<uint64_t>(queued);
}

uint64_t BytesQueuedEver(int fd) {
  // An acknowledgement between the two calls would spoil the sum.
  for (uint64_t acknowledged = BytesAcknowledged(fd);;) {
    const uint64_t queued = BytesUnacknowledged(fd);
    const uint64_t again = BytesAcknowledged(fd);
    if (again == acknowledged) return acknowledged + queued;
    acknowledged = again;
  }
}

absl::StatusOr<UniqueFd> ListenUnix(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) {
    return absl::InvalidArgumentError(
        absl::StrCat("socket path ", path, " is longer than ",
                     sizeof address.sun_path - 1, " bytes"));
  }
  std::memcpy(address.sun_path, path.data(), path.size());
  const auto* generic = reinterpret_cast<const sockaddr*>(&address);
  UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd.valid()) return ErrnoStatus(errno, "make socket");
  if (connect(fd.get(), generic, sizeof address) == 0) {
    return absl::AlreadyExistsError(
        absl::StrCat("another headgated already serves ", path,
                     ": stop it, or give this one its own --socket"));
  }
  struct stat info {};
  const bool stale = errno == ECONNREFUSED && lstat(path.c_str(), &info) == 0 &&
                     S_ISSOCK(info.st_mode);
  if (stale) unlink(path.c_str());
  fd.reset(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd.valid()) return ErrnoStatus(errno, "make socket");
  if (bind(fd.get(), generic, sizeof address) != 0 ||
      chmod(path.c_str(), 0660) != 0 || listen(fd.get(), 128) != 0) {
    return ErrnoStatus(errno, absl::StrCat("serve ", path));
  }
  return fd;
}

}  // namespace headgate
