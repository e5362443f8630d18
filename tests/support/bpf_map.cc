#include "support/bpf_map.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "absl/strings/numbers.h"
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
    if (const auto cpus = formatted->find("values"); cpus != formatted->end()) {
      for (const auto& cpu : *cpus) values.push_back(cpu.at("value"));
    } else {
      values.push_back(formatted->at("value"));
    }
  }
  return values;
}

// Such as "map_id:\t17" for file descriptors of maps; "" if there is none.
std::string Field(const std::filesystem::path& fdinfo,
                  const std::string& field) {
  std::ifstream file(fdinfo);
  for (std::string word; file >> word;) {
    if (word == field && file >> word) return word;
  }
  return "";
}

std::filesystem::directory_iterator DescriptorsOf(pid_t pid) {
  return std::filesystem::directory_iterator(
      absl::StrCat("/proc/", pid, "/fdinfo"));
}

}  // namespace

std::vector<nlohmann::json> DumpMap(const std::string& pin_dir,
                                    const std::string& map) {
  return Dump({"pinned", absl::StrCat(pin_dir, "/", map)});
}

std::vector<nlohmann::json> DumpMapOf(pid_t pid, const std::string& map) {
  for (const auto& entry : DescriptorsOf(pid)) {
    const std::string id = Field(entry.path(), "map_id:");
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

uint32_t ProgramOf(pid_t pid, uint32_t type) {
  for (const auto& entry : DescriptorsOf(pid)) {
    uint32_t id = 0;
    if (Field(entry.path(), "prog_type:") == absl::StrCat(type) &&
        absl::SimpleAtoi(Field(entry.path(), "prog_id:"), &id)) {
      return id;
    }
  }
  ADD_FAILURE() << "process " << pid << " has no program of type " << type;
  return 0;
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
