"""What the kernel says of the machine and of processes, from /proc."""

import os
import re

_TICK = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


def _read(path):
    with open(path, encoding="ascii", errors="replace") as file:
        return file.read()


def busy_seconds():
    """CPU time of the whole machine, not idle; steal is not ours."""
    user, nice, system, _, _, irq, softirq = map(
        int, _read("/proc/stat").split()[1:8])
    return (user + nice + system + irq + softirq) / _TICK


def _stat(pid):
    """The fields of /proc/PID/stat behind the name, which may hold blanks."""
    return _read(f"/proc/{pid}/stat").rpartition(")")[2].split()


def family(pid):
    """The process and its children."""
    pids = [pid]
    for name in os.listdir("/proc"):
        try:
            if name.isdigit() and int(_stat(name)[1]) == pid:
                pids.append(int(name))
        except OSError:
            pass  # Has ended meanwhile.
    return pids


def process_seconds(pids):
    """User and system time of the processes, all threads."""
    return sum(int(ticks) for pid in pids
               for ticks in _stat(pid)[11:13]) / _TICK


def resident_bytes(pids):
    return sum(int(_stat(pid)[21]) for pid in pids) * _PAGE


def tcp_bytes():
    """What the buffers of all TCP sockets hold, in every namespace."""
    return int(re.search(r"^TCP:.* mem (\d+)", _read("/proc/net/sockstat"),
                         re.M)[1]) * _PAGE


def kernel_bytes():
    """What connections are made of: unreclaimable slabs (sockets and all that
    hangs on them), socket inodes (reclaimable only in name), per-CPU memory,
    and the sockets' buffers. Not the reclaimable slabs: they are the file
    system's caches."""
    meminfo = dict(re.findall(r"^(\w+): +(\d+)", _read("/proc/meminfo"), re.M))
    inodes = re.search(r"^sock_inode_cache +\d+ +(\d+) +(\d+)",
                       _read("/proc/slabinfo"), re.M)
    return ((int(meminfo["SUnreclaim"]) + int(meminfo["Percpu"])) * 1024 +
            int(inodes[1]) * int(inodes[2]) + tcp_bytes())


def description():
    cpuinfo = _read("/proc/cpuinfo")
    model = re.search(r"^model name\s*: (.*)", cpuinfo, re.M)
    return {
        "kernel": os.uname().release,
        "cpu": model[1] if model else os.uname().machine,
        "cores": os.cpu_count(),
        "load_average": os.getloadavg()[0],
    }
