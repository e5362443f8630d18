#include "control/saved_state.h"

#include <algorithm>
#include <ctime>
#include <fstream>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/status.h"
#include "config/values.h"

namespace headgate::control {
namespace {

using Json = nlohmann::ordered_json;
using Presence = RuntimeChange::Presence;

constexpr char kFormat[] = "headgate state";
constexpr int kVersion = 1;

// Writing and reading each list of names.
constexpr config::Choice<hg_admin> kAdmins[] = {
    {"ready", HG_ADMIN_READY},
    {"drain", HG_ADMIN_DRAIN},
    {"maint", HG_ADMIN_MAINT},
};
constexpr config::Choice<Presence> kPresences[] = {
    {"configured", Presence::kConfigured},
    {"added", Presence::kAdded},
    {"removed", Presence::kRemoved},
};
constexpr config::Choice<health::State> kHealthStates[] = {
    {"up", health::State::kUp},
    {"down", health::State::kDown},
};

std::string TimeText(absl::Time time) {
  return absl::FormatTime(absl::RFC3339_full, time, absl::UTCTimeZone());
}

// Fields of one object; the first that is missing or wrong makes it bad.
class Reader {
 public:
  explicit Reader(const Json& json) : json_(json), ok_(json.is_object()) {}

  bool ok() const { return ok_; }
  bool Has(const char* key) const { return ok_ && json_.contains(key); }
  const Json& Get(const char* key) {
    static const Json kNull;
    if (Has(key)) return json_[key];
    ok_ = false;
    return kNull;
  }
  std::string Text(const char* key) {
    const Json& value = Get(key);
    ok_ = ok_ && value.is_string();
    return ok_ ? value.get<std::string>() : "";
  }
  // `parse`: absl::StatusOr<T>(absl::string_view).
  template <typename T, typename Parse>
  void Read(const char* key, const Parse& parse, T& out) {
    auto value = parse(Text(key));
    ok_ = ok_ && value.ok();
    if (ok_) out = *std::move(value);
  }
  uint32_t Weight(const char* key) {
    const Json& value = Get(key);
    ok_ = ok_ && value.is_number_integer() && value >= 0 && value <= 256;
    return ok_ ? value.get<uint32_t>() : 0;
  }
  int64_t Integer(const char* key) {
    const Json& value = Get(key);
    ok_ = ok_ && value.is_number_integer();
    return ok_ ? value.get<int64_t>() : 0;
  }
  bool Bool(const char* key) {
    const Json& value = Get(key);
    ok_ = ok_ && value.is_boolean();
    return ok_ && value.get<bool>();
  }
  absl::Time Time(const char* key) {
    absl::Time time;
    std::string error;
    ok_ = absl::ParseTime(absl::RFC3339_full, Text(key), &time, &error) && ok_;
    return time;
  }

