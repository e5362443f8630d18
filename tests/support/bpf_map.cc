#include "support/bpf_map.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "support/process.h"

namespace headgate::testing {
namespace {

std::vector<nlohmann::json> Dump(const std::vector<std::string>& which) {
  std::vector<std::string> argv = {"bpftool", "-j", "map", "dump"};
  argv.insert(argv.end(), which.begin(), which.end());
  const ProcessResult result = RunCommand(argv);
  EXPECT_EQ(result.exit_code, 0) << absl::StrJoin(which, " ") << result.out;
  std::vector<nlohmann::json> values;
  const nlohmann::json dump = nlohmann::json::parse(result.out, nullptr, false);
  if (!dump.is_array()) return values;
  for (const nlohmann::json& element : dump) {
    const auto formatted = element.find("formatted");
    if (formatted == element.end()) {
      ADD_FAILURE() << absl::StrJoin(which, " ") << " has no BTF";
      return values;
    }
    values.push_back(formatted->at("value"));
  }
  return values;
}

// "map_id:\t17" in a line of its own, for file descriptors of maps.
std::string MapId(const std::filesystem::path& fdinfo) {
  std::ifstream file(fdinfo);
  for (std::string word; file >> word;) {
    if (word == "map_id:" && file >> word) return word;
  }
  return "";
}

}  // namespace

std::vector<nlohmann::json> DumpMap(const std::string& pin_dir,
                                    const std::string& map) {
  return Dump({"pinned", absl::StrCat(pin_dir, "/", map)});
}

std::vector<nlohmann::json> DumpMapOf(pid_t pid, const std::string& map) {
  for (const auto& entry : std::filesystem::directory_iterator(
           absl::StrCat("/proc/", pid, "/fdinfo"))) {
    const std::string id = MapId(entry.path());
    if (id.empty()) continue;
    const nlohmann::json shown = nlohmann::json::parse(
        RunCommand({"bpftool", "-j", "map", "show", "id", id}).out, nullptr,
        false);
    if (shown.is_object() && shown.value("name", "") == map) {
      return Dump({"id", id});
    }
  }
  ADD_FAILURE() << "process " << pid << " has no map " << map;
  return {};
}

int64_t SumMapField(const std::vector<nlohmann::json>& values,
                    const std::string& field) {
  int64_t sum = 0;
  for (const nlohmann::json& value : values) {
    sum += value.at(field).get<int64_t>();
  }
  return sum;
}

}  // namespace headgate::testing
