#!/usr/bin/env bash
# Checks of every kind against every server that takes a PROXY header, ten a
# second each, all at once: all pass, and no log holds a complaint. HAProxy's
# own check, at the end, shows which logs would tell.
#
#   receivers_test.sh    prints each assertion; exit status 0 or 1
#
# Left out: `tls` where the server behind it speaks SMTP, which logs a lost
# connection, as README says; and `tcp` with a header there, for the same
# reason.
#
# Runs as root in namespaces of its own. HEADGATE_BIN=DIR says where headgated
# and headgatectl are; build/bin unless set. HG_SOAK set: two minutes of
# them each.
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
source "$HERE/receivers.sh"

CHECKS=10 SECONDS_LONG=0
if [[ -n ${HG_SOAK:-} ]]; then SECONDS_LONG=120; fi
RECEIVERS=(postfix dovecot exim nginx haproxy)
# Which checks run at once: all of them, or, so that two cores can keep to the
# interval, one server's after the other.
ROUNDS=('.')
if [[ -n ${HG_SOAK:-} ]]; then
  ROUNDS=('^(postscreen|smtpd)-' '^dovecot-' '^exim-' '^nginx-' '^haproxy-')
fi

# NAME NODE LISTEN_PORT BACKEND_PORT HEALTH. Only `auto` cares which port
# clients come to.
checks() {
  cat <<'EOT'
postscreen-auto       1   25 30125
postscreen-tcp        1    7 30125 type: tcp
postscreen-greeting   1    7 30125 type: greeting, proxy_protocol: local
postscreen-own        1    7 30125 type: smtp, proxy_protocol: own
postscreen-none       1    7 30125 type: smtp, port: 30145
smtpd-auto            1  587 30127
smtpd-auto-tls        1  465 30126
smtpd-tcp             1    7 30127 type: tcp
smtpd-greeting        1    7 30127 type: greeting, proxy_protocol: local
smtpd-greeting-tls    1    7 30126 type: greeting, tls: true, proxy_protocol: own
smtpd-own             1    7 30127 type: smtp, ehlo: edge.test, proxy_protocol: own
smtpd-own-tls         1    7 30126 type: smtp, tls: true, proxy_protocol: own
smtpd-starttls        1    7 30127 type: smtp, starttls: true, proxy_protocol: local
smtpd-starttls-own    1    7 30127 type: smtp, starttls: true, proxy_protocol: own
smtpd-none            1    7 30127 type: smtp, starttls: true, port: 30147
smtpd-none-tls        1    7 30126 type: smtp, tls: true, port: 30146
dovecot-auto          1  993 30128
dovecot-tcp           1    7 30128 type: tcp
dovecot-tcp-local     1    7 30128 type: tcp, proxy_protocol: local
dovecot-tcp-own       1    7 30128 type: tcp, proxy_protocol: own
dovecot-greeting      1    7 30128 type: greeting, tls: true, proxy_protocol: local
dovecot-own           1    7 30128 type: imap, tls: true, proxy_protocol: own
dovecot-tls           1    7 30128 type: tls, proxy_protocol: local
dovecot-none          1    7 30128 type: imap, tls: true, port: 30148
exim-auto             2   25 30225
exim-auto-tls         2  465 30226
exim-tcp              2    7 30225 type: tcp
exim-greeting         2    7 30225 type: greeting, proxy_protocol: local
exim-own              2    7 30225 type: smtp, ehlo: edge.test, proxy_protocol: own
exim-own-tls          2    7 30226 type: smtp, tls: true, proxy_protocol: own
exim-starttls         2    7 30225 type: smtp, starttls: true, proxy_protocol: local
exim-none             2    7 30225 type: smtp, starttls: true, port: 30245
exim-none-tls         2    7 30226 type: smtp, tls: true, port: 30246
nginx-stream          2   25 30325
nginx-stream-tls      2  465 30326
nginx-stream-tcp      2    7 30325 type: tcp
nginx-stream-own      2    7 30325 type: smtp, proxy_protocol: own
nginx-stream-starttls 2    7 30325 type: smtp, starttls: true, proxy_protocol: own
nginx-stream-none     2    7 30325 type: greeting, port: 30345
nginx-smtp            2  587 30327
nginx-smtp-starttls   2    7 30327 type: smtp, starttls: true, proxy_protocol: own
nginx-smtp-none       2    7 30327 type: smtp, port: 30347
nginx-imaps           2  993 30328
nginx-imaps-tls       2    7 30328 type: tls, proxy_protocol: local
nginx-pop3            2  110 30329
nginx-http            2    7 30380 type: http, proxy_protocol: local
nginx-http-own        2    7 30380 type: http, proxy_protocol: own
nginx-http-tcp        2    7 30380 type: tcp, proxy_protocol: local
nginx-https           2    7 30381 type: http, tls: true, proxy_protocol: local
nginx-https-tls       2    7 30381 type: tls, proxy_protocol: own
nginx-http-none       2    7 30380 type: http, port: 30385
haproxy-auto          2   25 30425
haproxy-auto-tls      2  465 30426
haproxy-tcp           2    7 30425 type: tcp
haproxy-greeting      2    7 30425 type: greeting, proxy_protocol: own
haproxy-starttls      2    7 30425 type: smtp, starttls: true, proxy_protocol: local
haproxy-none          2    7 30425 type: smtp, port: 30445
haproxy-http          2    7 30480 type: http, proxy_protocol: local
haproxy-http-own      2    7 30480 type: http, proxy_protocol: own
haproxy-http-none     2    7 30480 type: http, port: 30485
EOT
}

