// The server's end of the load. One thread.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "base/unique_fd.h"
#include "bench/paced_sink.h"
#include "bench/plan.h"
#include "net/event_loop.h"

namespace headgate::bench {

class Server;

class ServerConnection final : public IoHandler, public LoopOwned {
 public:
  ServerConnection(Server* server, UniqueFd fd);

  void OnIo(uint32_t events) override;
  int fd() const { return fd_.get(); }
  // Once it is accepted; false: it is over already.
  bool Begin();
  // What the server does first, once the header is behind it.
  void Start();

 private:
  bool SkipHeader();
  bool Receive();
  bool SendChunk();
  bool Echo();
  bool FlushEcho();

  Server* server_;
  UniqueFd fd_;
  std::string header_;  // What has arrived of it.
  bool header_done_;
  std::string unsent_;  // Of an echo; nothing is read meanwhile.
};

class Server final : public IoHandler {
 public:
  Server(EventLoop* loop, const Plan& plan, ByteCounter* received);

  absl::Status Listen();
  void OnIo(uint32_t events) override;  // Accepts.

 private:
  friend class ServerConnection;

  void Close(ServerConnection* connection);

  EventLoop* loop_;
  const Plan& plan_;
  ByteCounter* received_;
  PacedSink paced_;
  UniqueFd listener_;
  std::vector<char> scratch_;
  absl::flat_hash_map<ServerConnection*, std::unique_ptr<ServerConnection>>
      connections_;
};

}  // namespace headgate::bench
