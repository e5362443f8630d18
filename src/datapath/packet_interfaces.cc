// Where the packet path runs: at tc of its interfaces, and ahead of it at XDP.
// XDP leaves to tc what it cannot do; so tc is attached first and detached
// last, and an interface without XDP lacks nothing.
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <net/if.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status.h"
#include "datapath/packet.h"
#include "datapath/packet_hook.h"
#include "datapath/packet_xdp.h"
#include "headgate_packet.skel.h"  // After the types that it names.

namespace headgate::datapath {
namespace {

// By so many frames an interface is judged.
constexpr uint64_t kIncompleteToJudge = 1000;

absl::Status CheckNativeXdp(const absl::StatusOr<XdpDevices>& devices,
                            uint32_t ifindex) {
  if (!devices.ok()) return devices.status();
  const auto features = devices->find(ifindex);
  return features != devices->end() && features->second.native
             ? absl::OkStatus()
             : absl::FailedPreconditionError("its driver has no native XDP");
}

// Without a descriptor, if_nametoindex() cannot tell.
bool IsOf(uint32_t ifindex, const std::string& name) {
  const uint32_t now = if_nametoindex(name.c_str());
  return now == ifindex || (now == 0 && errno != ENODEV);
}

bool IsVerdict(const absl::Status& status) {
  return absl::IsNotFound(status) || absl::IsFailedPrecondition(status);
}

}  // namespace

std::vector<std::string> PacketPath::Attach(
    const std::set<std::string>& interfaces, bool xdp) {
  wanted_ = interfaces;
  xdp_ = xdp;
  std::vector<std::string> gone;
  for (const auto& [name, link] : links_) {
    if (!interfaces.contains(name)) gone.push_back(name);
  }
  for (const std::string& name : gone) Detach(name);
  for (auto& [name, link] : links_) {
    link.mostly_incomplete = false;
    link.judged = ChecksumsOf(name, link.ifindex);
  }
  if (xdp) LeaveGenericXdp();
  std::vector<std::string> problems = Reattach();
  DetachStrays();
  return problems;
}

std::vector<std::string> PacketPath::Reattach() {
  std::vector<std::string> problems;
  auto before = std::exchange(objections_, {});
  DetachLost();
  for (const std::string& name : wanted_) {
    const absl::Status attached = AttachTo(name);
    if (attached.ok()) continue;
    problems.push_back(absl::StrCat(name, ": ", attached.message()));
    if (links_.contains(name) && !IsVerdict(attached)) {  // It is as it was.
      objections_.insert(before.extract(name));
      continue;
    }
    objections_[name] = std::string(attached.message());
  }
  const absl::Status serves = SetServes(configured_ && objections_.empty());
  if (!serves.ok()) problems.push_back(std::string(serves.message()));
  if (!xdp_) return problems;
  const std::vector<std::string> more = ReattachXdp();
  problems.insert(problems.end(), more.begin(), more.end());
  return problems;
}

// Names that are other interfaces' now, before these have a hook of their own;
// and what somebody has taken off.
void PacketPath::DetachLost() {
  std::vector<std::string> lost;
  for (const auto& [name, link] : links_) {
    const bool moved = !IsOf(link.ifindex, name);
    if (!moved && HasPacketHook(link.fd, link.ifindex, table_id_)) continue;
    if (!moved) log::Warning("%s: the packet path's hook was gone", name);
    lost.push_back(name);
  }
  for (const std::string& name : lost) Detach(name);
}

// An interface that no longer forwards keeps its hook, be it of the last run,
// for what it may do again.
absl::Status PacketPath::AttachTo(const std::string& name) {
  Link link;
  link.ifindex = if_nametoindex(name.c_str());
  link.pin = PacketLinkPin(pin_dir_, link.ifindex);
  const absl::Status able =
      CheckPacketInterface(name, forwards_v4_, forwards_v6_);
  if (links_.contains(name)) return able;
  const UniqueFd left(bpf_obj_get(link.pin.c_str()));
  if (!able.ok() && !HasPacketHook(left, link.ifindex, table_id_)) return able;
  const int program = bpf_program__fd(skeleton_->progs.packet_ingress);
  ASSIGN_OR_RETURN(
      link.fd, AttachPacketHook(program, link.ifindex, link.pin, table_id_));
  bpf_map__update_elem(skeleton_->maps.packet_interfaces, &link.ifindex,
                       sizeof link.ifindex, &link.ifindex, sizeof link.ifindex,
                       BPF_ANY);
  links_[name] = std::move(link);
  return able;
}

void PacketPath::Detach(const std::string& name) {
  const Link& link = links_.at(name);
  if (link.xdp.ok()) EraseDevice(link.ifindex);
  DetachXdp(link.ifindex, table_id_);
  bpf_map__delete_elem(skeleton_->maps.packet_interfaces, &link.ifindex,
                       sizeof link.ifindex, 0);
  EraseCounters(link.ifindex);
  if (link.fd.valid()) {
    bpf_link_detach(link.fd.get());  // Now, whoever else may hold it.
  } else {
    DetachClsact(link.ifindex, table_id_);
  }
  unlink(link.pin.c_str());
  links_.erase(name);
}

// A flow that opens behind a look at the table would count for ever: who still
// ran has come to an end.
void PacketPath::DetachAll() {
  SetServes(false).IgnoreError();
  while (!links_.empty()) Detach(links_.begin()->first);
  AwaitRunningPrograms();
}

// Of a daemon that was killed, or of an earlier configuration.
void PacketPath::DetachStrays() {
  std::set<std::string> pins;
  std::set<uint32_t> attached, filtered;
  for (const auto& [name, link] : links_) {
    pins.insert(link.pin);
    attached.insert(link.ifindex);
    if (!link.fd.valid()) filtered.insert(link.ifindex);
  }
  for (const uint32_t ifindex : Interfaces()) {
    if (!xdp_ || !attached.contains(ifindex)) DetachXdp(ifindex, table_id_);
    if (!filtered.contains(ifindex)) DetachClsact(ifindex, table_id_);
  }
  for (const std::string& pin : PacketPins(pin_dir_, kPacketLinks)) {
    if (!pins.contains(pin)) unlink(pin.c_str());
  }
}

// ---- XDP --------------------------------------------------------------------

// Native XDP may have become possible. Not at each sweep: one that tries in
// vain leaves all packets to tc for a moment.
void PacketPath::LeaveGenericXdp() {
  const absl::StatusOr<XdpDevices> devices = QueryXdpDevices();
  for (const std::string& name : wanted_) {
    const uint32_t ifindex = if_nametoindex(name.c_str());
    if (!CheckNativeXdp(devices, ifindex).ok()) continue;
    DetachXdp(ifindex, table_id_, XdpMode::kGeneric);
  }
}

std::vector<std::string> PacketPath::ReattachXdp() {
  const absl::StatusOr<XdpDevices> devices = QueryXdpDevices();
  if (!devices.ok() && !absl::IsUnimplemented(devices.status())) {
    return {absl::StrCat("attach: xdp: ", devices.status().message())};
  }
  if (devices.ok()) PutDevices(*devices);
  std::vector<std::string> problems;
  for (auto& [name, link] : links_) {
    const bool attached = link.xdp.ok();
    link.xdp = IsMostlyIncomplete(name, link)
                   ? absl::FailedPreconditionError(
                         "most frames come with incomplete checksums (at the "
                         "sender: ethtool -K DEVICE tx off); tried again at "
                         "the next reload")
                   : AttachXdpTo(name, link, devices);
    if (link.xdp.ok()) continue;
    if (attached) EraseDevice(link.ifindex);
    DetachXdp(link.ifindex, table_id_);
    problems.push_back(
        absl::StrCat(name, ": attach: xdp: ", link.xdp.status().message(),
                     "; tc carries it"));
  }
  for (const std::string& name : WithoutTransmitter()) {
    problems.push_back(absl::StrCat(
        name,
        ": its driver takes no frames from XDP (a veth does while its peer "
        "has GRO: ethtool -K PEER gro on); tc carries what leaves there"));
  }
  return problems;
}

absl::StatusOr<XdpMode> PacketPath::AttachXdpTo(
    const std::string& name, const Link& link,
    const absl::StatusOr<XdpDevices>& devices) {
  if (!xdp_objection_.empty()) {
    return absl::FailedPreconditionError(xdp_objection_);
  }
  const auto is_new = [&link](XdpMode mode) {
    return !link.xdp.ok() || *link.xdp != mode;
  };
  PutCounters(link.ifindex);
  RETURN_IF_ERROR(PutMac(name, link.ifindex));
  absl::Status native = CheckNativeXdp(devices, link.ifindex);
  if (native.ok()) native = AttachXdpAs(XdpMode::kNative, name, link.ifindex);
  if (native.ok()) {
    if (is_new(XdpMode::kNative)) {
      log::Info("the packet path is at xdp (native) of %s", name);
    }
    return XdpMode::kNative;
  }
  if (absl::IsAlreadyExists(native)) return native;
  const absl::Status generic =
      AttachXdpAs(XdpMode::kGeneric, name, link.ifindex);
  if (!generic.ok()) {
    return absl::FailedPreconditionError(
        absl::StrCat(native.message(), "; generic: ", generic.message()));
  }
  if (is_new(XdpMode::kGeneric)) {
    log::Warning("the packet path is at xdp (generic) of %s: %s", name,
                 native.message());
  }
  return XdpMode::kGeneric;
}

absl::Status PacketPath::AttachXdpAs(XdpMode mode, const std::string& name,
                                     uint32_t ifindex) {
  RETURN_IF_ERROR(CheckXdpInterface(name, mode));
  const auto& programs = skeleton_->progs;
  return AttachXdp(
      bpf_program__fd(mode == XdpMode::kNative ? programs.packet_xdp
                                               : programs.packet_generic),
      mode, ifindex, table_id_);
}

absl::Status PacketPath::PutMac(const std::string& name, uint32_t ifindex) {
  ASSIGN_OR_RETURN(const auto mac, MacOf(name));
  __atomic_store_n(&skeleton_->bss->packet_macs[ifindex % HG_MAC_PLACES],
                   hg_mac_of(mac.data(), ifindex), __ATOMIC_RELAXED);
  return absl::OkStatus();
}

// Those that are there go on.
void PacketPath::PutCounters(uint32_t ifindex) {
  for (uint32_t reason = 0; reason < HG_LEFT_COUNT; ++reason) {
    const hg_packet_left_key key{ifindex, reason};
    const hg_counter none{};
    bpf_map__update_elem(skeleton_->maps.packet_left, &key, sizeof key, &none,
                         sizeof none, BPF_NOEXIST);
  }
  const hg_packet_sums none{};
  bpf_map__update_elem(skeleton_->maps.packet_sums, &ifindex, sizeof ifindex,
                       &none, sizeof none, BPF_NOEXIST);
}

void PacketPath::EraseCounters(uint32_t ifindex) {
  for (uint32_t reason = 0; reason < HG_LEFT_COUNT; ++reason) {
    const hg_packet_left_key key{ifindex, reason};
    bpf_map__delete_elem(skeleton_->maps.packet_left, &key, sizeof key, 0);
  }
  bpf_map__delete_elem(skeleton_->maps.packet_sums, &ifindex, sizeof ifindex,
                       0);
}

uint64_t PacketPath::Left(uint32_t ifindex, uint32_t reason) const {
  const hg_packet_left_key key{ifindex, reason};
  hg_counter counter{};
  bpf_map__lookup_elem(skeleton_->maps.packet_left, &key, sizeof key, &counter,
                       sizeof counter, 0);
  return counter.count;
}

// What is counted last is read first.
PacketPath::Checksums PacketPath::ChecksumsOf(const std::string& name,
                                              uint32_t ifindex) const {
  hg_packet_sums sums{};
  bpf_map__lookup_elem(skeleton_->maps.packet_sums, &ifindex, sizeof ifindex,
                       &sums, sizeof sums, 0);
  const uint64_t left = Left(ifindex, HG_LEFT_INCOMPLETE);
  return {ReceivedBy(name), left, sums.told, sums.incomplete};
}

// Whether most of what has come in lately is left to tc for its checksum: then
// XDP is in the way only. Without it nobody counts, but for a moment, so it stays
// as it is until Attach(). What looks so and is not may be anybody's, to take XDP
// off; what nobody can tell of counts neither way.
bool PacketPath::IsMostlyIncomplete(const std::string& name, Link& link) const {
  const Checksums now = ChecksumsOf(name, link.ifindex);
  const Checksums& before = link.judged;
  const uint64_t incomplete = now.incomplete - before.incomplete;
  if (link.mostly_incomplete || incomplete < kIncompleteToJudge) {
    return link.mostly_incomplete;
  }
  // Not read:
  if (now.received <= before.received) return link.mostly_incomplete;
  // More than half of received - (left - told), with no difference below 0.
  link.mostly_incomplete =
      2 * incomplete + (now.left - before.left) >
      (now.received - before.received) + (now.told - before.told);
  link.judged = now;
  return link.mostly_incomplete;
}

// Where native XDP cannot send frames out.
std::vector<std::string> PacketPath::WithoutTransmitter() const {
  const bool native =
      std::any_of(links_.begin(), links_.end(), [](const auto& each) {
        const auto& xdp = each.second.xdp;
        return xdp.ok() && *xdp == XdpMode::kNative;
      });
  std::vector<std::string> names;
  for (const auto& [name, link] : links_) {
    if (native && link.xdp.ok() && !transmitters_.contains(link.ifindex)) {
      names.push_back(name);
    }
  }
  return names;
}

void PacketPath::PutDevices(const XdpDevices& devices) {
  std::set<uint32_t> now;
  for (const auto& [index, features] : devices) {
    if (features.transmits) now.insert(index);
  }
  const bpf_map* map = skeleton_->maps.packet_devices;
  for (const uint32_t index : now) {
    if (transmitters_.contains(index)) continue;
    bpf_map__update_elem(map, &index, sizeof index, &index, sizeof index,
                         BPF_ANY);
  }
  for (const uint32_t index : transmitters_) {
    if (!now.contains(index)) {
      bpf_map__delete_elem(map, &index, sizeof index, 0);
    }
  }
  transmitters_ = std::move(now);
}

// Ahead of taking its program off: without one, many a driver takes no frames
// from XDP. Whether it does is seen at the next look.
void PacketPath::EraseDevice(uint32_t ifindex) {
  transmitters_.erase(ifindex);
  bpf_map__delete_elem(skeleton_->maps.packet_devices, &ifindex, sizeof ifindex,
                       0);
  AwaitRunningPrograms();
}

// ---- what is seen -----------------------------------------------------------

std::vector<PacketPath::Hook> PacketPath::Hooks() const {
  std::vector<Hook> hooks;
  for (const std::string& name : wanted_) {
    const auto found = links_.find(name);
    const Link* link = found == links_.end() ? nullptr : &found->second;
    const char* mode = link == nullptr    ? ""
                       : link->fd.valid() ? "tcx"
                                          : "clsact";
    const auto objection = objections_.find(name);
    hooks.push_back({name, "tc", mode,
                     objection == objections_.end() ? "" : objection->second});
    if (xdp_ && link != nullptr) {
      hooks.push_back({name, "xdp",
                       link->xdp.ok() ? XdpModeName(*link->xdp) : "",
                       std::string(link->xdp.status().message())});
    }
  }
  return hooks;
}

std::map<std::string, PacketPath::LeftCounts> PacketPath::LeftToTc() const {
  std::map<std::string, LeftCounts> all;
  for (const auto& [name, link] : links_) {
    if (!xdp_) continue;
    LeftCounts& counts = all[name];
    for (uint32_t reason = 0; reason < HG_LEFT_COUNT; ++reason) {
      counts[reason] = Left(link.ifindex, reason);
    }
  }
  return all;
}

}  // namespace headgate::datapath
