#include "control/listeners.h"

#include "base/log.h"
#include "base/status.h"
#include "net/socket.h"

namespace headgate::control {
namespace {

constexpr absl::Duration kRetry = absl::Seconds(1);

}  // namespace

Listeners::Listeners(EventLoop* loop,
                     const std::vector<std::unique_ptr<relay::Worker>>* workers)
    : workers_(workers), retry_(loop, [this] { Retry(); }) {}

absl::Status Listeners::TryBind(const Wanted& wanted) const {
  for (const auto& [address, service] : wanted) {
    if (BoundByUs(address)) continue;
    RETURN_IF_ERROR(CheckListenable(address));
  }
  return absl::OkStatus();
}

// Whether we hold the address already, by itself or by a wildcard (or the other
// way round): it will be free for its new listener.
bool Listeners::BoundByUs(const Endpoint& address) const {
  for (const auto& [bound, entry] : entries_) {
    if (!entry.status.ok() || bound.port != address.port ||
        bound.family() != address.family()) {
      continue;
    }
    if (bound == address || bound.address.is_unspecified() ||
        address.address.is_unspecified()) {
      return true;
    }
  }
  return false;
}

void Listeners::Set(const Wanted& wanted) {
  for (auto it = entries_.begin(); it != entries_.end();) {
    const auto kept = wanted.find(it->first);
    if (kept != wanted.end() && kept->second == it->second.service) {
      ++it;
      continue;
    }
    for (const auto& worker : *workers_) {
      worker->RemoveListener(it->second.service, it->first);
    }
    it = entries_.erase(it);
  }
  for (const auto& [address, service] : wanted) {
    const auto [it, is_new] = entries_.try_emplace(address);
    if (!is_new) continue;
    it->second.service = service;
    Open(address, it->second);
    if (!it->second.status.ok()) {
      log::Error("%s; trying again every second", it->second.status.message());
    }
  }
}

void Listeners::Forget(uint32_t service) {
  std::erase_if(entries_,
                [&](const auto& e) { return e.second.service == service; });
}

void Listeners::Open(const Endpoint& address, Entry& entry) {
  auto sockets = ListenTcp(address, workers_->size());
  entry.status = sockets.status();
  if (!sockets.ok()) {
    if (!retry_.armed()) retry_.Set(kRetry);
    return;
  }
  for (size_t i = 0; i < workers_->size(); ++i) {
    (*workers_)[i]->AddListener(entry.service, address,
                                std::move((*sockets)[i]));
  }
}

void Listeners::Retry() {
  for (auto& [address, entry] : entries_) {
    if (entry.status.ok()) continue;
    Open(address, entry);
    if (entry.status.ok()) log::Info("listening on %s", address.ToString());
  }
}

std::vector<ListenerRow> Listeners::Rows(uint32_t service) const {
  std::vector<ListenerRow> rows;
  for (const auto& [address, entry] : entries_) {
    if (entry.service != service) continue;
    rows.push_back(
        {address, entry.status.ok(), std::string(entry.status.message())});
  }
  return rows;
}

}  // namespace headgate::control
