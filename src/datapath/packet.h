// The packet path: whole connections translated in BPF at the interfaces they
// come in by (bpf/packet.bpf.c), without a socket on this machine. Its maps and
// links are pinned beside the others, and go on without a daemon: the next one
// adopts them.
//
// Threads: everything belongs to the control thread.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/unique_fd.h"
#include "bpf/abi/packet.h"
#include "datapath/packet_address.h"
#include "datapath/packet_reset.h"
#include "datapath/packet_trace.h"
#include "datapath/packet_xdp.h"
#include "datapath/shared_array.h"
#include "datapath/xdp_devices.h"

struct bpf_map;
struct headgate_packet_bpf;

namespace headgate::datapath {

// As in metrics.
const char* PacketExitName(hg_packet_exit exit);
const char* PacketLeftName(hg_packet_left reason);

// From `first` on, and below `end`. Who has other things to do goes through a
// large table a part at a time.
struct FlowNumbers {
  uint32_t first = 0;
  uint32_t end = UINT32_MAX;
};

class PacketPath {
 public:
  // Of maps that selection has, too.
  struct SharedMaps {
    int services, backends, tables, service_stats, backend_stats,
        greeting_times;
  };
  struct Options {
    std::string pin_dir;
    uint32_t max_flows = 262144;
    SharedMaps maps;
    bool adopt = false;  // What is pinned, if it fits.
    bool xdp = false;    // Load what it takes.
  };
  static absl::StatusOr<std::unique_ptr<PacketPath>> Open(
      const Options& options);
  // Detaches, and unpins.
  ~PacketPath();
  // Before that: all of it stays, for the next daemon.
  void Leave() { left_ = true; }
  // Whether its flows are those of the last run.
  bool adopted() const { return adopted_; }
  PacketPath(const PacketPath&) = delete;

  struct Listener {
    PacketAddress address;
    uint16_t port = 0;
    hg_packet_listener value{};
  };
  struct Setup {
    std::vector<PacketAddress> sources;
    uint16_t first_port = 0;
    uint16_t last_port = 0;
    std::vector<Listener> listeners;
  };
  // ResourceExhausted: more than 255 addresses. Unless it succeeds new
  // connections are left to the listeners' sockets.
  absl::Status Configure(const Setup& setup);
  // Until then: no service but these takes new connections.
  void KeepListeners(const std::set<uint32_t>& services);

  // Runs at tc on these interfaces, and on no other; with `xdp`, there ahead of
  // it, too. Says for each of those where it cannot why not, as "eth0: ...".
  // While one of them cannot carry packets from tc, whose answers could miss
  // their way, new connections are left to the listeners' sockets. XDP is taken
  // off where most frames come with incomplete checksums, until the next call.
  std::vector<std::string> Attach(const std::set<std::string>& interfaces,
                                  bool xdp = false);
  // Once more, on those that came back or could not be attached to.
  std::vector<std::string> Reattach();
  // Whether new connections are taken.
  bool serves() const { return serves_; }

  struct Hook {
    std::string interface;
    std::string hook;  // "tc" or "xdp".
    // "tcx" or "clsact"; "native" or "generic"; empty: not attached.
    std::string mode;
    std::string reason;  // Why it does not do what is wanted of it; else empty.
  };
  std::vector<Hook> Hooks() const;
  // What XDP has left to tc, by interface.
  using LeftCounts = std::array<uint64_t, HG_LEFT_COUNT>;
  std::map<std::string, LeftCounts> LeftToTc() const;

  struct Flow {
    uint32_t number = 0;
    hg_flow state{};  // A copy.
    PacketAddress listen{};
    PacketAddress source{};
    int64_t started_ns = 0;  // CLOCK_MONOTONIC
  };
  std::vector<Flow> Flows(FlowNumbers numbers = {}) const;  // But closed ones.
  // The same, by a look at each and without the copies.
  void ForEach(const std::function<void(uint32_t number, const hg_flow&)>& look,
               FlowNumbers numbers = {}) const;
  const hg_flow& At(uint32_t number) const { return flows_[number]; }
  uint32_t max_flows() const { return max_flows_; }
  // How many buckets (struct hg_key_bucket) a table of so many flows has.
  static uint32_t KeyBuckets(uint32_t max_flows);

  // Frees what is over, and what has been idle for longer than `idle_seconds`
  // of its service allows; a sixteenth of the table in each call, which is to
  // come once a second.
  void Sweep(const std::function<uint32_t(uint32_t service)>& idle_seconds);

  // From everywhere, before its end: when this returns, no packet opens a flow
  // or moves one any more.
  void DetachAll();
  // Ends flows by a RST to both ends; KillIf() says how many.
  bool Kill(uint32_t number);
  size_t KillIf(const std::function<bool(const hg_flow&)>& which,
                FlowNumbers numbers = {});
  // How many there are, by enum hg_flow_state, by a look at each.
  std::array<size_t, HG_FLOW_STATE_COUNT> CountByState() const;
  size_t Established() const { return CountByState()[HG_FLOW_ESTABLISHED]; }

  // FailedPrecondition: there is a reader already.
  absl::StatusOr<std::shared_ptr<PacketTrace>> Trace(
      const PacketTrace::Filter& filter);

