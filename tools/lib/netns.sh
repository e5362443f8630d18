# shellcheck shell=bash
# A sandbox that leaves nothing behind, and the network the tools work in.
#
#   enter_sandbox "$@"    re-executes the script in mount and PID namespaces of
#                         its own; returns at once when already inside
#   in_sandbox            succeeds inside
#   ns NAME CMD...        runs CMD in the network namespace NAME
#   ns_spawn NAME CMD...  the same in the background; $! is CMD itself
#   ns_kill NAME          kills every process in NAME, as a power cut would
#   build_network         makes the namespaces client, edge, node1 and node2:
#
#     client ------------ edge ------------ node1  198.18.2.11 2001:db8:2::11
#     198.18.0.10         198.18.1.1   \--- node2  198.18.2.12 2001:db8:2::12
#     2001:db8::10        2001:db8:1::1
#
# Addresses: RFC 2544 benchmarking (198.18.0.0/15) and RFC 3849 documentation,
# so that nothing here can be mistaken for a host that exists.
#
# WORK is the sandbox's own directory, a tmpfs. Needs root, say.sh and wait.sh.

# shellcheck disable=SC2034  # read by the scripts that source this file
{
  CLIENT4=198.18.0.10 CLIENT6=2001:db8::10
  VIP4=198.18.1.1 VIP6=2001:db8:1::1
  # The edge's address on the backends' side, which must never pose as a client.
  EDGE4=198.18.2.1 EDGE6=2001:db8:2::1
  NODE4=([1]=198.18.2.11 [2]=198.18.2.12)
  NODE6=([1]=2001:db8:2::11 [2]=2001:db8:2::12)
}
WORK=/run/work
# shellcheck disable=SC2034
NETNS_PACKAGES=(iproute2 procps util-linux)

# PID 1 inside, and told so: neither alone would do in a container.
in_sandbox() { [[ ${HEADGATE_SANDBOX:-} == "$$" ]]; }

enter_sandbox() {
  if in_sandbox; then
    furnish_sandbox
    return
  fi
  ((EUID == 0)) || fail "enter sandbox: not root"
  # Whatever ends this shell ends unshare (--pdeathsig), then PID 1 inside
  # (--kill-child), and with it every process, mount and network namespace.
  # Beside this shell, with stdin and SIGINT as they were, because unshare
  # itself blocks SIGTERM.
  setpriv --pdeathsig KILL \
    unshare --mount --net --pid --fork --kill-child --mount-proc \
    env --default-signal=INT,QUIT HEADGATE_SANDBOX=1 "$(realpath "$0")" "$@" \
    <&0 &
  await_sandbox $!
}

# Ctrl-C is for those inside: they end first, then this shell with their status.
await_sandbox() {
  local status=0
  trap : INT QUIT
  wait "$1" || status=$?
  # A trapped signal ends `wait` early: then wait again.
  while kill -0 "$1" 2>/dev/null; do
    status=0
    wait "$1" || status=$?
  done
  exit "$status"
}

# A /run of its own has room for `ip netns`, the control socket and WORK.
furnish_sandbox() {
  # PID 1 ignores every signal that it does not trap.
  trap 'exit 130' INT
  trap 'exit 143' TERM HUP
  mount -t tmpfs -o mode=755 tmpfs /run
  mkdir /run/netns /run/headgate "$WORK"
  mount -t bpf bpf /sys/fs/bpf
  # No name server can be reached from here: do not wait for one.
  sed 's/^hosts:.*/hosts: files/' /etc/nsswitch.conf >"$WORK/nsswitch.conf"
  mount --bind "$WORK/nsswitch.conf" /etc/nsswitch.conf
  export TMPDIR=$WORK
}

# Not `ip netns exec`: that remounts /sys and so hides the bpffs.
ns() {
  local name=$1
  shift
  nsenter --net="/run/netns/$name" -- "$@"
}

ns_spawn() {
  local name=$1
  shift
  # Not `ns ... &`: then $! would be a shell that waits for CMD.
  nsenter --net="/run/netns/$name" -- "$@" <&0 &
}

ns_kill() {
  local pids
  mapfile -t pids < <(ip netns pids "$1")
  if ((${#pids[@]})); then kill -KILL "${pids[@]}" 2>/dev/null || true; fi
}

build_network() {
  local name
  for name in client edge node1 node2; do
    ip netns add "$name"
    # Duplicate address detection would hold back every address for a second.
    ns "$name" sysctl -qw net.ipv6.conf.default.accept_dad=0
    ns "$name" ip link set lo up
  done
  ns edge sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
  ns edge ip address add "$VIP4/32" dev lo
  ns edge ip address add "$VIP6/128" dev lo
  join client 198.18.0.1 2001:db8::1 "$CLIENT4" "$CLIENT6"
  join node1 "$EDGE4" "$EDGE6" "${NODE4[1]}" "${NODE6[1]}"
  join node2 "$EDGE4" "$EDGE6" "${NODE4[2]}" "${NODE6[2]}"
  for name in client node1 node2; do
    # A link carries packets only a little after it was set up.
    wait_for 5 is_up "$name"
  done
}

is_up() {
  [[ $(ns "$1" ip -brief link show uplink) == *" UP "* &&
    $(ns edge ip -brief link show "$1") == *" UP "* ]]
}

# join NAME EDGE4 EDGE6 NAME4 NAME6: a link NAME <-> edge, and a default route
# through the edge. Host routes, so that both nodes' links carry the edge's one
# backend-side address.
join() {
  local name=$1
  ip link add "$name" netns edge type veth peer name uplink netns "$name"
  attach edge "$name" "$2/32" "$4" "$3/128" "$5"
  attach "$name" uplink "$4/32" "$2" "$5/128" "$3"
  ns "$name" ip route add default via "$2" dev uplink
  ns "$name" ip -6 route add default via "$3" dev uplink
}

# attach NAMESPACE DEVICE OWN4 PEER4 OWN6 PEER6
attach() {
  local device=$2
  ns "$1" ip link set "$device" up
  ns "$1" ip address add "$3" dev "$device"
  ns "$1" ip route add "$4" dev "$device"
  ns "$1" ip address add "$5" dev "$device"
  ns "$1" ip -6 route add "$6" dev "$device"
}
