// What of the packet path is attached at the edge's interfaces, as the kernel
// says it, and a daemon that finds itself on Linux before 6.6.
#pragma once

#include <bpf/bpf.h>
#include <gtest/gtest.h>
#include <net/if.h>

#include <array>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "support/lab.h"
#include "support/process.h"

namespace headgate::testing {

// Which TCX links cannot be made by, so that filters of clsact are.
inline std::vector<std::string> WithoutTcx() {
  return {"env", absl::StrCat("LD_PRELOAD=", HG_NO_TCX_LIBRARY)};
}

// The names of the programs at TCX ingress, which bpftool learnt in 7.3.
inline std::vector<std::string> TcxProgramsAt(const std::string& device) {
  constexpr auto kTcxIngress = static_cast<bpf_attach_type>(46);
  std::array<uint32_t, 16> ids{};
  auto count = static_cast<uint32_t>(ids.size());
  const int error = RunIn(kEdge, [&] {
    return bpf_prog_query(static_cast<int>(if_nametoindex(device.c_str())),
                          kTcxIngress, 0, nullptr, ids.data(), &count);
  });
  EXPECT_EQ(error, 0) << "TCX of " << device;
  std::vector<std::string> names;
  for (uint32_t i = 0; i < count; ++i) {
    const ProcessResult shown = RunCommand(
        {"bpftool", "-j", "prog", "show", "id", absl::StrCat(ids[i])});
    names.push_back(nlohmann::json::parse(shown.out).at("name"));
  }
  return names;
}

// All programs that packets meet there: "xdp", "tcx packet_ingress",
// "clsact packet_ingress".
inline std::vector<std::string> HooksAt(const std::string& device) {
  std::vector<std::string> hooks;
  const auto net = nlohmann::json::parse(
      RunCommand({"ip", "netns", "exec", kEdge, "bpftool", "-j", "net", "show"})
          .out);
  for (const auto& xdp : net.at(0).at("xdp")) {
    if (xdp.at("devname") == device) hooks.push_back("xdp");
  }
  for (const std::string& name : TcxProgramsAt(device)) {
    hooks.push_back("tcx " + name);
  }
  for (const auto& filter : net.at(0).at("tc")) {
    if (filter.at("devname") != device) continue;
    const std::string name = filter.at("name");  // And ":[ID]".
    hooks.push_back("clsact " + name.substr(0, name.find(':')));
  }
  return hooks;
}

// What the packet path has pinned: files whose names begin so.
inline std::vector<std::string> PacketPins(const std::string& pin_dir,
                                           const std::string& prefix) {
  std::vector<std::string> names;
  std::error_code none;  // No folder: no pins.
  for (const auto& pin : std::filesystem::directory_iterator(pin_dir, none)) {
    const std::string name = pin.path().filename();
    if (absl::StartsWith(name, prefix)) names.push_back(name);
  }
  return names;
}

}  // namespace headgate::testing
