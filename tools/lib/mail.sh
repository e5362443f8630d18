# shellcheck shell=bash
# Mail nodes as they stand behind the edge: Postfix and Dovecot, each service
# twice, once with the PROXY protocol for clients, once stock for the checks.
# Needs say.sh, wait.sh, netns.sh and edge.sh.
#
#   service      clients  PROXY  stock
#   smtp         25       30125  30145  postscreen, then smtpd
#   smtps        465      30126  30146  smtpd, implicit TLS
#   submission   587      30127  30147  smtpd, STARTTLS and AUTH
#   imaps        993      30128  30148  Dovecot
#
#   mail_node_start N            configures and starts node N (1 or 2)
#   mail_log N                   prints node N's log, of both servers
#   mail_log_all                 prints both nodes' logs, in order of time
#   mail_has_no_complaint N      fails, and prints them, when node N's log has
#                                lines that no check may leave
#   on_failure                   for step: the latest of all logs
#   send_mail SERVICE HOST SUBJECT [BODY]   from the client to alice, by one of
#                                the three SMTP services at HOST; @FILE: its text
#   read_mail HOST SUBJECT       succeeds when alice finds it over IMAPS at HOST
#   named SERVICE ADDRESS        prints the log lines in which SERVICE names its
#                                client ADDRESS; fails when there is none
#   edge_named                   the same for the edge, the checks left out
#
# Both nodes keep mail in one maildir, as nodes on shared storage do: what one
# received is read through the other. Settings: postconf(5), and
# https://doc.dovecot.org/2.3/configuration_manual/haproxy/.

# shellcheck disable=SC2034  # read by the scripts that source this file
MAIL_PACKAGES=(postfix dovecot-core dovecot-imapd swaks libnet-ssleay-perl
  libio-socket-inet6-perl openssl)
MAIL_DOMAIN=example.test

mail_node_start() {
  local dir=$WORK/node$1
  mkdir -p "$dir"/postfix/{etc,spool,data} "$dir/dovecot" "$WORK/mail"
  chmod 755 "$WORK" "$dir" "$dir"/postfix/{,spool} "$dir/dovecot"
  chown nobody:nogroup "$WORK/mail"
  chown postfix "$dir/postfix/data"
  mail_certificate
  postfix_main "$dir" "node$1" >"$dir/postfix/etc/main.cf"
  postfix_master >"$dir/postfix/etc/master.cf"
  dovecot_conf "$dir" "node$1" >"$dir/dovecot.conf"
  echo 'alice:{PLAIN}secret' >"$dir/users"
  : >"$dir/postfix.log"
  : >"$dir/dovecot.log"
  ns "node$1" dovecot -c "$dir/dovecot.conf"
  ns "node$1" postfix -c "$dir/postfix/etc" start
  wait_for 20 node_listens "$1"
}

# One certificate for the name behind the VIP, so that clients can verify it:
# the edge must hand TLS through untouched.
mail_certificate() {
  if [[ -e $WORK/cert.pem ]]; then return; fi
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes \
    -keyout "$WORK/key.pem" -out "$WORK/cert.pem" -days 2 \
    -subj "/CN=mail.$MAIL_DOMAIN" \
    -addext "subjectAltName=DNS:mail.$MAIL_DOMAIN,IP:$VIP4,IP:$VIP6"
}

# postfix_main DIR NAME. No cache for postscreen: its test is part of every
# delivery, and two postscreens could not share one.
postfix_main() {
  cat <<EOF
compatibility_level = 3.6
queue_directory = $1/postfix/spool
data_directory = $1/postfix/data
command_directory = /usr/sbin
daemon_directory = /usr/lib/postfix/sbin
maillog_file = $1/postfix.log
maillog_file_prefixes = $WORK
myhostname = $2.$MAIL_DOMAIN
mydestination =
mynetworks = 127.0.0.0/8
inet_interfaces = all
inet_protocols = all
alias_maps =
alias_database =
smtp_dns_support_level = disabled
smtpd_peername_lookup = no
virtual_mailbox_domains = $MAIL_DOMAIN
virtual_mailbox_base = $WORK/mail
virtual_mailbox_maps = inline:{ alice@$MAIL_DOMAIN=alice/ }
virtual_uid_maps = static:$(id -u nobody)
virtual_gid_maps = static:$(id -g nobody)
smtpd_tls_cert_file = $WORK/cert.pem
smtpd_tls_key_file = $WORK/key.pem
smtpd_tls_security_level = may
smtpd_sasl_type = dovecot
smtpd_sasl_path = $1/dovecot/auth-postfix
postscreen_greet_action = enforce
postscreen_greet_wait = ${MAIL_GREET_WAIT:-1s}
postscreen_access_list =
postscreen_cache_map =
EOF
}

