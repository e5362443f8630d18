#!/usr/bin/env bash
# Real Postfix and Dovecot behind headgated: what mail operators rely on.
#
#   mail_test.sh         prints each assertion; exit status 0 or 1
#
# Runs as root in namespaces of its own. HEADGATE_BIN=DIR says where headgated
# and headgatectl are; build/bin unless set. The packages: MAIL_PACKAGES in
# tools/lib/mail.sh.
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
source "$HERE/session.sh"

set_up() {
  build_network
  # Before anything can check: so that no check goes uncounted.
  count_checks 1
  count_checks 2
  mail_node_start 1
  mail_node_start 2
  edge_start 100ms
}

# Counted in the kernel, on the nodes: SYNs to each stock port.
count_checks() {
  ns "node$1" nft -f - <<'EOF'
table inet checks {
  counter p30145 {}
  counter p30146 {}
  counter p30147 {}
  counter p30148 {}
  chain input {
    type filter hook input priority filter
    tcp flags syn / syn,ack counter name tcp dport map {
      30145: "p30145", 30146: "p30146", 30147: "p30147", 30148: "p30148"
    }
  }
}
EOF
}

# The count of the port with the fewest.
checks_seen() {
  ns "node$1" nft --json list counters table inet checks |
    jq '[.nftables[] | .counter // empty | .packets] | min'
}

# names_client SERVICE HOST CLIENT: one mail through SERVICE, then the log.
names_client() {
  send_mail "$1" "$2" "test-$1-$3"
  wait_for 5 named "$1" "$3"
  wait_for 10 read_mail "$2" "test-$1-$3"
}

imaps_names_client() {
  alice_imap "imaps://$1/INBOX?ALL"
  wait_for 5 named imaps "$2"
}

edge_is_unnamed() {
  if edge_named; then fail 'the edge is named in these lines'; fi
}

# 50 checks of each of the four ports, on each node.
checks_leave_no_trace() {
  wait_for 30 enough_checks 1
  wait_for 30 enough_checks 2
  if mail_log_all | grep -E '/check/|lport=30148' | grep -E 'warning'; then
    fail 'the checks left these lines'
  fi
  # Postfix's master, which starts them all, speaks for itself.
  if mail_log_all | grep -E 'fatal|panic|throttling'; then
    fail 'these lines were left behind'
  fi
}

enough_checks() { (($(checks_seen "$1") >= 50)); }

# The log would tell: a client that closes early on the same port is in it.
checks_would_show() {
  ns edge openssl s_client -connect "${NODE4[1]}:30147" </dev/null || true
  wait_for 5 check_is_logged
}

check_is_logged() {
  mail_log 1 | grep -E '/check/smtpd.* connect from unknown\['
}

open_sessions() {
  session_open imap openssl s_client -quiet -verify_quiet -crlf \
    -CAfile "$WORK/cert.pem" -connect "$VIP4:993"
  session_expect imap '^\* OK'
  session_send imap 'a LOGIN alice secret'
  session_expect imap '^a OK'
  session_send imap 'b SELECT INBOX'
  session_expect imap '^b OK'
  session_send imap 'c IDLE'
  session_expect imap '^\+ idling'
  session_open smtp socat - "TCP:$VIP4:25,crnl"
  session_expect smtp '^220 '
  session_send smtp 'EHLO client.invalid'
  session_expect smtp '^250 '
}

# A service more in the configuration: that it is listed tells when.
reload() {
  edge_reload "$(edge_service extra 2525 30127 30147 100ms 1h)"
  wait_for 10 is_listed extra
}

is_listed() {
  ctl service list -o json | jq -e --arg name "$1" \
    '.services | any(.name == $name)'
}

sessions_live() {
  session_send smtp 'NOOP'
  session_expect smtp '^250 2\.0\.0 Ok'
  send_mail submission "$VIP4" test-idle
  session_expect imap '^\* [0-9]+ EXISTS'
  session_send imap 'DONE'
  session_expect imap '^c OK'
}

close_sessions() {
  session_send imap 'd LOGOUT'
  session_expect imap '^d OK'
  session_send smtp 'QUIT'
  session_expect smtp '^221 '
}

drained_gets_nothing_new() {
  local before n
  ctl backend drain submission/node1
  wait_for 5 backend_is submission node1 drain
  before=$(sessions_on node1)
  for n in 1 2 3 4; do send_mail submission "$VIP4" "test-drain-$n"; done
  wait_for 5 sessions_reach node2 4
  [[ $(sessions_on node1) == "$before" ]] ||
    fail "node1 had $before sessions, now $(sessions_on node1)"
}

# sessions_on NODE: clients that NODE's submission service has seen.
sessions_on() {
  grep -c 'postfix/submission/smtpd.* connect from' "$WORK/$1/postfix.log" ||
    true
}

sessions_reach() { (($(sessions_on "$1") >= $2)); }

ready_gets_some_again() {
  local before n
  before=$(sessions_on node1)
  ctl backend ready submission/node1
  wait_for 5 backend_is submission node1 up
  for n in 1 2; do send_mail submission "$VIP4" "test-ready-$n"; done
  wait_for 5 sessions_reach node1 $((before + 1))
}

survives_a_dead_node() {
  local n
  ns_kill node1
  wait_for 10 every_backend_is down node1
  for n in 1 2 3 4; do send_mail submission "$VIP4" "test-dead-$n"; done
  wait_for 10 read_mail "$VIP4" test-dead-4
}

main() {
  local service
  if ! in_sandbox; then
    need_packages "${NETNS_PACKAGES[@]}" "${EDGE_PACKAGES[@]}" \
      "${MAIL_PACKAGES[@]}" nftables socat
  fi
  enter_sandbox "$@"
  step 'two mail nodes and headgated are up' set_up
  for service in smtp smtps submission; do
    step "$service names the client, IPv4" \
      names_client "$service" "$VIP4" "$CLIENT4"
    step "$service names the client, IPv6" \
      names_client "$service" "$VIP6" "$CLIENT6"
  done
  step 'imaps names the client, IPv4' imaps_names_client "$VIP4" "$CLIENT4"
  step 'imaps names the client, IPv6' imaps_names_client "[$VIP6]" "$CLIENT6"
  step 'an IMAP IDLE and an SMTP session open' open_sessions
  step 'headgated reloads on SIGHUP' reload
  step 'both sessions live on' sessions_live
  step 'both sessions close in order' close_sessions
  step 'a drained backend gets nothing new' drained_gets_nothing_new
  step 'a backend made ready gets connections again' ready_gets_some_again
  step 'the edge is never named as a client' edge_is_unnamed
  step '50 fast checks of each port leave no trace' checks_leave_no_trace
  step 'and a client of a check port would have left one' checks_would_show
  step 'mail flows when a node dies' survives_a_dead_node
}

main "$@"
