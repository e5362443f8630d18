// Valid configurations to test properties with.
#pragma once

#include <random>
#include <string>

#include "absl/strings/str_cat.h"
#include "config/types.h"

namespace headgate::config {

class RandomConfig {
 public:
  explicit RandomConfig(unsigned seed) : random_(seed) {}

  Config Next() {
    Config config;
    port_ = 1;
    if (Maybe()) config.metrics_listen = Listener();
    if (Maybe()) config.workers = Number<uint32_t>(1, 256);
    config.splice = {
        Any({SpliceMode::kAuto, SpliceMode::kAlways, SpliceMode::kOff}),
        Number<uint64_t>(0, 1 << 30), Number<uint64_t>(64 << 10, 1 << 30),
        std::nullopt};
    if (Maybe()) {
      config.splice.backlog_total_bytes = Number<uint64_t>(1 << 30, 1ULL << 40);
    }
    if (Maybe()) {
      config.packet = {{"eth0", absl::StrCat("veth", Number(0, 99))},
                       {Address()},
                       Number<uint16_t>(1024, 30000),
                       Number<uint16_t>(30000, 65535),
                       Number<uint32_t>(1024, 1 << 24),
                       Number(0, 1) ? PacketAttach::kXdp : PacketAttach::kTc};
    }
    const int pools = Number(1, 4);
    for (int i = 0; i < pools; ++i) AddPool(config);
    const int services = Number(1, 6);
    for (int i = 0; i < services; ++i) AddService(config);
    return config;
  }

 private:
  template <typename T>
  T Number(T min, T max) {
    return std::uniform_int_distribution<T>(min, max)(random_);
  }
  uint16_t Port() { return Number<uint16_t>(1, 65535); }
  bool Maybe() { return Number(0, 1) == 1; }
  template <typename T>
  T Any(std::initializer_list<T> values) {
    return values.begin()[Number<size_t>(0, values.size() - 1)];
  }

  // Some that YAML would take for something else.
  std::string Name() {
    return Any<std::string>({"null", "true", "No", "12", "1.5", "_x",
                             "mail-nodes", "smtp", "y", "0x1f",
                             absl::StrCat("n", Number(0, 999))});
  }

  IpAddress Address() {
    return *IpAddress::Parse(
        Maybe() ? absl::StrCat("198.18.", Number(0, 255), ".", Number(0, 255))
                : absl::StrCat("2001:db8:", Any({"", "a:"}), Number(1, 9999),
                               Any({"::", "::1"})));
  }

  Endpoint Listener() { return {Address(), port_++}; }

  absl::Duration Time(absl::Duration unit, int min, int max) {
    return Number(min, max) * unit;
  }

  void AddPool(Config& config) {
    Pool pool{Name(), {}, {}};
    const int backends = Number(1, 5);
    for (int i = 0; i < backends; ++i) {
      Backend backend;
      backend.name = i == 0 ? Name() : absl::StrCat("b", i);
      backend.address = Address();
      if (Maybe()) backend.port = Port();
      backend.weight = Number<uint32_t>(0, 256);
      backend.backup = Maybe();
      if (Maybe()) backend.max_connections = Number<uint32_t>(0, 10'000'000);
      pool.backends.push_back(backend);
    }
    if (Maybe()) {
      pool.source = {IpAddress::Parse("198.18.2.1").value(),
                     IpAddress::Parse("2001:db8:2::1").value()};
      if (Maybe())
        pool.source.push_back(
            IpAddress::Parse(absl::StrCat("198.18.3.", Number(1, 255)))
                .value());
    }
    config.pools[pool.name] = pool;
  }

