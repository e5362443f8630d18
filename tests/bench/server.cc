#include "bench/server.h"

#include <sys/socket.h>

#include <cerrno>

#include "absl/strings/string_view.h"
#include "base/status.h"
#include "net/socket.h"

namespace headgate::bench {
namespace {

// Postfix's own, by default.
constexpr absl::string_view kGreeting = "220 mail.example.com ESMTP Postfix\r\n";
// haproxy/doc/proxy-protocol.txt, 2.2: 12 bytes of signature, version and
// command, family, then the length of the rest in network order.
constexpr absl::string_view kSignature("\r\n\r\n\0\r\nQUIT\n", 12);
constexpr size_t kFixedBytes = 16;

size_t HeaderBytes(absl::string_view fixed) {
  const auto high = static_cast<unsigned char>(fixed[14]);
  const auto low = static_cast<unsigned char>(fixed[15]);
  return kFixedBytes + high * size_t{256} + low;
}

}  // namespace

ServerConnection::ServerConnection(Server* server, UniqueFd fd)
    : server_(server),
      fd_(std::move(fd)),
      header_done_(!server->plan_.header) {}

void ServerConnection::Start() {
  const Mode mode = server_->plan_.mode;
  if (mode == Mode::kConnect || mode == Mode::kIdle) {
    send(fd(), kGreeting.data(), kGreeting.size(), MSG_NOSIGNAL);
  } else if (mode == Mode::kDownload) {
    (void)server_->loop_->Modify(fd(), EPOLLOUT, this);
  } else if (mode == Mode::kUpload && server_->paced_.enabled()) {
    server_->loop_->Remove(fd(), this);
    server_->paced_.Add(fd());
  }
}

// The header has come with the connection, if at all.
bool ServerConnection::Begin() {
  if (header_done_) {
    Start();
    return true;
  }
  return SkipHeader() && (header_.empty() || header_done_ || SkipHeader());
}

void ServerConnection::OnIo(uint32_t) {
  bool open = true;
  if (!header_done_) {
    open = SkipHeader();
  } else if (server_->plan_.mode == Mode::kDownload) {
    open = SendChunk();
  } else if (server_->plan_.mode == Mode::kEcho) {
    open = unsent_.empty() ? Echo() : FlushEcho();
  } else {
    open = Receive();
  }
  if (!open) server_->Close(this);
}

// Reads not a byte too many: what follows is payload.
bool ServerConnection::SkipHeader() {
  const size_t total =
      header_.size() < kFixedBytes ? kFixedBytes : HeaderBytes(header_);
  const ssize_t got =
      recv(fd(), server_->scratch_.data(), total - header_.size(), 0);
  if (got <= 0) return got < 0 && errno == EAGAIN;
  header_.append(server_->scratch_.data(), static_cast<size_t>(got));
  if (header_.size() < kFixedBytes) return true;
  if (absl::string_view(header_).substr(0, kSignature.size()) != kSignature) {
    return false;
  }
  if (header_.size() < HeaderBytes(header_)) return true;
  header_done_ = true;
  Start();
  return true;
}

bool ServerConnection::Receive() {
  const ssize_t got =
      recv(fd(), server_->scratch_.data(), server_->scratch_.size(), 0);
  if (got <= 0) return got < 0 && errno == EAGAIN;
  *server_->received_ += static_cast<uint64_t>(got);
  return true;
}

bool ServerConnection::SendChunk() {
  return send(fd(), server_->scratch_.data(), server_->scratch_.size(),
              MSG_NOSIGNAL) >= 0 ||
         errno == EAGAIN;
}

bool ServerConnection::Echo() {
  char* const data = server_->scratch_.data();
  const ssize_t got = recv(fd(), data, server_->scratch_.size(), 0);
  if (got <= 0) return got < 0 && errno == EAGAIN;
  ssize_t sent = send(fd(), data, static_cast<size_t>(got), MSG_NOSIGNAL);
  if (sent < 0) {
    if (errno != EAGAIN) return false;
    sent = 0;
  }
  if (sent == got) return true;
  unsent_.assign(data + sent, static_cast<size_t>(got - sent));
  return server_->loop_->Modify(fd(), EPOLLOUT, this).ok();
}

bool ServerConnection::FlushEcho() {
  const ssize_t sent = send(fd(), unsent_.data(), unsent_.size(), MSG_NOSIGNAL);
  if (sent < 0) return errno == EAGAIN;
  unsent_.erase(0, static_cast<size_t>(sent));
  if (!unsent_.empty()) return true;
  return server_->loop_->Modify(fd(), EPOLLIN, this).ok();
}

Server::Server(EventLoop* loop, const Plan& plan, ByteCounter* received)
    : loop_(loop),
      plan_(plan),
      received_(received),
      paced_(loop, plan, received),
      scratch_(kChunkBytes) {}

absl::Status Server::Listen() {
  ASSIGN_OR_RETURN(std::vector<UniqueFd> sockets, ListenTcp(plan_.listen, 1));
  listener_ = std::move(sockets.front());
  return loop_->Add(listener_.get(), EPOLLIN, this);
}

void Server::OnIo(uint32_t) {
  for (;;) {
    UniqueFd fd(accept4(listener_.get(), nullptr, nullptr,
                        SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (!fd.valid()) return;
    auto connection = std::make_unique<ServerConnection>(this, std::move(fd));
    ServerConnection* const raw = connection.get();
    connections_[raw] = std::move(connection);
    if (!loop_->Add(raw->fd(), EPOLLIN, raw).ok() || !raw->Begin()) Close(raw);
  }
}

void Server::Close(ServerConnection* connection) {
  loop_->Remove(connection->fd(), connection);
  const auto found = connections_.find(connection);
  loop_->DestroyLater(std::move(found->second));
  connections_.erase(found);
}

}  // namespace headgate::bench
