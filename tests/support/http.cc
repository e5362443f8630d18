#include "support/http.h"

#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>

#include <cstring>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/unique_fd.h"
#include "support/lab.h"
#include "support/tcp.h"

namespace headgate::testing {
namespace {

HttpResponse ParseResponse(const std::string& text) {
  HttpResponse response;
  const size_t end = text.find("\r\n\r\n");
  if (end == std::string::npos || !absl::StartsWith(text, "HTTP/1.")) {
    return response;
  }
  for (absl::string_view line :
       absl::StrSplit(absl::string_view(text).substr(0, end), "\r\n")) {
    const std::pair<absl::string_view, absl::string_view> field =
        absl::StrSplit(line, absl::MaxSplits(':', 1));
    if (absl::EqualsIgnoreCase(field.first, "content-type")) {
      response.content_type =
          std::string(absl::StripAsciiWhitespace(field.second));
    }
  }
  if (!absl::SimpleAtoi(absl::string_view(text).substr(9, 3),
                        &response.status)) {
    response.status = 0;
  }
  response.body = text.substr(end + 4);
  return response;
}

HttpResponse Exchange(int fd, const std::string& method,
                      const std::string& path, const std::string& body) {
  const timeval limit{absl::ToInt64Seconds(kTcpTimeout), 0};
  ::setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  const std::string request =
      absl::StrCat(method, " ", path, " HTTP/1.0\r\nHost: localhost\r\n",
                   "Content-Length: ", body.size(), "\r\n\r\n", body);
  if (::send(fd, request.data(), request.size(), MSG_NOSIGNAL) !=
      static_cast<ssize_t>(request.size())) {
    return HttpResponse();
  }
  std::string text;
  char buffer[65536];
  ssize_t n = 0;
  while ((n = ::recv(fd, buffer, sizeof buffer, 0)) > 0) {
    text.append(buffer, static_cast<size_t>(n));
  }
  return ParseResponse(text);
}

}  // namespace

HttpResponse HttpOverUnix(const std::string& socket_path,
                          const std::string& method, const std::string& path,
                          const std::string& body) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (socket_path.size() >= sizeof address.sun_path) return HttpResponse();
  std::memcpy(address.sun_path, socket_path.data(), socket_path.size());
  UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address),
                sizeof address) != 0) {
    return HttpResponse();
  }
  return Exchange(fd.get(), method, path, body);
}

HttpResponse HttpGet(const std::string& netns, const Endpoint& server,
                     const std::string& path) {
  TcpSocket socket = TcpSocket::Connect(netns, server);
  if (!socket.valid()) return HttpResponse();
  socket.Send(
      absl::StrCat("GET ", path, " HTTP/1.0\r\nHost: localhost\r\n\r\n"));
  std::string text;
  for (std::string part; !(part = socket.Receive(65536)).empty();) text += part;
  return ParseResponse(text);
}

}  // namespace headgate::testing
