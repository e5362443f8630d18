#include "admin/metrics.h"

#include <prometheus/metric_family.h>
#include <prometheus/text_serializer.h>

#include <array>
#include <cstring>
#include <numeric>

#include "health/result.h"

namespace headgate::admin {
namespace {

using Labels = std::vector<prometheus::ClientMetric::Label>;

constexpr std::array<const char*, 5> kStates = {"up", "down", "drain", "maint",
                                                "starting"};

// One metric with all its series.
class Family {
 public:
  Family(const char* name, const char* help, prometheus::MetricType type) {
    family_.name = name;
    family_.help = help;
    family_.type = type;
  }

  template <typename Number>
  Family& Add(Labels labels, Number number) {
    prometheus::ClientMetric metric;
    metric.label = std::move(labels);
    const auto value = static_cast<double>(number);
    if (family_.type == prometheus::MetricType::Counter) {
      metric.counter.value = value;
    } else {
      metric.gauge.value = value;
    }
    family_.metric.push_back(std::move(metric));
    return *this;
  }

  prometheus::MetricFamily Take() { return std::move(family_); }

 private:
  prometheus::MetricFamily family_;
};

Family Counter(const char* name, const char* help) {
  return {name, help, prometheus::MetricType::Counter};
}
Family Gauge(const char* name, const char* help) {
  return {name, help, prometheus::MetricType::Gauge};
}

using Families = std::vector<prometheus::MetricFamily>;

void AddServices(const control::Controller& controller, Families& out) {
  Family total = Counter("headgate_connections_total",
                         "Connections accepted from clients.");
  Family active =
      Gauge("headgate_connections_active", "Client connections that are open.");
  Family bytes = Counter("headgate_bytes_total",
                         "Payload bytes from clients (in) and to them (out); "
                         "PROXY headers are not counted.");
  Family copied = Counter("headgate_copied_bytes_total",
                          "Of headgate_bytes_total, those that userspace "
                          "copied; the kernel moved the others (splice(2), "
                          "sockmap).");
  Family no_backend =
      Counter("headgate_no_backend_total",
              "Connections turned away because no backend could take them.");
  Family queue = Gauge("headgate_queue_length",
                       "Clients that wait for room below max_connections.");
  Family rejections =
      Counter("headgate_queue_rejections_total",
              "Clients turned away because the queue was full, or because "
              "their time in it was up.");
  Family listener =
      Gauge("headgate_listener_up", "Whether the listen address is bound.");
  Family panic = Gauge("headgate_service_panic",
                       "1 while so few backends are up that health is "
                       "ignored (panic_threshold).");
  for (const control::ServiceRow& row : controller.Services()) {
    const std::string& service = row.config.name;
    total.Add({{"service", service}}, row.stats.connections_total);
    active.Add({{"service", service}}, row.stats.connections_active);
    bytes.Add({{"service", service}, {"direction", "in"}}, row.stats.bytes_in);
    bytes.Add({{"service", service}, {"direction", "out"}},
              row.stats.bytes_out);
    copied.Add({{"service", service}}, row.stats.bytes_copied);
    no_backend.Add({{"service", service}}, row.stats.no_backend);
    panic.Add({{"service", service}}, row.panic ? 1 : 0);
    queue.Add({{"service", service}}, row.stats.queue_active);
    rejections
        .Add({{"service", service}, {"reason", "full"}}, row.stats.queue_full)
        .Add({{"service", service}, {"reason", "timeout"}},
             row.stats.queue_timeout);
    for (const control::ListenerRow& bound : row.listeners) {
      listener.Add(
          {{"service", service}, {"address", bound.address.ToString()}},
          bound.bound ? 1 : 0);
    }
  }
  for (Family* family : {&total, &active, &bytes, &copied, &no_backend, &queue,
                         &rejections, &panic, &listener}) {
    out.push_back(family->Take());
  }
}

void AddBackends(const control::Controller& controller, Families& out) {
  Family up = Gauge("headgate_backend_up", "Whether the backend is up.");
  Family state = Gauge("headgate_backend_state",
                       "1 for the backend's present state, 0 for the others.");
  Family weight = Gauge("headgate_backend_weight", "The backend's weight.");
  Family effective =
      Gauge("headgate_backend_weight_effective",
            "The backend's weight now: less than it has during a slow start.");
  Family total = Counter("headgate_backend_connections_total",
                         "Connections made to the backend.");
  Family active = Gauge("headgate_backend_connections_active",
                        "Connections to the backend that are open.");
  Family failures = Counter("headgate_connect_failures_total",
                            "Failed attempts to connect to the backend.");
  Family ports =
      Gauge("headgate_source_ports",
            "Ports that connections to the backend can come from: sources "
            "times ports of net.ipv4.ip_local_port_range, or of packet.ports.");
  Family forecast =
      Gauge("headgate_source_ports_forecast",
            "How many of them may be in use at the present rate: open "
            "connections and those that ended within 60 s (TIME_WAIT).");
  Family checks =
      Counter("headgate_backend_checks_total", "Health checks finished.");
  Family failed =
      Counter("headgate_backend_check_failures_total", "Health checks failed.");
  Family expiry = Gauge("headgate_backend_certificate_expiry_timestamp_seconds",
                        "When the certificate that the last check saw expires, "
                        "seconds since the epoch.");
  Family transitions =
      Counter("headgate_backend_transitions_total",
              "Changes between up and down, the first verdict included.");
  for (const control::BackendRow& row : controller.Backends()) {
    const Labels labels = {{"service", row.service}, {"backend", row.name}};
    const auto with = [&](const char* key, const char* value) {
      Labels extended = labels;
      extended.push_back({key, value});
      return extended;
    };
    const char* present = row.state();
    up.Add(labels, std::strcmp(present, "up") == 0 ? 1 : 0);
    for (const char* each : kStates) {
      state.Add(with("state", each), std::strcmp(present, each) == 0 ? 1 : 0);
    }
    weight.Add(labels, row.weight);
    effective.Add(labels, row.weight_effective);
    total.Add(labels, row.stats.connections_total);
    active.Add(labels, row.stats.connections_active);
    failures.Add(with("reason", "refused"), row.stats.connect_refused)
        .Add(with("reason", "timeout"), row.stats.connect_timeout)
        .Add(with("reason", "unreachable"), row.stats.connect_unreachable)
        .Add(with("reason", "reset"), row.stats.connect_reset)
        .Add(with("reason", "overtaken"), row.stats.connect_overtaken)
        .Add(with("reason", "error"), row.stats.connect_error)
        .Add(with("reason", "no_source_port"), row.stats.connect_no_source_port)
        .Add(with("reason", "no_source_address"),
             row.stats.connect_no_source_address);
    ports.Add(labels, row.source_ports.ports);
    forecast.Add(labels, row.source_ports.forecast);
    checks.Add(labels,
               std::accumulate(row.checks.begin(), row.checks.end(), 0ULL));
    for (const health::Outcome outcome : health::kOutcomes) {
      if (outcome == health::Outcome::kPassed) continue;
      failed.Add(with("reason", health::OutcomeName(outcome)),
                 row.checks[static_cast<size_t>(outcome)]);
    }
    if (row.last_check.has_value() && row.last_check->certificate) {
      expiry.Add(labels,
                 absl::ToUnixSeconds(row.last_check->certificate->not_after));
    }
    transitions.Add(with("to", "up"), row.times_up)
        .Add(with("to", "down"), row.times_down);
  }
  for (Family* family :
       {&up, &state, &weight, &effective, &total, &active, &failures, &ports,
        &forecast, &checks, &failed, &expiry, &transitions}) {
    out.push_back(family->Take());
  }
}

// In seconds.
prometheus::ClientMetric Histogram(Labels labels,
                                   const hg_greeting_times& times) {
  prometheus::ClientMetric metric;
  metric.label = std::move(labels);
  uint64_t count = 0;
  size_t bucket = 0;
  for (const int64_t bound_ms : datapath::kGreetingBoundsMs) {
    count += times.counts[bucket++];
    metric.histogram.bucket.push_back(
        {count, static_cast<double>(bound_ms) / 1000});
  }
  metric.histogram.sample_count = count + times.counts[bucket];
  metric.histogram.sample_sum = static_cast<double>(times.sum_us) / 1e6;
  return metric;
}

void AddBackendAnswers(const control::Controller& controller, Families& out) {
  prometheus::MetricFamily greeting;
  greeting.name = "headgate_backend_greeting_seconds";
  greeting.help =
      "From the start of the connect, or of the client's on the packet path, "
      "to the backend's first byte.";
  greeting.type = prometheus::MetricType::Histogram;
  Family early = Counter("headgate_backend_early_closes_total",
                         "Connections that the backend ended, or said nothing "
                         "on within timeouts.greeting, before its first byte.");
  Family down = Counter("headgate_backend_down_resets_total",
                        "Connections reset because the backend went down.");
  Family ejected = Gauge("headgate_backend_ejected",
                         "Whether the backend is left out because connections "
                         "to it failed.");
  Family ejections = Counter("headgate_backend_ejections_total",
                             "How often it was, by how the last one failed.");
  for (const control::BackendRow& row : controller.Backends()) {
    const auto with_reason = [&](const char* reason) {
      return Labels{
          {"service", row.service}, {"backend", row.name}, {"reason", reason}};
    };
    const Labels labels = {{"service", row.service}, {"backend", row.name}};
    greeting.metric.push_back(Histogram(labels, row.greetings));
    early.Add(with_reason("closed"), row.stats.early_closed)
        .Add(with_reason("reset"), row.stats.early_reset)
        .Add(with_reason("greeting_timeout"), row.stats.greeting_timeout);
    down.Add(labels, row.stats.down_resets);
    ejected.Add(labels, row.ejected.has_value() ? 1 : 0);
    for (size_t i = 0; i < control::kFailures; ++i) {
      ejections.Add(
          with_reason(control::FailureName(static_cast<control::Failure>(i))),
          row.ejections[i]);
    }
  }
  out.push_back(std::move(greeting));
  out.push_back(early.Take());
  out.push_back(down.Take());
  out.push_back(ejected.Take());
  out.push_back(ejections.Take());
}

void AddPacketHooks(const std::vector<datapath::PacketPath::Hook>& all,
                    Families& out) {
  Family hooks = Gauge("headgate_packet_hook_info",
                       "Where the packet path is attached; 0: it should be, "
                       "and is not.");
  for (const datapath::PacketPath::Hook& hook : all) {
    hooks.Add({{"interface", hook.interface},
               {"hook", hook.hook},
               {"mode", hook.mode},
               {"reason", hook.reason}},
              hook.reason.empty() ? 1 : 0);
  }
  out.push_back(hooks.Take());
}

void AddByHook(const datapath::PacketPath& path, Families& out) {
  Family packets = Counter("headgate_packet_hook_packets_total",
                           "Packets of the packet path, sent on, consumed or "
                           "dropped, by the hook that did it.");
  for (const auto& [name, hook] :
       {std::pair("tc", HG_HOOK_TC), std::pair("xdp", HG_HOOK_XDP)}) {
    const std::vector<uint64_t> exits = path.ExitsOf(hook);
    packets.Add({{"hook", name}},
                std::accumulate(exits.begin(), exits.end(), 0UL));
  }
  Family left = Counter("headgate_packet_left_to_tc_total",
                        "Packets that XDP could not carry, or not send.");
  for (const auto& [interface, counts] : path.LeftToTc()) {
    for (uint32_t i = 0; i < HG_LEFT_COUNT; ++i) {
      left.Add({{"interface", interface},
                {"reason",
                 datapath::PacketLeftName(static_cast<hg_packet_left>(i))}},
               counts[i]);
    }
  }
  out.push_back(packets.Take());
  out.push_back(left.Take());
}

void AddFlows(const datapath::PacketPath& path, Families& out) {
  Family flows = Gauge("headgate_flows",
                       "Places of the packet path's table that are in use; "
                       "closed connections keep theirs for 60 s (TIME_WAIT), "
                       "unless it is needed.");
  const auto counts = path.CountByState();
  for (const auto& [name, state] :
       {std::pair("syn_sent", HG_FLOW_SYN_SENT),
        std::pair("syn_received", HG_FLOW_SYN_RECEIVED),
        std::pair("established", HG_FLOW_ESTABLISHED),
        std::pair("closed", HG_FLOW_CLOSED)}) {
    flows.Add({{"state", name}}, counts[state]);
  }
  out.push_back(flows.Take());
  out.push_back(Gauge("headgate_flows_max",
                      "How many connections the packet path can have: "
                      "packet.max_flows.")
                    .Add({}, path.max_flows())
                    .Take());
}

// `path` may be null.
void AddPacketPath(const datapath::PacketPath* path, Families& out) {
  Family drops = Counter("headgate_drops_total",
                         "Packets dropped by the packet path or the gate.");
  Family forwarded =
      Counter("headgate_packets_forwarded_total",
              "Packets that the packet path sent on: as they were, with the "
              "PROXY header, or the header ahead of data.");
  Family consumed =
      Counter("headgate_packets_consumed_total",
              "Packets that ended at the packet path in good order: the first "
              "of a backend that acknowledges the PROXY header alone.");
  if (path != nullptr) {
    const std::vector<uint64_t> exits = path->Exits();
    for (uint32_t i = 0; i < HG_PACKET_EXIT_COUNT; ++i) {
      const char* name =
          datapath::PacketExitName(static_cast<hg_packet_exit>(i));
      if (i == HG_PACKET_HEADER_ACKED) {
        consumed.Add({{"as", name}}, exits[i]);
      } else if (i < HG_PACKET_FIRST_DROP) {
        forwarded.Add({{"as", name}}, exits[i]);
      } else {
        drops.Add({{"reason", name}}, exits[i]);
      }
    }
    AddFlows(*path, out);
    AddByHook(*path, out);
  }
  out.push_back(drops.Take());
  out.push_back(forwarded.Take());
  out.push_back(consumed.Take());
}

void AddDatapath(const control::Controller& controller, Families& out) {
  const datapath::Datapath& datapath = controller.datapath();
  Family fallbacks =
      Counter("headgate_splice_fallbacks_total",
              "Connections that the kernel never carried, and why.");
  for (uint32_t i = 0; i < HG_FALLBACK_COUNT; ++i) {
    fallbacks.Add(
        {{"reason", datapath::FallbackName(static_cast<hg_fallback>(i))}},
        datapath.fallbacks(static_cast<hg_fallback>(i)));
  }
  out.push_back(fallbacks.Take());
  Family verdicts = Counter("headgate_splice_verdicts_total",
                            "What became of packets of spliced connections.");
  if (const auto sums = datapath.SpliceVerdicts(); sums.ok()) {
    for (uint32_t i = 0; i < HG_VERDICT_COUNT; ++i) {
      verdicts.Add(
          {{"verdict", datapath::VerdictName(static_cast<hg_verdict>(i))}},
          (*sums)[i]);
    }
  }
  out.push_back(verdicts.Take());
  out.push_back(
      Gauge("headgate_splice_backlog_reserved_bytes",
            "What slow readers may make the edge hold, socket buffers aside.")
          .Add({}, datapath.splice_budget().reserved())
          .Take());
  out.push_back(Gauge("headgate_splice_backlog_limit_bytes",
                      "The most that may be reserved: splice.backlog_total.")
                    .Add({}, datapath.splice_budget().limit())
                    .Take());
  AddPacketPath(datapath.packet(), out);
}

void AddProcess(const control::Controller& controller,
                const control::StatusRow& status, Families& out) {
  out.push_back(Gauge("headgate_build_info", "1; the labels say which build.")
                    .Add({{"version", HG_VERSION}}, 1)
                    .Take());
  out.push_back(
      Gauge("process_start_time_seconds",
            "When the daemon started, seconds since the epoch.")
          .Add({}, absl::ToDoubleSeconds(status.started - absl::UnixEpoch()))
          .Take());
  out.push_back(Gauge("headgate_config_generation",
                      "Which configuration is running; grows with changes.")
                    .Add({}, status.generation)
                    .Take());
  out.push_back(Gauge("headgate_runtime_changes",
                      "What operators changed at run time and did not undo.")
                    .Add({}, status.runtime.size())
                    .Take());
  out.push_back(Gauge("headgate_config_last_reload_successful",
                      "Whether the last configuration was taken.")
                    .Add({}, controller.last_reload_ok() ? 1 : 0)
                    .Take());
  out.push_back(
      Gauge("headgate_config_last_reload_success_timestamp_seconds",
            "When a configuration was last taken, seconds since the epoch.")
          .Add({}, absl::ToDoubleSeconds(controller.last_reload_time() -
                                         absl::UnixEpoch()))
          .Take());
}

}  // namespace

std::string MetricsText(const control::Controller& controller) {
  const control::StatusRow status = controller.Status();
  Families families;
  AddServices(controller, families);
  AddBackends(controller, families);
  AddBackendAnswers(controller, families);
  AddDatapath(controller, families);
  AddPacketHooks(status.packet_hooks, families);
  AddProcess(controller, status, families);
  return prometheus::TextSerializer().Serialize(families);
}

}  // namespace headgate::admin
