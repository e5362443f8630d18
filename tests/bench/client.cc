#include "bench/client.h"

#include <sys/socket.h>

#include <algorithm>
#include <cerrno>

#include "base/status.h"
#include "net/socket.h"

namespace headgate::bench {
namespace {

// On their way at once: fewer than any listener's backlog.
constexpr size_t kOpeningAtOnce = 128;
constexpr absl::Duration kPatience = absl::Seconds(15);

}  // namespace

absl::Status ClientConnection::Connect() {
  started_ns_ = MonotonicNs();
  int error = 0;
  fd_ = ConnectTcp(client_->plan_.target, &error);
  if (!fd_.valid()) return ErrnoStatus(error, "connect");
  // Its end costs nobody TIME_WAIT, and no memory in the next run.
  if (client_->plan_.mode != Mode::kConnect) ResetOnClose(fd());
  watched_ = EPOLLOUT;
  return client_->loop_->Add(fd(), watched_, this);
}

void ClientConnection::OnIo(uint32_t events) {
  absl::Status status;
  if (!connected_) {
    status = FinishConnect();
  } else {
    switch (client_->plan_.mode) {
      case Mode::kDownload:
        status = Receive();
        break;
      case Mode::kUpload:
        status = SendChunk();
        break;
      case Mode::kEcho:
        status = (events & EPOLLOUT) != 0 ? SendRest() : ReceiveEcho();
        break;
      case Mode::kConnect:
      case Mode::kIdle:
        status = ReceiveGreeting();
        break;
    }
  }
  if (!status.ok()) client_->Fail(std::move(status));
}

absl::Status ClientConnection::Watch(uint32_t events) {
  if (events == watched_) return absl::OkStatus();
  watched_ = events;
  return client_->loop_->Modify(fd(), events, this);
}

absl::Status ClientConnection::FinishConnect() {
  const int error = TakeSocketError(fd());
  if (error != 0) return ErrnoStatus(error, "connect");
  connected_ = true;
  const Mode mode = client_->plan_.mode;
  if (mode == Mode::kEcho) return StartExchange();
  if (mode == Mode::kConnect || mode == Mode::kIdle) return Watch(EPOLLIN);
  Ready();
  if (mode == Mode::kUpload) return absl::OkStatus();
  if (!client_->paced_.enabled()) return Watch(EPOLLIN);
  client_->loop_->Remove(fd(), this);
  client_->paced_.Add(fd());
  return absl::OkStatus();
}

void ClientConnection::Ready() {
  if (!ready_) client_->CountReady();
  ready_ = true;
}

absl::StatusOr<size_t> ClientConnection::Read() {
  const ssize_t got =
      recv(fd(), client_->scratch_.data(), client_->scratch_.size(), 0);
  if (got > 0) return static_cast<size_t>(got);
  if (got == 0) return absl::UnavailableError("read: end of the stream");
  if (errno == EAGAIN) return size_t{0};
  return ErrnoStatus(errno, "read");
}

absl::Status ClientConnection::Receive() {
  ASSIGN_OR_RETURN(const size_t got, Read());
  *client_->received_ += got;
  return absl::OkStatus();
}

absl::Status ClientConnection::SendChunk() {
  const ssize_t sent = send(fd(), client_->scratch_.data(),
                            client_->scratch_.size(), MSG_NOSIGNAL);
  if (sent >= 0 || errno == EAGAIN) return absl::OkStatus();
  return ErrnoStatus(errno, "send");
}

absl::Status ClientConnection::StartExchange() {
  started_ns_ = MonotonicNs();
  sent_ = 0;
  received_ = 0;
  return SendRest();
}

absl::Status ClientConnection::SendRest() {
  const ssize_t sent = send(fd(), client_->scratch_.data(),
                            client_->plan_.size - sent_, MSG_NOSIGNAL);
  if (sent < 0 && errno != EAGAIN) return ErrnoStatus(errno, "send");
  if (sent > 0) sent_ += static_cast<size_t>(sent);
  const bool all = sent_ == client_->plan_.size;
  return Watch(all ? EPOLLIN : EPOLLIN | EPOLLOUT);
}

absl::Status ClientConnection::ReceiveEcho() {
  ASSIGN_OR_RETURN(const size_t got, Read());
  received_ += got;
  if (received_ < client_->plan_.size) return absl::OkStatus();
  if (received_ > client_->plan_.size) {
    return absl::DataLossError("read: more bytes came back than were sent");
  }
  client_->Record(MonotonicNs() - started_ns_);
  Ready();
  return StartExchange();
}

absl::Status ClientConnection::ReceiveGreeting() {
  ASSIGN_OR_RETURN(const size_t got, Read());
  if (got == 0) return absl::OkStatus();
  client_->Record(MonotonicNs() - started_ns_);
  Ready();
  if (client_->plan_.mode == Mode::kConnect) client_->Close(this);
  return absl::OkStatus();
}

Client::Client(EventLoop* loop, const Plan& plan, ByteCounter* received,
               std::function<void(absl::string_view)> window)
    : loop_(loop),
      plan_(plan),
      received_(received),
      window_(std::move(window)),
      paced_(loop, plan, received),
      scratch_(std::max(kChunkBytes, plan.size)),
      phase_end_(loop, [this] { EndPhase(); }) {}

absl::StatusOr<Report> Client::Run() {
  phase_end_.Set(kPatience);
  Open();
  loop_->Run();
  if (!status_.ok()) return status_;
  return std::move(report_);
}

void Client::Open() {
  while (connections_.size() < plan_.connections &&
         connections_.size() < ready_ + kOpeningAtOnce) {
    auto connection = std::make_unique<ClientConnection>(this);
    ClientConnection* const raw = connection.get();
    connections_[raw] = std::move(connection);
    absl::Status status = raw->Connect();
    if (!status.ok()) return Fail(std::move(status));
  }
}

void Client::Close(ClientConnection* connection) {
  loop_->Remove(connection->fd(), connection);
  const auto found = connections_.find(connection);
  loop_->DestroyLater(std::move(found->second));
  connections_.erase(found);
  Open();
}

void Client::CountReady() {
  if (++ready_ == plan_.connections) {
    phase_ = Phase::kWarmup;
    phase_end_.Set(plan_.warmup);
  }
  Open();
}

void Client::Record(int64_t latency_ns) {
  if (phase_ == Phase::kWindow) report_.latency_ns.push_back(latency_ns);
}

void Client::Fail(absl::Status status) {
  if (status_.ok()) status_ = std::move(status);
  loop_->Stop();
}

void Client::EndPhase() {
  const int64_t now = MonotonicNs();
  switch (phase_) {
    case Phase::kOpening:
      Fail(absl::DeadlineExceededError(absl::StrCat(
          "open connections: ", ready_, " of ", plan_.connections, " work")));
      break;
    case Phase::kWarmup:
      window_("begin");
      phase_ = Phase::kWindow;
      phase_end_.Set(plan_.window);
      begin_ns_ = now;
      begin_bytes_ = *received_;
      break;
    case Phase::kWindow:
      report_.seconds = static_cast<double>(now - begin_ns_) / 1e9;
      report_.bytes = *received_ - begin_bytes_;
      report_.connections = connections_.size();
      window_("end");
      std::sort(report_.latency_ns.begin(), report_.latency_ns.end());
      loop_->Stop();
      break;
  }
}

}  // namespace headgate::bench
