#include "health/farewells.h"

#include <sys/epoll.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <utility>

#include "health/check.h"

namespace headgate::health {
namespace {

// A round's worth: the loop has other work than a peer that floods.
constexpr int kReadsPerRound = 16;

// Drops what has come. False: the peer has closed, or the connection broke.
bool Drain(int fd) {
  std::array<char, 16 * 1024> ignored;
  for (int i = 0; i < kReadsPerRound; ++i) {
    const ssize_t got = recv(fd, ignored.data(), ignored.size(), MSG_DONTWAIT);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0 && errno == EAGAIN) return true;
    if (got <= 0) return false;
  }
  return true;
}

}  // namespace

class Farewells::Leaving final : public IoHandler {
 public:
  Leaving(Farewells* all, UniqueFd fd)
      : all_(all),
        fd_(std::move(fd)),
        timer_(all->loop_, [this] { all_->Erase(self_); }) {}
  ~Leaving() {
    if (!fd_.valid()) return;
    Drain(fd_.get());  // Unread data would turn the end into a RST.
    all_->loop_->Close(std::move(fd_), this);
  }

  bool Start(std::list<Leaving>::iterator self, IoHandler* from) {
    self_ = self;
    timer_.Set(kPatience);
    shutdown(fd_.get(), SHUT_WR);
    return all_->loop_->HandOver(fd_.get(), from, this, EPOLLIN | EPOLLRDHUP)
        .ok();
  }

  void OnIo(uint32_t) override {
    if (Drain(fd_.get())) return;
    all_->loop_->Close(std::move(fd_), this);
    all_->Erase(self_);
  }

 private:
  Farewells* all_;
  UniqueFd fd_;
  Timer timer_;
  std::list<Leaving>::iterator self_;
};

Farewells::Farewells(EventLoop* loop)
    : loop_(loop), impatience_(loop, [this] { OnImpatience(); }) {}

// Broken off, they leave connections.
Farewells::~Farewells() { checks_.clear(); }

void Farewells::Take(UniqueFd fd, IoHandler* from, uint32_t events) {
  const bool over = (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0;
  if (over && !Drain(fd.get())) {
    loop_->Close(std::move(fd), from);  // Which sends the FIN, too.
    return;
  }
  if (leaving_.size() >= kMax) leaving_.pop_front();
  const auto added = leaving_.emplace(leaving_.end(), this, std::move(fd));
  if (!added->Start(added, from)) leaving_.erase(added);
}

void Farewells::Add(std::unique_ptr<Check> check) {
  if (!check->met_server()) return;
  if (checks_.size() >= kMax) checks_.pop_front();
  const auto added = checks_.insert(checks_.end(), std::move(check));
  (*added)->set_done([this, added](const CheckResult&) {
    checks_.erase(added);
    NoteEmpty();
  });
}

void Farewells::Erase(std::list<Leaving>::iterator left) {
  leaving_.erase(left);
  NoteEmpty();
}

void Farewells::Finish(absl::Duration patience,
                       absl::AnyInvocable<void()> done) {
  finished_ = std::move(done);
  patience_ = patience / 2;
  impatience_.Set(patience / 2);
  NoteEmpty();
}

void Farewells::NoteEmpty() {
  if (size() == 0 && finished_) Finished();
}

void Farewells::OnImpatience() {
  checks_.clear();
  if (patience_ == absl::ZeroDuration()) {
    Finished();
    return;
  }
  impatience_.Set(std::exchange(patience_, absl::ZeroDuration()));
  NoteEmpty();  // They may have left nothing.
}

void Farewells::Finished() {
  impatience_.Cancel();
  auto finished = std::move(finished_);
  finished_ = nullptr;
  finished();
}

}  // namespace headgate::health
