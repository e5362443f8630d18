# shellcheck shell=bash
# More servers that take a PROXY header, on node2: Exim, and nginx and HAProxy
# in front of it. Needs say.sh, wait.sh, netns.sh, packages.sh and mail.sh.
#
#               PROXY                            stock
#   Exim        30225 smtp, 30226 smtps          30245 smtp, 30246 smtps,
#                                                30251 greets late
#   nginx       30325 stream, 30326 the same with TLS taken off,
#               30327 smtp, 30328 imaps, 30329 pop3 (its mail module),
#               30380 http, 30381 https          30345, 30347, 30349 pop3,
#                                                    30385 http
#   HAProxy     30425 tcp, 30426 the same with TLS taken off,
#               30480 http                       30445, 30485 http
#
#   need_receivers         installs what they need
#   furnish_receivers      once inside the sandbox, before they start
#   exim_start, nginx_start, haproxy_start
#   exim_log, nginx_log, haproxy_log

# Exim and Postfix exclude each other as packages: Exim is only unpacked. (The
# light one knows no PROXY protocol.)
EXIM=exim4-daemon-heavy
EXIM_LIBRARIES=(libdb5.3 libgnutls-dane0 libgnutls30 libidn12 libidn2-0
  libldap-2.5-0 libmariadb3 libnsl2 libpam0g libpcre2-8-0 libperl5.36 libpq5
  libsasl2-2 libspf2-2 libsqlite3-0)
# shellcheck disable=SC2034  # read by the scripts that source this file
RECEIVER_PACKAGES=(nginx libnginx-mod-stream libnginx-mod-mail haproxy)

need_receivers() {
  need_packages "${RECEIVER_PACKAGES[@]}" "${EXIM_LIBRARIES[@]}"
  need_unpacked "$EXIM"
}

# The user that Debian's Exim insists on, in here only.
furnish_receivers() {
  local file
  for file in passwd group; do cp "/etc/$file" "$WORK/$file"; done
  echo 'Debian-exim:x:64999:64999::/nonexistent:/bin/false' >>"$WORK/passwd"
  echo 'Debian-exim:x:64999:' >>"$WORK/group"
  for file in passwd group; do mount --bind "$WORK/$file" "/etc/$file"; done
}

exim_start() {
  mkdir -p "$WORK/exim"/{spool,log}
  chown -R 64999:64999 "$WORK/exim"
  mail_certificate
  chmod 644 "$WORK/key.pem"
  exim_conf >"$WORK/exim/conf"
  ns_spawn node2 "$(unpacked "$EXIM")/usr/sbin/exim4" -C "$WORK/exim/conf" \
    -bdf >"$WORK/exim/log/out" 2>&1
  wait_for 10 node2_listens 30225 30226 30245 30246
}

# Exim's spec, 13 (TLS on connect) and 59 (PROXY). It looks up the name of
# whoever a PROXY header names, and here no DNS answers.
exim_conf() {
  cat <<EOT
primary_hostname = exim.$MAIL_DOMAIN
exim_path = $(unpacked "$EXIM")/usr/sbin/exim4
spool_directory = $WORK/exim/spool
log_file_path = $WORK/exim/log/%slog
log_selector = +smtp_connection +incoming_port +smtp_protocol_error \
  +smtp_syntax_error
local_interfaces = 0.0.0.0
daemon_smtp_ports = 30225 : 30226 : 30245 : 30246 : 30251
tls_on_connect_ports = 30226 : 30246
hosts_proxy = \${if <{\$received_port}{30240}{*}{}}
tls_advertise_hosts = *
tls_certificate = $WORK/cert.pem
tls_privatekey = $WORK/key.pem
smtp_accept_max = 200
rfc1413_query_timeout = 0s
keep_environment =
host_lookup_order = byaddr
acl_smtp_connect = on_connect
begin acl
on_connect:
  accept condition = \${if eq{\$received_port}{30251}}
    delay = 1m
  accept
EOT
}

