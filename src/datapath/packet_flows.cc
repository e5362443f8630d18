// The life of flows as the daemon sees it: what is over is freed, what is to
// end gets a RST. The rules of ownership are those of bpf/lib/packet_table.h.
#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include <algorithm>
#include <set>

#include "datapath/coarse_clock.h"
#include "datapath/packet.h"
#include "headgate_packet.skel.h"

namespace headgate::datapath {
namespace {

constexpr uint32_t kSweeps = 16;               // For the whole table.
constexpr uint32_t kHalfClosedSeconds = 3600;  // At most.

uint32_t Peek(const __u32& field) {
  return __atomic_load_n(&field, __ATOMIC_RELAXED);
}

// What the program moves has two keys at once, for a moment.
bool IsAlive(uint32_t state) {
  return state != HG_FLOW_FREE && state != HG_FLOW_CLOSED &&
         state != HG_FLOW_MOVING;
}

// Seconds; below 0: the program has seen a packet since `now`.
int64_t IdleFor(const hg_flow& flow, uint32_t now) {
  return static_cast<int32_t>(now - Peek(flow.last_seen));
}

uint64_t ClosedAt(const hg_flow& flow) {
  return __atomic_load_n(&flow.since, __ATOMIC_RELAXED) / 1'000'000'000;
}

bool EraseEntry(hg_key_bucket& bucket, __u32 entry) {
  for (__u32& place : bucket.entries) {
    __u32 expected = entry;
    if (__atomic_compare_exchange_n(&place, &expected, 0, false,
                                    __ATOMIC_ACQ_REL, __ATOMIC_RELAXED)) {
      return true;
    }
  }
  return false;
}

PacketAddress AddressAt(const bpf_map* map, uint32_t id) {
  hg_packet_local local{};
  bpf_map__lookup_elem(map, &id, sizeof id, &local, sizeof local, 0);
  PacketAddress address{};
  std::copy(std::begin(local.address), std::end(local.address),
            address.begin());
  return address;
}

PacketAddress ToArray(const __u8 (&bytes)[16]) {
  PacketAddress address{};
  std::copy(std::begin(bytes), std::end(bytes), address.begin());
  return address;
}

}  // namespace

void PacketPath::ForEach(
    const std::function<void(uint32_t number, const hg_flow&)>& look,
    FlowNumbers numbers) const {
  const uint32_t end = std::min(numbers.end, max_flows_);
  for (uint32_t number = numbers.first; number < end; ++number) {
    if (IsAlive(Peek(flows_[number].state))) look(number, flows_[number]);
  }
}

std::vector<PacketPath::Flow> PacketPath::Flows(FlowNumbers numbers) const {
  std::map<uint32_t, PacketAddress> addresses;  // By id.
  for (const auto& [address, id] : KnownAddresses()) addresses[id] = address;
  std::vector<Flow> rows;
  const auto copy = [&](uint32_t number, const hg_flow& flow) {
    Flow& row = rows.emplace_back();
    row.number = number;
    row.state = flow;
    row.listen = addresses[row.state.listen];
    row.source = addresses[row.state.source];
    row.started_ns = static_cast<int64_t>(row.state.since);
  };
  ForEach(copy, numbers);
  return rows;
}

void PacketPath::EraseKeys(uint32_t number) {
  const hg_flow flow = flows_[number];
  for (const uint32_t side : {HG_FROM_CLIENT, HG_FROM_BACKEND}) {
    EraseKey(flow.keys[side], number * 2 + side);
  }
}

void PacketPath::EraseKey(const hg_flow_key& key, uint32_t value) {
  const uint64_t hash = hg_hash_key(&key, seed_);
  const auto entry = static_cast<__u32>(hg_entry(hash, value));
  const auto buckets = static_cast<uint32_t>(keys_.size());
  hg_key_bucket& first = keys_[hg_bucket_of(hash, 0, buckets)];
  if (!EraseEntry(first, entry) &&
      EraseEntry(keys_[hg_bucket_of(hash, 1, buckets)], entry)) {
    __atomic_fetch_sub(&first.spilled, 1, __ATOMIC_RELEASE);
  }
}

void PacketPath::CountEnd(const hg_flow& flow) {
  __atomic_fetch_sub(&service_stats_[flow.service].connections_active, 1,
                     __ATOMIC_RELAXED);
  __atomic_fetch_sub(&backend_stats_[flow.backend].connections_active, 1,
                     __ATOMIC_RELAXED);
}

bool PacketPath::End(uint32_t number, uint32_t state) {
  hg_flow& flow = flows_[number];
  __u32 expected = state;
  if (!__atomic_compare_exchange_n(&flow.state, &expected, HG_FLOW_FREE, false,
                                   __ATOMIC_ACQ_REL, __ATOMIC_RELAXED)) {
    return false;
  }
  if (state == HG_FLOW_ESTABLISHED) CountEnd(flow);
  EraseKeys(number);
  bpf_map_update_elem(bpf_map__fd(skeleton_->maps.packet_free), nullptr,
                      &number, BPF_ANY);
  return true;
}

// Their clients' next SYN is a new connection.
void PacketPath::ForgetUnanswered() {
  ForEach([this](uint32_t number, const hg_flow& flow) {
    if (Peek(flow.state) == HG_FLOW_SYN_SENT) End(number, HG_FLOW_SYN_SENT);
  });
}

bool PacketPath::IsOver(
    const hg_flow& flow, uint32_t now,
    const std::function<uint32_t(uint32_t)>& idle_seconds) const {
  const int64_t idle = IdleFor(flow, now);
  const uint32_t flags = Peek(flow.flags);
  // A header that the backend does not acknowledge may have got lost, and the
  // client's ACK with it.
  const bool is_believed =
      flow.header == 0 || (flags & HG_FLOW_HEADER_ACKED) != 0;
  if (Peek(flow.state) != HG_FLOW_ESTABLISHED || !is_believed) {
    return idle >= HG_SYN_SECONDS;
  }
  const bool half_closed = (flags & (HG_FLOW_FIN_IN | HG_FLOW_FIN_OUT)) != 0;
  const uint32_t limit = idle_seconds(flow.service);
  // Of whole seconds, one may be a moment.
  return idle > (half_closed ? std::min(limit, kHalfClosedSeconds) : limit);
}

// The queue has them in the order in which they were closed. One that has been
// closed again since is in the wrong place, and may wait there for as long as
// those behind it; one that goes on all the same, for an end did not believe
// it, is closed anew.
void PacketPath::FreeClosed(uint32_t now) {
  const int closed = bpf_map__fd(skeleton_->maps.packet_closed);
  const auto is_due = [now](const hg_flow& flow) {
    return now >= ClosedAt(flow) + HG_TIME_WAIT_SECONDS;
  };
  uint32_t number = 0;
  while (bpf_map_lookup_elem(closed, nullptr, &number) == 0) {
    if (Peek(flows_[number].state) == HG_FLOW_CLOSED &&
        (Peek(flows_[number].flags) & HG_FLOW_AGAIN) == 0 &&
        !is_due(flows_[number])) {
      return;
    }
    // The program may have taken that one meanwhile: then another comes.
    if (bpf_map_lookup_and_delete_elem(closed, nullptr, &number) != 0) return;
    hg_flow& flow = flows_[number];
    __atomic_fetch_and(&flow.flags, ~__u32{HG_FLOW_AGAIN}, __ATOMIC_ACQ_REL);
    const bool is_closed = Peek(flow.state) == HG_FLOW_CLOSED;
    if (is_closed && IdleFor(flow, now) < HG_TIME_WAIT_SECONDS &&
        is_due(flow)) {
      flow.since = uint64_t{now} * 1'000'000'000;
    }
    if (is_closed && !is_due(flow)) {
      bpf_map_update_elem(closed, nullptr, &number, BPF_ANY);
      continue;
    }
    __atomic_fetch_and(&flow.flags, ~__u32{HG_FLOW_QUEUED}, __ATOMIC_ACQ_REL);
    if (is_closed) {
      End(number, HG_FLOW_CLOSED);
    } else if (Peek(flow.state) == HG_FLOW_CLOSED) {
      PutClosed(number);  // Since it was asked.
    }
  }
}

// As put_closed() of the program.
void PacketPath::PutClosed(uint32_t number) {
  if ((__atomic_fetch_or(&flows_[number].flags, __u32{HG_FLOW_QUEUED},
                         __ATOMIC_ACQ_REL) &
       HG_FLOW_QUEUED) == 0) {
    bpf_map_update_elem(bpf_map__fd(skeleton_->maps.packet_closed), nullptr,
                        &number, BPF_ANY);
  }
}

void PacketPath::Sweep(
    const std::function<uint32_t(uint32_t service)>& idle_seconds) {
  const uint32_t now = NowSeconds();
  FreeClosed(now);
  const uint32_t count = (max_flows_ + kSweeps - 1) / kSweeps;
  for (uint32_t i = 0; i < count; ++i) {
    const uint32_t number = cursor_;
    cursor_ = (cursor_ + 1) % max_flows_;
    const uint32_t state = Peek(flows_[number].state);
    if (!IsAlive(state)) continue;
    if (!IsOver(flows_[number], now, idle_seconds)) continue;
    // Its ends may live on: they learn of it by a RST.
    if (state == HG_FLOW_ESTABLISHED) Reset(number);
    End(number, state);
  }
}

// The client's number is that which it expects next, if nothing is under way.
// The backend's is that up to which it has acknowledged, for a client may have
// made up what comes next; if it has not, another one is. Otherwise an end's
// answer is answered by a RST that is exact.
void PacketPath::Reset(uint32_t number) {
  const hg_flow flow = flows_[number];
  const PacketAddress listen =
      AddressAt(skeleton_->maps.packet_local, flow.listen);
  const PacketAddress source =
      AddressAt(skeleton_->maps.packet_local, flow.source);
  resets_.Send({listen, ToArray(flow.client), flow.listen_port,
                flow.client_port, flow.next_out, flow.next_in});
  const bool header =
      (flow.flags & (HG_FLOW_HEADER_SENT | HG_FLOW_HEADER_ACKED)) != 0;
  const uint32_t acked_in =
      flow.state == HG_FLOW_ESTABLISHED ? flow.acked_in : flow.isn + 1;
  const uint32_t ahead = flow.shift + (header ? flow.header : 0U);
  for (const uint32_t in : std::set{acked_in, flow.next_in}) {
    resets_.Send({source, ToArray(flow.backend_address), flow.source_port,
                  flow.backend_port, in + ahead, flow.next_out});
  }
}

bool PacketPath::Kill(uint32_t number) {
  return number < max_flows_ && Kill(number, Peek(flows_[number].isn));
}

// A packet may move it on meanwhile, or its client's next connection take it.
bool PacketPath::Kill(uint32_t number, uint32_t isn) {
  uint32_t state = HG_FLOW_FREE;
  do {
    state = Peek(flows_[number].state);
    if (!IsAlive(state) || Peek(flows_[number].isn) != isn) return false;
    Reset(number);
  } while (!End(number, state));
  return true;
}

size_t PacketPath::KillIf(const std::function<bool(const hg_flow&)>& which,
                          FlowNumbers numbers) {
  size_t ended = 0;
  const auto look = [&](uint32_t number, const hg_flow& flow) {
    const uint32_t isn = Peek(flow.isn);
    if (which(flow) && Kill(number, isn)) ++ended;
  };
  ForEach(look, numbers);
  return ended;
}

std::array<size_t, HG_FLOW_STATE_COUNT> PacketPath::CountByState() const {
  std::array<size_t, HG_FLOW_STATE_COUNT> counts{};
  for (uint32_t number = 0; number < max_flows_; ++number) {
    ++counts[Peek(flows_[number].state)];
  }
  return counts;
}

}  // namespace headgate::datapath
