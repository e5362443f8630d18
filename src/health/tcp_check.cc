#include "health/tcp_check.h"

#include <sys/epoll.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <cstring>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "health/probe.h"
#include "net/socket.h"
#include "proxyproto/encode.h"

namespace headgate::health {
TcpCheck::TcpCheck(EventLoop* loop, Farewells* farewells,
                   const CheckRequest& request, Done done)
    : Check(std::move(done)),
      loop_(loop),
      farewells_(farewells),
      target_(request.target),
      explain_(request.explain),
      header_(
          request.health.proxy_protocol.value_or(config::CheckHeader::kNone)),
      timeout_(*request.health.timeout),
      started_ns_(MonotonicNs()),
      timer_(loop, [this] { OnTimer(); }) {
  const HandshakeAck ack = header_ == config::CheckHeader::kNone
                               ? HandshakeAck::kHold
                               : HandshakeAck::kSend;
  fd_ =
      ConnectForCheck(request, {.ack = ack, .no_delay = false}, &start_error_);
  if (fd_.valid() &&
      !loop_->Add(fd_.get(), EPOLLOUT | EPOLLIN | EPOLLRDHUP, this).ok()) {
    fd_.reset();
    start_error_ = ENOMEM;
  }
  // A failure is told from the loop too: the owner does not know us yet.
  timer_.Set(fd_.valid() ? timeout_ : absl::ZeroDuration());
}

TcpCheck::~TcpCheck() {
  if (fd_.valid()) Leave();
}

void TcpCheck::Leave() {
  if (met_server()) {
    farewells_->Take(std::move(fd_), this);
    return;
  }
  Note("RST, which the application does not see");
  ResetOnClose(fd_.get());
  loop_->Close(std::move(fd_), this);
}

// Without a header the handshake's last ACK is not out.
bool TcpCheck::met_server() const {
  return header_sent_ || (header_ != config::CheckHeader::kNone &&
                          fd_.valid() && IsConnected(fd_.get()));
}

void TcpCheck::OnTimer() {
  if (!fd_.valid()) {
    FinishWithErrno(start_error_);
  } else if (header_sent_) {
    // The port has accepted, which is all that was asked; only the server's
    // FIN is late.
    Finish(Outcome::kPassed, "");
  } else {
    Finish(Outcome::kTimeout,
           absl::StrCat("no answer within ", absl::FormatDuration(timeout_)));
  }
}

void TcpCheck::OnIo(uint32_t events) {
  if (!fd_.valid()) return;
  if (!header_sent_) {
    if (const int error = ErrorOf(fd_.get(), events); error != 0) {
      FinishWithErrno(error);
    } else if ((events & EPOLLOUT) != 0) {
      Connected();
    }
    return;
  }
  std::array<char, 4096> ignored{};
  const ssize_t got =
      recv(fd_.get(), ignored.data(), ignored.size(), MSG_DONTWAIT);
  if (got > 0 || (got < 0 && (errno == EAGAIN || errno == EINTR))) return;
  // Both FINs are out: nothing to reset.
  loop_->Close(std::move(fd_), this);
  Finish(Outcome::kPassed, "");
}

void TcpCheck::Connected() {
  Note("the handshake is answered");
  if (header_ == config::CheckHeader::kNone) {
    Finish(Outcome::kPassed, "");
    return;
  }
  const proxyproto::Header header =
      header_ == config::CheckHeader::kLocal
          ? proxyproto::EncodeV2Local()
          : proxyproto::EncodeV2(LocalEndpoint(fd_.get()), target_);
  const absl::string_view bytes = header.bytes();
  const ssize_t sent =
      send(fd_.get(), bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
  if (sent != static_cast<ssize_t>(bytes.size())) {
    FinishWithErrno(sent < 0 ? errno : EIO);
    return;
  }
  Note(absl::StrCat("> PROXY v2, ", bytes.size(),
                    " bytes: ", absl::BytesToHexString(bytes), ", then FIN"));
  header_sent_ = true;
  shutdown(fd_.get(), SHUT_WR);
  loop_->Modify(fd_.get(), EPOLLIN | EPOLLRDHUP, this).IgnoreError();
}

void TcpCheck::FinishWithErrno(int error) {
  const char* detail = strerrordesc_np(error);
  if (error == EADDRNOTAVAIL) detail = "This machine has no source address";
  if (error == EADDRINUSE) detail = "All source ports are in use";
  Finish(OutcomeOf(error), detail);
}

void TcpCheck::Finish(Outcome outcome, std::string detail) {
  timer_.Cancel();
  CheckResult result;
  result.outcome = outcome;
  result.detail = std::move(detail);
  result.duration = absl::Nanoseconds(MonotonicNs() - started_ns_);
  result.time = absl::Now();
  if (fd_.valid()) Leave();
  result.steps = std::move(steps_);
  Tell(std::move(result));
}

void TcpCheck::Note(std::string what) {
  if (!explain_) return;
  steps_.push_back(
      {absl::Nanoseconds(MonotonicNs() - started_ns_), std::move(what)});
}

}  // namespace headgate::health
