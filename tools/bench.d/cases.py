"""What is measured: the cases, and how one measurement is made."""

import dataclasses
import json
import os
import select
import subprocess
import time

import machine
from subjects import Failure, run

_PATIENCE_SECONDS = 40
_SAMPLE_SECONDS = 0.05
_QUIET_SECONDS = 0.5
_QUIET_BYTES = 100_000
_TRIES = 5
_STEADY = 1.15


@dataclasses.dataclass(frozen=True)
class Metric:
    """One number of a case; `better` says which way."""
    name: str
    title: str
    better: str
    digits: int = 0


RATE_GBPS = Metric("gbps", "Gb/s", "more", 2)
CPU_GB = Metric("cpu_per_gb", "CPU s/GB, machine", "less", 3)
OWN_CPU_GB = Metric("own_cpu_per_gb", "CPU s/GB, own", "less", 3)
RATE = Metric("rate", "per second", "more")
P50 = Metric("p50_us", "p50, us", "less")
P99 = Metric("p99_us", "p99, us", "less")
P999 = Metric("p999_us", "p99.9, us", "less")
CPU_10K = Metric("cpu_per_10k", "CPU s/10,000, machine", "less", 2)
OWN_CPU_10K = Metric("own_cpu_per_10k", "CPU s/10,000, own", "less", 2)
BUFFERS = Metric("buffers_mb", "socket buffers at most, MB", "less", 1)
USER_BYTES = Metric("user_bytes", "user memory, B/connection", "less")
SYN = Metric("syn_ns", "SYN, ns", "less")
SYN_ACK = Metric("syn_ack_ns", "SYN-ACK, ns", "less")
HEADER = Metric("header_ns", "ACK with header, ns", "less")
DATA_IN = Metric("data_in_ns", "data in, caches warm, ns", "less")
DATA_OUT = Metric("data_out_ns", "data out, caches warm, ns", "less")
GROWTH = {name: Metric(f"{name}_growth", f"{title}, growth in %", "less")
          for name, title in (
              ("syn_ns", "SYN"), ("syn_ack_ns", "SYN-ACK"),
              ("header_ns", "ACK with header"), ("first_in_ns", "data in"),
              ("first_out_ns", "data out"))}
GROWTH_OF_ALL = Metric("all_growth", "all five, growth in %", "less")
FLOW_BYTES = Metric("flow_bytes", "memory, B/flow", "less")
INSTRUCTIONS = Metric("instructions", "BPF instructions, all in all", "less")
KERNEL_BYTES = Metric("kernel_bytes", "kernel memory, B/connection", "less")


@dataclasses.dataclass(frozen=True)
class Case:
    name: str
    title: str
    mode: str  # Of the load; "program", "growth": without one.
    metrics: tuple
    connections: int
    size: int = 64
    slow: bool = False   # Receivers take half of what senders could send.
    fresh: bool = False  # The subject is started anew for it.
    quick: bool = True   # Also measured with --quick.


def _count(number, noun):
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _bulk(direction, connections):
    return Case(f"bulk-{direction}-{connections}",
                f"bulk {direction}load, {_count(connections, 'flow')}",
                f"{direction}load", (RATE_GBPS, CPU_GB, OWN_CPU_GB),
                connections)


def _slow(direction):
    return Case(f"slow-{direction}-64",
                f"slow receivers, {direction}load, 64 flows",
                f"{direction}load", (RATE_GBPS, CPU_GB, OWN_CPU_GB, BUFFERS),
                64, slow=True)


def _echo(size, connections):
    return Case(f"echo-{size}-{connections}",
                f"echo of {size} B, {_count(connections, 'connection')}",
                "echo", (RATE, P50, P99, P999), connections, size=size,
                quick=size == 64)


