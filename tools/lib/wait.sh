# shellcheck shell=bash
# Waiting is always for a condition, and always ends.
#
#   wait_for SECONDS CMD...   polls CMD every 50 ms until it succeeds; returns
#                             1 when SECONDS have passed, and prints what CMD
#                             says then

wait_for() {
  local seconds=$1 deadline
  shift
  deadline=$((${EPOCHREALTIME/[.,]/} + seconds * 1000000))
  until "$@" >/dev/null 2>&1; do
    if ((${EPOCHREALTIME/[.,]/} > deadline)); then
      echo "not within $seconds s: $*" >&2
      "$@" >&2 || return 1
      return 0
    fi
    sleep 0.05
  done
}
