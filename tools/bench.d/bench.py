"""The run behind tools/bench, inside its sandbox: lays out the network, then
measures round by round, every case with one subject after the other."""

import argparse
import datetime
import json
import os
import re
import resource
import statistics
import sys
import time

import cases
import machine
import report
import subjects
from subjects import Failure

_DESCRIPTORS = 20000
_SLOW_RATE_ROUNDS = 3


def parse_options():
    parser = argparse.ArgumentParser()
    parser.add_argument("--bin", required=True)
    parser.add_argument("--work", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--haproxy", default="/usr/sbin/haproxy")
    parser.add_argument("--only", type=re.compile, default=re.compile(""))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rounds", type=int)
    options = parser.parse_args()
    options.rounds = options.rounds or 3
    options.warmup = 0.1 if options.quick else 0.3
    options.window = 0.22 if options.quick else 1.0
    return options


def raise_descriptor_limit():
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard < _DESCRIPTORS:
        raise Failure(f"{hard} descriptors allowed, {_DESCRIPTORS} needed: "
                      "raise ulimit -Hn")
    # All subjects the same.
    resource.setrlimit(resource.RLIMIT_NOFILE, (_DESCRIPTORS, _DESCRIPTORS))


class Bench:
    def __init__(self, options):
        self.options = options
        self.subjects = []
        self.rounds = []      # {"round", "case", "subject", "metrics"}
        self.failures = []    # "subject case: reason"
        self.slow_rates = {}  # By the load's mode, bytes/s.
        self.done = 0

    def run(self):
        versions = self.prepare()
        plan = self.plan()
        self.total = self.options.rounds * sum(len(row) for _, row in plan)
        self.find_slow_rates({case.mode: None for case, _ in plan if case.slow})
        self.started = time.monotonic()
        for number in range(1, self.options.rounds + 1):
            for case, row in plan:
                self.measure_round(number, case, row)
        return {"date": datetime.datetime.now().astimezone().isoformat(),
                "machine": machine.description(), "versions": versions,
                "seconds": {"warmup": self.options.warmup,
                            "window": self.options.window},
                "slow_receivers_bytes_per_second": self.slow_rates,
                "rounds": self.rounds, "failures": self.failures}

    def wants(self, subject, case):
        return (case.quick or not self.options.quick) and \
            (case.mode not in ("program", "growth") or subject.hook) and \
            self.options.only.search(f"{subject.name} {case.name}")

    def plan(self):
        """[(case, its subjects)]"""
        rows = ((case, [subject for subject in self.subjects
                        if self.wants(subject, case)]) for case in cases.ALL)
        return [(case, row) for case, row in rows if row]

    def prepare(self):
        """The network and the subjects; those that cannot start are left out.
        Returns the versions."""
        subjects.add_namespace("client")
        subjects.add_namespace("server")
        versions = {}
        for number, make in enumerate(subjects.ALL, 1):
            subject = make(number, self.options)
            if not any(self.wants(subject, case) for case in cases.ALL):
                continue
            try:
                versions[subject.name] = subject.version()
                subject.lay_network()
                subject.start()
            except Failure as failure:
                self.failures.append(f"{subject.name}: {failure}")
                print(f"left out: {subject.name}: {failure}", flush=True)
            else:
                self.subjects.append(subject)
        if not self.subjects:
            raise Failure("no subject to measure")
        return versions

    def find_slow_rates(self, modes):
        """Half of what senders get through HAProxy at 64 flows (through
        another one when that fails): the same for all subjects."""
        for mode in modes:
            bulk = next(case for case in cases.ALL
                        if case.mode == mode and case.connections == 64)
            self.progress(f"what slow receivers are: {bulk.title}")
            for subject in sorted(self.subjects,
                                  key=lambda each: each.name != "haproxy"):
                try:
                    found = statistics.median(
                        cases.measure(bulk, subject, self.options, 0)["gbps"]
                        for _ in range(_SLOW_RATE_ROUNDS))
                except Failure:
                    continue  # Reported when its turn comes.
                self.slow_rates[mode] = int(found * 1e9 / 8 / 2)
                break

    def measure_round(self, number, case, row):
        values = []
        for subject in row:
            self.progress(f"{case.title}: {subject.title}")
            try:
                metrics = cases.measure(case, subject, self.options,
                                        self.slow_rates.get(case.mode, 0))
            except Failure as failure:
                subject.stop()  # To be started anew for what comes next.
                self.failures.append(f"{subject.name} {case.name}: {failure}")
                values.append(f"{subject.name} FAILED")
            else:
                self.rounds.append({"round": number, "case": case.name,
                                    "subject": subject.name,
                                    "metrics": metrics})
                first = case.metrics[0]
                values.append(f"{subject.name} "
                              f"{metrics[first.name]:.{first.digits}f}")
            self.done += 1
        self.progress("")
        print(f"{number}/{self.options.rounds}  {case.name:<16}"
              f"{'  '.join(values)}  ({case.metrics[0].title})"
              f"  {self.time_left()}", flush=True)

    def time_left(self):
        left = ((time.monotonic() - self.started) / max(self.done, 1) *
                (self.total - self.done))
        return f"{left // 60:.0f}:{left % 60:02.0f} left"

    def progress(self, text):
        """On a terminal, one line that the next one replaces."""
        if sys.stdout.isatty():
            left = f"  {self.time_left()}" if text and self.done else ""
            print(f"\r\x1b[K{text}{left}", end="", flush=True)


def main():
    options = parse_options()
    try:
        raise_descriptor_limit()
        bench = Bench(options)
        result = bench.run()
    except Failure as failure:
        sys.exit(f"bench: {failure}")
    except KeyboardInterrupt:
        sys.exit(130)
    path = os.path.join(
        options.out, datetime.datetime.now().strftime("%Y-%m-%d-%H%M%S"))
    os.makedirs(options.out, exist_ok=True)
    with open(f"{path}.json", "w", encoding="utf-8") as file:
        json.dump(result, file, indent=1)
    report.write(result, path)
    sys.exit(1 if bench.failures else 0)


main()
