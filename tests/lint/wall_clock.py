"""Checks who reads the wall clock, and that none reckons with its readings.

It may be set at any time, by NTP or by hand. Durations and deadlines are of
MonotonicNs() and timers; the files named here read the wall clock to show or
to keep what it says, and for what has no other clock: whether a certificate
has expired, and, after a reboot, how old the health is that the last run has
left.
"""
import pathlib
import re
import sys

READERS = {
    "src/control/controller.cc": "when configured",
    "src/control/controller.h": "when started, when configured",
    "src/control/operations.cc": "since when changes stand",
    "src/control/saved_state.cc": "when saved; how old that is after a reboot",
    "src/health/probe.cc": "when checked; when a certificate expires",
    "src/health/tcp_check.cc": "when checked",
    "src/net/event_loop.cc": "WallTime()",
}
RECKONS = {"src/net/event_loop.cc"}

READ = re.compile(
    r"absl::Now\b|GetCurrentTimeNanos|system_clock|CLOCK_(REALTIME|TAI)"
    r"|gettimeofday|timespec_get|\b(std::)?time\((NULL|nullptr|0|&\w+)\)"
    r"|bpf_ktime_get_(real|tai)")
RECKON = re.compile(
    r"absl::Now\(\)\s*[-+<>=!]|([-+<>]|[=!<>]=)\s*absl::Now\(\)"
    r"|\bWallTime\([^;]*\)\s*[-+<>]")
COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.S)


def check(root):
    found = set()
    for folder in ("src", "ctl", "bpf"):
        for path in sorted((root / folder).glob("**/*")):
            if path.suffix not in (".h", ".c", ".cc"):
                continue
            name = str(path.relative_to(root))
            code = COMMENT.sub("", path.read_text())
            if READ.search(code):
                found.add(name)
            reckons = RECKON.search(code)
            if reckons and name not in RECKONS:
                yield f"{name}: '{reckons[0]}' reckons with the wall clock; use MonotonicNs()"
    for name in sorted(found - READERS.keys()):
        yield f"{name} reads the wall clock; use MonotonicNs(), or say in {__file__} what for"
    for name in sorted(READERS.keys() - found):
        yield f"{name} does not read the wall clock any more: take it off the list"


def main():
    errors = list(check(pathlib.Path(sys.argv[1])))
    print("\n".join(errors) or f"{len(READERS)} files read the wall clock, as listed")
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
