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
source "$HERE/node_ports.sh"

MINUTE=6 INTERVAL=500ms CHECKS=24
if [[ -n ${HG_SOAK:-} ]]; then MINUTE=60 INTERVAL=5s CHECKS=120; fi

# What each service's health says besides the interval. smtpd has room for ten
# checks a minute, and four nodes would make 48: so the three SMTP services ask
# postscreen, which has no such limit, and Dovecot is asked as it comes.
HEALTH_SMTP='type: smtp, proxy_protocol: local, port: 30125'
HEALTH_SMTPS=$HEALTH_SMTP
HEALTH_SUBMISSION=$HEALTH_SMTP
HEALTH_IMAPS='type: auto'

set_up() {
  node_ports_start 10 "$MINUTE"
  config >"$WORK/headgate.yaml"
  node_ports_edge_start
}

config() {
  node_ports_config
  service smtp 25 30125 "interval: $INTERVAL, $HEALTH_SMTP"
  service smtps 465 30126 "interval: $INTERVAL, $HEALTH_SMTPS"
  service submission 587 30127 "interval: $INTERVAL, $HEALTH_SUBMISSION"
  service imaps 993 30128 "interval: $INTERVAL, $HEALTH_IMAPS"
}

enough_checks() {
  metrics | sed -n 's/^headgate_backend_checks_total{.*} //p' |
    awk -v least="$CHECKS" '$1 < least { exit 1 }'
}

run() {
  wait_for $((CHECKS * MINUTE / 10 + 30)) enough_checks
  no_check_has_failed
}

clients_are_served() {
  local service
  for service in smtp smtps submission; do
    send_mail "$service" "$VIP4" "limit-$service"
  done
}

# Every node asks smtpd, as each of four HAProxy servers does.
too_many() {
  edge_reload "$(service each 1465 30126 \
    "interval: $INTERVAL, type: smtp, tls: true, proxy_protocol: local")"
  wait_for $((MINUTE + 10)) is_turned_away
  all_are_up
}

main() {
  if ! in_sandbox; then
    need_packages "${NETNS_PACKAGES[@]}" "${EDGE_PACKAGES[@]}" \
      "${MAIL_PACKAGES[@]}"
  fi
  enter_sandbox "$@"
  step 'four nodes that are one server, and headgated, are up' set_up
  step "$CHECKS checks of each of 16 backends pass" run
  step 'clients are served' clients_are_served
  step 'no 421, no pregreet, no lost connection' mail_has_no_complaint 1
  step 'but checks of each node by itself are too many' too_many
}

main "$@"
