# shellcheck shell=bash
# Building with the presets of CMakePresets.json. Needs say.sh, packages.sh.
#
#   need_build_packages                 what every build needs
#   build_preset NAME DIR [TARGET...]   configures and builds; the log is shown
#                                       on failure; no TARGET: everything

BUILD_PACKAGES=(
  g++ clang-14 llvm-14 cmake ninja-build pkg-config ccache bpftool
  libbpf-dev libxdp-dev linux-libc-dev libabsl-dev libgflags-dev
  libyaml-cpp-dev nlohmann-json3-dev libmicrohttpd-dev prometheus-cpp-dev
  libspdlog-dev libfmt-dev libsystemd-dev libcurl4-openssl-dev
  libssl-dev libre2-dev
)
BUILD_OPTIONS=()  # For cmake.

need_build_packages() { need_packages "${BUILD_PACKAGES[@]}"; }

build_preset() {
  local preset=$1 folder=$2 started log
  shift 2
  started=$(now_ms)
  mkdir -p "$folder"
  log=$folder/build.log
  say "building $preset in ${folder#"$PWD"/}"
  # On a terminal Ninja's own progress line is what people want to see.
  if ! cmake --preset "$preset" "${BUILD_OPTIONS[@]}" >"$log" 2>&1; then
    tail -n 20 "$log" | indent >&2
    fail "configure $preset: see $log"
  fi
  if [[ -t 1 ]]; then
    ninja -C "$folder" "$@" || fail "build $preset"
  elif ! ninja -C "$folder" "$@" >>"$log" 2>&1; then
    grep -A12 -E 'FAILED|error:' "$log" | head -n 60 | indent >&2
    fail "build $preset: see $log"
  fi
  note "built in $((($(now_ms) - started) / 1000)) s"
}
