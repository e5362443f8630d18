# shellcheck shell=bash
# Debian packages for the tools, installed on demand. Needs say.sh.
#
#   need_packages PKG...   installs those missing; nothing is removed for it,
#                          and no service that comes with them is started, nor
#                          by systemd at the next boot
#   need_unpacked PKG      for a program whose package may not be installed
#                          beside others: its files only, in a place aside,
#                          for as long as this shell or what it starts runs,
#                          and until nobody has needed it for a month
#   unpacked PKG           prints where

POLICY_RC=/usr/sbin/policy-rc.d

is_installed() {
  [[ $(dpkg-query --show --showformat='${db:Status-Status}' "$1" 2>/dev/null) \
    == installed ]]
}

# Debian asks this script before starting a service; 101 means "do not".
# https://people.debian.org/~hmh/invokerc.d-policyrc.d-specification.txt
block_services() {
  # One kept aside already is the machine's own, from a run that was killed.
  if [[ -e $POLICY_RC && ! -e $POLICY_RC.headgate ]]; then
    mv "$POLICY_RC" "$POLICY_RC.headgate"
  fi
  printf '#!/bin/sh\nexit 101\n' >"$POLICY_RC"
  chmod 755 "$POLICY_RC"
}

unblock_services() {
  rm -f "$POLICY_RC"
  if [[ -e $POLICY_RC.headgate ]]; then
    mv "$POLICY_RC.headgate" "$POLICY_RC"
  fi
}

# A mail server that a demo brought must not come up at the next boot.
disable_services() {
  local units
  mapfile -t units < <(dpkg-query --listfiles "$@" |
    sed -nE 's#.*/systemd/system/([^/]+\.(service|socket))$#\1#p' | sort -u)
  if ((${#units[@]})) && command -v systemctl >/dev/null; then
    systemctl disable --quiet "${units[@]}" 2>/dev/null || true
  fi
}

# Postfix unconfigured: the tools bring configurations of their own.
preseed() {
  echo 'postfix postfix/main_mailer_type select No configuration' |
    debconf-set-selections
}

run_apt() {
  apt-get -o DPkg::Lock::Timeout=300 -q "$@"
}

install_packages() (
  # One at a time: two would mistake each other's policy for the machine's.
  exec {lock}>/run/headgate-packages.lock
  flock "$lock"
  trap unblock_services EXIT
  block_services
  export DEBIAN_FRONTEND=noninteractive
  preseed
  # Stale lists name versions that the mirror no longer has: then refresh them.
  run_apt install -y --no-install-recommends --no-remove "$@" || {
    run_apt update
    run_apt install -y --no-install-recommends --no-remove "$@"
  }
  disable_services "$@"
)

need_packages() {
  local package log missing=()
  for package in "$@"; do
    is_installed "$package" || missing+=("$package")
  done
  if ((${#missing[@]} == 0)); then return 0; fi
  ((EUID == 0)) || fail "install ${missing[*]}: not root"
  log=$(mktemp)
  say "installing ${missing[*]}"
  set +e
  (set -e && install_packages "${missing[@]}") >"$log" 2>&1 </dev/null
  local status=$?
  set -e
  if ((status)); then
    { grep -E '^(E|W|dpkg):|unable|error' "$log" || cat "$log"; } |
      tail -n 10 | indent >&2
    fail "install packages: it failed, the log is $log"
  fi
  rm -f "$log"
}

unpacked() { echo "/var/cache/headgate/$1"; }

# hold FOLDER: nobody removes it, if it is there, while we have it open.
hold() {
  local held
  [[ -d $1 ]] || return 1
  exec {held}<"$1" || return 1
  flock --shared "$held"
  touch --no-create "$1" 2>/dev/null || true  # Needed today.
  [[ -d $1 ]]
}

need_unpacked() {
  local folder log
  folder=$(unpacked "$1")
  if hold "$folder"; then return 0; fi
  ((EUID == 0)) || fail "unpack $1: not root"
  log=$(mktemp)
  say "unpacking $1"
  set +e
  (set -e && unpack_package "$1" "$folder") >"$log" 2>&1 </dev/null
  local status=$?
  set -e
  if ((status)); then
    tail -n 10 "$log" | indent >&2
    fail "unpack $1: it failed, the log is $log"
  fi
  rm -f "$log"
  hold "$folder"
}

# A kernel has another name after each update of it.
remove_unneeded() {
  find "$1" -mindepth 1 -maxdepth 1 -mtime +30 \
    -exec flock --nonblock {} rm -rf {} \;
}

# unpack_package PKG FOLDER: whole, or not at all.
unpack_package() (
  local work lock
  exec {lock}>/run/headgate-packages.lock
  flock "$lock"
  if [[ -d $2 ]]; then return 0; fi  # Another run has, meanwhile.
  mkdir -p "${2%/*}"
  work=$(mktemp -d "$2.XXXXXX")
  trap 'rm -rf "$work"' EXIT
  cd "$work"
  run_apt download "$1" || {
    run_apt update
    run_apt download "$1"
  }
  dpkg-deb --extract ./*.deb files
  chmod -R u-s files  # Nobody but root is to run it.
  touch files
  mv --no-target-directory files "$2"
  remove_unneeded "${2%/*}"
)
