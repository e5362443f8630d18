#include "control/source_ports.h"

#include <algorithm>
#include <set>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "net/socket.h"

namespace headgate::control {
namespace {

// Of the ports; apart, so that a warning does not come and go.
constexpr double kWarnAbove = 0.8;
constexpr double kCalmBelow = 0.7;

// Without a failure, while connections succeed.
constexpr absl::Duration kCalmAfter = absl::Seconds(10);

int64_t Ended(const hg_backend_stats& stats) {
  return static_cast<int64_t>(stats.connections_total) -
         static_cast<int64_t>(stats.connections_active);
}

std::string Remedy(const SourcePorts::Backend& backend) {
  if (backend.packet_ports != 0) {
    return ": add addresses to packet.source, or widen packet.ports";
  }
  return absl::StrCat(": add addresses to the source of pool ", backend.pool,
                      ", or widen net.ipv4.ip_local_port_range");
}

}  // namespace

void SourcePorts::Adopt(const std::vector<Backend>& backends) {
  for (const Backend& backend : backends) {
    History& history = histories_[backend.id];
    history.ended.fill(Ended(backend.stats));
    history.failures = backend.stats.connect_no_source_port;
  }
}

void SourcePorts::Sample(absl::Time now, uint64_t ports_per_source,
                         const std::vector<Backend>& backends) {
  std::map<uint32_t, History> kept;
  for (const Backend& backend : backends) {
    auto known = histories_.extract(backend.id);
    if (known.empty()) {
      kept[backend.id];
    } else {
      kept.insert(std::move(known));
    }
  }
  histories_ = std::move(kept);
  Forecast(ports_per_source, backends);
  Texts problems;
  for (const Backend& backend : backends) {
    if (!backend.retired) Judge(now, backend, problems);
  }
  FindMissing(backends, problems);
  for (const auto& [subject, text] : problems) {
    if (!problems_.contains(subject)) log::Warning("%s", text);
  }
  for (const auto& [subject, text] : problems_) {
    if (!problems.contains(subject)) log::Info("no longer: %s", text);
  }
  problems_ = std::move(problems);
  Step(now, backends);
}

// After kSteps and the one under way, what ended before is out of TIME_WAIT.
void SourcePorts::Step(absl::Time now, const std::vector<Backend>& backends) {
  if (now - step_began_ < kTimeWait / kSteps) return;
  step_began_ = now;
  step_ = (step_ + 1) % (kSteps + 1);
  for (const Backend& backend : backends) {
    histories_.at(backend.id).ended[step_] = Ended(backend.stats);
  }
}

// Backends of several services may be the same server to the kernel, and to
// the packet path.
void SourcePorts::Forecast(uint64_t ports_per_source,
                           const std::vector<Backend>& backends) {
  using Ports = std::tuple<Endpoint, std::vector<IpAddress>, uint64_t>;
  const auto ports_of = [](const Backend& backend) {
    return Ports{backend.address, backend.sources, backend.packet_ports};
  };
  std::map<Ports, uint64_t> used;
  const size_t oldest = (step_ + 1) % (kSteps + 1);
  for (const Backend& backend : backends) {
    const History& history = histories_.at(backend.id);
    const int64_t ended = Ended(backend.stats) - history.ended[oldest];
    used[ports_of(backend)] +=
        backend.stats.connections_active +
        static_cast<uint64_t>(std::max<int64_t>(ended, 0));
  }
  for (const Backend& backend : backends) {
    const uint64_t sources = std::max<uint64_t>(backend.sources.size(), 1);
    const uint64_t each =
        backend.packet_ports != 0 ? backend.packet_ports : ports_per_source;
    histories_.at(backend.id).use = {sources * each,
                                     used.at(ports_of(backend))};
  }
}

void SourcePorts::Judge(absl::Time now, const Backend& backend,
                        Texts& problems) {
  History& history = histories_.at(backend.id);
  const uint64_t failures = backend.stats.connect_no_source_port;
  if (std::exchange(history.failures, failures) < failures) {
    history.exhausted = true;
    history.last_failure = now;
    history.total_at_failure = backend.stats.connections_total;
  } else {
    const bool connects =
        backend.stats.connections_total > history.total_at_failure;
    const absl::Duration calm = connects ? kCalmAfter : kTimeWait;
    history.exhausted &= now - history.last_failure < calm;
  }
  const double limit = (history.nearly ? kCalmBelow : kWarnAbove) *
                       static_cast<double>(history.use.ports);
  history.nearly = history.use.ports != 0 &&
                   static_cast<double>(history.use.forecast) > limit;
  const std::string subject =
      absl::StrCat("service ", backend.service, ": backend ", backend.name);
  if (history.exhausted) {
    problems[absl::StrCat(subject, ": none")] =
        absl::StrCat(subject, ": no source port is left towards ",
                     backend.address.ToString(), Remedy(backend));
  } else if (history.nearly) {
    problems[absl::StrCat(subject, ": few")] = absl::StrCat(
        subject, ": more than 80 % of the source ports towards ",
        backend.address.ToString(), " may be in use", Remedy(backend));
  }
}

void SourcePorts::FindMissing(const std::vector<Backend>& backends,
                              Texts& problems) {
  std::set<IpAddress> seen;
  for (const Backend& backend : backends) {
    if (backend.packet_ports != 0) continue;  // Connects from none of them.
    for (const IpAddress& source : backend.sources) {
      if (!seen.insert(source).second) continue;
      if (HasSource(source, backend.address)) continue;
      problems[absl::StrCat("source ", source.ToString())] = absl::StrCat(
          "pool ", backend.pool, ": source ", source.ToString(),
          ": this machine does not have the address; connections come from "
          "the other sources, if there are any");
    }
  }
}

SourcePorts::Use SourcePorts::Of(uint32_t backend) const {
  const auto found = histories_.find(backend);
  return found == histories_.end() ? Use() : found->second.use;
}

std::vector<std::string> SourcePorts::Problems() const {
  std::vector<std::string> texts;
  for (const auto& [subject, text] : problems_) texts.push_back(text);
  return texts;
}

}  // namespace headgate::control
