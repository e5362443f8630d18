#include "support/lab.h"

#include <fcntl.h>
#include <linux/ethtool.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <cstdlib>

#include "base/status.h"
#include "support/process.h"

namespace headgate::testing {
namespace {

constexpr char kSetUp[] = R"(
for ns in client edge backend; do
  ip netns add $ns
  ip -n $ns link set lo up
done

for ns in client edge backend; do
  ip netns exec $ns sysctl -qw \
    net.ipv4.ip_local_port_range='1024 65535' \
    net.ipv4.tcp_tw_reuse=1 \
    net.ipv4.tcp_max_syn_backlog=65535 \
    net.core.somaxconn=65535 \
    net.ipv6.conf.all.accept_dad=0 \
    net.ipv6.conf.default.accept_dad=0
done
# Two ends with one number look to the kernel like a device without another end,
# and whether such a link is up it tells IPv6 up to a second later.
ip link add name c0 index 11 netns client type veth peer name e0 netns edge
ip link add name b0 index 12 netns backend type veth peer name e1 netns edge

ip netns exec edge sysctl -qw \
  net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1

ip -n client addr add 198.18.0.2/24 dev c0
ip -n client addr add 2001:db8::2/64 dev c0 nodad
ip -n client link set c0 up
ip -n client route add default via 198.18.0.1
ip -n client route add default via 2001:db8::1

ip -n edge addr add 198.18.1.1/32 dev lo
ip -n edge addr add 2001:db8:1::1/128 dev lo nodad
ip -n edge addr add 198.18.0.1/24 dev e0
ip -n edge addr add 2001:db8::1/64 dev e0 nodad
ip -n edge addr add 198.18.2.1/24 dev e1
ip -n edge addr add 2001:db8:2::1/64 dev e1 nodad
ip -n edge link set e0 up
ip -n edge link set e1 up

for host in 11 12 13 14; do
  ip -n backend addr add 198.18.2.$host/24 dev b0
  ip -n backend addr add 2001:db8:2::$host/64 dev b0 nodad
done
ip -n backend link set b0 up
ip -n backend route add default via 198.18.2.1
ip -n backend route add default via 2001:db8:2::1
)";

constexpr char kTearDown[] =
    "for ns in client edge backend; do ip netns del $ns; done";

void Enter(int netns, const std::string& name) {
  if (::setns(netns, CLONE_NEWNET) != 0) {
    Die(absl::StrCat("setns ", name, ": ", ErrnoName(errno)));
  }
}

UniqueFd OpenNetns(const std::string& path) {
  UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) Die(absl::StrCat("open ", path, ": ", ErrnoName(errno)));
  return fd;
}

}  // namespace

Endpoint At(const std::string& endpoint) {
  const absl::StatusOr<Endpoint> parsed = Endpoint::Parse(endpoint);
  if (!parsed.ok()) Die(parsed.status().ToString());
  return *parsed;
}

ScopedNetns::ScopedNetns(const std::string& name)
    : home_(OpenNetns("/proc/thread-self/ns/net")) {
  Enter(OpenNetns(absl::StrCat("/run/netns/", name)).get(), name);
}

ScopedNetns::~ScopedNetns() { Enter(home_.get(), "home"); }

void Shell(const std::string& script) {
  const ProcessResult result = RunCommand({"sh", "-euc", script});
  if (result.exit_code != 0) Die(absl::StrCat("shell: ", result.err));
}

bool SetOffload(const std::string& device, uint32_t command, bool on) {
  const UniqueFd fd(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  ethtool_value value{command, on ? 1U : 0U};
  ifreq request{};
  device.copy(request.ifr_name, sizeof request.ifr_name - 1);
  request.ifr_data = reinterpret_cast<char*>(&value);
  return ::ioctl(fd.get(), SIOCETHTOOL, &request) == 0;
}

Lab::Lab() {
  if (std::getenv("HG_SANDBOX") == nullptr) {
    Die("run this program through tests/support/sandbox");
  }
  Shell(kSetUp);
}

Lab::~Lab() { Shell(kTearDown); }

void Lab::AddClientAddress(const std::string& address) {
  const bool v6 = address.find(':') != std::string::npos;
  Shell(absl::StrCat("ip -n client addr add ", address,
                     v6 ? "/64 dev c0 nodad" : "/24 dev c0"));
}

void Lab::BlackHole(const std::string& backend_address) {
  // A neighbour that nobody is: the frames are sent and never picked up.
  Shell(absl::StrCat("ip -n edge neigh replace ", backend_address,
                     " lladdr 02:00:00:00:00:99 dev e1 nud permanent"));
}

void Lab::Heal(const std::string& backend_address) {
  Shell(absl::StrCat("ip -n edge neigh del ", backend_address, " dev e1"));
}

}  // namespace headgate::testing
