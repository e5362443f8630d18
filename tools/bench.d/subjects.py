"""What is measured, each in a network namespace of its own that is laid out
like all others:

    client  198.18.N.2 --- 198.18.N.1  edge-N  198.19.N.1 --- 198.19.N.2  server

so that one subject's rules and hooks are in nobody else's way (the last one,
"no forwarder", has no edge). One client and one server namespace serve them
all. Addresses: RFC 2544.
"""

import os
import signal
import subprocess
import time

PORT = 9000
_START_SECONDS = 10
# What fits 20,000 descriptors: two sockets a connection, and for every fourth
# one a pipe to splice through.
_HAPROXY_MAXCONN = 7000
# So that short connections do not run out of ports.
_SYSCTLS = ("net.ipv4.ip_local_port_range=1024 65535",
            "net.ipv4.tcp_tw_reuse=1")


class Failure(Exception):
    """A subject or a measurement failed; the others go on."""


def run(*command):
    try:
        done = subprocess.run(command, capture_output=True, text=True,
                              check=False)
    except OSError as error:
        raise Failure(f"run {command[0]}: {error.strerror}") from error
    if done.returncode != 0:
        raise Failure(f"run {' '.join(command)}: exit status "
                      f"{done.returncode} {done.stderr.strip()}")
    return done.stdout + done.stderr


def _inside(namespace, *command):
    return ("nsenter", f"--net=/run/netns/{namespace}", "--", *command)


def add_namespace(name):
    run("ip", "netns", "add", name)
    run(*_inside(name, "ip", "link", "set", "lo", "up"))
    run(*_inside(name, "sysctl", "-qw", *_SYSCTLS))


