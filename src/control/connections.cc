// The controller's connections as rows of state.h.
#include <algorithm>

#include "control/controller.h"

namespace headgate::control {
namespace {

Endpoint EndpointOf(const __u8 (&address)[16], uint16_t port) {
  std::array<uint8_t, 16> bytes{};
  std::copy(std::begin(address), std::end(address), bytes.begin());
  return {IpAddress::FromBytes(bytes), port};
}

const char* StateName(const hg_flow& flow) {
  if (flow.state == HG_FLOW_SYN_SENT) return "syn_sent";
  if (flow.state == HG_FLOW_SYN_RECEIVED) return "syn_received";
  const bool fin = (flow.flags & (HG_FLOW_FIN_IN | HG_FLOW_FIN_OUT)) != 0;
  return fin ? "closing" : "established";
}

// But for the FIN.
uint64_t BytesOut(const hg_flow& flow) {
  return flow.bytes_out - ((flow.flags & HG_FLOW_FIN_OUT) != 0 ? 1 : 0);
}

const char* HeaderName(const hg_flow& flow) {
  if (flow.header == 0) return "none";
  if ((flow.flags & HG_FLOW_HEADER_ACKED) != 0) return "acknowledged";
  return (flow.flags & HG_FLOW_HEADER_SENT) != 0 ? "sent" : "due";
}

absl::Duration IdleOf(const hg_flow& flow, int64_t now_ns) {
  return std::max(absl::ZeroDuration(),
                  absl::Nanoseconds(now_ns) - absl::Seconds(flow.last_seen));
}

bool IsMeant(const ConnectionFilter& filter, const Endpoint& client) {
  const Endpoint& wanted = filter.client;
  return (wanted.address.is_unspecified() ||
          wanted.address == client.address) &&
         (wanted.port == 0 || wanted.port == client.port);
}

}  // namespace

std::string Controller::NameOfService(uint32_t id) const {
  for (const auto& [name, service] : services_) {
    if (service.id == id) return name;
  }
  return "";
}

std::string Controller::NameOfBackend(uint32_t id) const {
  const auto found = backends_.all().find(id);
  return found == backends_.all().end() ? "" : found->second.row.name;
}

std::vector<ConnectionRow> Controller::Connections(
    const ConnectionFilter& filter) const {
  std::vector<ConnectionRow> rows;
  for (const auto& worker : workers_) {
    const std::vector<relay::ConnectionInfo> infos = worker->Connections();
    const int64_t now_ns = MonotonicNs();
    for (const relay::ConnectionInfo& info : infos) {
      const std::string service = NameOfService(info.service);
      if (!filter.service.empty() && service != filter.service) continue;
      if (!IsMeant(filter, info.client)) continue;
      ConnectionRow& row = rows.emplace_back();
      row.id = info.id;
      row.service = service;
      row.backend = NameOfBackend(info.backend);
      row.client = info.client;
      if (info.spliced) row.datapath = "splice";
      row.age = absl::Nanoseconds(now_ns - info.started_ns);
      row.idle = absl::Nanoseconds(now_ns - info.active_ns);
      row.bytes_in = info.bytes_in;
      row.bytes_out = info.bytes_out;
    }
  }
  std::sort(rows.begin(), rows.end(),
            [](const auto& a, const auto& b) { return a.id < b.id; });
  return rows;
}

std::vector<datapath::PacketPath::Flow> Controller::Meant(
    const ConnectionFilter& filter, datapath::FlowNumbers numbers) const {
  std::vector<datapath::PacketPath::Flow> flows = packet_.Flows(numbers);
  const auto service = services_.find(filter.service);
  const uint32_t id = service == services_.end() ? 0 : service->second.id;
  std::erase_if(flows, [&](const datapath::PacketPath::Flow& flow) {
    return (!filter.service.empty() && flow.state.service != id) ||
           !IsMeant(filter,
                    EndpointOf(flow.state.client, flow.state.client_port));
  });
  return flows;
}

std::vector<ConnectionRow> Controller::PacketConnections(
    const ConnectionFilter& filter, datapath::FlowNumbers numbers) const {
  std::vector<ConnectionRow> rows;
  const int64_t now_ns = MonotonicNs();
  for (const datapath::PacketPath::Flow& flow : Meant(filter, numbers)) {
    ConnectionRow& row = rows.emplace_back();
    row.id = PacketServices::ConnectionId(flow.number, flow.state);
    row.service = NameOfService(flow.state.service);
    row.backend = NameOfBackend(flow.state.backend);
    row.client = EndpointOf(flow.state.client, flow.state.client_port);
    row.datapath = "packet";
    row.age = absl::Nanoseconds(now_ns - flow.started_ns);
    row.idle = IdleOf(flow.state, now_ns);
    row.bytes_in = flow.state.bytes_in;
    row.bytes_out = BytesOut(flow.state);
  }
  return rows;
}

std::vector<FlowRow> Controller::Flows(const ConnectionFilter& filter,
                                       datapath::FlowNumbers numbers) const {
  std::vector<FlowRow> rows;
  const int64_t now_ns = MonotonicNs();
  for (const datapath::PacketPath::Flow& flow : Meant(filter, numbers)) {
    const hg_flow& state = flow.state;
    FlowRow& row = rows.emplace_back();
    row.id = PacketServices::ConnectionId(flow.number, flow.state);
    row.client = EndpointOf(state.client, state.client_port);
    row.listen = {IpAddress::FromBytes(flow.listen), state.listen_port};
    row.source = {IpAddress::FromBytes(flow.source), state.source_port};
    row.backend = EndpointOf(state.backend_address, state.backend_port);
    row.state = StateName(state);
    row.header = HeaderName(state);
    row.idle = IdleOf(state, now_ns);
  }
  return rows;
}

}  // namespace headgate::control
