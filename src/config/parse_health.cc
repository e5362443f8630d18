#include "config/parse_health.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "config/health.h"
#include "config/values.h"

namespace headgate::config {
namespace {

// Keys that only some types know.
struct Limited {
  absl::string_view key;
  std::vector<HealthType> types;
};

const std::vector<Limited>& LimitedKeys() {
  static const auto* const keys = new std::vector<Limited>{
      {"expect", {HealthType::kGreeting}},
      {"postscreen", {HealthType::kSmtp}},
      {"ehlo", {HealthType::kSmtp}},
      {"starttls", {HealthType::kSmtp, HealthType::kImap}},
      {"tls",
       {HealthType::kGreeting, HealthType::kSmtp, HealthType::kImap,
        HealthType::kHttp}},
      {"path", {HealthType::kHttp}},
      {"host", {HealthType::kHttp}},
      {"status", {HealthType::kHttp}},
      {"weight_header", {HealthType::kHttp}},
  };
  return *keys;
}

std::vector<absl::string_view> Keys() {
  return {"type",         "port",          "proxy_protocol",
          "interval",     "fast_interval", "down_interval",
          "timeout",      "rise",          "fall",
          "share",        "expect",        "postscreen",
          "ehlo",         "tls",           "starttls",
          "server_name",  "verify",        "min_certificate_days",
          "path",         "host",          "status",
          "weight_header"};
}

void ReadIntervals(const MapReader& section, Health& health) {
  const auto interval = DurationIn(absl::Milliseconds(100), absl::Hours(1));
  const bool known = section.Read("interval", interval, health.interval) ||
                     section.Find("interval") == nullptr;
  section.Read("down_interval", interval, health.down_interval);
  if (section.Read("fast_interval", interval, health.fast_interval) && known &&
      *health.fast_interval > health.interval) {
    section.Report(section.Find("fast_interval")->at, "fast_interval",
                   absl::StrCat(DurationText(*health.fast_interval),
                                " is longer than interval, ",
                                DurationText(health.interval)));
  }
}

void ReadTls(const MapReader& section, Health& health) {
  section.Read("tls", ParseBool, health.tls);
  section.Read("starttls", ParseBool, health.starttls);
  section.Read("server_name", ParseServerName, health.server_name);
  section.Read("verify", ParseBool, health.verify);
  section.Read("min_certificate_days", IntegerIn<int>(0, 3650),
               health.min_certificate_days);
}

void ReadHttp(const MapReader& section, Health& health) {
  section.Read("path", ParsePath, health.path);
  section.Read("host", ParseWord, health.host);
  section.Read("status", IntegerIn<int>(200, 599), health.status);
  section.Read("weight_header", ParseFieldName, health.weight_header);
}

void CheckTypes(const MapReader& section, const Health& written,
                const Health& resolved) {
  for (const Limited& limited : LimitedKeys()) {
    const Node* node = section.Find(limited.key);
    if (node == nullptr || std::find(limited.types.begin(), limited.types.end(),
                                     resolved.type) != limited.types.end()) {
      continue;
    }
    std::vector<std::string> names;
    for (const HealthType type : limited.types) {
      names.push_back(NameOf(kHealthTypes, type));
    }
    section.Report(
        node->key_at, limited.key,
        absl::StrCat("only for type ", absl::StrJoin(names, ", "),
                     "; the type is ", NameOf(kHealthTypes, written.type),
                     written.type == resolved.type ? "" : ", here ",
                     written.type == resolved.type
                         ? ""
                         : NameOf(kHealthTypes, resolved.type)));
  }
}

void CheckTls(const MapReader& section, const Health& resolved) {
  if (resolved.tls && resolved.starttls) {
    const Node* node = section.Find("starttls");
    section.Report(node->key_at, "starttls",
                   "the connection is in TLS from the start already");
  }
  if (resolved.tls || resolved.starttls || resolved.type == HealthType::kTls) {
    return;
  }
  for (const char* key : {"server_name", "verify", "min_certificate_days"}) {
    if (const Node* node = section.Find(key); node != nullptr) {
      section.Report(node->key_at, key,
                     "without TLS there is no certificate; add tls: true or "
                     "starttls: true");
    }
  }
}

void CheckSharing(const MapReader& section, const Health& resolved) {
  const bool talks =
      resolved.type != HealthType::kNone && resolved.type != HealthType::kTcp;
  if (talks || resolved.share == CheckShare::kNone) return;
  section.Report(section.Find("share")->at, "share",
                 absl::StrCat("group is for checks that talk to the server; "
                              "the type is ",
                              NameOf(kHealthTypes, resolved.type)));
}

}  // namespace

void ReadHealth(const MapReader& map, Service& service) {
  const MapReader section = map.Section("health", Keys());
  Health& health = service.health;
  const bool typed = section.Read("type", OneOf(kHealthTypes), health.type) ||
                     section.Find("type") == nullptr;
  section.Read("port", IntegerIn<uint16_t>(1, 65535), health.port);
  section.Read("proxy_protocol", OneOf(kCheckHeaders), health.proxy_protocol);
  ReadIntervals(section, health);
  section.Read("timeout", DurationIn(absl::Milliseconds(10), absl::Minutes(1)),
               health.timeout);
  section.Read("rise", IntegerIn<int>(1, 100), health.rise);
  section.Read("fall", IntegerIn<int>(1, 100), health.fall);
  section.Read("share", OneOf(kCheckShares), health.share);
  section.Read("expect", ParseRegex, health.expect);
  section.Read("postscreen", OneOf(kPostscreens), health.postscreen);
  section.Read("ehlo", ParseWord, health.ehlo);
  ReadTls(section, health);
  ReadHttp(section, health);
  if (!typed) return;
  const Health resolved = Resolved(service);
  CheckTypes(section, health, resolved);
  CheckSharing(section, resolved);
  CheckTls(section, resolved);
}

}  // namespace headgate::config
