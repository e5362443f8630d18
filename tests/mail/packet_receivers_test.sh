#!/usr/bin/env bash
# Real receivers behind the packet path: Postfix, Dovecot, nginx and HAProxy
# each learn who the client is, over IPv4 and IPv6, and what they are sent
# arrives as it was.
#
#   packet_receivers_test.sh    prints each assertion; exit status 0 or 1
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
source "$HERE/receivers.sh"

MAIL_BYTES=2000000

# NAME PORT NODE BACKEND_PORT
services() {
  cat <<'EOT'
smtp       25   1 30125
smtps      465  1 30126
submission 587  1 30127
imaps      993  1 30128
nginx      8080 2 30380
nginxs     8443 2 30381
haproxy    8081 2 30480
EOT
}

set_up() {
  build_network
  mail_node_start 1
  nginx_start
  haproxy_start
  # Out of swaks' and curl's own range.
  ns edge sysctl -qw net.ipv4.ip_local_reserved_ports=10240-32767
  config >"$WORK/headgate.yaml"
  ns_spawn edge "$(edge_bin)/headgated" --config="$WORK/headgate.yaml" \
    >"$WORK/headgated.log" 2>&1
  echo $! >"$WORK/headgated.pid"
  wait_for 20 edge_is_settled
  ctl status --wait --timeout=20s
  ctl status -o json | jq -e '.datapaths.packet'
}

config() {
  local name port node to
  cat <<EOT
packet:
  interfaces: [client, node1, node2]
  source: [$EDGE4, "$EDGE6"]
pools:
  v4-1: {backends: [{name: one, address: ${NODE4[1]}}]}
  v4-2: {backends: [{name: two, address: ${NODE4[2]}}]}
  v6-1: {backends: [{name: one, address: "${NODE6[1]}"}]}
  v6-2: {backends: [{name: two, address: "${NODE6[2]}"}]}
services:
EOT
  while read -r name port node to; do
    service "$name-v4" "$VIP4:$port" "v4-$node" "$to"
    service "$name-v6" "[$VIP6]:$port" "v6-$node" "$to"
  done < <(services)
}

# service NAME LISTEN POOL BACKEND_PORT
service() {
  cat <<EOT
  $1:
    listen: ["$2"]
    pool: $3
    backend_port: $4
    datapath: packet
    health: {type: none}
EOT
}

# A mail of many segments, each line another.
write_letter() {
  seq 1 $((MAIL_BYTES / 60)) |
    sed 's/.*/& the quick brown fox jumps over the lazy dog, says &/' \
      >"$WORK/letter"
  (($(wc -c <"$WORK/letter") > MAIL_BYTES))
}

# delivers SERVICE HOST CLIENT: a letter arrives as it was sent, from CLIENT.
delivers() {
  local subject=test-$1-$3
  send_mail "$1" "$2" "$subject" "@$WORK/letter" >"$WORK/swaks" ||
    fail "$(tail -n 5 "$WORK/swaks")"
  wait_for 5 named "$1" "$3"
  wait_for 10 read_letter "$2" "$subject"
  cmp "$WORK/letter" "$WORK/read"
}

# read_letter HOST SUBJECT. Empty lines at the end are swaks'.
read_letter() {
  local host=$1 url found text
  if [[ $host == *:* ]]; then host="[$host]"; fi
  url="imaps://$host/INBOX"
  found=$(alice_imap "$url?SUBJECT%20\"$2\"" | grep -oE '[0-9]+') || return 1
  text=$(alice_imap "$url;MAILINDEX=${found##*$'\n'};SECTION=TEXT" |
    tr -d '\r') || return 1
  printf '%s\n' "$text" >"$WORK/read"
}

# imaps_names HOST CLIENT
imaps_names() {
  local host=$1
  if [[ $host == *:* ]]; then host="[$host]"; fi
  alice_imap "imaps://$host/INBOX?ALL"
  wait_for 5 named imaps "$2"
}

# web_names PORT HOST CLIENT: the answer is whom the server takes for its
# client.
web_names() {
  local host=$2 answer
  if [[ $host == *:* ]]; then host="[$host]"; fi
  answer=$(ns client curl --silent --show-error --globoff --max-time 10 \
    "http://$host:$1/")
  [[ $answer == "$3" ]] || fail "it answers '$answer'"
}

# One that no segment holds, as with post-quantum keys: 400 protocols are 3 kB.
# hello HOST PORT: the handshake is done.
hello() {
  local host=$1 protocols
  if [[ $host == *:* ]]; then host="[$host]"; fi
  protocols=$(seq -f 'x%05g' -s, 1 400)
  ns client openssl s_client -connect "$host:$2" -tls1_3 \
    -alpn "$protocols,http/1.1" -CAfile "$WORK/cert.pem" -verify_return_error \
    -msg </dev/null >"$WORK/hello" 2>&1 || fail "$(tail -n 5 "$WORK/hello")"
  grep -E 'TLS 1.3, Handshake \[length 0[b-f]..\], ClientHello' "$WORK/hello"
  grep -E 'Verify return code: 0|Verification: OK' "$WORK/hello"
}

all_went_the_packet_path() {
  local carried
  carried=$(ctl service list -o json |
    jq '[.services[] | select(.connections_total == 0) | .name]')
  [[ $carried == '[]' ]] || fail "not used: $carried"
  if ctl status | grep -i spliced; then fail 'that was spliced'; fi
  [[ -z $(ns edge ss -Hant state time-wait state established) ]]
  if edge_named; then fail 'the edge is named in these lines'; fi
}

main() {
  local host client
  if ! in_sandbox; then
    need_packages "${NETNS_PACKAGES[@]}" "${EDGE_PACKAGES[@]}" \
      "${MAIL_PACKAGES[@]}" "${RECEIVER_PACKAGES[@]}"
  fi
  enter_sandbox "$@"
  step 'Postfix, Dovecot, nginx and HAProxy are up' set_up
  write_letter
  for host in "$VIP4" "$VIP6"; do
    client=$CLIENT4
    if [[ $host == "$VIP6" ]]; then client=$CLIENT6; fi
    step "postscreen names $client, and delivers" \
      delivers smtp "$host" "$client"
    step "smtpd names $client, and delivers over TLS" \
      delivers smtps "$host" "$client"
    step "smtpd names $client, and delivers after STARTTLS" \
      delivers submission "$host" "$client"
    step "Dovecot names $client" imaps_names "$host" "$client"
    step "nginx names $client" web_names 8080 "$host" "$client"
    step "HAProxy names $client" web_names 8081 "$host" "$client"
    step 'Postfix takes a ClientHello of two segments' hello "$host" 465
    step 'Dovecot takes a ClientHello of two segments' hello "$host" 993
    step 'nginx takes a ClientHello of two segments' hello "$host" 8443
  done
  step 'no socket of the edge took part' all_went_the_packet_path
}

main "$@"
