#include "admin/json.h"

#include <nlohmann/json.hpp>

#include "base/status.h"
#include "config/describe.h"
#include "config/values.h"
#include "net/event_loop.h"

namespace headgate::admin {
namespace {

using Json = nlohmann::ordered_json;

std::string ToString(absl::string_view text) { return std::string(text); }

// Never throws: what is not UTF-8 (a path, say) is replaced.
std::string ToLine(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::string Dump(const Json& json) { return ToLine(json) + "\n"; }

std::string Rfc3339(absl::Time time) {
  return absl::FormatTime("%Y-%m-%dT%H:%M:%E3SZ", time, absl::UTCTimeZone());
}

const char* DatapathName(config::Datapath datapath) {
  return datapath == config::Datapath::kRelay    ? "relay"
         : datapath == config::Datapath::kPacket ? "packet"
                                                 : "splice";
}

Json ErrorsArray(const std::vector<config::Error>& errors) {
  Json array = Json::array();
  for (const config::Error& error : errors) {
    array.push_back({{"line", error.line},
                     {"column", error.column},
                     {"message", error.message}});
  }
  return array;
}

Json ListenersArray(const std::vector<control::ListenerRow>& listeners) {
  Json array = Json::array();
  for (const control::ListenerRow& listener : listeners) {
    Json row = {{"address", listener.address.ToString()},
                {"bound", listener.bound}};
    if (!listener.bound) row["error"] = listener.error;
    array.push_back(std::move(row));
  }
  return array;
}

Json CheckObject(const health::CheckResult& check) {
  Json json = {{"result", health::OutcomeName(check.outcome)},
               {"status", health::StatusName(check)},
               {"detail", check.detail},
               {"duration_seconds", absl::ToDoubleSeconds(check.duration)},
               {"time", Rfc3339(check.time)}};
  if (check.code != 0) json["code"] = check.code;
  if (!check.hint.empty()) json["hint"] = check.hint;
  if (!check.tls.empty()) json["tls"] = check.tls;
  if (check.certificate.has_value()) {
    json["certificate"] = {
        {"subject", check.certificate->subject},
        {"not_after", Rfc3339(check.certificate->not_after)},
        {"days_left", health::DaysLeft(*check.certificate, check.time)}};
  }
  if (check.weight.has_value()) json["weight"] = *check.weight;
  return json;
}

Json DrainingObject(const std::optional<control::DrainProgress>& draining) {
  if (!draining.has_value()) return nullptr;
  return {{"left", draining->left},
          {"ends", Rfc3339(WallTime(draining->ends_ns))}};
}

Json EjectedObject(const std::optional<control::Ejection>& ejected) {
  if (!ejected.has_value()) return nullptr;
  return {{"until", Rfc3339(WallTime(ejected->until_ns))},
          {"reason", control::FailureName(ejected->reason)}};
}

// An object, or null for what is not one.
Json ParseObject(const std::string& body) {
  Json json = Json::parse(body, nullptr, false);
  return json.is_object() ? json : Json();
}

// Whether `json` has the weight, from 0 to 256.
bool IsWeight(const Json& weight) {
  return weight.is_number_integer() && weight >= 0 && weight <= 256;
}

}  // namespace

std::string StatusJson(const control::StatusRow& status) {
  Json json = {
      {"version", HG_VERSION},
      {"ready", status.ready},
      {"services", status.services},
      {"backends_up", status.backends_up},
      {"backends_total", status.backends_total},
      {"connections_active", status.connections_active},
      {"datapaths",
       {{"relay", true}, {"splice", status.splice}, {"packet", status.packet}}},
      {"generation", status.generation},
      {"started", Rfc3339(status.started)},
      {"uptime_seconds", absl::ToInt64Seconds(status.uptime)},
      {"problems", status.problems},
      {"runtime", status.runtime},
  };
  if (!status.splice) json["splice_reason"] = status.splice_reason;
  if (!status.packet) json["packet_reason"] = status.packet_reason;
  Json hooks = Json::array();
  for (const datapath::PacketPath::Hook& hook : status.packet_hooks) {
    hooks.push_back({{"interface", hook.interface},
                     {"hook", hook.hook},
                     {"mode", hook.mode},
                     {"reason", hook.reason}});
  }
  json["packet_hooks"] = std::move(hooks);
  return Dump(json);
}

std::string ServicesJson(const std::vector<control::ServiceRow>& services) {
  Json array = Json::array();
  for (const control::ServiceRow& service : services) {
    Json listen = Json::array();
    for (const Endpoint& address : service.config.listen) {
      listen.push_back(address.ToString());
    }
    array.push_back({
        {"name", service.config.name},
        {"listen", std::move(listen)},
        {"pool", service.config.pool},
        {"datapath", DatapathName(service.config.datapath)},
        {"balance", config::NameOf(config::kBalances, service.config.balance)},
        {"backends_up", service.backends_up},
        {"backends_total", service.backends_total},
        {"panic", service.panic},
        {"connections_active", service.stats.connections_active},
        {"connections_total", service.stats.connections_total},
        {"queue_length", service.stats.queue_active},
        {"bytes_in_total", service.stats.bytes_in},
        {"bytes_out_total", service.stats.bytes_out},
        {"listeners", ListenersArray(service.listeners)},
    });
  }
  return Dump({{"services", std::move(array)}});
}

std::string BackendsJson(const std::vector<control::BackendRow>& backends,
                         const std::vector<control::LeavingRow>& leaving) {
  Json array = Json::array();
  for (const control::BackendRow& backend : backends) {
    array.push_back({
        {"service", backend.service},
        {"name", backend.name},
        {"address", backend.address.ToString()},
        {"state", backend.state()},
        {"admin", control::AdminName(backend.admin)},
        {"weight", backend.weight},
        {"weight_effective", backend.weight_effective},
        {"backup", backend.backup},
        {"max_connections", backend.max_connections},
        {"draining", DrainingObject(backend.draining)},
        {"ejected", EjectedObject(backend.ejected)},
        {"connections_active", backend.stats.connections_active},
        {"connections_total", backend.stats.connections_total},
        {"last_check", backend.last_check.has_value()
                           ? CheckObject(*backend.last_check)
                           : Json(nullptr)},
    });
  }
  Json left = Json::array();
  for (const control::LeavingRow& row : leaving) {
    left.push_back({{"service", row.service},
                    {"name", row.name},
                    {"address", row.address.ToString()},
                    {"connections_active", row.connections_active}});
  }
  return Dump({{"backends", std::move(array)}, {"leaving", std::move(left)}});
}

std::string ConnectionJson(const control::ConnectionRow& row) {
  return ToLine({
      {"id", row.id},
      {"service", row.service},
      {"backend", row.backend},
      {"client", row.client.ToString()},
      {"datapath", row.datapath},
      {"age_seconds", absl::ToDoubleSeconds(row.age)},
      {"idle_seconds", absl::ToDoubleSeconds(row.idle)},
      {"bytes_in", row.bytes_in},
      {"bytes_out", row.bytes_out},
  });
}

std::string FlowJson(const control::FlowRow& row) {
  return ToLine({
      {"id", row.id},
      {"client", row.client.ToString()},
      {"listen", row.listen.ToString()},
      {"source", row.source.ToString()},
      {"backend", row.backend.ToString()},
      {"state", row.state},
      {"header", row.header},
      {"idle_seconds", absl::ToDoubleSeconds(row.idle)},
  });
}

std::string ConnectionCountJson(uint64_t active) {
  return Dump({{"connections_active", active}});
}

std::string AdminJson(const std::string& service, const std::string& backend,
                      hg_admin admin) {
  return Dump({{"service", service},
               {"name", backend},
               {"admin", control::AdminName(admin)}});
}

std::string CheckedJson(const std::string& service, const std::string& backend,
                        const health::CheckResult& result) {
  Json json = CheckObject(result);
  json["service"] = service;
  json["name"] = backend;
  if (!result.steps.empty()) {
    Json steps = Json::array();
    for (const health::Step& step : result.steps) {
      steps.push_back({{"at_seconds", absl::ToDoubleSeconds(step.at)},
                       {"what", step.what}});
    }
    json["steps"] = std::move(steps);
  }
  return Dump(json);
}

std::string WeightJson(const std::string& service, const std::string& backend,
                       uint32_t weight) {
  return Dump({{"service", service}, {"name", backend}, {"weight", weight}});
}

std::string KilledJson(uint64_t id) { return Dump({{"id", id}}); }

std::string ConfigJson(const control::Controller& controller) {
  return Dump({{"generation", controller.generation()},
               {"file", controller.config_file()},
               {"yaml", config::ToYaml(controller.config())}});
}

std::string AppliedJson(const control::Controller::Applied& applied) {
  return Dump(
      {{"generation", applied.generation}, {"changes", applied.changes}});
}

std::string BackendJson(const std::string& service, const std::string& backend,
                        const char* done) {
  return Dump({{"service", service}, {"name", backend}, {"done", done}});
}

std::string ChangesJson(const std::vector<std::string>& changes,
                        const std::vector<std::string>& runtime) {
  return Dump({{"changes", changes}, {"runtime", runtime}});
}

std::string CheckJson(const std::vector<config::Error>& errors) {
  return Dump({{"valid", errors.empty()}, {"errors", ErrorsArray(errors)}});
}

std::string ErrorJson(absl::string_view message,
                      const std::vector<config::Error>& errors) {
  Json json = {{"error", ToString(message)}};
  if (!errors.empty()) json["errors"] = ErrorsArray(errors);
  return Dump(json);
}

std::optional<uint32_t> ParseWeight(const std::string& body) {
  const Json json = ParseObject(body);
  if (!json.is_object()) return std::nullopt;
  const Json weight = json.value("weight", Json());
  if (!IsWeight(weight)) return std::nullopt;
  return weight.get<uint32_t>();
}

absl::StatusOr<control::Pace> ParsePace(const std::string& body) {
  const Json json = ParseObject(body);
  if (!json.is_object()) {
    return absl::InvalidArgumentError(
        "the body must be empty or {\"over_seconds\":N,\"order\":...}");
  }
  const Json over = json.value("over_seconds", Json());
  const Json order = json.value("order", Json("oldest"));
  if (!over.is_number() || over < 1 || over > 24 * 3600) {
    return absl::InvalidArgumentError(
        "over_seconds: a number from 1 to 86400 is needed");
  }
  if (order != "oldest" && order != "idle") {
    return absl::InvalidArgumentError("order: either oldest or idle");
  }
  return control::Pace{absl::Seconds(over.get<double>()),
                       order == "idle" ? control::Pace::Order::kIdle
                                       : control::Pace::Order::kOldest};
}

absl::StatusOr<config::Backend> ParseBackend(const std::string& name,
                                             const std::string& body) {
  const Json json = ParseObject(body);
  const Json address =
      json.is_object() ? json.value("address", Json()) : Json();
  if (!address.is_string()) {
    return absl::InvalidArgumentError(
        "the body must be {\"address\":\"IP[:PORT]\",...}");
  }
  const Json weight = json.value("weight", Json(1));
  const Json backup = json.value("backup", Json(false));
  if (!IsWeight(weight) || !backup.is_boolean()) {
    return absl::InvalidArgumentError(
        "weight: a number from 0 to 256; backup: true or false");
  }
  config::Backend backend;
  ASSIGN_OR_RETURN(backend.name, config::ParseName(name));
  ASSIGN_OR_RETURN(const config::Target target,
                   config::ParseTarget(address.get<std::string>()));
  backend.address = target.address;
  backend.port = target.port;
  backend.weight = weight.get<uint32_t>();
  backend.backup = backup.get<bool>();
  return backend;
}

bool WantsExplanation(const std::string& body) {
  const Json json = Json::parse(body, nullptr, false);
  return json.is_object() && json.contains("explain") &&
         json["explain"] == true;
}

}  // namespace headgate::admin
