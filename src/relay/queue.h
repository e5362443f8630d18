// The clients of a service that wait for their turn: the room that
// max_connections leaves, its own and its backends', is given out in the order
// in which they came, over all workers. Shared between them; every method may
// be called from any thread.
//
// The service's room is counted here. That of backends only selection knows:
// who was admitted and has found them full comes back, to its place. From then
// on, until nobody waits, one at a time is admitted, who looks: who came later
// does not look before it is known what was found.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <mutex>
#include <optional>

#include "absl/functional/any_invocable.h"
#include "bpf/abi/types.h"

namespace headgate::relay {

class Queue {
 public:
  using Ticket = uint64_t;
  // Called once, in any thread and under a lock; leads to one of FoundRoom(),
  // Return() and GiveBack() later.
  using Admitted = absl::AnyInvocable<void(Ticket)>;
  enum class Entry { kAdmitted, kWaits, kFull };

  // Keeps its count in `stats`: connections_active, of which every admitted
  // connection is one, and queue_active.
  explicit Queue(hg_service_stats* stats) : stats_(stats) {}

  // `max` connections, 0: no limit, and `size` that wait; more room is given
  // out at once.
  void SetLimits(uint64_t max, uint64_t size);

  // kWaits: `admitted` is called, unless Cancel(*ticket) comes first.
  Entry Enter(Admitted admitted, Ticket* ticket);
  // Who was admitted has found all backends full and waits on, before everyone
  // that came later. Look again afterwards: a backend may have got room
  // meanwhile. False: there is no place to wait, and the admission stands;
  // never for one who has waited before.
  bool Return(Ticket ticket, bool has_waited, Admitted admitted);
  // Who had waited has found a backend, or that there is none to wait for.
  void FoundRoom(Ticket ticket);
  // Who had waited has gone meanwhile.
  void GiveBack(Ticket ticket);
  // False: it has been admitted.
  bool Cancel(Ticket ticket);
  // An occasion: a connection is over, of the service or of one of its
  // backends, and counted off; or a backend may be chosen that could not be.
  void LookForRoom() {
    // Who enters counts himself before he looks for room: one of the two sees
    // the other.
    std::atomic_thread_fence(std::memory_order_seq_cst);
    if (waiting_.load(std::memory_order_relaxed) != 0) Admit();
  }

 private:
  bool TakeRoom();
  void Admit();
  void AdmitLocked();
  void AddWaiter(Ticket ticket, Admitted admitted);
  void NoteWhoIsLeft();

  hg_service_stats* const stats_;
  std::atomic<uint64_t> waiting_{0};
  std::mutex mutex_;  // Guards the rest.
  uint64_t max_ = 0;
  uint64_t size_ = 0;
  Ticket next_ = 1;
  bool backends_full_ = false;     // As far as known; while somebody waits.
  std::optional<Ticket> looking_;  // At full backends.
  std::map<Ticket, Admitted> waiters_;
};

}  // namespace headgate::relay
