#include "relay/worker.h"

#include <sys/epoll.h>

#include <algorithm>
#include <future>

#include "absl/functional/function_ref.h"
#include "base/log.h"
#include "relay/listener.h"

namespace headgate::relay {
namespace {

constexpr int64_t kChurnNs = 10'000'000;

}  // namespace

// All of it runs in the worker's thread, but for Make and the loop's Post.
class Worker::Impl final : public ConnectionHost, public IoHandler {
 public:
  static absl::StatusOr<std::unique_ptr<Impl>> Make(const Options& options) {
    ASSIGN_OR_RETURN(auto loop, EventLoop::Make());
    std::unique_ptr<Impl> impl(new Impl(options, std::move(loop)));
    if (impl->context_.flows != nullptr) {
      RETURN_IF_ERROR(impl->loop_->Add(impl->context_.flows->event_fd(),
                                       EPOLLIN, impl.get()));
    }
    return impl;
  }

  void Run() {
    loop_->Run();
    listeners_.clear();
    ResetConnections([](const Connection&) { return true; });
    connections_.clear();
  }

  EventLoop* loop() override { return loop_.get(); }
  PumpContext* context() override { return &context_; }
  const config::Splice& splice() const override { return splice_; }
  SourceRotation& sources() override { return sources_; }

  std::optional<hg_fallback> splice_obstacle() const override {
    if (splice_.mode == config::SpliceMode::kOff) return HG_FALLBACK_OFF;
    const bool refused = splice_.mode == config::SpliceMode::kAuto &&
                         !context_.datapath->splice_objection().empty();
    if (context_.flows == nullptr || refused) return HG_FALLBACK_KERNEL;
    return std::nullopt;
  }

  void SetFlowOwner(uint32_t flow, Connection* connection) override {
    if (connection == nullptr) {
      flow_owners_.erase(flow);
    } else {
      flow_owners_[flow] = connection;
    }
  }

  bool TakeRoom() override {
    if (limit_->open >= limit_->max) return false;
    ++limit_->open;
    return true;
  }
  void ReturnRoom() override { --limit_->open; }

  bool Admitted(uint64_t connection) override {
    const auto found = connections_.find(connection);
    return found != connections_.end() && found->second->OnAdmitted();
  }

  void Closed(Connection* connection) override {
    const auto found = connections_.find(connection->id());
    if (found == connections_.end()) return;
    --limit_->open;
    --open_;
    closed_ns_ = loop_->now_ns();
    loop_->DestroyLater(std::move(found->second));
    connections_.erase(found);
  }

  // The event ring.
  void OnIo(uint32_t) override {
    context_.flows->Consume([this](uint32_t flow) {
      const auto owner = flow_owners_.find(flow);
      if (owner != flow_owners_.end()) owner->second->OnSpliceEvent();
    });
  }

  void SetSplice(const config::Splice& splice) {
    splice_ = splice;
    const bool on = !splice_obstacle().has_value();
    for (auto& [id, connection] : connections_) connection->SpliceChanged(on);
  }

  void PutService(ServicePtr service) {
    const uint32_t id = service->id;
    services_[id] = std::move(service);
    sources_.Clear();
  }

  void RemoveService(uint32_t service) {
    std::erase_if(listeners_,
                  [&](const auto& l) { return l.service == service; });
    services_.erase(service);
    ResetConnections([&](const Connection& connection) {
      return connection.service()->id == service;
    });
  }

  void OnBackendDown(uint32_t backend) {
    std::vector<Connection*> affected;  // They may end, which changes the map.
    for (auto& [id, connection] : connections_) {
      if (connection->backend() == backend) {
        affected.push_back(connection.get());
      }
    }
    for (Connection* connection : affected) connection->OnBackendDown();
  }

  void AddListener(uint32_t service, const Endpoint& address, UniqueFd socket) {
    auto listener = std::make_unique<Listener>(
        loop_.get(), address, std::move(socket),
        [this, service] { return Admit(service); },
        [this, service](Listener::Accepted accepted) {
          Deal(service, std::move(accepted));
        });
    if (const absl::Status status = listener->Start(); !status.ok()) {
      log::Error("listener %s: %s", address.ToString(), status.message());
      return;
    }
    listeners_.push_back({service, address, std::move(listener)});
  }

  void RemoveListener(uint32_t service, const Endpoint& address) {
    std::erase_if(listeners_, [&](const auto& l) {
      return l.service == service && l.address == address;
    });
  }

  std::vector<ConnectionInfo> Connections() const {
    std::vector<ConnectionInfo> result;
    result.reserve(connections_.size());
    for (const auto& [id, connection] : connections_) {
      result.push_back(connection->Info());
    }
    return result;
  }

  // An accepted connection, already counted in open().
  void Take(uint32_t service, Listener::Accepted accepted) {
    const auto found = services_.find(service);
    if (found == services_.end()) {  // Removed while it was on its way.
      --limit_->open;
      --open_;
      return;
    }
    const uint64_t id = HG_MAX_WORKERS * next_connection_++ + index_;
    auto connection = std::make_unique<Connection>(
        this, id, found->second, std::move(accepted.socket), accepted.source,
        accepted.destination);
    Connection* started = connection.get();
    connections_[id] = std::move(connection);
    started->Start();
  }

  std::atomic<uint64_t>& open() { return open_; }

  bool Kill(uint64_t id, uint32_t backend) {
    const auto found = connections_.find(id);
    if (found == connections_.end()) return false;
    if (backend != 0 && found->second->Info().backend != backend) return false;
    found->second->Reset();
    return true;
  }