nginx_start() {
  mkdir -p "$WORK/nginx"
  mail_certificate
  nginx_conf >"$WORK/nginx/conf"
  ns_spawn node2 nginx -p "$WORK/nginx" -c "$WORK/nginx/conf" \
    -e "$WORK/nginx/log" -g 'daemon off;' >"$WORK/nginx/out" 2>&1
  wait_for 10 node2_listens 30325 30326 30327 30328 30329 30380 30381
}

nginx_conf() {
  cat <<EOT
load_module /usr/lib/nginx/modules/ngx_stream_module.so;
load_module /usr/lib/nginx/modules/ngx_mail_module.so;
user nobody nogroup;
pid $WORK/nginx/pid;
error_log $WORK/nginx/log info;
events {}
stream {
  ssl_certificate $WORK/cert.pem;
  ssl_certificate_key $WORK/key.pem;
  upstream exim { server 127.0.0.1:30245; }
  server { listen 30325 proxy_protocol; proxy_pass exim; }
  server { listen 30326 ssl proxy_protocol; proxy_pass exim; }
  server { listen 30345; proxy_pass exim; }
}
mail {
  server_name nginx.$MAIL_DOMAIN;
  auth_http 127.0.0.1:9;
  ssl_certificate $WORK/cert.pem;
  ssl_certificate_key $WORK/key.pem;
  starttls on;
  server { listen 30327 proxy_protocol; protocol smtp; }
  server { listen 30328 ssl proxy_protocol; protocol imap; }
  server { listen 30329 proxy_protocol; protocol pop3; }
  server { listen 30347; protocol smtp; }
  server { listen 30349; protocol pop3; }
}
http {
  client_body_temp_path body;
  proxy_temp_path proxy;
  fastcgi_temp_path fastcgi;
  uwsgi_temp_path uwsgi;
  scgi_temp_path scgi;
  access_log $WORK/nginx/access;
  ssl_certificate $WORK/cert.pem;
  ssl_certificate_key $WORK/key.pem;
  ssl_protocols TLSv1.2 TLSv1.3;
  server {
    listen [::]:30380 proxy_protocol ipv6only=off;
    return 200 "\$proxy_protocol_addr";
  }
  server { listen [::]:30381 ssl proxy_protocol ipv6only=off; return 200; }
  server { listen 30385; return 200; }
}
EOT
}

haproxy_start() {
  mkdir -p "$WORK/haproxy"
  mail_certificate
  cat "$WORK/cert.pem" "$WORK/key.pem" >"$WORK/haproxy/both.pem"
  haproxy_conf >"$WORK/haproxy/conf"
  ns_spawn node2 haproxy -f "$WORK/haproxy/conf" -db \
    >"$WORK/haproxy/log" 2>&1
  wait_for 10 node2_listens 30425 30426 30445 30480 30485
}

haproxy_conf() {
  cat <<EOT
global
  log stdout format raw daemon
defaults
  mode tcp
  log global
  option tcplog
  timeout connect 5s
  timeout client 1m
  timeout server 1m
frontend tcp
  bind :30425 accept-proxy
  bind :30426 accept-proxy ssl crt $WORK/haproxy/both.pem
  bind :30445
  default_backend exim
frontend web
  mode http
  option httplog
  bind :::30480 v4v6 accept-proxy
  bind :30485
  http-request return status 200 content-type text/plain lf-string "%[src]"
backend exim
  server exim 127.0.0.1:30245
EOT
}

node2_listens() {
  local port
  for port in "$@"; do
    [[ -n $(ns node2 ss -Hltn "sport = :$port") ]] || return 1
  done
}

exim_log() { cat "$WORK"/exim/log/* 2>/dev/null || true; }
nginx_log() { cat "$WORK/nginx/log" "$WORK/nginx/out" 2>/dev/null || true; }
haproxy_log() { cat "$WORK/haproxy/log" 2>/dev/null || true; }
