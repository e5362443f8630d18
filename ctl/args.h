// The command line: flags, anywhere among the words, as --flag=VALUE or
// --flag VALUE (-o VALUE, -o=VALUE); "--" ends them. Errors are
// kInvalidArgument. Our own parser because gflags exits 1 on an error and takes
// no flags per verb.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace headgate::ctl {

inline constexpr char kDefaultSocket[] = "/run/headgate/control.sock";

enum class Output { kTable, kJson };
enum class Color { kAuto, kAlways, kNever };

struct Options {
  std::string socket = kDefaultSocket;
  Output output = Output::kTable;
  Color color = Color::kAuto;
  std::optional<std::string> service;
  std::optional<absl::Duration> timeout;
  // Of conn list and flow; the daemon knows what a client may be.
  std::optional<std::string> client;
  std::optional<uint64_t> limit;
  std::optional<uint64_t> count;
  // Of backend drain and add; the daemon knows their ranges.
  std::optional<absl::Duration> over;
  std::optional<std::string> order;
  std::optional<uint32_t> weight;
  bool backup = false;
  bool wait = false;
  bool explain = false;
  bool help = false;
  bool version = false;
};

struct Args {
  Options options;
  std::vector<std::string> words;
};

absl::StatusOr<Args> ParseArgs(const std::vector<std::string>& args);

// One line per flag, for the help.
std::string FlagHelp();

}  // namespace headgate::ctl
