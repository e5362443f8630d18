#include "config/health.h"

#include <algorithm>

namespace headgate::config {
namespace {

struct Kind {
  HealthType type = HealthType::kTcp;
  bool tls = false;
  std::string expect;
  bool operator==(const Kind&) const = default;
};

constexpr char kPop3Greeting[] = "^\\+OK";

Kind KindOf(uint16_t port) {
  switch (port) {
    case 25:
    case 587:
    case 2525:
      return {HealthType::kSmtp, false, ""};
    case 465:
      return {HealthType::kSmtp, true, ""};
    case 143:
      return {HealthType::kImap, false, ""};
    case 993:
      return {HealthType::kImap, true, ""};
    case 110:
      return {HealthType::kGreeting, false, kPop3Greeting};
    case 995:
      return {HealthType::kGreeting, true, kPop3Greeting};
    default:
      return {};
  }
}

Kind KindOf(const std::vector<Endpoint>& listen) {
  if (listen.empty()) return {};
  const Kind kind = KindOf(listen.front().port);
  const bool all =
      std::all_of(listen.begin(), listen.end(),
                  [&](const Endpoint& e) { return KindOf(e.port) == kind; });
  return all ? kind : Kind{};
}

void ResolveType(const Service& service, Health& health) {
  Kind kind = KindOf(service.listen);
  const bool expects_header = service.proxy_protocol != ProxyProtocol::kNone &&
                              !health.port.has_value() &&
                              !health.proxy_protocol.has_value();
  // A receiver of version 1 may not know LOCAL, and no dialog goes without it.
  if (expects_header && service.proxy_protocol == ProxyProtocol::kV1) kind = {};
  health.type = kind.type;
  health.tls |= kind.tls;
  if (health.expect.empty()) health.expect = kind.expect;
  if (expects_header && kind.type != HealthType::kTcp) {
    health.proxy_protocol = CheckHeader::kLocal;
  }
}

// Dialogs get longer than Postfix and Dovecot wait for a header (5 s and 3 s),
// so that their complaint is heard; postscreen's tests take 6 s.
absl::Duration DefaultTimeout(const Health& health) {
  if (health.type == HealthType::kNone || health.type == HealthType::kTcp) {
    return absl::Seconds(2);
  }
  return absl::Seconds(health.postscreen == Postscreen::kFull ? 10 : 6);
}

}  // namespace

Health Resolved(const Service& service) {
  Health health = service.health;
  if (health.type == HealthType::kAuto) ResolveType(service, health);
  if (!health.proxy_protocol.has_value()) {
    health.proxy_protocol = CheckHeader::kNone;
  }
  if (!health.timeout.has_value()) health.timeout = DefaultTimeout(health);
  for (auto* interval : {&health.fast_interval, &health.down_interval}) {
    *interval = interval->value_or(health.interval);
  }
  return health;
}

}  // namespace headgate::config
