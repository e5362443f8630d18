// The Maglev tables in the BPF maps. Services whose backends have the same
// names and weights in the same order share one; it is built once, and never
// changes while it is in use: a new one is published beside it, and the
// service's element then names the new one.
#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "absl/status/statusor.h"
#include "balance/maglev.h"
#include "control/id_pool.h"
#include "datapath/datapath.h"

namespace headgate::control {

class Tables {
 public:
  using Members = std::vector<balance::Member>;

  explicit Tables(datapath::Datapath* datapath) : datapath_(datapath) {}

  // Once, before the first Take(): erases those of the last run, see
  // Datapath::adopted(), that no service has; the others stay as they are until
  // EraseAdopted(), when every service has been published anew.
  void Adopt();
  void EraseAdopted();

  // The id of the table for a service whose list is `members`, for one more
  // user. Building one takes about a millisecond.
  absl::StatusOr<uint32_t> Take(const Members& members);
  // By one user; 0 is none. Only when no service names it for him any more.
  void Return(uint32_t id);

 private:
  struct Table {
    uint32_t id = 0;
    uint32_t users = 0;
  };

  void Erase(uint32_t id);

  datapath::Datapath* datapath_;
  IdPool ids_{HG_MAX_TABLES};
  std::vector<uint32_t> adopted_;
  std::map<Members, Table> tables_;
};

}  // namespace headgate::control