  std::vector<uint64_t> Exits() const;  // By enum hg_packet_exit.
  std::vector<uint64_t> ExitsOf(hg_packet_hook hook) const;
  hg_packet_bytes Bytes(uint32_t service) const;
  void ClearBytes(uint32_t service);  // The id has a new service.

 private:
  struct SkeletonDeleter {
    void operator()(headgate_packet_bpf* skeleton) const;
  };
  // Frames of an interface.
  struct Checksums {
    uint64_t received = 0;
    uint64_t left = 0;        // By XDP, for they looked incomplete.
    uint64_t told = 0;        // Of those, whether they were.
    uint64_t incomplete = 0;  // Were.
  };
  struct Link {
    UniqueFd fd;  // Of a TCX link; invalid: clsact.
    uint32_t ifindex = 0;
    std::string pin;
    // Or why it is not attached, if it is wanted.
    absl::StatusOr<XdpMode> xdp = absl::UnavailableError("");
    Checksums judged;  // Those that IsMostlyIncomplete() has gone by.
    bool mostly_incomplete = false;
  };

  PacketPath() = default;
  std::vector<bpf_map*> OwnMaps() const;  // That the next run adopts.
  absl::Status LoadPrograms(const Options& options, bool adopt, bool xdp);
  absl::Status Load(const Options& options, bool adopt);
  absl::Status Pin(const std::vector<bpf_map*>& which);
  absl::Status FillFreeNumbers();
  absl::Status SetUpKeys(bool adopt);
  absl::Status AttachTo(const std::string& interface);
  void Detach(const std::string& interface);
  void DetachLost();
  void DetachStrays();
  void LeaveGenericXdp();
  std::vector<std::string> ReattachXdp();
  absl::StatusOr<XdpMode> AttachXdpTo(
      const std::string& name, const Link& link,
      const absl::StatusOr<XdpDevices>& devices);
  absl::Status AttachXdpAs(XdpMode mode, const std::string& name,
                           uint32_t ifindex);
  absl::Status PutMac(const std::string& name, uint32_t ifindex);
  void PutCounters(uint32_t ifindex);
  void EraseCounters(uint32_t ifindex);
  uint64_t Left(uint32_t ifindex, uint32_t reason) const;
  Checksums ChecksumsOf(const std::string& name, uint32_t ifindex) const;
  bool IsMostlyIncomplete(const std::string& name, Link& link) const;
  std::vector<std::string> WithoutTransmitter() const;
  void PutDevices(const XdpDevices& devices);
  void EraseDevice(uint32_t ifindex);
  std::set<uint32_t> AddressesInUse() const;
  std::map<PacketAddress, uint32_t> KnownAddresses() const;
  absl::StatusOr<std::map<PacketAddress, uint32_t>> TakeIds(
      const std::set<PacketAddress>& wanted);
  hg_packet_address* FindPlace(const PacketAddress& address);
  absl::Status PutAddress(const PacketAddress& address, uint32_t id,
                          uint16_t first_port, uint16_t last_port);
  absl::Status PutSetup(const Setup& setup);
  absl::Status SetServes(bool serves);
  absl::Status PutListeners();
  template <typename Keep>
  void EraseListeners(const Keep& keep);
  bool IsOver(const hg_flow& flow, uint32_t now,
              const std::function<uint32_t(uint32_t)>& idle_seconds) const;
  void FreeClosed(uint32_t now);
  void PutClosed(uint32_t number);
  // Unless another connection has it by now.
  bool Kill(uint32_t number, uint32_t isn);
  // Whoever moves it out of `state` counts its end and frees its number.
  bool End(uint32_t number, uint32_t state);
  void ForgetUnanswered();
  void EraseKeys(uint32_t number);
  void EraseKey(const hg_flow_key& key, uint32_t value);
  void Reset(uint32_t number);
  void CountEnd(const hg_flow& flow);

  std::unique_ptr<headgate_packet_bpf, SkeletonDeleter> skeleton_;
  std::string pin_dir_;
  bool left_ = false;  // To the next daemon.
  uint32_t max_flows_ = 0;
  bool adopted_ = false;
  SharedArray<hg_packet_address> addresses_;
  SharedArray<hg_flow> flows_;
  SharedArray<hg_key_bucket> keys_;
  uint64_t seed_ = 0;  // Of keys_.
  ResetSender resets_;
  SharedArray<hg_service_stats> service_stats_;
  SharedArray<hg_backend_stats> backend_stats_;
  std::weak_ptr<PacketTrace> trace_;  // Its reader has it.
  // By address id and port.
  std::map<std::pair<uint32_t, uint32_t>, hg_packet_listener> listeners_;
  bool configured_ = false;  // They are what is wanted.
  bool serves_ = false;      // They are in the map.
  std::map<std::string, Link> links_;
  std::set<std::string> wanted_;
  std::map<std::string, std::string> objections_;  // To tc, by interface.
  bool xdp_ = false;                               // Is wanted.
  std::string xdp_objection_;  // Why the programs are not loaded; empty: are.
  uint32_t table_id_ = 0;      // Of the map, see AttachXdp().
  std::set<uint32_t> transmitters_;  // What is in packet_devices.
  uint32_t cursor_ = 0;              // Of the sweep.
  bool forwards_v4_ = false;
  bool forwards_v6_ = false;
};

}  // namespace headgate::datapath
