#!/usr/bin/env python3
"""A TCP server that shows what reached it.

    greeter.py NAME PORT...

On the first half of the PORTs it expects a PROXY protocol v2 header (the
specification: https://www.haproxy.org/download/2.8/doc/proxy-protocol.txt),
on the second half none. It greets with NAME, the header's bytes and the
addresses in it, then echoes. IPv4 and IPv6, one thread a connection.
"""

import ipaddress
import socket
import socketserver
import struct
import sys
import threading

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
HEADER_BYTES = 16
ADDRESS_BYTES = {0x11: 4, 0x21: 16}  # TCP over IPv4, over IPv6


def read_header(stream):
    """Returns the header's bytes; raises ValueError when it is not v2."""
    head = stream.read(HEADER_BYTES)
    if len(head) < HEADER_BYTES or not head.startswith(SIGNATURE):
        raise ValueError(f"no PROXY v2 header but {head!r}")
    return head + stream.read(struct.unpack("!H", head[14:])[0])


def describe(header):
    if header[12] == 0x20:
        return "LOCAL"
    size = ADDRESS_BYTES.get(header[13])
    if size is None:
        return f"PROXY, family {header[13]:#x}"
    body = header[HEADER_BYTES:]
    source = ipaddress.ip_address(body[:size])
    target = ipaddress.ip_address(body[size:2 * size])
    ports = struct.unpack("!HH", body[2 * size:2 * size + 4])
    return f"PROXY {source} port {ports[0]} -> {target} port {ports[1]}"


class Greeter(socketserver.StreamRequestHandler):
    def handle(self):
        try:
            self.greet()
            for line in self.rfile:
                self.wfile.write(line)
        except OSError:
            pass  # a check hangs up as it pleases

    def greet(self):
        lines = [f"this is {self.server.name}",
                 f"tcp peer: {self.client_address[0]}"]
        if self.server.expects_header:
            try:
                header = read_header(self.rfile)
                lines += [f"header: {header.hex(' ')}",
                          f"says: {describe(header)}"]
            except ValueError as error:
                lines.append(f"error: {error}")
        self.wfile.write("".join(f"{line}\n" for line in lines).encode())


class Server(socketserver.ThreadingTCPServer):
    address_family = socket.AF_INET6  # dual stack: IPv4 comes mapped
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 1024


def main():
    name, ports = sys.argv[1], [int(port) for port in sys.argv[2:]]
    threads = []
    for index, port in enumerate(ports):
        server = Server(("::", port), Greeter)
        server.name = name
        server.expects_header = index < len(ports) // 2
        threads.append(threading.Thread(target=server.serve_forever))
        threads[-1].start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()
