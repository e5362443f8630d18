// What a restart starts from: the operators' changes and the backends' last
// known health, as a JSON file that is replaced whole.
//
// Changes are kept until they are undone. Health says something for a few
// minutes only, and only of the server that was checked.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "control/runtime_changes.h"
#include "health/rise_fall.h"

namespace headgate::control {

inline constexpr absl::Duration kHealthIsStale = absl::Minutes(5);

struct SavedHealth {
  BackendKey key;
  Endpoint address;
  health::State state = health::State::kStarting;
  bool operator==(const SavedHealth&) const = default;
};

// By the clock of this boot, which nobody can set and which goes on while the
// machine sleeps, and for other boots by the wall clock.
struct Moment {
  absl::Time wall = absl::UnixEpoch();
  std::string boot = {};      // Its id; empty: not known.
  int64_t since_boot_ns = 0;  // CLOCK_BOOTTIME
  bool operator==(const Moment&) const = default;
};

Moment CurrentMoment();

struct SavedState {
  Moment saved = {};  // When all of it was true.
  RuntimeChanges changes = {};
  std::vector<SavedHealth> health = {};
  bool operator==(const SavedState&) const = default;
};

std::string FormatState(const SavedState& state);
// InvalidArgument for what this version did not write: damaged, cut off, of
// another program or a newer version.
absl::StatusOr<SavedState> ParseState(absl::string_view text);

// Forgets all health that is too old at `now`. Where the machine was booted and
// its wall clock set meanwhile, health may be forgotten, or be taken for
// younger than it is; the first checks put that right.
void ForgetStale(SavedState& state, const Moment& now);
// Of the server `key` at `address`; kStarting: not known.
health::State RememberedHealth(const SavedState& state, const BackendKey& key,
                               const Endpoint& address);

// NotFound when there is no such file.
absl::StatusOr<std::string> ReadStateFile(const std::string& path);
// Makes the folder if need be. After a crash at any moment the file is the old
// one or the new one.
absl::Status WriteStateFile(const std::string& path, absl::string_view text);

}  // namespace headgate::control