 private:
  struct ListenerEntry {
    uint32_t service;
    Endpoint address;
    std::unique_ptr<Listener> listener;
  };

  Impl(const Options& options, std::unique_ptr<EventLoop> loop)
      : index_(options.index),
        limit_(options.limit),
        crew_(options.crew),
        loop_(std::move(loop)),
        context_(loop_.get(), options.datapath, options.pipes) {
    context_.flows = options.datapath->splice_flows(index_);
  }

  bool Admit(uint32_t service) {
    const bool full = limit_->open >= limit_->max;
    if (full && !said_full_) {
      log::Warning(
          "%d connections are open, as many as there are descriptors for; "
          "clients wait until some end: raise LimitNOFILE",
          limit_->max.load());
    }
    said_full_ = full;
    if (full) return false;
    const config::Service& config = services_.at(service)->config;
    const uint64_t limit = config.max_connections;
    return limit == 0 || config.queue.has_value() ||
           datapath::Read(
               context_.datapath->service_stats(service).connections_active) <
               limit;
  }

  // Keeps the connection, or gives it to a worker that has clearly fewer: to
  // wake another thread costs more than a small difference does, above all
  // when connections come and go.
  void Deal(uint32_t service, Listener::Accepted accepted) {
    // A limit counts what is taken; what is on its way would exceed it.
    const config::Service& config = services_.at(service)->config;
    const bool limited = config.max_connections != 0 && !config.queue;
    Worker* taker = nullptr;
    uint64_t least = limited ? 0 : open_.load();
    const bool churning = loop_->now_ns() - closed_ns_ < kChurnNs;
    least -= std::min(least, least / 4 + (churning ? 1 : 0));
    for (const auto& worker : *crew_) {
      const uint64_t open = worker->connections();
      if (open >= least) continue;
      least = open;
      taker = worker.get();
    }
    ++limit_->open;
    if (taker == nullptr) {
      ++open_;
      Take(service, std::move(accepted));
    } else {
      taker->Give(service, std::move(accepted));
    }
  }

  void ResetConnections(absl::FunctionRef<bool(const Connection&)> which) {
    std::vector<Connection*> doomed;  // Reset changes the map.
    for (auto& [id, connection] : connections_) {
      if (which(*connection)) doomed.push_back(connection.get());
    }
    for (Connection* connection : doomed) connection->Reset();
  }

  const uint32_t index_;
  ConnectionLimit* limit_;
  const std::vector<std::unique_ptr<Worker>>* crew_;
  // Connections; others read it, and add to it what they give.
  alignas(64) std::atomic<uint64_t> open_{0};
  int64_t closed_ns_ = 0;  // When a connection last ended.
  bool said_full_ = false;
  std::unique_ptr<EventLoop> loop_;
  PumpContext context_;
  config::Splice splice_;
  SourceRotation sources_;
  absl::flat_hash_map<uint32_t, ServicePtr> services_;
  std::vector<ListenerEntry> listeners_;
  absl::flat_hash_map<uint64_t, std::unique_ptr<Connection>> connections_;
  absl::flat_hash_map<uint32_t, Connection*> flow_owners_;
  uint64_t next_connection_ = 1;
};

absl::StatusOr<std::unique_ptr<Worker>> Worker::Make(const Options& options) {
  std::unique_ptr<Worker> worker(new Worker());
  ASSIGN_OR_RETURN(worker->impl_, Impl::Make(options));
  worker->thread_ = std::thread([impl = worker->impl_.get()] { impl->Run(); });
  return worker;
}

Worker::~Worker() {
  if (!thread_.joinable()) return;
  impl_->loop()->Stop();
  thread_.join();
}

void Worker::Do(absl::AnyInvocable<void()> work) {
  std::promise<void> done;
  impl_->loop()->Post([&] {
    work();
    done.set_value();
  });
  done.get_future().wait();
}

uint64_t Worker::connections() const { return impl_->open(); }

void Worker::Give(uint32_t service, Listener::Accepted accepted) {
  ++impl_->open();
  impl_->loop()->Post(
      [this, service, accepted = std::move(accepted)]() mutable {
        impl_->Take(service, std::move(accepted));
      });
}

void Worker::SetSplice(const config::Splice& splice) {
  impl_->loop()->Post([this, splice] { impl_->SetSplice(splice); });
}

void Worker::PutService(ServicePtr service) {
  impl_->loop()->Post([this, service = std::move(service)]() mutable {
    impl_->PutService(std::move(service));
  });
}

void Worker::RemoveService(uint32_t service) {
  Do([this, service] { impl_->RemoveService(service); });
}

void Worker::OnBackendDown(uint32_t backend) {
  impl_->loop()->Post([this, backend] { impl_->OnBackendDown(backend); });
}

void Worker::AddListener(uint32_t service, const Endpoint& address,
                         UniqueFd socket) {
  impl_->loop()->Post(
      [this, service, address, socket = std::move(socket)]() mutable {
        impl_->AddListener(service, address, std::move(socket));
      });
}

void Worker::RemoveListener(uint32_t service, const Endpoint& address) {
  Do([this, service, address] { impl_->RemoveListener(service, address); });
}

std::vector<ConnectionInfo> Worker::Connections() {
  std::vector<ConnectionInfo> result;
  Do([&] { result = impl_->Connections(); });
  return result;
}

bool Worker::Kill(uint64_t connection, uint32_t backend) {
  bool found = false;
  Do([&] { found = impl_->Kill(connection, backend); });
  return found;
}

}  // namespace headgate::relay
