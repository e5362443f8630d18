#include "health/probe.h"

#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "net/socket.h"
#include "proxyproto/encode.h"

namespace headgate::health {
namespace {

// One lost SYN is forgiven (the first is repeated after 1 s).
constexpr absl::Duration kConnectTimeout = absl::Seconds(2);
// Edge-triggered: set once, for as long as the check lasts.
constexpr uint32_t kWatched = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET;
constexpr uint32_t kEnd = EPOLLRDHUP | EPOLLHUP | EPOLLERR;
constexpr size_t kMaxSteps = 64;
constexpr size_t kMaxFirstBytes = 512;

bool WantsTls(const config::Health& health) {
  return health.tls || health.type == config::HealthType::kTls;
}

bool SendsHeader(const config::Health& health) {
  return health.proxy_protocol.value_or(config::CheckHeader::kNone) !=
         config::CheckHeader::kNone;
}

// Whether two sends may follow each other; else the server speaks in between.
bool SpeaksTwice(const config::Health& health) {
  return SendsHeader(health) || WantsTls(health) || health.starttls;
}

std::string Seconds(absl::Duration duration) {
  return absl::FormatDuration(duration);
}

}  // namespace

Outcome OutcomeOf(int error) {
  switch (error) {
    case ECONNREFUSED:
    case ECONNRESET:
      return Outcome::kRefused;
    case ETIMEDOUT:
      return Outcome::kTimeout;
    case EMFILE:
    case ENFILE:
    case ENOBUFS:
    case ENOMEM:
    case EADDRINUSE:
    case EADDRNOTAVAIL:
    case EAGAIN:
      return Outcome::kError;
    default:
      return Outcome::kUnreachable;
  }
}

Probe::Probe(EventLoop* loop, Farewells* farewells, const CheckRequest& request,
             Done done)
    : Check(std::move(done)),
      loop_(loop),
      farewells_(farewells),
      request_(request),
      started_ns_(MonotonicNs()),
      dialog_(MakeDialog(request.health, request.target.ToString(),
                         SendsHeader(request.health))),
      timer_(loop, [this] { OnTimer(); }) {
  Note([this] {
    return absl::StrCat("connecting to ", request_.target.ToString());
  });
  fd_ = ConnectForCheck(request_, {.no_delay = SpeaksTwice(request_.health)},
                        &start_error_);
  if (fd_.valid() && !loop_->Add(fd_.get(), kWatched, this).ok()) {
    fd_.reset();
    start_error_ = ENOMEM;
  }
  // A failure is told from the loop too: the owner does not know us yet.
  timer_.Set(fd_.valid()
                 ? std::min(request_.health.timeout.value_or(kConnectTimeout),
                            kConnectTimeout)
                 : absl::ZeroDuration());
}

Probe::~Probe() {
  if (fd_.valid()) Leave();
}

bool Probe::met_server() const {
  return fd_.valid() && (phase_ != Phase::kConnect || IsConnected(fd_.get()));
}

void Probe::Leave() {
  if (met_server()) {
    farewells_->Take(std::move(fd_), this, events_);
  } else {
    loop_->Close(std::move(fd_), this);
  }
}

// ---- the socket ------------------------------------------------------------

void Probe::OnTimer() {
  if (!fd_.valid()) {
    FinishWithErrno(start_error_);
    return;
  }
  const absl::Duration spent = absl::Nanoseconds(MonotonicNs() - started_ns_);
  Verdict verdict{Outcome::kTimeout, 0, "", ""};
  if (phase_ == Phase::kConnect) {
    verdict.detail =
        absl::StrCat("no answer to the connection within ",
                     Seconds(absl::Trunc(spent, absl::Milliseconds(1))));
  } else {
    const bool handshake = tls_ != nullptr && !tls_up_;
    verdict.detail = absl::StrCat(
        "no end within ", Seconds(*request_.health.timeout), "; waited for ",
        handshake ? "the TLS handshake" : dialog_->WaitedFor());
    if (lines_.total() == 0 && !handshake) {
      verdict.hint = dialog_->OnEof().hint;
    }
  }
  Finish(std::move(verdict));
}

void Probe::OnIo(uint32_t events) {
  if (!fd_.valid()) return;
  events_ = events;
  if (phase_ == Phase::kConnect) {
    if (const int error = ErrorOf(fd_.get(), events); error != 0) {
      FinishWithErrno(error);
      return;
    }
    if ((events & EPOLLOUT) == 0 || !Connected()) return;
  } else if ((events & EPOLLOUT) != 0) {
    Flush();
  }
  if ((events & ~static_cast<uint32_t>(EPOLLOUT)) != 0 && !Receive()) return;
  events_ = 0;
}

bool Probe::Connected() {
  Note([this] {
    return absl::StrCat("connected from ", LocalEndpoint(fd_.get()).ToString());
  });
  timer_.Set(*request_.health.timeout -
             absl::Nanoseconds(MonotonicNs() - started_ns_));
  phase_ = Phase::kDialog;
  if (!SendHeader()) return false;
  if (WantsTls(request_.health)) return StartTls();
  in_dialog_ = true;
  return Act(dialog_->OnReady());
}

bool Probe::SendHeader() {
  const auto kind =
      request_.health.proxy_protocol.value_or(config::CheckHeader::kNone);
  if (kind == config::CheckHeader::kNone) return true;
  const proxyproto::Header header =
      kind == config::CheckHeader::kLocal
          ? proxyproto::EncodeV2Local()
          : proxyproto::EncodeV2(LocalEndpoint(fd_.get()), request_.target);
  const absl::string_view bytes = header.bytes();
  const ssize_t sent =
      send(fd_.get(), bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
  if (sent != static_cast<ssize_t>(bytes.size())) {
    return FinishWithErrno(sent < 0 ? errno : EIO);
  }
  Note([&] {
    return absl::StrCat(
        "> PROXY v2 ", kind == config::CheckHeader::kLocal ? "LOCAL" : "PROXY",
        ", ", bytes.size(), " bytes: ", absl::BytesToHexString(bytes));
  });
  return true;
}

// Until nothing is left that epoll would not tell of: more makes a new edge, an
// end that came with the bytes does not.
bool Probe::Receive() {
  std::array<char, 16 * 1024> buffer;
  for (;;) {
    const ssize_t got =
        recv(fd_.get(), buffer.data(), buffer.size(), MSG_DONTWAIT);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0 && errno == EAGAIN) return true;
    if (got <= 0) return OnClosed(got == 0 ? 0 : errno);
    const auto size = static_cast<size_t>(got);
    if (!TakeBytes({buffer.data(), size})) return false;
    // A flood has its next turn in the next round.
    if (size == buffer.size()) return WatchAgain();
    if ((events_ & kEnd) == 0) return true;
  }
}

// False, as by Finish().
bool Probe::WatchAgain() {
  return loop_->Modify(fd_.get(), kWatched, this).ok() ||
         FinishWithErrno(ENOMEM);
}

bool Probe::TakeBytes(absl::string_view bytes) {
  if (tls_ == nullptr) return TakePlain(bytes);
  tls_->Feed(bytes);
  if (!tls_up_) {
    absl::StrAppend(
        &first_bytes_,
        bytes.substr(
            0, kMaxFirstBytes - std::min(first_bytes_.size(), kMaxFirstBytes)));
    if (!ContinueHandshake()) return false;
    if (!tls_up_) return true;
  }
  std::string plain;
  const Tls::Progress progress = tls_->Read(plain);
  Flush();
  if (!TakePlain(plain)) return false;
  return progress == Tls::Progress::kWaits || OnClosed(0);
}

// What the server said before counts: a refusal may lack its line end.
bool Probe::OnClosed(int error) {
  Note([error] {
    return error == 0 ? "closed by the server" : strerrordesc_np(error);
  });
  if (tls_ != nullptr && !tls_up_) return FailTls();
  if (!lines_.partial().empty()) {
    const std::string line(lines_.partial());
    lines_.Forget();
    NoteLine(line);
    if (!Act(dialog_->OnLine(line))) return false;
  }
  Verdict verdict = dialog_->OnEof();
  if (error != 0 && verdict.outcome != Outcome::kPassed) {
    verdict.detail = absl::StrCat(strerrordesc_np(error), "; waited for ",
                                  dialog_->WaitedFor());
  }
  return Finish(std::move(verdict));
}

void Probe::Flush() {
  if (tls_ != nullptr) unsent_ += tls_->TakeOutput();
  while (!unsent_.empty()) {
    const ssize_t sent = send(fd_.get(), unsent_.data(), unsent_.size(),
                              MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0 && errno == EAGAIN) return;
    // The reason comes with the next read, behind what the server said last.
    if (sent < 0) unsent_.clear();
    if (sent > 0) unsent_.erase(0, static_cast<size_t>(sent));
  }
}

// ---- TLS -------------------------------------------------------------------

bool Probe::StartTls() {
  auto made = Tls::Make({request_.health.server_name, request_.health.verify,
                         request_.target.address});
  if (!made.ok()) {
    return Finish(
        {Outcome::kError, 0, std::string(made.status().message()), ""});
  }
  lines_.Forget();
  tls_ = *std::move(made);
  phase_ = Phase::kHandshake;
  Note([] { return "TLS handshake"; });
  return ContinueHandshake();
}

bool Probe::ContinueHandshake() {
  const Tls::Progress progress = tls_->Handshake();
  Flush();
  if (progress == Tls::Progress::kFailed) return FailTls();
  return progress == Tls::Progress::kWaits || OnTlsUp();
}

bool Probe::OnTlsUp() {
  tls_up_ = true;
  phase_ = Phase::kDialog;
  result_.tls = tls_->Description();
  result_.certificate = tls_->PeerCertificate();
  Note([this] { return absl::StrCat("TLS is up: ", result_.tls); });
  if (result_.certificate.has_value()) {
    Note([this] {
      return absl::StrCat("certificate ",
                          Printable(result_.certificate->subject),
                          ", expires in ",
                          DaysLeft(*result_.certificate, absl::Now()), " days");
    });
  }
  if (in_dialog_) return Act(dialog_->OnTls());
  in_dialog_ = true;
  return Act(dialog_->OnReady());
}

bool Probe::FailTls() {
  const bool header =
      request_.health.proxy_protocol.value_or(config::CheckHeader::kNone) !=
      config::CheckHeader::kNone;
  // Postfix answers in the clear when it misses a header.
  const absl::string_view first = first_bytes_;
  const absl::string_view line = first.substr(0, first.find_first_of("\r\n"));
  if (ReplyCode(line) != 0) {
    NoteLine(line);
    Verdict verdict = JudgeSmtpRefusal(line, header);
    if (ReplyCode(line) == 220) {
      verdict.outcome = Outcome::kTls;
      verdict.hint = "the server speaks without TLS here: health.starttls?";
    }
    return Finish(std::move(verdict));
  }
  if (tls_->rejected_certificate()) {
    return Finish({Outcome::kCertificate, 0, tls_->error(),
                   "health.verify needs a certificate that the system's "
                   "authorities vouch for; health.server_name says for whom"});
  }
  Verdict verdict{Outcome::kTls, 0, tls_->error(), ""};
  if (verdict.detail.empty()) {
    verdict.detail = "closed by the server during the handshake";
  }
  verdict.hint = header ? "perhaps the port does not expect the PROXY header "
                          "that the check sends, or does not trust its sender"
                        : "perhaps the port expects a PROXY header, which the "
                          "check does not send (health.proxy_protocol: local)";
  return Finish(std::move(verdict));
}

// ---- the dialog ------------------------------------------------------------

bool Probe::TakePlain(absl::string_view bytes) {
  if (bytes.empty()) return true;
  if (!lines_.Append(bytes)) {
    return Finish({Outcome::kWrongAnswer, 0,
                   absl::StrCat("the server talks without end; waited for ",
                                dialog_->WaitedFor()),
                   ""});
  }
  while (const auto line = lines_.Next()) {
    NoteLine(*line);
    if (!Act(dialog_->OnLine(*line))) return false;
  }
  return true;
}

bool Probe::Act(Move move) {
  if (!move.say.empty()) Say(move.say);
  if (move.verdict.has_value()) {
    result_.weight = dialog_->weight();
    return Finish(*std::move(move.verdict));
  }
  if (move.start_tls) return StartTls();
  Flush();
  return true;
}

void Probe::Say(absl::string_view text) {
  Note([text] {
    return absl::StrCat("> ",
                        Printable(absl::StripTrailingAsciiWhitespace(text)));
  });
  if (tls_ != nullptr) {
    tls_->Write(text);
  } else {
    absl::StrAppend(&unsent_, text);
  }
}

void Probe::Note(absl::FunctionRef<std::string()> what) {
  if (!request_.explain || result_.steps.size() >= kMaxSteps) return;
  result_.steps.push_back(
      {absl::Nanoseconds(MonotonicNs() - started_ns_), what()});
}

void Probe::NoteLine(absl::string_view line) {
  Note([line] { return absl::StrCat("< ", Printable(line)); });
}

// ---- the end ---------------------------------------------------------------

Layer Probe::layer() const {
  if (phase_ == Phase::kConnect) return Layer::kTcp;
  if (tls_ != nullptr && !tls_up_) return Layer::kTls;
  return request_.health.type == config::HealthType::kTls ? Layer::kTls
                                                          : Layer::kDialog;
}

bool Probe::FinishWithErrno(int error) {
  return Finish({OutcomeOf(error), 0, strerrordesc_np(error), ""});
}

bool Probe::Finish(Verdict verdict) {
  timer_.Cancel();
  result_.layer = layer();
  result_.duration = absl::Nanoseconds(MonotonicNs() - started_ns_);
  result_.time = absl::Now();
  if (verdict.outcome == Outcome::kPassed && !CheckCertificate()) {
    verdict = {
        Outcome::kCertificate, 0,
        absl::StrCat("the certificate expires in ",
                     DaysLeft(*result_.certificate, result_.time), " days"),
        "renew it; health.min_certificate_days is the limit"};
    result_.layer = Layer::kTls;
  }
  result_.outcome = verdict.outcome;
  result_.code = verdict.code;
  result_.detail = std::move(verdict.detail);
  result_.hint = std::move(verdict.hint);
  if (fd_.valid() && phase_ != Phase::kConnect) {
    if (tls_up_) tls_->Close();
    if (tls_ != nullptr) unsent_ += tls_->TakeOutput();
    if (!unsent_.empty()) {
      send(fd_.get(), unsent_.data(), unsent_.size(),
           MSG_DONTWAIT | MSG_NOSIGNAL);
    }
    Note([] { return "FIN"; });
  }
  if (fd_.valid()) Leave();
  Tell(std::move(result_));
  return false;
}

// Whether it lasts as long as it must.
bool Probe::CheckCertificate() {
  return !result_.certificate.has_value() ||
         !request_.health.min_certificate_days.has_value() ||
         DaysLeft(*result_.certificate, result_.time) >=
             *request_.health.min_certificate_days;
}

}  // namespace headgate::health
