// What the controller shows: the rows of state.h.
#include <net/if.h>

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "control/controller.h"

namespace headgate::control {
namespace {

std::string InterfaceName(uint32_t index) {
  char name[IF_NAMESIZE];
  if (if_indextoname(index, name) == nullptr) return absl::StrCat("#", index);
  return name;
}

const char* VerdictName(const hg_trace_event& event) {
  if (event.exit == HG_PACKET_HEADER_ACKED) return "consumed";
  if (event.size_after == 0) return "dropped";
  if (event.exit < HG_PACKET_FIRST_DROP) return "forwarded";
  const bool by_icmp =
      event.exit == HG_PACKET_TTL || event.exit == HG_PACKET_TOO_BIG;
  return by_icmp ? "answered" : "reset";
}

TraceRow::Side SideOf(uint32_t interface, uint32_t size,
                      const __u8 (&bytes)[HG_TRACE_BYTES]) {
  if (size == 0) return {};
  return {InterfaceName(interface), size,
          absl::MakeConstSpan(bytes, std::min<size_t>(size, sizeof bytes))};
}

}  // namespace

std::vector<ServiceRow> Controller::Services() const {
  std::vector<ServiceRow> rows;
  for (const auto& [name, service] : services_) {
    ServiceRow row;
    row.id = service.id;
    row.config = service.config;
    row.listeners = listeners_.Rows(service.id);
    row.panic = InPanic(service);
    row.stats =
        datapath::Snapshot(options_.datapath->service_stats(service.id));
    packet_.AddBytes(service.id, row.stats);
    for (const uint32_t id : service.backends) {
      const BackendRow& backend = backends_.at(id).row;
      ++row.backends_total;
      row.backends_up += std::strcmp(backend.state(), "up") == 0 ? 1 : 0;
    }
    rows.push_back(std::move(row));
  }
  return rows;
}

std::vector<BackendRow> Controller::Backends() const {
  std::vector<BackendRow> rows;
  for (const auto& [name, service] : services_) {
    for (const uint32_t id : service.backends) {
      const Backend& backend = backends_.at(id);
      BackendRow& row = rows.emplace_back(backend.row);
      row.stats = datapath::Snapshot(options_.datapath->backend_stats(id));
      row.greetings = datapath::Snapshot(options_.datapath->greeting_times(id));
      row.source_ports = source_ports_.Of(id);
      row.weight_effective = row.weight * backend.share;
      if (backend.drain != nullptr) row.draining = backend.drain->progress();
    }
  }
  return rows;
}

std::vector<LeavingRow> Controller::Leaving() const {
  std::vector<LeavingRow> rows;
  for (const auto& [id, backend] : backends_.all()) {
    const uint64_t active = backends_.ConnectionsActive(id);
    if (!backend.retired || active == 0) continue;
    rows.push_back(
        {backend.row.service, backend.row.name, backend.row.address, active});
  }
  return rows;
}

uint64_t Controller::ConnectionsActive() const {
  uint64_t sum = 0;
  for (const auto& [name, service] : services_) {
    sum += datapath::Read(
        options_.datapath->service_stats(service.id).connections_active);
  }
  return sum;
}

bool Controller::SetProblem(const std::string& subject,
                            const std::string& problem) {
  if (problem.empty()) return problems_.erase(subject) > 0;
  std::string& known = problems_[subject];
  const bool news = known != problem;
  known = problem;
  return news;
}

StatusRow Controller::Status() const {
  StatusRow status;
  status.ready = ready_;
  status.generation = generation_;
  status.started = started_;
  status.uptime = absl::Nanoseconds(MonotonicNs() - started_ns_);
  status.runtime = RuntimeLines();
  status.connections_active = ConnectionsActive();
  for (const ServiceRow& service : Services()) {
    ++status.services;
    status.backends_up += service.backends_up;
    status.backends_total += service.backends_total;
    for (const ListenerRow& listener : service.listeners) {
      if (listener.bound) continue;
      status.problems.push_back(
          absl::StrCat("service ", service.config.name, ": ", listener.error));
    }
    if (service.panic) {
      status.problems.push_back(
          absl::StrCat("service ", service.config.name,
                       ": panic, too few backends are up: health is ignored"));
    }
    if (service.backends_up == 0) {
      status.problems.push_back(
          absl::StrCat("service ", service.config.name, ": no backend is up"));
    }
  }
  for (const auto& [id, backend] : backends_.all()) {
    if (backend.retired || backend.row.admin == HG_ADMIN_MAINT) continue;
    const std::string problem = Misconfiguration(backend.row);
    if (!problem.empty()) status.problems.push_back(problem);
  }
  for (const auto& [subject, problem] : problems_) {
    status.problems.push_back(problem);
  }
  for (const std::string& problem : source_ports_.Problems()) {
    status.problems.push_back(problem);
  }
  status.splice_reason = options_.datapath->splice_objection();
  if (config_.splice.mode == config::SpliceMode::kOff) {
    status.splice_reason = "splice.mode is off";
  } else if (config_.splice.mode == config::SpliceMode::kAlways &&
             options_.datapath->can_splice()) {
    status.splice_reason.clear();
  }
  status.splice = status.splice_reason.empty();
  status.packet = packet_.active();
  status.packet_reason = packet_.problem();
  status.packet_hooks = packet_.Hooks();
  if (!status.packet_reason.empty()) {
    status.problems.push_back(status.packet_reason);
  } else if (!status.packet) {
    status.packet_reason = "no service has datapath: packet";
  }
  if (!last_reload_ok_) {
    status.problems.push_back(
        "the last configuration was refused; see the log");
  }
  return status;
}

absl::StatusOr<std::shared_ptr<datapath::PacketTrace>> Controller::Trace(
    const ConnectionFilter& of) {
  datapath::PacketTrace::Filter filter{of.client.address.bytes(),
                                       of.client.port, 0};
  if (!of.service.empty()) {
    const auto found = services_.find(of.service);
    if (found == services_.end()) {
      return absl::NotFoundError(absl::StrCat("no service ", of.service));
    }
    filter.service = found->second.id;
  }
  return packet_.Trace(filter);
}

TraceRow Controller::DescribePacket(const hg_trace_event& event) const {
  TraceRow row;
  row.time_ns = static_cast<int64_t>(event.time);
  row.service = NameOfService(event.service);
  row.backend = NameOfBackend(event.backend);
  if (event.flow != 0) {
    row.connection = packet_.IdOf((event.flow - 1) / 2);
    row.from = (event.flow - 1) % 2 == HG_FROM_CLIENT ? "client" : "backend";
  }
  row.verdict = VerdictName(event);
  row.reason =
      datapath::PacketExitName(static_cast<hg_packet_exit>(event.exit));
  row.again = event.again != 0;
  row.before = SideOf(event.came_by, event.size_before, event.before);
  row.after = SideOf(event.left_by, event.size_after, event.after);
  return row;
}

}  // namespace headgate::control
