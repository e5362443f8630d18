// Maglev lookup tables: which backend a hash falls on.
//
// Source: Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load
// Balancer" (NSDI 2016), section 3.4. Weights as Envoy does them: in every
// round only backends that are behind their share take an entry.
//
// A table depends on names and weights alone, not on addresses, ids or the
// order of the file: it is the same after a restart, and nearly the same after
// a backend came or went. Health is no part of it; selection steps over who is
// down (bpf/lib/select.h). Pure functions; any thread.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "bpf/abi/types.h"

namespace headgate::balance {

struct Member {
  std::string name;  // Unique in its table.
  uint32_t weight = 1;
  auto operator<=>(const Member&) const = default;
};

// HG_TABLE_SIZE indices into `members`, in the proportion of their weights: to
// one entry each, and at least one; the heaviest make up for it. Empty when
// nobody has a weight.
std::vector<uint16_t> BuildTable(const std::vector<Member>& members);

}  // namespace headgate::balance
