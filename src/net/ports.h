// The ports that the kernel gives to sockets that connect, and those where
// others listen.
#pragma once

#include <cstdint>
#include <istream>
#include <set>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "net/address.h"

namespace headgate {

// How many there are between a source and a target: those of
// net.ipv4.ip_local_port_range ("32768\t60999") without those of
// net.ipv4.ip_local_reserved_ports ("8080,9148-9150"), which hold for IPv6,
// too. 0 if the range cannot be understood.
uint64_t CountSourcePorts(absl::string_view range, absl::string_view reserved);
// The same for what the sysctls of this network namespace say now.
uint64_t CountSourcePorts();

// FailedPrecondition, with what mends it, if the kernel may give one of
// first..last to a socket of its own. What is reserved already stays so.
absl::Status CheckPortsAreOurs(uint16_t first, uint16_t last,
                               absl::string_view range,
                               absl::string_view reserved);
absl::Status CheckPortsAreOurs(uint16_t first, uint16_t last);

// Where TCP sockets listen, by a table as in /proc/net/tcp or tcp6 (kernel,
// tcp_seq_show()), whose first rows they are; what follows is not read.
std::set<Endpoint> ListeningEndpoints(std::istream& table);
// Of this network namespace, both families; an error: they could not be read.
absl::StatusOr<std::set<Endpoint>> ListeningEndpoints();

}  // namespace headgate
