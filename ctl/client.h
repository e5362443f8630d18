// One HTTP/1.1 request over a unix stream socket (libcurl inside). Blocking;
// each call has a connection of its own, so a daemon that restarts between two
// calls is not noticed. Replies, and lines of streamed ones, are capped at 64
// MiB.
//
// Errors: kUnavailable       nobody listens on the socket
//         kPermissionDenied  the socket may not be opened
//         kInvalidArgument   its path is too long for a socket
//         kDeadlineExceeded  no whole reply within `timeout`, or no byte of
//                            it for as long as `silence`
//         kDataLoss          cut off, too large or not HTTP
#pragma once

#include <string>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace headgate::ctl {

struct HttpRequest {
  std::string method;
  std::string path;  // With the query, already escaped.
  std::string body;
};

struct HttpReply {
  int status = 0;
  std::string body;
};

absl::StatusOr<HttpReply> SendHttp(const std::string& socket,
                                   const HttpRequest& request,
                                   absl::Duration timeout);

struct Patience {
  absl::Duration timeout = absl::InfiniteDuration();
  absl::Duration silence = absl::InfiniteDuration();  // Whole seconds.
};

// For a reply that is long, or has no end: hands over each line of a 2xx, as it
// comes, until `take` has had enough, or the daemon. The reply has the body of
// any other.
absl::StatusOr<HttpReply> StreamHttp(
    const std::string& socket, const HttpRequest& request, Patience patience,
    absl::FunctionRef<bool(const std::string&)> take);

// RFC 3986 percent-encoding of one path segment or query value.
std::string UrlEscape(const std::string& text);

}  // namespace headgate::ctl