ALL = (
    *(_bulk(direction, n) for direction in ("down", "up") for n in (1, 8, 64)),
    _slow("down"),
    _slow("up"),
    *(_echo(size, n) for size in (64, 4096, 65536) for n in (1, 64, 1000)),
    Case("connect", "connections with header, 64 at once", "connect",
         (RATE, P50, P99, CPU_10K, OWN_CPU_10K), 64),
    Case("greeting", "time to the server's greeting, one at a time", "connect",
         (P50, P99), 1),
    Case("idle", "5,000 idle connections", "idle",
         (USER_BYTES, KERNEL_BYTES), 5000, fresh=True),
    Case("program", "a packet by BPF_PROG_RUN", "program",
         (DATA_IN, DATA_OUT, SYN, SYN_ACK, HEADER, INSTRUCTIONS), 1,
         quick=False),
    Case("growth", "from 1,000 to 1,000,000 flows, a packet by BPF_PROG_RUN",
         "growth", (*GROWTH.values(), GROWTH_OF_ALL, FLOW_BYTES), 1,
         quick=False),
)


@dataclasses.dataclass
class Snapshot:
    """Counters at one moment; of the subject's processes, and of all."""
    at: float
    busy: float
    own: float
    user: int
    kernel: int
    buffers: int

    @staticmethod
    def take(pids):
        return Snapshot(time.monotonic(), machine.busy_seconds(),
                        machine.process_seconds(pids),
                        machine.resident_bytes(pids), machine.kernel_bytes(),
                        machine.tcp_bytes())


class _Load:
    """The load's process, and the lines it prints."""

    def __init__(self, command):
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL,
                                        stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE)
        self.unread = b""
        self.deadline = time.monotonic() + _PATIENCE_SECONDS

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.communicate()

    def line(self, while_waiting=lambda: None):
        """Its next line; `while_waiting` is called now and then."""
        while b"\n" not in self.unread:
            if time.monotonic() > self.deadline:
                raise Failure(f"no result within {_PATIENCE_SECONDS} s")
            if not select.select([self.process.stdout], [], [],
                                 _SAMPLE_SECONDS)[0]:
                while_waiting()
                continue
            read = os.read(self.process.stdout.fileno(), 65536)
            if not read:
                raise Failure(self.process.stderr.read().decode().strip() or
                              "the load ended early")
            self.unread += read
        line, _, self.unread = self.unread.partition(b"\n")
        return line.decode()

    def expect(self, word, while_waiting=lambda: None):
        line = self.line(while_waiting)
        if line != word:
            raise Failure(f"the load said {line!r} instead of {word!r}")


def _wait_for_kernel():
    """Until the kernel has given back what the last measurement took, which it
    does some time after the sockets are closed."""
    now = time.monotonic()
    deadline = now + _PATIENCE_SECONDS
    least, quiet_since = machine.kernel_bytes(), now
    while now < min(deadline, quiet_since + _QUIET_SECONDS):
        time.sleep(_SAMPLE_SECONDS)
        now, used = time.monotonic(), machine.kernel_bytes()
        if used < least - _QUIET_BYTES:
            least, quiet_since = used, now


def _ask_program(subject, options, *tests):
    """What the program's own tests find, in a network of their own: of each
    test what it records."""
    path = f"{options.work}/program.json"
    names = ":".join(f"PacketSpeedTest.*{test}*" for test in tests)
    run("env", f"HG_PACKET_HOOK={subject.hook}", "HG_SOAK=1", "unshare",
        "--net", "--", f"{options.bin}/packet_program_test",
        f"--gtest_output=json:{path}", f"--gtest_filter={names}")
    with open(path, encoding="utf-8") as file:
        suites = json.load(file)["testsuites"]
    found = [test for suite in suites for test in suite["testsuite"]]
    return [next(each for each in found if test in each["name"])
            for test in tests]


def _tell(found, names):
    missing = [name for name in names if name not in found]
    if missing:
        raise Failure(f"no test tells {', '.join(missing)}")
    return {name: float(found[name]) for name in names}


def _measure_program(case, subject, options):
    small, verifier = _ask_program(subject, options, "Small", "Verifier")
    return _tell(small | verifier, [metric.name for metric in case.metrics])


