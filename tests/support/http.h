// One HTTP/1.0 request (RFC 1945: no chunks, the end of the stream ends the
// body) over a connection of its own.
#pragma once

#include <string>

#include "net/address.h"

namespace headgate::testing {

struct HttpResponse {
  int status = 0;  // 0: not reachable, or not HTTP
  std::string content_type;
  std::string body;
};

HttpResponse HttpOverUnix(const std::string& socket_path,
                          const std::string& method, const std::string& path,
                          const std::string& body = "");
HttpResponse HttpGet(const std::string& netns, const Endpoint& server,
                     const std::string& path);

}  // namespace headgate::testing