# Behind postscreen's own wait, so that a busy machine cannot make it mistake a
# check for a client: see probe_test.sh.
GREET_WAIT=3s

# config NAMES: of the checks whose names match.
config() {
  local name node listen port health n=0
  cat <<EOT
metrics:
  listen: $METRICS
pools:
  node1:
    backends: [{name: one, address: ${NODE4[1]}}]
  node2:
    backends: [{name: one, address: ${NODE4[2]}}]
services:
EOT
  while read -r name node listen port health; do
    n=$((n + 1))
    cat <<EOT
  $name:
    listen: ["127.1.0.$n:$listen"]
    pool: node$node
    backend_port: $port
    health: {interval: 100ms${health:+, $health}}
EOT
  done < <(checks | grep -E "$1")
}

set_up() {
  build_network
  furnish_receivers
  MAIL_GREET_WAIT=$GREET_WAIT mail_node_start 1
  exim_start
  nginx_start
  haproxy_start
}

start_checks() {
  mark
  config "$1" >"$WORK/headgate.yaml"
  ns_spawn edge "$(edge_bin)/headgated" --config="$WORK/headgate.yaml" \
    >"$WORK/headgated.log" 2>&1
  echo $! >"$WORK/headgated.pid"
  wait_for 20 edge_is_settled
  ctl status --wait --timeout=20s
}

# The least that any has been checked.
fewest_checks() {
  metrics | sed -n 's/^headgate_backend_checks_total{.*} //p' | sort -n |
    head -n 1
}

enough_checks() {
  (($(now_ms) >= $1 + SECONDS_LONG * 1000 && $(fewest_checks) >= CHECKS))
}

all_pass() {
  wait_for $((SECONDS_LONG + 60)) enough_checks "$(now_ms)"
  fewest_checks >"$WORK/fewest"
  if metrics | grep '^headgate_backend_check_failures_total' | grep -v ' 0$'
  then
    ctl backend list
    fail 'these checks failed'
  fi
}

# First the logs: checks that are under way are broken off.
stop_checks() {
  local receiver
  for receiver in "${RECEIVERS[@]}"; do
    since_mark "$receiver" >>"$WORK/seen/$receiver"
  done
  kill "$(edge_pid)"
  wait_for 10 is_gone "$(edge_pid)"
  wait_for 10 edge_has_left
}

# The servers have seen the ends of all connections.
edge_has_left() {
  local node
  for node in node1 node2; do
    [[ -z $(ns "$node" ss -Hant state established state close-wait \
      "src ${EDGE4%.*}.0/24") ]] || return 1
  done
}

# The log of RECEIVER since the last `mark`.
since_mark() { log_of "$1" | tail -n "+$(($(<"$WORK/mark/$1") + 1))"; }

mark() {
  local receiver
  mkdir -p "$WORK/mark" "$WORK/seen"
  for receiver in "${RECEIVERS[@]}"; do
    log_of "$receiver" | wc -l >"$WORK/mark/$receiver"
  done
}

is_gone() { ! kill -0 "$1"; }

# ---- what would be a complaint ----------------------------------------------

# postfix, dovecot, exim, nginx or haproxy.
log_of() {
  case $1 in
    postfix) cat "$WORK/node1/postfix.log" ;;
    dovecot) cat "$WORK/node1/dovecot.log" ;;
    *) "$1_log" ;;
  esac
}

