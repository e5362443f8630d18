#!/usr/bin/env bash
# `share: group`: four nodes that lead to one mail server, four services on
# them, every port asked where clients go, while the server takes no more
# connections from anybody than all of the nodes' checks would be. One deep
# check is made for all four, and a light one at each, of which no log tells.
#
#   share_group_test.sh  prints each assertion; exit status 0 or 1
#
# Deep checks of a port start 8 s apart, two at once before, whatever the
# interval: so in 6 s there are two, and in a minute nine. The server's limit is
# two in 6 s; HG_SOAK set: ten in a minute, for ten minutes of 5 s and 10 s
# intervals. Runs as root in namespaces of its own. HEADGATE_BIN=DIR says where
# headgated and headgatectl are; build/bin unless set.
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
source "$HERE/node_ports.sh"

SERVICES=(smtp smtps submission imaps)
declare -A PORT=([smtp]=30125 [smtps]=30126 [submission]=30127 [imaps]=30128)
# All in seconds. APART: between two deep checks, the interval or 8 s.
LIMIT=2 MINUTE=6 RUN=8
declare -A INTERVAL=([smtp]=2 [smtps]=2 [submission]=2 [imaps]=2)
declare -A APART=([smtp]=8 [smtps]=8 [submission]=8 [imaps]=8)
if [[ -n ${HG_SOAK:-} ]]; then
  LIMIT=10 MINUTE=60 RUN=600
  INTERVAL=([smtp]=5 [smtps]=5 [submission]=10 [imaps]=5)
  APART[submission]=10
fi

set_up() {
  node_ports_start "$LIMIT" "$MINUTE"
  count_connects
  config group >"$WORK/headgate.yaml"
  now_ms >"$WORK/started"
  node_ports_edge_start
}

# config SHARE. Of each service no more is said than its interval.
config() {
  node_ports_config
  service smtp 25 30125 "interval: ${INTERVAL[smtp]}s, share: $1"
  service smtps 465 30126 "interval: ${INTERVAL[smtps]}s, share: $1"
  service submission 587 30127 "interval: ${INTERVAL[submission]}s, share: $1"
  service imaps 993 30128 "interval: ${INTERVAL[imaps]}s, share: $1"
}

# In the kernel: no server hears of a light check.
count_connects() {
  ns node1 nft -f - <<EOT
table ip connects {
  set met { type ipv4_addr . inet_service; size 64; flags dynamic; counter; }
  chain input {
    type filter hook input priority filter
    ip saddr $EDGE4 tcp flags syn / syn,ack \\
      update @met { ip daddr . tcp dport }
  }
}
EOT
}

# met PORT: a line for each node, ADDRESS CONNECTS.
met() {
  ns node1 nft --json list set ip connects met |
    jq -r --argjson port "$1" '.nftables[] | .set // empty | .elem[].elem |
      select(.val.concat[1] == $port) |
      "\(.val.concat[0]) \(.counter.packets)"'
}

# asked SERVICE: the deep checks that the server has logged, one a line, with
# the address they came by if the server tells it.
asked() {
  local edge=${EDGE4//./\\.}
  case $1 in
    imaps)
      mail_log 1 |
        sed -nE "s/.* rip=$edge, lip=([^,]*), lport=30128.*/\1/p"
      ;;
    smtp)
      mail_log 1 |
        sed -nE "s/.* CONNECT from \[$edge\].* to \[([^]]*)\]:30125$/\1/p"
      ;;
    *) named "$1" "$EDGE4" || true ;;
  esac
}

run() { wait_for $((RUN + RUN / 10 + 30)) has_run; }

# The time first, which costs the least to ask.
has_run() {
  local service
  (($(elapsed_ms) >= RUN * 1000)) || return 1
  for service in "${SERVICES[@]}"; do
    (($(asked "$service" | wc -l) >= 2 + RUN / APART[$service])) || return 1
    met "${PORT[$service]}" |
      awk -v least=$((RUN * 8 / 10 / INTERVAL[$service])) \
        '$2 >= least { ++nodes } END { exit nodes != 4 }' || return 1
  done
}

elapsed_ms() { echo $(($(now_ms) - $(<"$WORK/started"))); }

# The two at once, then one an interval; those may be shorter by a tenth.
one_an_interval() {
  local service count elapsed most
  for service in "${SERVICES[@]}"; do
    count=$(asked "$service" | wc -l)
    elapsed=$(elapsed_ms)
    most=$((2 + elapsed / (APART[$service] > 8 ? 900 * APART[$service] : 8000)))
    echo "$service: $count deep checks in $elapsed ms, at most $most;" \
      "connects to each address:" "$(met "${PORT[$service]}" | xargs)"
    ((count <= most)) || fail "$service is asked too often"
  done
}

# Each deep check is everybody's. Besides, each has told of its first light one,
# and of none of the others, for they say less.
counts_for_all() {
  local service
  for service in "${SERVICES[@]}"; do
    checks_of "$service" |
      awk -v asked="$(asked "$service" | wc -l)" \
        '$1 == asked + 1 { ++nodes } END { exit nodes != 4 }' || return 1
  done
}

checks_of() {
  metrics | sed -n "s/^headgate_backend_checks_total{.*service=\"$1\".*} //p"
}

# asked_in_turn SERVICE
asked_in_turn() {
  asked "$1" | sort | uniq -c | tee "$WORK/turns"
  awk 'NR == 1 { least = most = $1 }
    { least = $1 < least ? $1 : least; most = $1 > most ? $1 : most }
    END { exit most - least > 1 || NR < 3 }' "$WORK/turns"
}

were_always_up() {
  all_are_up
  no_check_has_failed
  if metrics | grep '^headgate_backend_transitions_total.*to="down"' |
    grep -v ' 0$'; then
    fail 'these were down'
  fi
}

clients_are_served() {
  local service
  for service in smtp smtps submission; do
    send_mail "$service" "$VIP4" "group-$service"
  done
}

each_by_itself_is_too_many() {
  config none >"$WORK/headgate.yaml"
  edge_reload ''
  wait_for $((MINUTE + 10)) is_turned_away
  all_are_up
}

main() {
  if ! in_sandbox; then
    need_packages "${NETNS_PACKAGES[@]}" "${EDGE_PACKAGES[@]}" \
      "${MAIL_PACKAGES[@]}" nftables
  fi
  enter_sandbox "$@"
  step 'four nodes that are one server, and headgated, are up' set_up
  step "every port is asked for $RUN s, and every address met" run
  step 'one deep check an interval is made for all' one_an_interval
  step 'and counts for each' wait_for 10 counts_for_all
  step 'in turn by every address: smtp' asked_in_turn smtp
  step 'in turn by every address: imaps' asked_in_turn imaps
  step 'every backend has been up all the time' were_always_up
  step 'no log holds a complaint' mail_has_no_complaint 1
  step 'clients are served' clients_are_served
  step 'but checks of each node by itself are too many' \
    each_by_itself_is_too_many
}

main "$@"
