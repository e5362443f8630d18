// A thread that accepts and carries connections. It has its own event loop,
// listening sockets (SO_REUSEPORT), splice flows and buffers; workers share
// nothing but counters in shared memory. One that has more connections than
// another gives that one what it accepts: the kernel deals them out by hash,
// so that two long ones may meet in one worker.
//
// Threads: the public methods are for the control thread.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "base/unique_fd.h"
#include "net/event_loop.h"
#include "relay/connection.h"
#include "relay/listener.h"
#include "relay/service.h"

namespace headgate::relay {

// How many connections all workers together may have; more wait in the
// kernel's queues. Shared between threads.
struct ConnectionLimit {
  std::atomic<uint64_t> max{0};
  std::atomic<uint64_t> open{0};
};

class Worker {
 public:
  struct Options {
    uint32_t index = 0;
    datapath::Datapath* datapath = nullptr;  // Outlives the worker.
    ConnectionLimit* limit = nullptr;        // So does this.
    // All of them, this one too; complete before the first AddListener().
    const std::vector<std::unique_ptr<Worker>>* crew = nullptr;
    size_t pipes = 0;  // Two descriptors each, for saturated connections.
  };

  // Starts the thread.
  static absl::StatusOr<std::unique_ptr<Worker>> Make(const Options& options);
  // Resets what is still open and ends the thread.
  ~Worker();

  void SetSplice(const config::Splice& splice);
  // Adds the service or replaces its configuration; connections it has keep
  // theirs.
  void PutService(ServicePtr service);
  // Closes its listeners and resets its connections.
  void RemoveService(uint32_t service);
  // The backend is down, and its connections are not to wait for it.
  void OnBackendDown(uint32_t backend);
  // A non-blocking listening socket of `service`.
  void AddListener(uint32_t service, const Endpoint& address, UniqueFd socket);
  void RemoveListener(uint32_t service, const Endpoint& address);

  // These wait for the worker, a round of its loop.
  std::vector<ConnectionInfo> Connections();
  // False: no such connection, or (if `backend` is not 0) not to that backend.
  bool Kill(uint64_t connection, uint32_t backend = 0);

  // Which worker has the connection.
  static uint32_t IndexOf(uint64_t connection) {
    return static_cast<uint32_t>(connection % HG_MAX_WORKERS);
  }

 private:
  class Impl;

  Worker() = default;
  // For the other workers' threads.
  uint64_t connections() const;
  void Give(uint32_t service, Listener::Accepted accepted);
  // Runs `work` in the worker's thread and waits for it.
  void Do(absl::AnyInvocable<void()> work);

  std::unique_ptr<Impl> impl_;
  std::thread thread_;
};

}  // namespace headgate::relay