# The checks' listeners have names of their own in the log.
postfix_master() {
  local proxied='-o smtpd_upstream_proxy_protocol=haproxy'
  local smtps='-o smtpd_tls_wrappermode=yes'
  local submission='-o smtpd_tls_security_level=encrypt
  -o smtpd_sasl_auth_enable=yes'
  cat <<EOF
30125 inet n - n - 1 postscreen
  -o postscreen_upstream_proxy_protocol=haproxy
30126 inet n - n - - smtpd -o syslog_name=postfix/smtps $smtps $proxied
30127 inet n - n - - smtpd -o syslog_name=postfix/submission $submission
  $proxied
30145 inet n - n - 1 postscreen -o syslog_name=postfix/check
30146 inet n - n - - smtpd -o syslog_name=postfix/check $smtps
30147 inet n - n - - smtpd -o syslog_name=postfix/check $submission
smtpd    pass - - n - - smtpd
tlsproxy unix - - n - 0 tlsproxy
dnsblog  unix - - n - 0 dnsblog
cleanup  unix n - n - 0 cleanup
qmgr     unix n - n 300 1 qmgr
tlsmgr   unix - - n 1000? 1 tlsmgr
rewrite  unix - - n - - trivial-rewrite
bounce   unix - - n - 0 bounce
defer    unix - - n - 0 bounce
trace    unix - - n - 0 bounce
error    unix - - n - - error
retry    unix - - n - - error
proxymap unix - - n - - proxymap
virtual  unix - n n - - virtual
anvil    unix - - n - 1 anvil
scache   unix - - n - 1 scache
postlog  unix-dgram n - n - 1 postlogd
EOF
}

# dovecot_conf DIR NAME. lport in the log tells the checks' listener apart.
dovecot_conf() {
  cat <<EOF
base_dir = $1/dovecot
state_dir = $1/dovecot
instance_name = $2
log_path = $1/dovecot.log
log_timestamp = "%b %d %H:%M:%S $2 dovecot/"
protocols = imap
listen = *, ::
ssl = required
ssl_cert = <$WORK/cert.pem
ssl_key = <$WORK/key.pem
haproxy_trusted_networks = $EDGE4 $EDGE6
mail_location = maildir:$WORK/mail/%n
first_valid_uid = 1
login_log_format_elements = user=<%u> rip=%r lip=%l lport=%a %c
passdb {
  driver = passwd-file
  args = username_format=%n $1/users
}
userdb {
  driver = static
  args = uid=nobody gid=nogroup home=$WORK/mail/%n
}
service imap-login {
  inet_listener imap {
    port = 0
  }
  inet_listener imaps {
    port = 30148
    ssl = yes
  }
  inet_listener imaps_proxy {
    port = 30128
    ssl = yes
    haproxy = yes
  }
}
service auth {
  unix_listener auth-postfix {
    mode = 0660
    user = postfix
  }
}
EOF
}

# Nothing yet, when the node was never started.
mail_log() { cat "$WORK/node$1"/{postfix,dovecot}.log 2>/dev/null || true; }
mail_log_all() {
  {
    mail_log 1
    mail_log 2
  } | sort --stable --key=3,3
}

mail_has_no_complaint() {
  local complaints='fatal|panic|warning|throttling|getpeername'
  complaints+='|lost connection|PREGREET|improper command|[Ee]rror|handshaking'
  complaints+='|rate limit exceeded|: 421 '
  if mail_log "$1" | grep -E "$complaints"; then
    fail 'the checks left these lines'
  fi
}

on_failure() {
  echo 'headgated:'
  edge_log | tail -n 15
  ctl backend list 2>&1 || true
  echo 'Postfix and Dovecot:'
  mail_log_all | tail -n 25
}

# send_mail SERVICE HOST SUBJECT [BODY]
send_mail() {
  local how
  case $1 in
    smtp) how=(--port 25) ;;
    smtps) how=(--port 465 --tls-on-connect) ;;
    submission)
      how=(--port 587 --tls --auth PLAIN --auth-user alice
        --auth-password secret)
      ;;
    *) fail "send mail by $1: no such service" ;;
  esac
  if [[ $2 == *:* ]]; then how+=(-6); fi
  ns client swaks --server "$2" "${how[@]}" --timeout 20 --helo client.invalid \
    --from "bob@$MAIL_DOMAIN" --to "alice@$MAIL_DOMAIN" \
    --header "Subject: $3" --body "${4:-$3}"
}

# read_mail HOST SUBJECT. Twice over: the search, then the text.
read_mail() {
  local host=$1 url found
  if [[ $host == *:* ]]; then host="[$host]"; fi
  url="imaps://$host/INBOX"
  found=$(alice_imap "$url?SUBJECT%20\"$2\"") || return 1
  found=$(grep -oE '[0-9]+' <<<"$found" | tail -n 1) || return 1
  alice_imap "$url;MAILINDEX=$found;SECTION=TEXT" | grep -F -- "$2"
}

alice_imap() {
  ns client curl --silent --show-error --globoff --max-time 10 \
    --cacert "$WORK/cert.pem" --user alice:secret "$1"
}

named() {
  local address=${2//./\\.} pattern
  case $1 in
    smtp) pattern="postfix/postscreen.* CONNECT from \\[$address\\]:" ;;
    imaps) pattern=" rip=$address, .* lport=993" ;;
    *) pattern="postfix/$1/smtpd.* connect from unknown\\[$address\\]" ;;
  esac
  mail_log_all | grep -E "$pattern"
}

edge_named() {
  local edge="(${EDGE4//./\\.}|$EDGE6)"
  mail_log_all | grep -vE '/check/| lport=30148' |
    grep -E "from (unknown)?\\[$edge\\]| rip=$edge,"
}
