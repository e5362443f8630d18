# shellcheck shell=bash
# A shell inside the sandbox. Needs netns.sh and edge.sh.
#
#   sandbox_shell TITLE LINE...   prints a cheat-sheet, TITLE and LINEs first,
#                                 then runs a shell with the helpers it names;
#                                 without a terminal, commands come from stdin

SHELL_LIB=$(dirname "$(realpath "${BASH_SOURCE[0]}")")

sandbox_shell() {
  shell_help "$@"
  shell_rc >"$WORK/shellrc"
  if [[ -t 0 ]]; then
    bash --rcfile "$WORK/shellrc" -i || true
  else
    BASH_ENV=$WORK/shellrc bash -s || true
  fi
}

shell_help() {
  printf '\n%s\n\n' "$1"
  shift
  printf '  %s\n' "$@"
  cat <<EOF

  client CMD...  edge CMD...  node1 CMD...  node2 CMD...
                      run a command there, for example: client ping $VIP4
  ctl NOUN VERB...    headgatectl, for example: ctl backend list
  metrics             what Prometheus would read
  ns_kill node1       pull node1's plug
  edge_log            what headgated has logged
  exit                leave; everything here vanishes with the shell

EOF
}

shell_rc() {
  local file
  printf 'HEADGATE_BIN=%q\n' "$(edge_bin)"
  for file in say wait netns edge mail; do
    printf 'source %q\n' "$SHELL_LIB/$file.sh"
  done
  cat <<'EOF'
client() { ns client "$@"; }
edge() { ns edge "$@"; }
node1() { ns node1 "$@"; }
node2() { ns node2 "$@"; }
PS1='\[\e[1m\]headgate\[\e[0m\] \w \$ '
EOF
}