  void AddService(Config& config) {
    Service service;
    service.name = Name();
    const int listeners = Number(1, 3);
    for (int i = 0; i < listeners; ++i) service.listen.push_back(Listener());
    service.pool = config.pools.begin()->first;
    service.backend_port = Port();
    service.datapath = Any({Datapath::kSplice, Datapath::kRelay});
    service.balance =
        Any({Balance::kRoundRobin, Balance::kLeastConnections, Balance::kMaglev,
             Balance::kSource, Balance::kFirst});
    service.panic_threshold = Number<uint32_t>(0, 100);
    service.last_resort = Any({LastResort::kNone, LastResort::kDraining});
    service.proxy_protocol =
        Any({ProxyProtocol::kNone, ProxyProtocol::kV1, ProxyProtocol::kV2});
    AddHealth(service.health);
    service.connect_timeout = Time(absl::Milliseconds(10), 1, 30000);
    service.idle_timeout = Time(absl::Seconds(1), 1, 604800);
    service.dead_peer_timeout = Time(absl::Seconds(1), 1, 86400);
    service.try_next_timeout = Time(absl::Milliseconds(10), 1, 30000);
    service.max_connections = Number<uint64_t>(0, 10'000'000);
    AddFailing(service);
    if (Maybe()) service.slow_start = Time(absl::Seconds(1), 1, 3600);
    config.services[service.name] = service;
  }

  // What its backends failing means.
  void AddFailing(Service& service) {
    service.on_backend_down = Any({BackendDown::kKeep, BackendDown::kReset});
    if (service.max_connections > 0 && Maybe()) {
      service.queue = {Number<uint64_t>(1, 1'000'000),
                       Time(absl::Milliseconds(100), 1, 36000)};
    }
    if (Maybe()) {
      service.ejection = {Number(1, 1000), Time(absl::Seconds(1), 1, 3600),
                          Number(1, 100)};
    }
    for (const Endpoint& endpoint : service.listen) {
      if (endpoint.port > 464) return;  // TLS may come first there.
    }
    if (Maybe()) {
      service.greeting_timeout = Time(absl::Milliseconds(10), 1, 30000);
    }
    service.on_no_backend =
        Any({NoBackend::kReset, NoBackend::kSmtp421, NoBackend::kImapBye});
  }

  // A text that YAML might mangle.
  std::string Text() {
    return Any<std::string>({"", "a\\+b", "\"x\"", "#1", "mail.test", "null"});
  }

  void AddHealth(Health& health) {
    health.type = Any({HealthType::kNone, HealthType::kTcp,
                       HealthType::kGreeting, HealthType::kSmtp,
                       HealthType::kImap, HealthType::kTls, HealthType::kHttp});
    if (Maybe()) {
      health.proxy_protocol =
          Any({CheckHeader::kNone, CheckHeader::kLocal, CheckHeader::kOwn});
    }
    health.interval = Time(absl::Milliseconds(100), 1, 36000);
    if (Maybe()) {
      const auto most = health.interval / absl::Milliseconds(100);
      health.fast_interval =
          Time(absl::Milliseconds(100), 1, static_cast<int>(most));
    }
    if (Maybe()) {
      health.down_interval = Time(absl::Milliseconds(100), 1, 36000);
    }
    if (Maybe()) health.timeout = Time(absl::Milliseconds(10), 1, 6000);
    health.rise = Number(1, 100);
    health.fall = Number(1, 100);
    if (Maybe()) health.port = Port();
    if (health.type != HealthType::kNone && health.type != HealthType::kTcp) {
      health.share = Any({CheckShare::kNone, CheckShare::kGroup});
    }
    AddTls(health);
    if (health.type == HealthType::kGreeting) health.expect = Text();
    if (health.type == HealthType::kSmtp) {
      health.postscreen = Any({Postscreen::kTeaser, Postscreen::kFull});
      health.ehlo = Text();
    }
    if (health.type == HealthType::kHttp) {
      health.path = absl::StrCat("/", Text());
      health.host = Text();
      health.status = Number(200, 599);
      health.weight_header = Any<std::string>({"", "X-Weight"});
    }
  }

  void AddTls(Health& health) {
    const HealthType type = health.type;
    const bool dialog = type == HealthType::kSmtp || type == HealthType::kImap;
    health.tls = (dialog || type == HealthType::kGreeting ||
                  type == HealthType::kHttp) &&
                 Maybe();
    health.starttls = dialog && !health.tls && Maybe();
    if (!health.tls && !health.starttls && type != HealthType::kTls) return;
    health.server_name = Any<std::string>({"", "mail.test"});
    health.verify = Maybe();
    if (Maybe()) health.min_certificate_days = Number(0, 3650);
  }

  std::mt19937 random_;
  uint16_t port_ = 1;  // Listeners must not overlap.
};

}  // namespace headgate::config