def _measure_growth(subject, options):
    """Machines change their speed by more than what is asked for: the small
    table is measured before and after the large one, and must not have."""
    for _ in range(_TRIES):
        before, many, after = (
            _tell(_ask_program(subject, options, table)[0],
                  [*GROWTH, FLOW_BYTES.name])
            for table in ("Small", "Large", "Small"))
        sums = [sum(few[name] for name in GROWTH) for few in (before, after)]
        if max(sums) < _STEADY * min(sums):
            break
    else:
        raise Failure(f"the machine changed its speed {_TRIES} times")

    def growth(names):
        few = sum(before[name] + after[name] for name in names) / 2
        return 100 * (sum(many[name] for name in names) / few - 1)

    return {**{metric.name: growth([name]) for name, metric in GROWTH.items()},
            GROWTH_OF_ALL.name: growth(GROWTH),
            FLOW_BYTES.name: many[FLOW_BYTES.name]}


def measure(case, subject, options, slow_rate):
    """One measurement: {metric name: number}. Raises Failure."""
    if case.mode == "program":
        return _measure_program(case, subject, options)
    if case.mode == "growth":
        return _measure_growth(subject, options)
    if case.fresh:
        subject.stop()
    subject.start()
    pids = machine.family(subject.pid()) if subject.pid() else []
    command = [
        f"{options.bin}/headgate_bench_load", f"--mode={case.mode}",
        f"--target={subject.target}", f"--listen={subject.listen}",
        "--client_netns=/run/netns/client", "--server_netns=/run/netns/server",
        f"--header={str(subject.header).lower()}",
        f"--connections={case.connections}", f"--size={case.size}",
        f"--receive_rate={slow_rate if case.slow else 0}",
        f"--warmup={options.warmup}s", f"--window={options.window}s"]
    if case.mode == "idle":
        _wait_for_kernel()
    # Snapshots cost a little: no more than the case needs.
    samples = [Snapshot.take(pids)]
    sample = ((lambda: samples.append(Snapshot.take(pids)))
              if case.slow or case.mode == "idle" else lambda: None)
    with _Load(command) as load:
        load.expect("begin")
        begin = Snapshot.take(pids)
        load.expect("end", sample)
        end = Snapshot.take(pids)
        result = json.loads(load.line())
    numbers = _numbers(case, result, begin, end, samples)
    if case.slow:
        # More is what receivers had saved up in the warm-up.
        numbers["gbps"] = min(numbers["gbps"], slow_rate * 8 / 1e9)
    return {metric.name: numbers[metric.name] for metric in case.metrics}


def _numbers(case, result, begin, end, samples):
    """CPU as a share of the time between the snapshots, which are taken a
    little after the window's ends; memory while all connections are open: the
    last sample, the first one is from before."""
    seconds = result["seconds"]
    busy = (end.busy - begin.busy) / (end.at - begin.at) * seconds
    own = (end.own - begin.own) / (end.at - begin.at) * seconds
    if case.mode == "idle":
        before, during = samples[0], samples[-1]
        return {"user_bytes": (during.user - before.user) / case.connections,
                "kernel_bytes":
                    (during.kernel - before.kernel) / case.connections}
    if case.mode in ("download", "upload"):
        if result["bytes"] == 0:
            raise Failure("no byte arrived")
        gigabytes = result["bytes"] / 1e9
        return {"gbps": gigabytes * 8 / seconds,
                "cpu_per_gb": busy / gigabytes,
                "own_cpu_per_gb": own / gigabytes,
                "buffers_mb": max(sample.buffers for sample in samples) / 1e6}
    if "operations" not in result:
        raise Failure("no answer arrived")
    count = result["operations"]
    return {"rate": count / seconds,
            "cpu_per_10k": busy / count * 1e4,
            "own_cpu_per_10k": own / count * 1e4,
            **{f"{name}_us": us for name, us in result["latency_us"].items()}}
