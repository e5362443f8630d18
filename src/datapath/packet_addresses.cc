// What is the packet path's: addresses, ports and listeners.
#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include <algorithm>
#include <cerrno>
#include <iterator>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "datapath/packet.h"
#include "headgate_packet.skel.h"  // After the types that it names.

namespace headgate::datapath {

std::set<uint32_t> PacketPath::AddressesInUse() const {
  std::set<uint32_t> ids;
  for (uint32_t number = 0; number < max_flows_; ++number) {
    const hg_flow& flow = flows_[number];
    if (flow.state == HG_FLOW_FREE) continue;
    ids.insert(flow.listen);
    ids.insert(flow.source);
  }
  return ids;
}

std::map<PacketAddress, uint32_t> PacketPath::KnownAddresses() const {
  std::map<PacketAddress, uint32_t> ids;
  for (uint32_t place = 0; place < HG_ADDRESS_PLACES; ++place) {
    const hg_packet_address& entry = addresses_[place];
    if (entry.id == 0 || entry.id == HG_ADDRESS_GONE) continue;
    PacketAddress address{};
    std::copy(std::begin(entry.address), std::end(entry.address),
              address.begin());
    ids[address] = entry.id;
  }
  return ids;
}

// An address that connections have keeps its id, wanted or not; any other that
// is not wanted is somebody else's from now on.
absl::StatusOr<std::map<PacketAddress, uint32_t>> PacketPath::TakeIds(
    const std::set<PacketAddress>& wanted) {
  const std::set<uint32_t> in_use = AddressesInUse();
  std::map<PacketAddress, uint32_t> ids = KnownAddresses();
  std::erase_if(ids, [&](const auto& known) {
    if (wanted.contains(known.first) || in_use.contains(known.second)) {
      return false;
    }
    hg_packet_address* const place = FindPlace(known.first);
    __atomic_store_n(&place->id, HG_ADDRESS_GONE, __ATOMIC_RELEASE);
    return true;
  });
  std::set<uint32_t> taken = in_use;
  for (const auto& [address, id] : ids) taken.insert(id);
  uint32_t next = 1;
  for (const PacketAddress& address : wanted) {
    if (ids.contains(address)) continue;
    while (taken.contains(next)) ++next;
    if (next >= HG_MAX_PACKET_ADDRESSES) {
      return absl::ResourceExhaustedError(absl::StrCat(
          "the packet path has room for ", HG_MAX_PACKET_ADDRESSES - 1,
          " listen and source addresses, those of live connections included"));
    }
    ids[address] = next;
    taken.insert(next);
  }
  return ids;
}

absl::Status PacketPath::Configure(const Setup& setup) {
  const absl::Status put = PutSetup(setup);
  configured_ = put.ok();
  if (!configured_) SetServes(false).IgnoreError();
  return put;
}

absl::Status PacketPath::PutSetup(const Setup& setup) {
  const std::set<PacketAddress> sources(setup.sources.begin(),
                                        setup.sources.end());
  std::set<PacketAddress> wanted = sources;
  for (const Listener& listener : setup.listeners) {
    wanted.insert(listener.address);
  }
  ASSIGN_OR_RETURN(const auto ids, TakeIds(wanted));
  hg_packet_config config{};
  config.first_port = setup.first_port;
  config.last_port = setup.last_port;
  config.seed = seed_;
  config.buckets = KeyBuckets(max_flows_);
  config.flow_format = HG_FLOW_FORMAT;
  // What is only kept has no ports: of its flows, packets are told by key.
  for (const auto& [address, id] : ids) {
    const bool is_source = sources.contains(address);
    if (is_source) {
      const size_t family = IsV4(address) ? 0 : 1;
      config.sources[family][config.source_count[family]++] =
          static_cast<uint8_t>(id);
    }
    RETURN_IF_ERROR(PutAddress(address, id, is_source ? setup.first_port : 0,
                               is_source ? setup.last_port : 0));
  }
  forwards_v4_ = config.source_count[0] > 0;
  forwards_v6_ = config.source_count[1] > 0;
  const uint32_t zero = 0;
  bpf_map__update_elem(skeleton_->maps.packet_config, &zero, sizeof zero,
                       &config, sizeof config, BPF_ANY);
  listeners_.clear();
  for (const Listener& listener : setup.listeners) {
    listeners_[{ids.at(listener.address), listener.port}] = listener.value;
  }
  EraseListeners(
      [this](const auto& at, const auto&) { return listeners_.contains(at); });
  return serves_ ? PutListeners() : absl::OkStatus();
}

void PacketPath::KeepListeners(const std::set<uint32_t>& services) {
  EraseListeners([&](const auto&, const hg_packet_listener& listener) {
    return services.contains(listener.service);
  });
}

// Where the address is; where it may be put, if it is nowhere.
hg_packet_address* PacketPath::FindPlace(const PacketAddress& address) {
  hg_packet_address* room = nullptr;
  for (uint32_t probe = 0; probe < HG_ADDRESS_PROBES; ++probe) {
    hg_packet_address& entry =
        addresses_[hg_address_place(address.data(), probe)];
    if (std::equal(address.begin(), address.end(), entry.address) &&
        entry.id != 0) {
      return &entry;
    }
    const bool is_free = entry.id == 0 || entry.id == HG_ADDRESS_GONE;
    if (is_free && room == nullptr) room = &entry;
    if (entry.id == 0) break;
  }
  return room;
}

absl::Status PacketPath::PutAddress(const PacketAddress& address, uint32_t id,
                                    uint16_t first_port, uint16_t last_port) {
  hg_packet_local local{};
  std::copy(address.begin(), address.end(), local.address);
  if (bpf_map__update_elem(skeleton_->maps.packet_local, &id, sizeof id, &local,
                           sizeof local, BPF_ANY) != 0) {
    return ErrnoStatus(errno, "update packet_local");
  }
  hg_packet_address* const place = FindPlace(address);
  if (place == nullptr) {
    return absl::ResourceExhaustedError(
        "these addresses crowd together in the packet path's table");
  }
  std::copy(address.begin(), address.end(), place->address);
  place->first_port = first_port;
  place->last_port = last_port;
  // Only now it counts.
  __atomic_store_n(&place->id, id, __ATOMIC_RELEASE);
  return absl::OkStatus();
}

// All listeners, or none.
absl::Status PacketPath::SetServes(bool serves) {
  absl::Status put;
  if (serves && !serves_) {
    serves_ = true;  // As soon as one of them is there.
    put = PutListeners();
  }
  if (serves && put.ok()) return put;
  EraseListeners([](const auto&, const auto&) { return false; });
  if (serves_) ForgetUnanswered();
  serves_ = false;
  return put;
}

absl::Status PacketPath::PutListeners() {
  for (const auto& [at, value] : listeners_) {
    const hg_packet_listener_key key{at.first, at.second};
    if (bpf_map__update_elem(skeleton_->maps.packet_listeners, &key, sizeof key,
                             &value, sizeof value, BPF_ANY) != 0) {
      return ErrnoStatus(errno, "update packet_listeners");
    }
  }
  return absl::OkStatus();
}

// Of this run, or of the last one.
template <typename Keep>
void PacketPath::EraseListeners(const Keep& keep) {
  bpf_map* map = skeleton_->maps.packet_listeners;
  std::vector<hg_packet_listener_key> gone;
  hg_packet_listener_key at{}, *before = nullptr;
  while (bpf_map__get_next_key(map, before, &at, sizeof at) == 0) {
    hg_packet_listener value{};
    bpf_map__lookup_elem(map, &at, sizeof at, &value, sizeof value, 0);
    if (!keep(std::pair(at.address, at.port), value)) gone.push_back(at);
    before = &at;
  }
  for (const hg_packet_listener_key& key : gone) {
    bpf_map__delete_elem(map, &key, sizeof key, 0);
  }
}

}  // namespace headgate::datapath
