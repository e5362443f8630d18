# shellcheck shell=bash
# Conversations from the client's namespace that outlive a step. Needs netns.sh
# and wait.sh.
#
#   session_open NAME CMD...     starts CMD in the background
#   session_send NAME LINE       sends a line to CMD
#   session_expect NAME REGEX    waits 10 s for CMD to say a line that matches,
#                                after the line that was expected last

session_open() {
  local name=$1
  shift
  mkfifo "$WORK/$name.in"
  echo 0 >"$WORK/$name.seen"
  # Read and write: as its own writer CMD never sees the end of its input.
  ns_spawn client "$@" <>"$WORK/$name.in" >"$WORK/$name.out" 2>&1
}

session_send() { printf '%s\n' "$2" >"$WORK/$1.in"; }

session_expect() { wait_for 10 session_says "$@"; }

session_says() {
  local said=$WORK/$1.out seen line
  seen=$(<"$WORK/$1.seen")
  line=$(tail -n "+$((seen + 1))" "$said" | grep -nE -m 1 -e "$2") || {
    cat "$said"
    return 1
  }
  echo $((seen + ${line%%:*})) >"$WORK/$1.seen"
}
