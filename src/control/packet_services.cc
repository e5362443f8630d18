#include "control/packet_services.h"

#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/log.h"
#include "base/status.h"
#include "net/ports.h"

namespace headgate::control {
namespace {

// Workers' ids are below: they count connections of a run. What JSON can hold
// leaves 24 bits for the number, of 16 Mi at most, and 28 for the rest.
constexpr uint64_t kFlowIds = uint64_t{1} << 52;
constexpr int kIsnBits = 28;
constexpr uint64_t kIsnMask = (uint64_t{1} << kIsnBits) - 1;
constexpr absl::Duration kSweepInterval = absl::Seconds(1);
// To look who listens is nine tenths of what an idle path costs: for that, the
// kernel walks its table of all connections, in 0.7 ms if that has 262,144
// buckets, four times.
constexpr int kSweepsToLook = 10;
// To open the path keeps this thread busy for a second.
constexpr absl::Duration kOpenInterval = absl::Seconds(10);
constexpr uint32_t kEndsAtOnce = 256;

bool IsPacket(const config::Service& service) {
  return service.datapath == config::Datapath::kPacket;
}

std::set<Endpoint> ListenOf(const config::Config& config) {
  std::set<Endpoint> all;
  for (const auto& [name, service] : config.services) {
    if (IsPacket(service)) {
      all.insert(service.listen.begin(), service.listen.end());
    }
  }
  return all;
}

// Whether a socket that is bound to `bound` has what is sent to `address`. One
// at :: may take IPv4, too.
bool Accepts(const IpAddress& bound, const IpAddress& address) {
  if (bound == address) return true;
  return bound.is_unspecified() && (address.is_v4() || !bound.is_v4());
}

uint32_t HeaderSize(const config::Service& service, const Endpoint& listen) {
  if (service.proxy_protocol == config::ProxyProtocol::kNone) return 0;
  return listen.address.is_v4() ? 28 : 52;
}

}  // namespace

PacketServices::PacketServices(EventLoop* loop, datapath::Datapath* datapath)
    : datapath_(datapath),
      timer_(loop, [this] { Sweep(); }),
      endings_timer_(loop, [this] { EndSome(); }) {}

bool PacketServices::Needed(const config::Config& config) {
  return std::any_of(config.services.begin(), config.services.end(),
                     [](const auto& entry) { return IsPacket(entry.second); });
}

absl::Status PacketServices::Check(const config::Config& config) {
  if (!Needed(config)) return absl::OkStatus();
  const uint16_t first = config.packet->first_port;
  const uint16_t last = config.packet->last_port;
  const absl::Status ours = CheckPortsAreOurs(first, last);
  if (ours.ok()) return ours;
  return absl::FailedPreconditionError(
      absl::StrCat("packet.ports: ", first, "-", last, ": ", ours.message()));
}

bool PacketServices::active() const {
  return path() != nullptr && path()->serves();
}

bool PacketServices::Carries(const config::Service& service) const {
  return active() && IsPacket(service);
}

std::vector<datapath::PacketPath::Listener> PacketServices::Listeners(
    const config::Config& config,
    const std::map<std::string, uint32_t>& ids) const {
  std::vector<datapath::PacketPath::Listener> listeners;
  for (const auto& [name, service] : config.services) {
    if (!IsPacket(service)) continue;
    for (const Endpoint& listen : service.listen) {
      auto& listener = listeners.emplace_back();
      listener.address = listen.address.bytes();
      listener.port = listen.port;
      listener.value.service = ids.at(name);
      listener.value.header = HeaderSize(service, listen);
      listener.value.max_connections = static_cast<uint32_t>(
          std::min<uint64_t>(service.max_connections, UINT32_MAX));
    }
  }
  return listeners;
}

datapath::PacketPath::Setup PacketServices::SetupOf(
    const config::Config& config,
    const std::map<std::string, uint32_t>& ids) const {
  datapath::PacketPath::Setup setup;
  for (const IpAddress& source : config.packet->source) {
    setup.sources.push_back(source.bytes());
  }
  setup.first_port = config.packet->first_port;
  setup.last_port = config.packet->last_port;
  setup.listeners = Listeners(config, ids);
  return setup;
}

void PacketServices::Apply(const config::Config& config,
                           const std::map<std::string, uint32_t>& ids) {
  if (!Needed(config)) {
    Stop();
    return;
  }
  settings_ = *config.packet;
  listen_ = ListenOf(config);
  setup_ = SetupOf(config, ids);
  idle_seconds_.clear();
  for (const auto& [name, service] : config.services) {
    idle_seconds_[ids.at(name)] =
        static_cast<uint32_t>(absl::ToInt64Seconds(service.idle_timeout));
  }
  LookForListeners();
  NoteAll(Start());
  if (path() == nullptr) return;
  // Later on, when nobody opens any more.
  EndByAndBy({[this](const hg_flow& flow) {
    return !idle_seconds_.contains(flow.service);
  }});
}

absl::Status PacketServices::Open(const config::Packet& packet) {
  return datapath_->OpenPacket(packet.max_flows,
                               packet.attach == config::PacketAttach::kXdp);
}

void PacketServices::Adopt(const config::Config& config,
                           const std::set<uint32_t>& kept) {
  // Apply() tells what is wrong.
  if (!Needed(config) || !Open(*config.packet).ok()) return;
  datapath::PacketPath& path = *datapath_->packet();
  path.KeepListeners(kept);
  path.KillIf(
      [&](const hg_flow& flow) { return !kept.contains(flow.service); });
  if (!path.adopted()) return;
  log::Info("the packet path goes on with %d connections of the last run",
            path.Established());
}

// What it lacks may be there later: the timer calls again until it succeeds.
std::vector<std::string> PacketServices::Start() {
  if (closing_) {
    started_ = absl::UnavailableError("its connections of before still end");
    timer_.Set(kSweepInterval);
    return {};
  }
  started_ = Open(settings_);
  timer_.Set(path() == nullptr ? kOpenInterval : kSweepInterval);
  if (path() == nullptr) return {};
  started_ = path()->Configure(setup_);
  // Else what has a hook keeps it: connections go on.
  return started_.ok()
             ? path()->Attach(
                   {settings_.interfaces.begin(), settings_.interfaces.end()},
                   settings_.attach == config::PacketAttach::kXdp)
             : path()->Reattach();
}

// What clients send there ends up with the path, which knows of no such
// connection. Sockets that connect are the sysctls' business, see Check().
void PacketServices::LookForListeners() {
  const auto listening = ListeningEndpoints();
  if (!listening.ok()) return;
  listeners_in_range_.clear();
  for (const Endpoint& at : *listening) {
    if (at.port < settings_.first_port || at.port > settings_.last_port ||
        listen_.contains(at)) {
      continue;
    }
    const auto source = std::find_if(
        settings_.source.begin(), settings_.source.end(),
        [&](const IpAddress& each) { return Accepts(at.address, each); });
    if (source == settings_.source.end()) continue;
    listeners_in_range_.push_back(
        absl::StrCat("a socket listens at ", at.ToString(),
                     ", among packet.ports: at ", source->ToString(),
                     " nobody reaches it; give it another port, or "
                     "packet.ports another range"));
  }
}

// By and by: who wants it again meanwhile waits until it is closed.
void PacketServices::Stop() {
  timer_.Cancel();
  started_ = absl::OkStatus();
  problem_.clear();
  if (path() == nullptr) return;
  path()->DetachAll();
  closing_ = true;
  endings_.clear();
  EndByAndBy({[](const hg_flow&) { return true; }});
}

void PacketServices::Close(size_t ended) {
  KeepBytes();
  datapath_->ClosePacket();
  endings_.clear();
  closing_ = false;
  log::Info(
      "the packet path is closed: no service uses it; %d connections "
      "have ended",
      ended);
}

// What it has moved goes with its maps.
void PacketServices::KeepBytes() {
  for (const auto& [service, seconds] : idle_seconds_) {
    const hg_packet_bytes bytes = datapath_->packet()->Bytes(service);
    hg_service_stats& stats = datapath_->service_stats(service);
    datapath::Add(stats.bytes_in, bytes.in);
    datapath::Add(stats.bytes_out, bytes.out);
  }
}

void PacketServices::Sweep() {
  if (path() != nullptr) {
    path()->Sweep([this](uint32_t service) {
      const auto found = idle_seconds_.find(service);
      return found == idle_seconds_.end() ? 0 : found->second;
    });
    if (++sweeps_ % kSweepsToLook == 0) LookForListeners();
  }
  timer_.Set(kSweepInterval);
  NoteAll(started_.ok() ? path()->Reattach() : Start());
}

void PacketServices::NoteAll(std::vector<std::string> problems) {
  if (!started_.ok()) problems.emplace_back(started_.message());
  if (path() == nullptr) return Note(problems);
  problems.insert(problems.end(), listeners_in_range_.begin(),
                  listeners_in_range_.end());
  if (path()->max_flows() != settings_.max_flows) {
    problems.push_back(absl::StrCat(
        "packet.max_flows: ", settings_.max_flows,
        " takes effect at the next start, which ends the connections of the "
        "packet path"));
  }
  Note(problems);
}

void PacketServices::Note(const std::vector<std::string>& problems) {
  std::string problem;
  if (!problems.empty()) {
    problem = absl::StrCat("datapath packet: ", absl::StrJoin(problems, "; "),
                           active() ? "" : "; new connections are spliced");
  }
  if (problem == problem_) return;
  problem_ = problem;
  if (problem.empty()) {
    log::Info("datapath packet: no problem any more");
  } else {
    log::Warning("%s", problem);
  }
}

uint32_t PacketServices::max_flows() const {
  return datapath_->packet() == nullptr ? 0 : datapath_->packet()->max_flows();
}

std::vector<datapath::PacketPath::Flow> PacketServices::Flows(
    datapath::FlowNumbers numbers) const {
  if (datapath_->packet() == nullptr) return {};
  return datapath_->packet()->Flows(numbers);
}

std::vector<PacketServices::Connection> PacketServices::ConnectionsTo(
    uint32_t backend) const {
  std::vector<Connection> found;
  if (datapath_->packet() == nullptr) return found;
  datapath_->packet()->ForEach([&](uint32_t number, const hg_flow& flow) {
    if (flow.backend != backend || flow.state != HG_FLOW_ESTABLISHED) return;
    found.push_back({ConnectionId(number, flow),
                     static_cast<int64_t>(flow.since),
                     int64_t{flow.last_seen} * 1'000'000'000});
  });
  return found;
}

absl::StatusOr<std::shared_ptr<datapath::PacketTrace>> PacketServices::Trace(
    const datapath::PacketTrace::Filter& filter) {
  if (path() == nullptr) {
    return absl::FailedPreconditionError("no service has datapath: packet");
  }
  return path()->Trace(filter);
}

std::vector<datapath::PacketPath::Hook> PacketServices::Hooks() const {
  std::vector<datapath::PacketPath::Hook> hooks;
  if (path() != nullptr) hooks = path()->Hooks();
  if (!hooks.empty() || started_.ok()) return hooks;
  for (const std::string& interface : settings_.interfaces) {
    hooks.push_back({interface, "tc", "", std::string(started_.message())});
  }
  return hooks;
}

void PacketServices::AddBytes(uint32_t service, hg_service_stats& stats) const {
  if (datapath_->packet() == nullptr) return;
  const hg_packet_bytes bytes = datapath_->packet()->Bytes(service);
  stats.bytes_in += bytes.in;
  stats.bytes_out += bytes.out;
}

uint64_t PacketServices::ConnectionId(uint32_t number, const hg_flow& flow) {
  return kFlowIds | uint64_t{number} << kIsnBits | (flow.isn & kIsnMask);
}
bool PacketServices::IsFlow(uint64_t connection) {
  return connection >= kFlowIds;
}

uint64_t PacketServices::IdOf(uint32_t number) const {
  const datapath::PacketPath* path = datapath_->packet();
  if (path == nullptr || number >= path->max_flows()) return 0;
  return ConnectionId(number, path->At(number));
}

bool PacketServices::Kill(uint64_t connection) {
  if (!IsFlow(connection)) return false;
  const auto number =
      static_cast<uint32_t>((connection - kFlowIds) >> kIsnBits);
  return IdOf(number) == connection && datapath_->packet()->Kill(number);
}

// It may be up again before they are through: what it got since then stays.
void PacketServices::ResetBackend(uint32_t backend) {
  if (path() == nullptr) return;
  const auto had_it = [backend, down_ns = MonotonicNs()](const hg_flow& flow) {
    return flow.backend == backend && flow.state != HG_FLOW_SYN_SENT &&
           static_cast<int64_t>(flow.since) <= down_ns;
  };
  EndByAndBy({had_it, backend});
}

// One that has not begun yet gives its place to its like: a backend that goes
// up and down faster than a table is looked through has one in the queue.
void PacketServices::EndByAndBy(Ending ending) {
  const auto queued =
      std::find_if(endings_.begin(), endings_.end(), [&](const Ending& other) {
        return other.next == 0 && other.backend == ending.backend;
      });
  if (queued != endings_.end()) {
    *queued = std::move(ending);
    return;
  }
  endings_.push_back(std::move(ending));
  endings_timer_.Set(absl::ZeroDuration());
}

// Nothing else on this thread waits for all of them.
void PacketServices::EndSome() {
  if (endings_.empty()) return;
  Ending& ending = endings_.front();
  datapath::PacketPath& table = *datapath_->packet();
  const size_t ended =
      table.KillIf(ending.which, {ending.next, ending.next + kEndsAtOnce});
  ending.ended += ended;
  if (ending.backend != 0) {
    datapath::Add(datapath_->backend_stats(ending.backend).down_resets, ended);
  }
  ending.next += kEndsAtOnce;
  if (ending.next >= table.max_flows()) {
    if (closing_) return Close(ending.ended);
    endings_.pop_front();
  }
  endings_timer_.Set(absl::ZeroDuration());
}

}  // namespace headgate::control
