// What a restart starts from: the operators' changes and the backends' last
// known health, as a JSON file that is replaced whole.
//
// Changes are kept until they are undone. Health says something for a few
// minutes only, and only of the server that was checked.
#pragma once

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

struct SavedState {
  absl::Time saved = absl::UnixEpoch();  // When all of it was true.
  RuntimeChanges changes = {};
  std::vector<SavedHealth> health = {};
  bool operator==(const SavedState&) const = default;
};

std::string FormatState(const SavedState& state);
// InvalidArgument for what this version did not write: damaged, cut off, of
// another program or a newer version.
absl::StatusOr<SavedState> ParseState(absl::string_view text);

// Of the server `key` at `address`; kStarting: not known, or too old at `now`.
// By the wall clock, the only one that outlives a reboot; where it was set
// meanwhile, health may be forgotten, or be taken for younger than it is; the
// first checks put that right.
health::State RememberedHealth(const SavedState& state, const BackendKey& key,
                               const Endpoint& address, absl::Time now);

// NotFound when there is no such file.
absl::StatusOr<std::string> ReadStateFile(const std::string& path);
// Makes the folder if need be. After a crash at any moment the file is the old
// one or the new one.
absl::Status WriteStateFile(const std::string& path, absl::string_view text);

}  // namespace headgate::control
