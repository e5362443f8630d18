// The client's end of the load: opens the connections, drives them through
// warm-up and window, and says what happened in the window. One thread.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/unique_fd.h"
#include "bench/paced_sink.h"
#include "bench/plan.h"
#include "net/event_loop.h"

namespace headgate::bench {

class Client;

class ClientConnection final : public IoHandler, public LoopOwned {
 public:
  explicit ClientConnection(Client* client) : client_(client) {}

  absl::Status Connect();
  void OnIo(uint32_t events) override;
  int fd() const { return fd_.get(); }

 private:
  absl::Status FinishConnect();
  absl::Status Watch(uint32_t events);
  absl::Status Receive();
  absl::Status SendChunk();
  absl::Status StartExchange();
  absl::Status SendRest();
  absl::Status ReceiveEcho();
  absl::Status ReceiveGreeting();
  // What has arrived, at least a byte; 0: nothing, after all.
  absl::StatusOr<size_t> Read();
  void Ready();

  Client* client_;
  UniqueFd fd_;
  uint32_t watched_ = 0;
  bool connected_ = false;
  bool ready_ = false;      // Counted as such by the client.
  int64_t started_ns_ = 0;  // Of the connect, or of the exchange.
  size_t sent_ = 0;         // Of the exchange.
  size_t received_ = 0;
};

struct Report {
  double seconds = 0;
  uint64_t bytes = 0;               // Downloads and uploads.
  std::vector<int64_t> latency_ns;  // Echoes and greetings, ascending.
  size_t connections = 0;           // Open at the end.
};

class Client {
 public:
  // `window` is called with "begin" and "end".
  Client(EventLoop* loop, const Plan& plan, ByteCounter* received,
         std::function<void(absl::string_view)> window);

  // Any connection that fails, fails the run.
  absl::StatusOr<Report> Run();

 private:
  friend class ClientConnection;

  void Open();
  void Close(ClientConnection* connection);
  // The connection works: the window may open once all do.
  void CountReady();
  void Record(int64_t latency_ns);
  void Fail(absl::Status status);
  void EndPhase();

  enum class Phase { kOpening, kWarmup, kWindow };

  EventLoop* loop_;
  const Plan& plan_;
  ByteCounter* received_;
  std::function<void(absl::string_view)> window_;
  PacedSink paced_;
  std::vector<char> scratch_;
  absl::flat_hash_map<ClientConnection*, std::unique_ptr<ClientConnection>>
      connections_;
  size_t ready_ = 0;
  Phase phase_ = Phase::kOpening;
  int64_t begin_ns_ = 0;
  uint64_t begin_bytes_ = 0;
  Report report_;
  absl::Status status_;
  Timer phase_end_;
};

}  // namespace headgate::bench
