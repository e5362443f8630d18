#include "support/tcp.h"

#include <fcntl.h>
#include <linux/sockios.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/ioctl.h>

#include <algorithm>

#include "base/status.h"
#include "support/lab.h"
#include "support/process.h"
#include "support/wait.h"

namespace headgate::testing {
namespace {

constexpr int kListenBacklog = 16384;

template <typename T>
int SetOption(int fd, int level, int name, const T& value) {
  return ::setsockopt(fd, level, name, &value, sizeof value);
}

template <typename T>
T GetOption(int fd, int level, int name) {
  T value{};
  socklen_t size = sizeof value;
  ::getsockopt(fd, level, name, &value, &size);
  return value;
}

const sockaddr* AsSockaddr(const sockaddr_storage& storage) {
  return reinterpret_cast<const sockaddr*>(&storage);
}

bool Poll(int fd, short events, absl::Duration timeout) {
  pollfd waited{fd, events, 0};
  return ::poll(&waited, 1,
                static_cast<int>(absl::ToInt64Milliseconds(timeout))) == 1;
}

constexpr int kRepairQueues[] = {TCP_RECV_QUEUE, TCP_SEND_QUEUE};

struct RepairState {
  uint32_t sequence[2] = {};  // As kRepairQueues.
  tcp_repair_window window = {};
};

RepairState Dismantle(int fd) {
  RepairState state;
  SetOption(fd, IPPROTO_TCP, TCP_REPAIR, 1);
  for (size_t i = 0; i < 2; ++i) {
    SetOption(fd, IPPROTO_TCP, TCP_REPAIR_QUEUE, kRepairQueues[i]);
    state.sequence[i] = GetOption<uint32_t>(fd, IPPROTO_TCP, TCP_QUEUE_SEQ);
  }
  state.window =
      GetOption<tcp_repair_window>(fd, IPPROTO_TCP, TCP_REPAIR_WINDOW);
  return state;
}

}  // namespace

UniqueFd Listen(const Endpoint& endpoint) {
  UniqueFd fd(::socket(endpoint.family(),
                       SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  SetOption(fd.get(), SOL_SOCKET, SO_REUSEADDR, 1);
  sockaddr_storage address;
  const socklen_t size = endpoint.ToSockaddr(&address);
  if (::bind(fd.get(), AsSockaddr(address), size) != 0 ||
      ::listen(fd.get(), kListenBacklog) != 0) {
    Die(absl::StrCat("listen ", endpoint.ToString(), ": ", ErrnoName(errno)));
  }
  return fd;
}

UniqueFd StartConnect(const IpAddress& source, const Endpoint& target,
                      uint16_t port) {
  UniqueFd fd(
      ::socket(target.family(), SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  SetOption(fd.get(), IPPROTO_TCP, TCP_NODELAY, 1);
  sockaddr_storage address;
  if (!source.is_unspecified() || port != 0) {
    // The port is chosen by connect(): bind() alone would use up one port of
    // this address for all targets.
    SetOption(fd.get(), IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1);
    SetOption(fd.get(), SOL_SOCKET, SO_REUSEADDR, 1);
    const IpAddress any = IpAddress::FromV4(in_addr{});
    const socklen_t size =
        Endpoint{
            source.is_unspecified() && target.address.is_v4() ? any : source,
            port}
            .ToSockaddr(&address);
    if (::bind(fd.get(), AsSockaddr(address), size) != 0) return UniqueFd();
  }
  const socklen_t size = target.ToSockaddr(&address);
  if (::connect(fd.get(), AsSockaddr(address), size) != 0 &&
      errno != EINPROGRESS) {
    return UniqueFd();
  }
  return fd;
}

Endpoint LocalEndpoint(int fd) {
  sockaddr_storage address{};
  socklen_t size = sizeof address;
  ::getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size);
  return Endpoint::FromSockaddr(address);
}

Endpoint PeerEndpoint(int fd) {
  sockaddr_storage address{};
  socklen_t size = sizeof address;
  ::getpeername(fd, reinterpret_cast<sockaddr*>(&address), &size);
  return Endpoint::FromSockaddr(address);
}

int SocketError(int fd) {
  int error = 0;
  socklen_t size = sizeof error;
  ::getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size);
  return error;
}

void ResetOnClose(int fd) {
  SetOption(fd, SOL_SOCKET, SO_LINGER, linger{1, 0});
}

TcpSocket::TcpSocket(UniqueFd fd) : fd_(std::move(fd)) {}

TcpSocket TcpSocket::Connect(const std::string& netns, const Endpoint& target,
                             uint16_t port, const IpAddress& source) {
  TcpSocket result(
      RunIn(netns, [&] { return StartConnect(source, target, port); }));
  result.error_ = errno;
  if (!result.valid()) return result;
  result.error_ = Poll(result.fd(), POLLOUT, kTcpTimeout)
                      ? SocketError(result.fd())
                      : ETIMEDOUT;
  if (result.error_ != 0) result.fd_.reset();
  return result;
}

TcpSocket TcpSocket::Accept(const UniqueFd& listener) {
  if (!Poll(listener.get(), POLLIN, kTcpTimeout)) return TcpSocket();
  return TcpSocket(UniqueFd(::accept4(listener.get(), nullptr, nullptr,
                                      SOCK_NONBLOCK | SOCK_CLOEXEC)));
}

bool TcpSocket::Send(absl::string_view bytes, int flags) {
  while (!bytes.empty()) {
    const ssize_t n =
        ::send(fd(), bytes.data(), bytes.size(), flags | MSG_NOSIGNAL);
    if (n > 0) {
      bytes.remove_prefix(static_cast<size_t>(n));
      continue;
    }
    error_ = errno;
    if (error_ != EAGAIN) return false;
    error_ = ETIMEDOUT;
    if (!Poll(fd(), POLLOUT, kTcpTimeout)) return false;
  }
  return true;
}

std::string TcpSocket::Receive(size_t size) {
  return Receive(size, kTcpTimeout);
}

std::string TcpSocket::ReceiveAll(absl::Duration patience) {
  return Receive(std::string::npos, patience);
}

std::string TcpSocket::Receive(size_t size, absl::Duration patience) {
  std::string result;
  char buffer[65536];
  while (result.size() < size) {
    const size_t wanted = std::min(size - result.size(), sizeof buffer);
    const ssize_t n = ::recv(fd(), buffer, wanted, 0);
    error_ = n < 0 ? errno : 0;
    if (n > 0) {
      result.append(buffer, static_cast<size_t>(n));
    } else if (error_ != EAGAIN) {
      break;
    } else if (!Poll(fd(), POLLIN, patience)) {
      error_ = ETIMEDOUT;
      break;
    }
  }
  return result;
}

bool TcpSocket::ReceivesEnd() { return Receive(1).empty() && error_ == 0; }

bool TcpSocket::ReceivesReset() {
  // It may have come before Connect() looked.
  if (!valid()) return error_ == ECONNRESET;
  return Receive(1).empty() && error_ == ECONNRESET;
}

bool TcpSocket::Quiet(absl::Duration duration) const {
  return !Poll(fd(), POLLIN | POLLRDHUP, duration);
}

size_t TcpSocket::Flood(size_t most, absl::Duration patience) {
  static const std::string block(1 << 20, 'x');
  size_t sent = 0;
  while (sent < most) {
    const ssize_t n = ::send(fd(), block.data(),
                             std::min(block.size(), most - sent), MSG_NOSIGNAL);
    if (n > 0) {
      sent += static_cast<size_t>(n);
    } else if (errno != EAGAIN || !Poll(fd(), POLLOUT, patience)) {
      break;
    }
  }
  return sent;
}

bool TcpSocket::Rewind(uint32_t bytes) {
  const Endpoint ends[] = {LocalEndpoint(fd()), PeerEndpoint(fd())};
  const auto drained = [&] {
    int unacknowledged = 0;
    return ::ioctl(fd(), SIOCOUTQ, &unacknowledged) == 0 && unacknowledged == 0;
  };
  if (!WaitUntil(kTcpTimeout, drained)) return false;
  const RepairState state = Dismantle(fd());
  fd_.reset();  // Silently, as it is under repair.
  UniqueFd clone(::socket(ends[0].family(), SOCK_STREAM | SOCK_CLOEXEC, 0));
  SetOption(clone.get(), SOL_SOCKET, SO_REUSEADDR, 1);
  SetOption(clone.get(), IPPROTO_TCP, TCP_REPAIR, 1);
  for (size_t i = 0; i < 2; ++i) {
    SetOption(clone.get(), IPPROTO_TCP, TCP_REPAIR_QUEUE, kRepairQueues[i]);
    SetOption(clone.get(), IPPROTO_TCP, TCP_QUEUE_SEQ,
              state.sequence[i] - (i == 1 ? bytes : 0));
  }
  sockaddr_storage address;
  socklen_t size = ends[0].ToSockaddr(&address);
  if (::bind(clone.get(), AsSockaddr(address), size) != 0) return false;
  size = ends[1].ToSockaddr(&address);
  if (::connect(clone.get(), AsSockaddr(address), size) != 0) return false;
  SetOption(clone.get(), IPPROTO_TCP, TCP_REPAIR_WINDOW, state.window);
  SetOption(clone.get(), IPPROTO_TCP, TCP_NODELAY, 1);
  ::fcntl(clone.get(), F_SETFL, O_NONBLOCK);
  fd_ = std::move(clone);
  return SetOption(fd(), IPPROTO_TCP, TCP_REPAIR, TCP_REPAIR_OFF_NO_WP) == 0;
}

void TcpSocket::ShutdownWrite() { ::shutdown(fd(), SHUT_WR); }

void TcpSocket::Close() { fd_.reset(); }

void TcpSocket::Reset() {
  ResetOnClose(fd());
  fd_.reset();
}

void TcpSocket::Forget() {
  SetOption(fd(), IPPROTO_TCP, TCP_REPAIR, 1);
  fd_.reset();
}

}  // namespace headgate::testing
