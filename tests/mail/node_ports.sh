# shellcheck shell=bash
# Four nodes that lead to one mail server (NodePorts of one pod), which takes no
# more than some connections a minute from anybody. Needs say.sh, wait.sh,
# netns.sh, edge.sh and mail.sh.
#
#   NODES                        their addresses
#   node_ports_start LIMIT SECONDS   the network and the server; LIMIT
#                                connections in so many seconds
#   node_ports_config            prints the configuration, up to its services
#   service NAME PORT BACKEND_PORT HEALTH   prints one of them
#   node_ports_edge_start        starts headgated with $WORK/headgate.yaml,
#                                waits until every backend is up
#   all_are_up                   succeeds when they are
#   no_check_has_failed          succeeds when that is so
#   is_turned_away               succeeds when the server has had enough

NODES=(198.18.2.21 198.18.2.22 198.18.2.23 198.18.2.24)
TURNED_AWAY='rate limit exceeded'

node_ports_start() {
  local node
  build_network
  # Long enough on a busy machine, too: see probe_test.sh.
  MAIL_GREET_WAIT=3s mail_node_start 1
  postconf -c "$WORK/node1/postfix/etc" anvil_rate_time_unit="$2s" \
    smtpd_client_connection_rate_limit="$1"
  ns node1 postfix -c "$WORK/node1/postfix/etc" reload
  for node in "${NODES[@]}"; do
    ns node1 ip address add "$node/32" dev uplink
    ns edge ip route add "$node" dev node1
  done
}

node_ports_config() {
  local node n=0
  cat <<EOT
metrics:
  listen: $METRICS
pools:
  nodes:
    backends:
EOT
  for node in "${NODES[@]}"; do
    n=$((n + 1))
    echo "      - {name: k8s-node$n, address: $node}"
  done
  echo 'services:'
}

service() {
  cat <<EOT
  $1:
    listen: ["$VIP4:$2"]
    pool: nodes
    backend_port: $3
    health: {$4}
EOT
}

node_ports_edge_start() {
  ns_spawn edge "$(edge_bin)/headgated" --config="$WORK/headgate.yaml" \
    --state_dir="$WORK/state" >"$WORK/headgated.log" 2>&1
  echo $! >"$WORK/headgated.pid"
  wait_for 20 edge_is_settled
  wait_for 20 all_are_up
}

all_are_up() {
  ctl backend list -o json | jq -e '.backends | all(.state == "up")'
}

no_check_has_failed() {
  if metrics | grep '^headgate_backend_check_failures_total' | grep -v ' 0$'
  then
    fail 'these checks failed'
  fi
}

is_turned_away() { mail_log 1 | grep -E "$TURNED_AWAY"; }