 private:
  const Json& json_;
  bool ok_;
};

Json AddedObject(const config::Backend& backend) {
  const std::string address =
      backend.port.has_value()
          ? Endpoint{backend.address, *backend.port}.ToString()
          : backend.address.ToString();
  return {{"address", address},
          {"weight", backend.weight},
          {"backup", backend.backup}};
}

Json ChangeObject(const BackendKey& key, const RuntimeChange& change) {
  Json json = {{"service", key.first},
               {"backend", key.second},
               {"address", change.address.ToString()}};
  if (change.admin != HG_ADMIN_READY) {
    json["admin"] = config::NameOf(kAdmins, change.admin);
    json["admin_since"] = TimeText(change.admin_since);
  }
  if (change.weight.has_value()) {
    json["weight"] = change.weight->weight;
    json["weight_configured"] = change.weight->configured;
    json["weight_since"] = TimeText(change.weight->since);
  }
  if (change.presence != Presence::kConfigured) {
    json["presence"] = config::NameOf(kPresences, change.presence);
    json["presence_since"] = TimeText(change.presence_since);
  }
  if (change.presence == Presence::kAdded) {
    json["added"] = AddedObject(change.added);
  }
  return json;
}

bool ReadAdded(const Json& json, const std::string& name,
               config::Backend& added) {
  Reader reader(json);
  config::Target target;
  reader.Read("address", config::ParseTarget, target);
  added.name = name;
  added.address = target.address;
  added.port = target.port;
  added.weight = reader.Weight("weight");
  added.backup = reader.Bool("backup");
  return reader.ok();
}

BackendKey ReadKey(Reader& reader) {
  BackendKey key;
  reader.Read("service", config::ParseName, key.first);
  reader.Read("backend", config::ParseName, key.second);
  return key;
}

bool ReadChange(const Json& json, RuntimeChanges& changes) {
  Reader reader(json);
  const BackendKey key = ReadKey(reader);
  RuntimeChange change;
  reader.Read("address", Endpoint::Parse, change.address);
  if (reader.Has("admin")) {
    reader.Read("admin", config::OneOf(kAdmins), change.admin);
    change.admin_since = reader.Time("admin_since");
  }
  if (reader.Has("weight")) {
    change.weight = {reader.Weight("weight"),
                     reader.Weight("weight_configured"),
                     reader.Time("weight_since")};
  }
  if (reader.Has("presence")) {
    reader.Read("presence", config::OneOf(kPresences), change.presence);
    change.presence_since = reader.Time("presence_since");
  }
  if (change.presence == Presence::kAdded &&
      !ReadAdded(reader.Get("added"), key.second, change.added)) {
    return false;
  }
  return reader.ok() && changes.emplace(key, change).second;
}

bool ReadHealth(const Json& json, std::vector<SavedHealth>& all) {
  Reader reader(json);
  SavedHealth health;
  health.key = ReadKey(reader);
  reader.Read("address", Endpoint::Parse, health.address);
  reader.Read("state", config::OneOf(kHealthStates), health.state);
  all.push_back(std::move(health));
  return reader.ok();
}

// Versions that knew the wall clock only have written no "boot".
bool ReadMoment(Reader& reader, Moment& moment) {
  moment.wall = reader.Time("saved");
  if (!reader.Has("boot")) return reader.ok();
  Reader boot(reader.Get("boot"));
  moment.boot = boot.Text("id");
  moment.since_boot_ns = boot.Integer("ns");
  return reader.ok() && boot.ok();
}

absl::Duration Between(const Moment& then, const Moment& now) {
  return !then.boot.empty() && then.boot == now.boot
             ? absl::Nanoseconds(now.since_boot_ns - then.since_boot_ns)
             : now.wall - then.wall;
}

}  // namespace

Moment CurrentMoment() {
  Moment moment;
  moment.wall = absl::Now();
  std::ifstream("/proc/sys/kernel/random/boot_id") >> moment.boot;
  timespec since_boot{};
  clock_gettime(CLOCK_BOOTTIME, &since_boot);
  moment.since_boot_ns = since_boot.tv_sec * 1'000'000'000 + since_boot.tv_nsec;
  return moment;
}

std::string FormatState(const SavedState& state) {
  Json changes = Json::array();
  for (const auto& [key, change] : state.changes) {
    changes.push_back(ChangeObject(key, change));
  }
  Json health = Json::array();
  for (const SavedHealth& one : state.health) {
    if (one.state == health::State::kStarting) continue;
    health.push_back({{"service", one.key.first},
                      {"backend", one.key.second},
                      {"address", one.address.ToString()},
                      {"state", config::NameOf(kHealthStates, one.state)}});
  }
  const Json json = {
      {"format", kFormat},
      {"version", kVersion},
      {"saved", TimeText(state.saved.wall)},
      {"boot", {{"id", state.saved.boot}, {"ns", state.saved.since_boot_ns}}},
      {"changes", std::move(changes)},
      {"health", std::move(health)}};
  return json.dump(1) + "\n";
}

absl::StatusOr<SavedState> ParseState(absl::string_view text) {
  const Json json = Json::parse(text, nullptr, false);
  Reader reader(json);
  if (reader.Text("format") != kFormat) {
    return absl::InvalidArgumentError(
        "not a state file of this program, damaged or cut off");
  }
  const Json& version = reader.Get("version");
  if (!version.is_number_integer() || version != kVersion) {
    return absl::InvalidArgumentError(absl::StrCat(
        "format version ", version.dump(), ", this program knows ", kVersion));
  }
  SavedState state;
  bool ok = ReadMoment(reader, state.saved);
  ok =
      ok && reader.Get("changes").is_array() && reader.Get("health").is_array();
  for (const Json& change : reader.Get("changes")) {
    ok = ok && ReadChange(change, state.changes);
  }
  for (const Json& health : reader.Get("health")) {
    ok = ok && ReadHealth(health, state.health);
  }
  if (!ok || !reader.ok()) return absl::InvalidArgumentError("damaged");
  return state;
}

void ForgetStale(SavedState& state, const Moment& now) {
  const absl::Duration age = Between(state.saved, now);
  // Younger than nothing: the clock was set back, nobody knows how old it is.
  if (age < absl::ZeroDuration() || age > kHealthIsStale) state.health.clear();
}

health::State RememberedHealth(const SavedState& state, const BackendKey& key,
                               const Endpoint& address) {
  const auto found = std::find_if(
      state.health.begin(), state.health.end(), [&](const SavedHealth& one) {
        return one.key == key && one.address == address;
      });
  return found == state.health.end() ? health::State::kStarting : found->state;
}

}  // namespace headgate::control
