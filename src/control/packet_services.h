// The services that the packet path carries. Their listeners are bound as any
// other's: while the path has all its hooks, no packet gets that far, and while
// it has not, new connections are spliced. On the control thread.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "config/types.h"
#include "datapath/datapath.h"
#include "net/address.h"
#include "net/event_loop.h"

namespace headgate::control {

class PacketServices {
 public:
  PacketServices(EventLoop* loop, datapath::Datapath* datapath);

  // Whether a service of `config` is on the path.
  static bool Needed(const config::Config& config);
  // FailedPrecondition: `config` cannot be served here, and how to mend it.
  static absl::Status Check(const config::Config& config);

  // Once, before anything is published: opens the path with the connections of
  // the last run and ends those whose service is none of `kept`.
  void Adopt(const config::Config& config, const std::set<uint32_t>& kept);

  // Brings the path in line with `config`; `ids` by service name. Connections
  // of services that are not in it any more end.
  void Apply(const config::Config& config,
             const std::map<std::string, uint32_t>& ids);

  bool active() const;
  // Its new connections, that is.
  bool Carries(const config::Service& service) const;
  // What is wrong with the path, and, unless it is active, why services with
  // datapath: packet are spliced; empty: nothing, or there is none.
  const std::string& problem() const { return problem_; }

  // Flows have numbers below this; 0: there is no path.
  uint32_t max_flows() const;
  std::vector<datapath::PacketPath::Flow> Flows(
      datapath::FlowNumbers numbers) const;
  // Those with a backend that count as its connections; times are of
  // CLOCK_MONOTONIC, the latter to the second.
  struct Connection {
    uint64_t id = 0;
    int64_t started_ns = 0;
    int64_t active_ns = 0;
  };
  std::vector<Connection> ConnectionsTo(uint32_t backend) const;
  // FailedPrecondition: see Controller::Trace().
  absl::StatusOr<std::shared_ptr<datapath::PacketTrace>> Trace(
      const datapath::PacketTrace::Filter& filter);
  // Of a path that could not be started, too.
  std::vector<datapath::PacketPath::Hook> Hooks() const;
  // Adds what the path has moved.
  void AddBytes(uint32_t service, hg_service_stats& stats) const;

  // Connection ids for conn list and conn kill, beside the workers'. They have
  // of the client's first sequence number, too: a number that is used again is
  // another connection's.
  static uint64_t ConnectionId(uint32_t number, const hg_flow& flow);
  static bool IsFlow(uint64_t connection);
  // The id of the flow that has this number now; 0: none can.
  uint64_t IdOf(uint32_t number) const;
  bool Kill(uint64_t connection);
  // It went down: ends the connections that it has, by and by. Who waits for
  // its SYN-ACK may still be given another.
  void ResetBackend(uint32_t backend);

 private:
  // Flows that are to end, from number `next` on.
  struct Ending {
    std::function<bool(const hg_flow&)> which;
    uint32_t backend = 0;  // Counts them as resets; 0: none does.
    uint32_t next = 0;
    size_t ended = 0;
  };
  // Null: there is none, or it is about to be closed.
  datapath::PacketPath* path() const {
    return closing_ ? nullptr : datapath_->packet();
  }
  std::vector<datapath::PacketPath::Listener> Listeners(
      const config::Config& config,
      const std::map<std::string, uint32_t>& ids) const;
  datapath::PacketPath::Setup SetupOf(
      const config::Config& config,
      const std::map<std::string, uint32_t>& ids) const;
  absl::Status Open(const config::Packet& packet);
  std::vector<std::string> Start();
  void Stop();
  void Close(size_t ended);
  void KeepBytes();
  void EndByAndBy(Ending ending);
  void EndSome();
  void Sweep();
  void LookForListeners();
  // What starting or attaching says, and what is seen besides.
  void NoteAll(std::vector<std::string> problems);
  void Note(const std::vector<std::string>& problems);

  datapath::Datapath* datapath_;
  std::string problem_;
  std::vector<std::string> listeners_in_range_;  // As last seen.
  uint32_t sweeps_ = 0;
  absl::Status started_;  // Or why it is not as below.
  config::Packet settings_;
  datapath::PacketPath::Setup setup_;
  std::set<Endpoint> listen_;                  // Of its services.
  std::map<uint32_t, uint32_t> idle_seconds_;  // By service id.
  Timer timer_;
  std::deque<Ending> endings_;
  bool closing_ = false;  // Once they are through, the path is closed.
  Timer endings_timer_;
};

}  // namespace headgate::control
