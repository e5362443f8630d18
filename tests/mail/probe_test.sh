#!/usr/bin/env bash
# Checks of every kind against real Postfix and Dovecot, ten a second: all pass,
# and the logs hold no complaint. HAProxy's own check, at the end, shows that
# they would tell.
#
#   probe_test.sh        prints each assertion; exit status 0 or 1
#
# Runs as root in namespaces of its own. HEADGATE_BIN=DIR says where headgated
# and headgatectl are; build/bin unless set. HG_SOAK set: two minutes of checks.
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

CHECKS=${HG_SOAK:+1200}
CHECKS=${CHECKS:-30}

# service NAME PORT BACKEND_PORT HEALTH: one whose clients do not matter.
service() {
  cat <<EOT
  $1:
    listen: ["$VIP4:$2"]
    pool: node
    backend_port: $3
    health: {interval: 100ms$4}
EOT
}

# The names of those that pass; `wrong-` are mistaken on purpose.
probe_config() {
  cat <<EOT
metrics:
  listen: $METRICS
pools:
  node:
    backends:
      - {name: node1, address: ${NODE4[1]}}
services:
EOT
  # What a migrating user gets: nothing said but the interval.
  service auto-smtp 25 30125 ''
  service auto-smtps 465 30126 ''
  service auto-submission 587 30127 ''
  service auto-imaps 993 30128 ''
  # The same at ports without a header.
  service port-smtps 1465 30126 ', type: smtp, tls: true, port: 30146'
  service port-submission 1587 30127 ', type: smtp, port: 30147'
  service port-imaps 1993 30128 ', type: imap, tls: true, port: 30148'
  service own 2587 30127 ', type: smtp, proxy_protocol: own'
  service greeting 3587 30127 ', type: greeting, proxy_protocol: local'
  service ehlo 4587 30127 \
    ', type: smtp, proxy_protocol: local, ehlo: edge.example.test'
  service starttls 5587 30127 \
    ', type: smtp, proxy_protocol: local, starttls: true'
  service full 1025 30125 \
    ', type: smtp, proxy_protocol: local, postscreen: full'
}

PASSING=(auto-smtp auto-smtps auto-submission auto-imaps port-smtps
  port-submission port-imaps own greeting ehlo starttls)

wrong_services() {
  # Rarely, so that each is asked by hand alone.
  wrong wrong-none 6587 30127 smtp none
  wrong wrong-local 7587 30147 smtp local
  wrong wrong-imaps 6993 30128 'imap, tls: true' none
  wrong wrong-tls 6465 30126 'smtp, tls: true' none
}

wrong() {
  cat <<EOT
  $1:
    listen: ["$VIP4:$2"]
    pool: node
    backend_port: $3
    health: {interval: 1h, type: $4, proxy_protocol: $5}
EOT
}

set_up() {
  build_network
  # On a busy machine postscreen might hear of a check's FIN behind the end of
  # its own wait, and hand the connection on.
  MAIL_GREET_WAIT=3s mail_node_start 1
  probe_config >"$WORK/headgate.yaml"
  start_edge
}

start_edge() {
  ns_spawn edge "$(edge_bin)/headgated" --config="$WORK/headgate.yaml" \
    >>"$WORK/headgated.log" 2>&1
  echo $! >"$WORK/headgated.pid"
  wait_for 20 edge_is_settled
  ctl status --wait --timeout=20s
}

# Each time some checks are under way.
stop_edge_often() {
  local i
  for ((i = 0; i < 3; i++)); do
    kill -TERM "$(edge_pid)"
    wait_for 10 edge_has_ended
    wait_for 10 all_have_left
    start_edge
  done
  mail_has_no_complaint 1
}

edge_has_ended() { ! kill -0 "$(edge_pid)"; }

# smtpd logs its complaint in front of the second line.
all_have_left() {
  local opened closed
  opened=$(mail_log 1 | grep -cE 'smtpd.*: connect from ')
  closed=$(mail_log 1 | grep -cE 'smtpd.*: disconnect from ')
  ((opened == closed))
}

# One that gets its greeting and then ends without QUIT, as under kill -9. The
# shell's own printf would write its header line by line.
cut_off_is_told() {
  # shellcheck disable=SC2016  # the inner shell expands
  ns edge bash -euc '
    exec 3<>"/dev/tcp/$1/30127"
    env printf "\r\n\r\n\0\r\nQUIT\n\x20\0\0\0" >&3
    read -r -t 10 greeting <&3
    [[ $greeting == 220* ]]' cut_off "${NODE4[1]}"
  wait_for 10 complaint_is_found 'submission/smtpd.*: lost connection after '
}

