#!/usr/bin/env bash
# How soon checks find out what has happened to a server, and whether they say
# what it was: within interval x fall + timeout, against real receivers. (An
# interval varies by a tenth, so that much is allowed on top, and half a second
# for a busy machine.)
#
#   verdict_test.sh      prints each verdict and its time; exit status 0 or 1
#
# An event is a rule that changes and leads a port of node2 to a server that
# behaves otherwise. Runs as root in namespaces of its own. HEADGATE_BIN=DIR
# says where headgated and headgatectl are; build/bin unless set. HG_SOAK set:
# the default interval, 5 s.
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

INTERVAL=2
if [[ -n ${HG_SOAK:-} ]]; then INTERVAL=5; fi
FALL=3
BOUND_MS=$((INTERVAL * FALL * 1100 + INTERVAL * 1000 + 500))

# NAME CHECKED_PORT GOOD_PORT BAD_PORT HEADER RESULT, then the start of what is
# said, "-": nothing in particular. BAD_PORT "gone": nobody answers. 30199 is
# closed, 30145 and above are below.
events() {
  cat <<'EOT'
port-closed     31001 30147 30199 none  refused        Connection refused
host-gone       31002 30147 gone  none  timeout        no answer
greeting-late   31003 30147 30251 none  timeout        no end within
refused-421     31004 30147 30156 none  wrong_answer   421 4.3.2
refused-554     31005 30147 30155 none  wrong_answer   554 5.7.1
wrong-protocol  31006 30147 30349 none  wrong_answer   not SMTP: +OK
header-missing  31007 30147 30154 none  header_refused 421 4.3.0
header-unwanted 31008 30127 30147 local header_refused 500 5.5.2
exim-unwanted   31009 30225 30245 local header_refused 500 unrec
EOT
}

# Turned away for being too many: which keeps the state.
limited() {
  echo 'too-many        31010 30147 30153 none  rate_limited   421 4.7.0'
}

everything() {
  events
  limited
}

set_up() {
  build_network
  furnish_receivers
  mail_node_start 2
  postfix_extras
  exim_start
  nginx_start
  lead good
  config >"$WORK/headgate.yaml"
  ns_spawn edge "$(edge_bin)/headgated" --config="$WORK/headgate.yaml" \
    >"$WORK/headgated.log" 2>&1
  echo $! >"$WORK/headgated.pid"
  wait_for 20 edge_is_settled
  wait_for 30 all_are_up
}

# A receiver waits 5 s for a header unless told: longer than these checks last.
postfix_extras() {
  cat >>"$WORK/node2/postfix/etc/master.cf" <<'EOT'
30153 inet n - n - - smtpd -o smtpd_client_connection_rate_limit=1
30154 inet n - n - - smtpd -o smtpd_upstream_proxy_protocol=haproxy
  -o smtpd_upstream_proxy_timeout=1s
30155 inet n - n - - smtpd -o smtpd_delay_reject=no
  -o smtpd_client_restrictions=reject
30156 inet n - n - - smtpd -o smtpd_delay_reject=no
  -o { smtpd_client_restrictions =
    check_client_access static:{421 4.3.2 Shutting down} }
EOT
  ns node2 postfix -c "$WORK/node2/postfix/etc" reload
  wait_for 10 node2_listens 30153 30154 30155 30156
}

config() {
  local name port good bad header rest n=0
  cat <<EOT
metrics:
  listen: $METRICS
pools:
  node:
    backends: [{name: one, address: ${NODE4[2]}}]
services:
EOT
  while read -r name port good bad header rest; do
    n=$((n + 1))
    cat <<EOT
  $name:
    listen: ["127.1.0.$n:25"]
    pool: node
    backend_port: $port
    health: {type: smtp, interval: ${INTERVAL}s, timeout: ${INTERVAL}s,
             fall: $FALL, proxy_protocol: $header}
EOT
  done < <(everything)
}

# lead good|bad: all ports at once.
lead() { rules "$1" | ns node2 nft -f -; }

