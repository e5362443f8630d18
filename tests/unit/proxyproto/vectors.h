// The shared PROXY protocol vectors (tests/data/proxy_vectors.json): bytes from
// the specification, from the test suites of other implementations and from
// live HAProxy, nginx and Varnish senders, with the verdict of a strict reader
// that checks TLVs and CRC32C.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "net/address.h"

namespace headgate::proxyproto {

struct Vector {
  std::string name;
  std::string bytes;
  std::string verdict;  // proxy local unknown unspec incomplete reject
  int version = 0;
  size_t header_length = 0;
  std::string family;  // INET INET6 UNIX
  std::string transport;
  Endpoint source;
  Endpoint destination;
  std::vector<std::pair<uint8_t, std::string>> tlvs;
};

const std::vector<Vector>& AllVectors();

// Ends the test program when there is no such vector.
const Vector& VectorNamed(const std::string& name);

}  // namespace headgate::proxyproto
