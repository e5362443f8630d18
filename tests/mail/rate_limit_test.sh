#!/usr/bin/env bash
# Four nodes that lead to one mail server (NodePorts of one pod), four services
# on them, checked every 5 s, while the server takes no more than ten
# connections a minute from anybody: nobody is turned away, and no log holds
# what bans the edge.
#
#   rate_limit_test.sh   prints each assertion; exit status 0 or 1
#
# All of it ten times as fast and for two of the server's minutes; HG_SOAK set:
# as it is, for ten. Runs as root in namespaces of its own. HEADGATE_BIN=DIR
# says where headgated and headgatectl are; build/bin unless set.
# shellcheck source-path=SCRIPTDIR source-path=SCRIPTDIR/../../tools
set -euo pipefail

HERE=$(dirname "$(realpath "$0")")
TOOLS=$(realpath "$HERE/../../tools")
source "$TOOLS/lib/say.sh"
source "$TOOLS/lib/wait.sh"
source "$TOOLS/lib/packages.sh"
source "$TOOLS/lib/netns.sh"
source "$TOOLS/lib/edge.sh"
source "$TOOLS/lib/mail.sh"

MINUTE=6 INTERVAL=500ms CHECKS=24
if [[ -n ${HG_SOAK:-} ]]; then MINUTE=60 INTERVAL=5s CHECKS=120; fi
NODES=(198.18.2.21 198.18.2.22 198.18.2.23 198.18.2.24)

# What each service's health says besides the interval. smtpd has room for ten
# checks a minute, and four nodes would make 48: so the three SMTP services ask
# postscreen, which has no such limit, and Dovecot is asked as it comes.
HEALTH_SMTP='type: smtp, proxy_protocol: local, port: 30125'
HEALTH_SMTPS=$HEALTH_SMTP
HEALTH_SUBMISSION=$HEALTH_SMTP
HEALTH_IMAPS='type: auto'

set_up() {
  local node
  build_network
  # Long enough on a busy machine, too: see probe_test.sh.
  MAIL_GREET_WAIT=3s mail_node_start 1
  postconf -c "$WORK/node1/postfix/etc" anvil_rate_time_unit=${MINUTE}s \
    smtpd_client_connection_rate_limit=10
  ns node1 postfix -c "$WORK/node1/postfix/etc" reload
  for node in "${NODES[@]}"; do
    ns node1 ip address add "$node/32" dev uplink
    ns edge ip route add "$node" dev node1
  done
  config >"$WORK/headgate.yaml"
  ns_spawn edge "$(edge_bin)/headgated" --config="$WORK/headgate.yaml" \
    >"$WORK/headgated.log" 2>&1
  echo $! >"$WORK/headgated.pid"
  wait_for 20 edge_is_settled
  wait_for 20 all_are_up
}

config() {
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
  service smtp 25 30125 "$HEALTH_SMTP"
  service smtps 465 30126 "$HEALTH_SMTPS"
  service submission 587 30127 "$HEALTH_SUBMISSION"
  service imaps 993 30128 "$HEALTH_IMAPS"
}

service() {
  cat <<EOT
  $1:
    listen: ["$VIP4:$2"]
    pool: nodes
    backend_port: $3
    health: {interval: $INTERVAL, $4}
EOT
}

all_are_up() {
  ctl backend list -o json | jq -e '.backends | all(.state == "up")'
}

enough_checks() {
  metrics | sed -n 's/^headgate_backend_checks_total{.*} //p' |
    awk -v least="$CHECKS" '$1 < least { exit 1 }'
}

run() {
  wait_for $((CHECKS * MINUTE / 10 + 30)) enough_checks
  if metrics | grep '^headgate_backend_check_failures_total' | grep -v ' 0$'
  then
    fail 'these checks failed'
  fi
}

clients_are_served() {
  local service
  for service in smtp smtps submission; do
    send_mail "$service" "$VIP4" "limit-$service"
  done
}

no_complaint() {
  if mail_log 1 | grep -E "$TURNED_AWAY|fatal|PREGREET|lost connection"; then
    fail 'the checks left these lines'
  fi
}

TURNED_AWAY='rate limit exceeded'

# Every node asks smtpd, as each of four HAProxy servers does.
too_many() {
  edge_reload "$(service each 1465 30126 \
    'type: smtp, tls: true, proxy_protocol: local')"
  wait_for $((MINUTE + 10)) is_turned_away
  all_are_up
}

is_turned_away() { mail_log 1 | grep -E "$TURNED_AWAY"; }

main() {
  if ! in_sandbox; then
    need_packages "${NETNS_PACKAGES[@]}" "${EDGE_PACKAGES[@]}" \
      "${MAIL_PACKAGES[@]}"
  fi
  enter_sandbox "$@"
  step 'four nodes that are one server, and headgated, are up' set_up
  step "$CHECKS checks of each of 16 backends pass" run
  step 'clients are served' clients_are_served
  step 'no 421, no pregreet, no lost connection' no_complaint
  step 'but checks of each node by itself are too many' too_many
}

main "$@"