class Subject:
    """Plain routing; the others put something in its place."""

    name = "routing"
    title = "plain routing"
    header = False  # Whether the server gets a PROXY header.
    hook = None     # Of the packet path, whose program is measured alone, too.

    def __init__(self, number, options):
        self.options = options
        self.edge = f"edge-{number}"
        self.client_net = f"198.18.{number}"
        self.server_net = f"198.19.{number}"
        self.listen = f"{self.server_net}.2:{PORT}"
        self.process = None

    @property
    def target(self):
        return self.listen

    def command(self):
        """What to run on the edge; None when the kernel does it all."""
        return None

    def version(self):
        return f"Linux {os.uname().release}"

    def lay_network(self):
        add_namespace(self.edge)
        run(*_inside(self.edge, "sysctl", "-qw", "net.ipv4.ip_forward=1"))
        self._join("client", self.client_net, self.server_net)
        self._join("server", self.server_net, self.client_net)

    def _join(self, side, net, route):
        """A link side <-> edge, and side's route to what lies behind."""
        run("ip", "link", "add", self.edge, "netns", side, "type", "veth",
            "peer", "name", side, "netns", self.edge)
        for namespace, device, host in ((side, self.edge, 2),
                                        (self.edge, side, 1)):
            run(*_inside(namespace, "ip", "address", "add", f"{net}.{host}/24",
                         "dev", device))
            run(*_inside(namespace, "ip", "link", "set", device, "up"))
        run(*_inside(side, "ip", "route", "add", f"{route}.0/24", "via",
                     f"{net}.1"))

    def start(self):
        """Returns once it listens; at once when it already does."""
        if self.command() is None or self._runs():
            return
        with open(self._path("log"), "wb") as log:
            self.process = subprocess.Popen(
                _inside(self.edge, *self.command()),
                stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + _START_SECONDS
        while not self._listens():
            if not self._runs() or time.monotonic() > deadline:
                self.stop()
                raise Failure(f"start {self.name}: {self._last_words()}")
            time.sleep(0.01)

    def stop(self):
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
        self.process = None

    def pid(self):
        return self.process.pid if self._runs() else None

    def _runs(self):
        return self.process is not None and self.process.poll() is None

    def _listens(self):
        """State 0A is LISTEN; the file is that of the process's namespace."""
        try:
            with open(f"/proc/{self.process.pid}/net/tcp",
                      encoding="ascii") as table:
                rows = [line.split()[1:4:2] for line in table]
        except OSError:
            return False
        return any(local.endswith(f":{PORT:04X}") and state == "0A"
                   for local, state in rows)

    def _last_words(self):
        with open(self._path("log"), encoding="utf-8", errors="replace") as log:
            lines = log.read().strip().split("\n")[-3:]
        return " / ".join(lines) or "no reason told"

    def _path(self, suffix):
        return f"{self.options.work}/{self.name}.{suffix}"

    def _write_config(self, text):
        with open(self._path("conf"), "w", encoding="utf-8") as file:
            file.write(text)
        return self._path("conf")


class Forwarder(Subject):
    """Clients connect to the edge."""

    @property
    def target(self):
        return f"{self.client_net}.1:{PORT}"


class Splice(Forwarder):
    name = "splice"
    title = "Headgate (splice)"
    header = True
    datapath = "splice"

    def command(self):
        return (f"{self.options.bin}/headgated",
                f"--config={self._write_config(self._config())}",
                f"--socket={self._path('sock')}",
                f"--pin_dir=/sys/fs/bpf/{self.name}",
                f"--state_dir={self._path('state')}")

    def _config(self):
        return f"""
pools:
  servers:
    backends:
      - {{name: server, address: "{self.listen}"}}
services:
  bench:
    listen: ["{self.target}"]
    pool: servers
    datapath: {self.datapath}
    proxy_protocol: v2
    health: {{type: none}}
    timeouts: {{connect: 5s, idle: 1h}}
splice: {{mode: auto}}
"""

    def version(self):
        return run(f"{self.options.bin}/headgated", "--version").strip()


class Relay(Splice):
    name = "relay"
    title = "Headgate (relay)"
    datapath = "relay"


class Packet(Splice):
    name = "packet"
    title = "Headgate (packet)"
    datapath = "packet"
    attach = "tc"
    hook = "tc"

    def lay_network(self):
        super().lay_network()
        # The packet path's own.
        run(*_inside(self.edge, "sysctl", "-qw",
                     "net.ipv4.ip_local_reserved_ports=1024-65535"))

    def _config(self):
        return super()._config() + f"""
packet:
  interfaces: [client, server]
  source: [{self.server_net}.1]
  ports: 1024-65535
  attach: {self.attach}
"""


class PacketXdp(Packet):
    name = "packet-xdp"
    title = "Headgate (packet, XDP)"
    attach = "xdp"
    hook = "xdp"

    def lay_network(self):
        super().lay_network()
        # Else checksums are incomplete, and a veth takes nothing from XDP.
        for side in ("client", "server"):
            run(*_inside(side, "ethtool", "-K", self.edge, "tx", "off", "gro",
                         "on"))


class PacketGeneric(PacketXdp):
    name = "packet-generic"
    title = "Headgate (packet, generic XDP)"
    hook = None

    def lay_network(self):
        super().lay_network()
        # Then the edge's ends refuse native XDP.
        for side in ("client", "server"):
            run(*_inside(side, "ip", "link", "set", self.edge, "mtu", "9000"))


class HaProxy(Forwarder):
    name = "haproxy"
    title = "HAProxy"
    header = True

    def command(self):
        return (self.options.haproxy, "-db", "-f", self._write_config(f"""
global
  nbthread 2
  maxconn {_HAPROXY_MAXCONN}
defaults
  mode tcp
  # Not splice-auto: that does not splice this load.
  option splice-request
  option splice-response
  timeout connect 5s
  timeout client 1h
  timeout server 1h
listen bench
  bind {self.target}
  server server {self.listen} send-proxy-v2
"""))

    def version(self):
        return run(self.options.haproxy, "-v").split("\n", maxsplit=1)[0]


class Nginx(Forwarder):
    name = "nginx"
    title = "nginx stream"

    def command(self):
        return ("nginx", "-c", self._write_config(f"""
load_module /usr/lib/nginx/modules/ngx_stream_module.so;
daemon off;
user root;
worker_processes 2;
worker_rlimit_nofile 20000;
pid {self._path('pid')};
error_log stderr;
events {{ worker_connections 20000; }}
stream {{
  server {{
    listen {self.target} reuseport backlog=4096;
    proxy_pass {self.listen};
    proxy_connect_timeout 5s;
    proxy_timeout 1h;
  }}
}}
"""), "-e", "stderr")

    def version(self):
        return run("nginx", "-v").strip()


class Dnat(Forwarder):
    name = "dnat"
    title = "nftables DNAT"

    loaded = False

    def start(self):
        if self.loaded:
            return
        run(*_inside(self.edge, "nft", f"""
table ip bench {{
  chain prerouting {{
    type nat hook prerouting priority dstnat
    ip daddr {self.client_net}.1 tcp dport {PORT} dnat to {self.listen}
  }}
}}"""))
        run(*_inside(self.edge, "sysctl", "-qw",
                     "net.netfilter.nf_conntrack_tcp_timeout_time_wait=1"))
        self.loaded = True

    def version(self):
        return run("nft", "--version").strip()


class Direct(Subject):
    """Client and server on one link: what the two of them take of the machine,
    and so what no forwarder can do better."""

    name = "direct"
    title = "no forwarder"

    def lay_network(self):
        run("ip", "link", "add", self.edge, "netns", "client", "type", "veth",
            "peer", "name", self.edge, "netns", "server")
        for side, host in (("client", 1), ("server", 2)):
            run(*_inside(side, "ip", "address", "add",
                         f"{self.server_net}.{host}/24", "dev", self.edge))
            run(*_inside(side, "ip", "link", "set", self.edge, "up"))


ALL = (Splice, Relay, Packet, PacketXdp, PacketGeneric, HaProxy, Nginx, Dnat,
       Subject, Direct)
