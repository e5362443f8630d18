// BPF maps as `bpftool map dump` shows them to an operator, and what a process
// holds open of BPF.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace headgate::testing {

// The values of a map by their BTF names, one of each CPU if it has such; fails
// the test when the dump fails or shows no names.
std::vector<nlohmann::json> DumpMap(const std::string& pin_dir,
                                    const std::string& map);

// The same for a map that process `pid` holds open, pinned or not.
std::vector<nlohmann::json> DumpMapOf(pid_t pid, const std::string& map);

// The id of a program of `type`, enum bpf_prog_type, that process `pid` holds
// open; fails the test if there is none.
uint32_t ProgramOf(pid_t pid, uint32_t type);

// The sum of a numeric field over all elements.
int64_t SumMapField(const std::vector<nlohmann::json>& values,
                    const std::string& field);

}  // namespace headgate::testing