complaint_is_found() {
  local found
  if found=$(mail_has_no_complaint 1); then return 1; fi
  grep -E "$1" <<<"$found"
}

checks_of() {
  metrics | sed -n "s/^headgate_backend_checks_total{.*service=\"$1\".*} //p"
}

# A check through postscreen's tests takes a second.
enough_checks() {
  local service
  for service in "${PASSING[@]}"; do
    (($(checks_of "$service") >= CHECKS)) || return 1
  done
  (($(checks_of full) >= CHECKS / 15))
}

all_pass() {
  wait_for $((CHECKS / 5 + 20)) enough_checks
  if metrics | grep '^headgate_backend_check_failures_total' | grep -v ' 0$'
  then
    fail 'these checks failed'
  fi
}

# The whole conversation is there: whoever left early would not be counted.
quits_are_counted() {
  mail_log 1 | grep -E 'submission/smtpd.* disconnect from .* quit=1 '
  mail_log 1 | grep -E 'Aborted login by logging out|Disconnected: Aborted'
}

explains() {
  ctl backend check auto-submission/node1 --explain >"$WORK/explained"
  cat "$WORK/explained"
  grep -F '0d0a0d0a000d0a515549540a20000000' "$WORK/explained"
  grep -F '< 220 node1' "$WORK/explained"
  grep -F '> QUIT' "$WORK/explained"
  ctl backend check auto-imaps/node1 -o json >"$WORK/checked"
  jq -e '.result == "passed" and .certificate.days_left <= 2' "$WORK/checked"
}

add_wrong() {
  edge_reload "$(wrong_services)"
  wait_for 10 is_listed wrong-tls
}

is_listed() {
  ctl service list -o json | jq -e --arg name "$1" \
    '.services | any(.name == $name)'
}

# is_told SERVICE RESULT HINT
is_told() {
  local status=0
  ctl backend check "$1/node1" -o json >"$WORK/told" || status=$?
  cat "$WORK/told"
  [[ $status == 1 ]] || fail "exit status $status"
  jq -e --arg result "$2" --arg hint "$3" \
    '.result == $result and (.hint | contains($hint))' "$WORK/told"
}

haproxy_would_show() {
  cat >"$WORK/haproxy.cfg" <<EOT
defaults
  mode tcp
  timeout connect 5s
  timeout client 1h
  timeout server 1h
backend submission
  server n1 ${NODE4[1]}:30127 check inter 100 send-proxy-v2
  server n2 ${NODE4[1]}:30127 check inter 100 send-proxy-v2
frontend unused
  bind 127.0.0.1:1
  default_backend submission
EOT
  ns_spawn edge haproxy -f "$WORK/haproxy.cfg" -db >"$WORK/haproxy.log" 2>&1
  wait_for 20 fatal_is_logged
}

fatal_is_logged() { mail_log 1 | grep -E 'submission/smtpd.*: fatal:'; }

main() {
  if ! in_sandbox; then
    need_packages "${NETNS_PACKAGES[@]}" "${EDGE_PACKAGES[@]}" \
      "${MAIL_PACKAGES[@]}" haproxy
  fi
  enter_sandbox "$@"
  step 'a mail node and headgated are up' set_up
  step "$CHECKS fast checks of each kind pass" all_pass
  step 'and leave no complaint' mail_has_no_complaint 1
  step 'but whole conversations' quits_are_counted
  step 'nor do those that are under way when headgated stops' stop_edge_often
  step 'as one would that is cut off' cut_off_is_told
  step 'headgatectl explains a check' explains
  step 'services with mistakes are added' add_wrong
  step 'a header that is missed is told' is_told wrong-none header_refused \
    'expects a PROXY header that the check does not send'
  step 'a header that is missed is told, before TLS' is_told wrong-tls \
    header_refused 'expects a PROXY header that the check does not send'
  step 'a header that is not expected is told' is_told wrong-local \
    header_refused 'does not expect the PROXY header'
  step 'silence of Dovecot hints at the header' is_told wrong-imaps tls_error \
    'perhaps the port expects a PROXY header'
  step "HAProxy's own check makes smtpd fatal" haproxy_would_show
}

main "$@"
