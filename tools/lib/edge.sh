# shellcheck shell=bash
# headgated on the edge with its default paths, and what it says of itself.
# Needs say.sh, wait.sh and netns.sh.
#
#   edge_build                builds the programs, unless HEADGATE_BIN is set
#   edge_config INTERVAL      prints the configuration, checks every INTERVAL
#   node_listens N            succeeds when node N serves all of NODE_PORTS
#   edge_start INTERVAL       starts headgated, waits until every backend is up
#   edge_reload CONFIG...     adds CONFIG's lines and sends SIGHUP
#   edge_pid                  prints headgated's PID
#   edge_log                  prints what headgated has logged
#   ctl ARG...                headgatectl
#   metrics                   prints /metrics
#   backend_is SERVICE NAME STATE    succeeds when that is the backend's state
#   every_backend_is STATE NAME...   the same for all services of these nodes
#
# HEADGATE_BIN says where the programs are: build/bin when it is not set.

EDGE_ROOT=$(realpath "$(dirname "${BASH_SOURCE[0]}")/../..")
# shellcheck disable=SC2034  # read by the scripts that source this file
EDGE_PACKAGES=(curl jq)
# The backends' ports, the data ports first, then those for the checks.
NODE_PORTS=(30125 30126 30127 30128 30145 30146 30147 30148)
METRICS=127.0.0.1:9140

edge_build() {
  if [[ -z ${HEADGATE_BIN:-} ]]; then "$EDGE_ROOT/tools/build"; fi
}

edge_config() {
  cat <<EOF
metrics:
  listen: $METRICS
pools:
  mail-nodes:
    backends:
      - {name: node1, address: ${NODE4[1]}}
      - {name: node2, address: ${NODE4[2]}}
services:
EOF
  edge_service smtp 25 30125 30145 "$1" 1h
  edge_service smtps 465 30126 30146 "$1" 1h
  edge_service submission 587 30127 30147 "$1" 1h
  # IMAP IDLE: a phone says nothing for hours (RFC 2177 asks for 29 minutes).
  edge_service imaps 993 30128 30148 "$1" 24h
}

# edge_service NAME PORT BACKEND_PORT CHECK_PORT INTERVAL IDLE
edge_service() {
  cat <<EOF
  $1:
    listen: ["$VIP4:$2", "[$VIP6]:$2"]
    pool: mail-nodes
    backend_port: $3
    proxy_protocol: v2
    health: {type: tcp, port: $4, interval: $5, timeout: 1s, rise: 2, fall: 3}
    timeouts: {connect: 5s, idle: $6}
EOF
}

node_listens() {
  local port
  for port in "${NODE_PORTS[@]}"; do
    [[ -n $(ns "node$1" ss -Hltn "sport = :$port") ]] || return 1
  done
}

edge_start() {
  edge_config "$1" >"$WORK/headgate.yaml"
  ns_spawn edge "$(edge_bin)/headgated" --config="$WORK/headgate.yaml" \
    --state_dir="$WORK/state" \
    >"$WORK/headgated.log" 2>&1
  echo $! >"$WORK/headgated.pid"
  wait_for 20 edge_is_settled
  ctl status --wait --timeout=20s
  wait_for 20 every_backend_is up node1 node2
}

# Listening, or dead already: then the wait for it is over as well.
edge_is_settled() {
  [[ -S /run/headgate/control.sock ]] || ! kill -0 "$(edge_pid)"
}

edge_bin() { echo "${HEADGATE_BIN:-$EDGE_ROOT/build/bin}"; }

edge_pid() { cat "$WORK/headgated.pid"; }

edge_reload() {
  printf '%s\n' "$@" >>"$WORK/headgate.yaml"
  kill -HUP "$(edge_pid)"
}

# Nothing yet, when it was never started.
edge_log() { cat "$WORK/headgated.log" 2>/dev/null || true; }

ctl() { "$(edge_bin)/headgatectl" "$@"; }

metrics() {
  ns edge curl --silent --show-error --fail "http://$METRICS/metrics"
}

backend_is() {
  [[ $(ctl backend list --service="$1" -o json |
    jq -r --arg name "$2" '.backends[] | select(.name == $name) | .state') \
    == "$3" ]]
}

every_backend_is() {
  local state=$1 node service
  shift
  for node in "$@"; do
    for service in smtp smtps submission imaps; do
      backend_is "$service" "$node" "$state" || return 1
    done
  done
}
