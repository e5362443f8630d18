// The ports that the kernel gives to sockets that connect.
#pragma once

#include <cstdint>

#include "absl/strings/string_view.h"

namespace headgate {

// How many there are between a source and a target: those of
// net.ipv4.ip_local_port_range ("32768\t60999") without those of
// net.ipv4.ip_local_reserved_ports ("8080,9148-9150"), which hold for IPv6,
// too. 0 if the range cannot be understood.
uint64_t CountSourcePorts(absl::string_view range, absl::string_view reserved);
// The same for what the sysctls of this network namespace say now.
uint64_t CountSourcePorts();

}  // namespace headgate