rules() {
  local name port good bad rest to
  cat <<'EOT'
table ip events
delete table ip events
table ip events {
  set gone { type inet_service; }
  map leads_to { type inet_service : inet_service; }
  chain early {
    type filter hook prerouting priority raw
    tcp dport @gone drop
  }
  chain lead {
    type nat hook prerouting priority dstnat
    meta l4proto tcp redirect to :tcp dport map @leads_to
  }
}
EOT
  while read -r name port good bad rest; do
    if [[ $1 == good ]]; then to=$good; else to=$bad; fi
    if [[ $to == gone ]]; then
      echo "add element ip events gone { $port }"
    else
      echo "add element ip events leads_to { $port : $to }"
    fi
  done < <(everything)
}

all_are_up() {
  ctl backend list -o json | jq -e '.backends | all(.state == "up")'
}

happen() {
  lead bad
  now_ms >"$WORK/happened"
  wait_for $((BOUND_MS / 1000 + 5)) all_events_are_noticed
}

all_events_are_noticed() {
  local name rest
  while read -r name rest; do
    [[ -n $(noticed_ms "$name") ]] || return 1
  done < <(events)
}

# When the log says that it went down, in ms since the epoch.
noticed_ms() {
  local line
  line=$(edge_log | grep -F "Server $1/one is DOWN") || return 0
  date --date="${line%% *}" +%s%3N
}

# verdict NAME RESULT SAID: in time, and for the right reason.
verdict() {
  local took
  took=$(($(noticed_ms "$1") - $(<"$WORK/happened")))
  edge_log | grep -F "Server $1/one is DOWN"
  ((took <= BOUND_MS)) || fail "noticed after $took ms"
  ctl backend list --service="$1" -o json >"$WORK/verdict"
  cat "$WORK/verdict"
  jq -e --arg result "$2" --arg said "$3" '.backends[0].last_check |
    .result == $result and (.detail | startswith($said))' "$WORK/verdict"
}

print_times() {
  local name rest
  while read -r name rest; do
    printf '      %-16s noticed after %5d ms of at most %d\n' "$name" \
      $(($(noticed_ms "$name") - $(<"$WORK/happened"))) "$BOUND_MS"
  done < <(events)
}

# They would have changed the state by now.
keeps_the_state() {
  wait_for $((INTERVAL * 4)) turned_away $((FALL + 1))
  backend_is too-many one up
  edge_log | grep -F 'smtpd_client_event_limit_exceptions'
}

turned_away() {
  local count
  count=$(metrics | grep '^headgate_backend_check_failures_total' |
    grep 'service="too-many"' | sed -n 's/^.*reason="rate_limited".* //p')
  ((count >= $1))
}

# hint_says SERVICE HINT
hint_says() {
  ctl backend check "$1/one" -o json >"$WORK/hint" || true
  cat "$WORK/hint"
  jq -e --arg hint "$2" '.hint | contains($hint)' "$WORK/hint"
}

recover() {
  lead good
  wait_for $((INTERVAL * 4 + 5)) all_are_up
}

on_failure() {
  edge_log | tail -n 15
  mail_log 2 | tail -n 15
  exim_log | tail -n 5
}

main() {
  local name result said
  if ! in_sandbox; then
    need_packages "${NETNS_PACKAGES[@]}" "${EDGE_PACKAGES[@]}" \
      "${MAIL_PACKAGES[@]}" nftables
    need_receivers
  fi
  enter_sandbox "$@"
  step 'all servers are up, and known to be' set_up
  step 'something happens to each' happen
  while read -r name _ _ _ _ result said; do
    step "$name is noticed in time, and told" verdict "$name" "$result" "$said"
  done < <(events)
  print_times
  step 'too many connections keep the state, and are told' keeps_the_state
  step 'a header that is missed is named' hint_says header-missing \
    'expects a PROXY header that the check does not send'
  for name in header-unwanted exim-unwanted; do
    step "a header that is not expected is named, $name" hint_says "$name" \
      'does not expect the PROXY header'
  done
  step 'all of them come back' recover
}

main "$@"
