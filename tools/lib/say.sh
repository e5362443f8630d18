# shellcheck shell=bash
# What the tools print: one aligned line a step, colour only on a terminal.
#
#   say TEXT...           a line of prose
#   note TEXT...          an indented, dimmed detail
#   usage                 the comment at the top of the running script
#   show CMD...           a command and what it prints, indented
#   fail TEXT...          an error on stderr; returns 1, so `set -e` ends there
#   step TITLE CMD...     runs CMD in a subshell under `set -e`, its output kept
#                         aside; prints OK, or FAILED with that output and what
#                         on_failure (if the caller defined it) adds; returns
#                         CMD's verdict

if [[ -t 1 ]]; then
  BOLD=$'\e[1m' DIM=$'\e[2m' RED=$'\e[31m' GREEN=$'\e[32m' PLAIN=$'\e[0m'
else
  BOLD='' DIM='' RED='' GREEN='' PLAIN=''
fi

STEP_NUMBER=0

say() { printf '%s\n' "$*"; }
note() { printf '      %s%s%s\n' "$DIM" "$*" "$PLAIN"; }
usage() { sed -n '2,/^[^#]/{/^# shellcheck/d;s/^# \{0,1\}//p}' "$0"; }
fail() {
  printf '%s: %s\n' "${0##*/}" "$*" >&2
  return 1
}

indent() { sed 's/^/      /'; }

show() {
  note "\$ $*"
  "$@" | indent
}

# Milliseconds since some fixed point, for differences.
now_ms() { echo $((${EPOCHREALTIME/[.,]/} / 1000)); }

# 1234 -> 1.2 s
seconds_since() {
  local ms=$(($(now_ms) - $1))
  printf '%d.%d s' $((ms / 1000)) $((ms % 1000 / 100))
}

step() {
  local title=$1 output status=0 start
  shift
  start=$(now_ms)
  output=$(mktemp)
  STEP_NUMBER=$((STEP_NUMBER + 1))
  printf '%s%3d%s  %-56s ' "$BOLD" "$STEP_NUMBER" "$PLAIN" "$title"
  # `if "$@"` would switch errexit off inside CMD: run it apart instead.
  set +e
  (set -e && "$@") >"$output" 2>&1 </dev/null
  status=$?
  set -e
  if ((status == 0)); then
    printf '%sOK%s      %8s\n' "$GREEN" "$PLAIN" "$(seconds_since "$start")"
  else
    printf '%sFAILED%s  %8s\n' "$RED" "$PLAIN" "$(seconds_since "$start")"
    tail -n 20 "$output" | indent
    if declare -F on_failure >/dev/null; then on_failure | indent; fi
  fi
  rm -f "$output"
  return "$status"
}
