#!/usr/bin/env bash
# What HAProxy's plain check calls UP although it serves nobody, and Headgate's
# does not: point 4 of the list that "replaces HAProxy" has to show. (A dead
# process and a lost node: verdict_test.sh.)
#
#   truth_test.sh        prints each assertion; exit status 0 or 1
#
# Runs as root in namespaces of its own. HEADGATE_BIN=DIR says where headgated
# and headgatectl are; build/bin unless set.
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

POSTFIX=$WORK/node1/postfix/etc
# interval x fall + timeout, and a tenth of the intervals: see verdict_test.sh;
# half a second for a busy machine.
BOUND_MS=$((1100 * 3 + 1000 + 500))

set_up() {
  build_network
  mail_node_start 1
  # Two postscreens, one cache: as Postfix has it unless told otherwise.
  postconf -c "$POSTFIX" \
    postscreen_cache_map="btree:$WORK/node1/postfix/data/postscreen_cache"
  ns node1 postfix -c "$POSTFIX" reload
  config >"$WORK/headgate.yaml"
  ns_spawn edge "$(edge_bin)/headgated" --config="$WORK/headgate.yaml" \
    >"$WORK/headgated.log" 2>&1
  echo $! >"$WORK/headgated.pid"
  haproxy_config >"$WORK/haproxy.cfg"
  ns_spawn edge haproxy -f "$WORK/haproxy.cfg" -db >"$WORK/haproxy.log" 2>&1
  wait_for 20 edge_is_settled
  for service in smtp smtps submission imaps; do
    wait_for 10 backend_is "$service" node1 up
  done
}

config() {
  cat <<EOT
pools:
  nodes:
    backends: [{name: node1, address: ${NODE4[1]}}]
services:
EOT
  service smtp 25 30125
  service smtps 465 30126 ', min_certificate_days: 0'
  service submission 587 30127
  service imaps 993 30128
}

service() {
  cat <<EOT
  $1:
    listen: ["$VIP4:$2"]
    pool: nodes
    backend_port: $3
    health: {interval: 1s, timeout: 1s${4:-}}
EOT
}

# As deployed: a plain check of the stock ports.
haproxy_config() {
  cat <<EOT
global
  stats socket $WORK/haproxy.sock
defaults
  mode tcp
  timeout connect 5s
  timeout client 1h
  timeout server 1h
frontend unused
  bind 127.0.0.1:1
  default_backend nodes
backend nodes
  server smtp ${NODE4[1]}:30125 check inter 1s
  server second ${NODE4[1]}:30145 check inter 1s
  server smtps ${NODE4[1]}:30126 check inter 1s
  server submission ${NODE4[1]}:30127 check inter 1s
  server imaps ${NODE4[1]}:30128 check inter 1s
EOT
}

# haproxy_says SERVER STATUS
haproxy_says() {
  curl --silent --unix-socket "$WORK/haproxy.sock" --http0.9 \
    telnet://localhost <<<'show stat' >"$WORK/stat" || true
  grep "^nodes,$1,.*,$2," "$WORK/stat"
}

# is_found STARTED_MS SERVICE SAID: headgated within its time; HAProxy stays with UP.
is_found() {
  local started=$1 service=$2 said=$3
  wait_for 10 backend_is "$service" node1 down
  local took=$(($(went_down_ms "$service") - started))
  edge_log | grep -F "Server $service/node1 is DOWN"
  edge_log | grep -F "Server $service/node1 is DOWN" | grep -E "$said"
  ((took <= BOUND_MS)) || fail "found after $took ms"
  haproxy_says "$service" UP
}

went_down_ms() {
  local line
  line=$(edge_log | grep -F "Server $1/node1 is DOWN" | tail -n 1)
  date --date="${line%% *}" +%s%3N
}

# A mistake, a limit, a missing library: smtpd dies as soon as it starts, and
# master waits a minute with the port open.
throttled_smtpd() {
  local started
  sed -i 's/^30127 inet n - n - - smtpd/& -Z/' "$POSTFIX/master.cf"
  ns node1 postfix -c "$POSTFIX" reload
  started=$(now_ms)
  is_found "$started" submission 'Layer7 timeout|waited for a greeting'
  mail_log 1 | grep -E 'bad command startup -- throttling'
}

# It never starts, as the first one holds the cache's lock.
postscreen_without_its_lock() {
  edge_reload "$(service second 2525 30125 ', port: 30145')"
  wait_for 10 backend_is second node1 down
  mail_log 1 | grep -E 'unable to get exclusive lock'
  backend_is smtp node1 up
  haproxy_says second UP
}

dovecot_without_auth() {
  local started
  pgrep -x auth >"$WORK/auth"
  xargs kill -STOP <"$WORK/auth"
  started=$(now_ms)
  is_found "$started" imaps 'authentication|Layer7|Layer6'
  xargs kill -CONT <"$WORK/auth"
  wait_for 10 backend_is imaps node1 up
}

expired_certificate() {
  local started
  expired_pair
  ns node1 postfix -c "$POSTFIX" reload
  started=$(now_ms)
  is_found "$started" smtps 'the certificate expires in -[0-9]+ days'
}

# In the place of the one that is good; there is no option for yesterday.
expired_pair() {
  mkdir "$WORK/ca"
  : >"$WORK/ca/index"
  cat >"$WORK/ca/conf" <<EOT
[ca]
database = $WORK/ca/index
new_certs_dir = $WORK/ca
default_md = sha256
rand_serial = yes
policy = any
[any]
commonName = supplied
EOT
  openssl req -new -key "$WORK/key.pem" -subj "/CN=mail.$MAIL_DOMAIN" \
    -out "$WORK/ca/request"
  openssl ca -batch -notext -name ca -config "$WORK/ca/conf" -selfsign \
    -keyfile "$WORK/key.pem" -in "$WORK/ca/request" -out "$WORK/ca/cert.pem" \
    -startdate 20200101000000Z -enddate 20210101000000Z
  cp "$WORK/ca/cert.pem" "$WORK/cert.pem"
}

on_failure() {
  edge_log | tail -n 8
  mail_log 1 | tail -n 12
  grep '^nodes,' "$WORK/stat" 2>/dev/null | cut -c 1-120 || true
  ps -eo pid,comm,args
}

main() {
  if ! in_sandbox; then
    need_packages "${NETNS_PACKAGES[@]}" "${EDGE_PACKAGES[@]}" \
      "${MAIL_PACKAGES[@]}" haproxy
  fi
  enter_sandbox "$@"
  step 'a mail node, headgated and HAProxy are up' set_up
  step 'a throttled smtpd is down; HAProxy: UP' throttled_smtpd
  step 'a postscreen without its lock is down; HAProxy: UP' \
    postscreen_without_its_lock
  step 'a Dovecot without auth is down; HAProxy: UP' dovecot_without_auth
  step 'an expired certificate is down; HAProxy: UP' expired_certificate
}

main "$@"