# complaints_in FILE RECEIVER
complaints_in() {
  local pattern
  case $2 in
    postfix)
      pattern='fatal|panic|warning|throttling|getpeername|lost connection'
      pattern+='|PREGREET|improper command|error'
      ;;
    dovecot)
      pattern='[Ff]atal|[Pp]anic|[Ww]arning|[Ee]rror|haproxy|failed'
      ;;
    exim)
      # "D=... closed by QUIT" is how a conversation ends.
      pattern='lost|error|unexpected|rejected|timeout|[Pp]anic|refused'
      pattern+='|synchronization|dropped|closed without|proxy|PROXY'
      ;;
    nginx)
      pattern='\[(warn|error|crit|alert|emerg)\]|reset|timed out'
      pattern+='|SSL_|broken|prematurely'
      ;;
    haproxy)
      # A session's last two flags: anything but an end in order.
      pattern='WARNING|ALERT|PROXY|SSL|[Ee]rror|closed| [^- ][^ ]? [0-9]+/'
      pattern+='| [A-Za-z][A-Za-z] [0-9]+/|BADREQ'
      ;;
  esac
  grep -E "$pattern" "$1"
}

no_complaint() {
  if complaints_in "$WORK/seen/$1" "$1"; then
    fail "the checks left these lines in the log of $1"
  fi
}

# Whole conversations: so the log is the right one, and reached.
has_conversations() {
  local pattern
  case $1 in
    postfix) pattern='disconnect from .* quit=1 ' ;;
    dovecot) pattern='Aborted login by logging out' ;;
    exim) pattern='closed by QUIT' ;;
    nginx) pattern='proxy .* connected to 127.0.0.1:30245' ;;
    haproxy) pattern=' -- [0-9]+/' ;;
  esac
  grep -E "$pattern" "$WORK/seen/$1"
}

# ---- HAProxy's own check -----------------------------------------------------

# haproxy_checks NODE PORT...: without a word on protocols, as users have it.
haproxy_checks() {
  local node=$1 port
  shift
  cat <<'EOT'
defaults
  mode tcp
  timeout connect 5s
  timeout client 1h
  timeout server 1h
frontend unused
  bind 127.0.0.1:1
  default_backend checked
backend checked
EOT
  for port in "$@"; do
    echo "  server n$port ${NODE4[$node]}:$port check inter 100 send-proxy-v2"
  done
}

start_haproxy_checks() {
  mark
  haproxy_checks 1 30125 30126 30127 30128 >"$WORK/checks1.cfg"
  haproxy_checks 2 30225 30226 30325 30326 30327 30328 30425 30426 30480 |
    sed 's/127.0.0.1:1$/127.0.0.1:2/' >"$WORK/checks2.cfg"
  local n
  for n in 1 2; do
    ns_spawn edge haproxy -f "$WORK/checks$n.cfg" -db >"$WORK/checks$n.log" 2>&1
  done
}

haproxy_shows() { wait_for 20 has_complaint "$1"; }

has_complaint() {
  since_mark "$1" >"$WORK/new"
  grep -E "$(haproxy_causes "$1")" "$WORK/new"
}

# What a header followed by a RST leaves in the log.
haproxy_causes() {
  case $1 in
    postfix) echo 'fatal: |getpeername' ;;
    dovecot | exim) echo 'Connection reset by peer' ;;
    nginx) echo '104: Connection reset by peer' ;;
    haproxy) echo 'SSL handshake failure| CR |BADREQ' ;;
  esac
}

on_failure() {
  local receiver
  echo 'headgated:'
  edge_log | tail -n 15
  for receiver in "${RECEIVERS[@]}"; do
    echo "$receiver:"
    log_of "$receiver" 2>&1 | tail -n 8
  done
}

# The latest of each, as operators see them.
print_complaints() {
  local receiver
  for receiver in "${RECEIVERS[@]}"; do
    has_complaint "$receiver" >"$WORK/complaints" || continue
    printf '      %s: %d lines, such as\n' "$receiver" \
      "$(wc -l <"$WORK/complaints")"
    tail -n 1 "$WORK/complaints" | cut -c 1-160 | indent
  done
}

main() {
  local receiver names
  if ! in_sandbox; then
    need_packages "${NETNS_PACKAGES[@]}" "${EDGE_PACKAGES[@]}" \
      "${MAIL_PACKAGES[@]}"
    need_receivers
  fi
  enter_sandbox "$@"
  step 'Postfix, Dovecot, Exim, nginx and HAProxy are up' set_up
  for names in "${ROUNDS[@]}"; do
    step "$(checks | grep -cE "$names") kinds of checks start" \
      start_checks "$names"
    step 'all of them pass' all_pass
    note "each at least $(<"$WORK/fewest") times"
    step 'and stop' stop_checks
  done
  for receiver in "${RECEIVERS[@]}"; do
    step "$receiver has seen conversations" has_conversations "$receiver"
    step "$receiver complains of nothing" no_complaint "$receiver"
  done
  step "HAProxy's own checks start" start_haproxy_checks
  for receiver in "${RECEIVERS[@]}"; do
    step "and make $receiver complain" haproxy_shows "$receiver"
  done
  print_complaints
}

main "$@"
