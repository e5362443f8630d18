#include "ctl/client.h"

#include <curl/curl.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace headgate::ctl {
namespace {

constexpr size_t kMaxReplyBytes = 64 << 20;

struct CurlDeleter {
  void operator()(CURL* curl) const { curl_easy_cleanup(curl); }
  void operator()(curl_slist* list) const { curl_slist_free_all(list); }
  void operator()(char* text) const { curl_free(text); }
};

template <typename T>
using CurlPtr = std::unique_ptr<T, CurlDeleter>;

// Takes what has come of the body of a reply with that HTTP status; false: no
// more of it.
using Body = absl::FunctionRef<bool(int status, absl::string_view bytes)>;

bool Append(absl::string_view bytes, std::string& to) {
  if (bytes.size() > kMaxReplyBytes - to.size()) return false;
  to.append(bytes.data(), bytes.size());
  return true;
}

int StatusOf(CURL* curl) {
  long status = 0;
  curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status);
  return static_cast<int>(status);
}

struct Reader {
  CURL* curl;
  Body body;
};

size_t ReadBody(char* data, size_t size, size_t count, void* user) {
  const auto* reader = static_cast<const Reader*>(user);
  const absl::string_view bytes(data, size * count);
  if (!reader->body(StatusOf(reader->curl), bytes)) return 0;  // Aborts.
  return bytes.size();
}

absl::Status ConnectError(CURL* curl, const std::string& socket) {
  long os_error = 0;
  curl_easy_getinfo(curl, CURLINFO_OS_ERRNO, &os_error);
  const int error = static_cast<int>(os_error);
  const absl::Status status =
      ErrnoStatus(error, absl::StrCat("connect ", socket));
  const bool denied = error == EACCES || error == EPERM;
  return absl::Status(denied ? absl::StatusCode::kPermissionDenied
                             : absl::StatusCode::kUnavailable,
                      status.message());
}

absl::Status TransferError(CURL* curl, CURLcode code,
                           const std::string& socket) {
  const std::string what = absl::StrCat("read reply from ", socket, ": ");
  switch (code) {
    case CURLE_COULDNT_CONNECT:
      return ConnectError(curl, socket);
    case CURLE_COULDNT_RESOLVE_HOST:  // The path does not fit sun_path.
      return ErrnoStatus(ENAMETOOLONG, absl::StrCat("connect ", socket));
    case CURLE_OPERATION_TIMEDOUT:
      return absl::DeadlineExceededError(absl::StrCat(what, "timed out"));
    case CURLE_WRITE_ERROR:
      return absl::DataLossError(absl::StrCat(what, "too large"));
    case CURLE_GOT_NOTHING:
    case CURLE_PARTIAL_FILE:
    case CURLE_RECV_ERROR:
    case CURLE_SEND_ERROR:
      return absl::DataLossError(absl::StrCat(what, "connection closed early"));
    case CURLE_UNSUPPORTED_PROTOCOL:
    case CURLE_WEIRD_SERVER_REPLY:
      return absl::DataLossError(absl::StrCat(what, "not HTTP"));
    default:
      return absl::DataLossError(absl::StrCat(what, curl_easy_strerror(code)));
  }
}

void SetRequest(CURL* curl, const HttpRequest& request) {
  const std::string url = absl::StrCat("http://localhost", request.path);
  curl_easy_setopt(curl, CURLOPT_URL, url.c_str());  // libcurl copies it.
  curl_easy_setopt(curl, CURLOPT_PATH_AS_IS, 1L);    // ".." may be a name.
  if (request.method == "GET") return;
  curl_easy_setopt(curl, CURLOPT_POSTFIELDS, request.body.data());
  curl_easy_setopt(curl, CURLOPT_POSTFIELDSIZE_LARGE,
                   static_cast<curl_off_t>(request.body.size()));
  curl_easy_setopt(curl, CURLOPT_CUSTOMREQUEST, request.method.c_str());
}

void SetPatience(CURL* curl, Patience patience) {
  const int64_t ms = absl::ToInt64Milliseconds(patience.timeout);
  curl_easy_setopt(curl, CURLOPT_TIMEOUT_MS,  // 0 would be for ever.
                   static_cast<long>(std::clamp<int64_t>(ms, 1, INT32_MAX)));
  curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
  if (patience.silence == absl::InfiniteDuration()) return;
  curl_easy_setopt(curl, CURLOPT_LOW_SPEED_LIMIT, 1L);  // Bytes a second.
  curl_easy_setopt(curl, CURLOPT_LOW_SPEED_TIME,
                   static_cast<long>(absl::ToInt64Seconds(patience.silence)));
}

// The HTTP status of the reply, whose body has been taken.
absl::StatusOr<int> Perform(const std::string& socket,
                            const HttpRequest& request, Patience patience,
                            Body body) {
  const CurlPtr<CURL> owner(curl_easy_init());
  CURL* curl = owner.get();
  if (curl == nullptr) return absl::InternalError("start libcurl: failed");
  if (curl_easy_setopt(curl, CURLOPT_UNIX_SOCKET_PATH, socket.c_str()) !=
      CURLE_OK) {
    return absl::InternalError("libcurl: no support for unix sockets");
  }
  // Without it libcurl asks first, and waits, before it sends a large body.
  const CurlPtr<curl_slist> headers(curl_slist_append(nullptr, "Expect:"));
  curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers.get());
  curl_easy_setopt(curl, CURLOPT_PROXY, "");  // Whatever http_proxy says.
  SetRequest(curl, request);
  SetPatience(curl, patience);
  Reader reader{curl, body};
  curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, &ReadBody);
  curl_easy_setopt(curl, CURLOPT_WRITEDATA, &reader);
  if (CURLcode code = curl_easy_perform(curl); code != CURLE_OK) {
    return TransferError(curl, code, socket);
  }
  return StatusOf(curl);
}

}  // namespace

absl::StatusOr<HttpReply> SendHttp(const std::string& socket,
                                   const HttpRequest& request,
                                   absl::Duration timeout) {
  HttpReply reply;
  const auto keep = [&](int, absl::string_view bytes) {
    return Append(bytes, reply.body);
  };
  ASSIGN_OR_RETURN(reply.status, Perform(socket, request, {timeout}, keep));
  return reply;
}

absl::StatusOr<HttpReply> StreamHttp(
    const std::string& socket, const HttpRequest& request, Patience patience,
    absl::FunctionRef<bool(const std::string&)> take) {
  HttpReply reply;
  bool enough = false;
  const auto split = [&](int status, absl::string_view bytes) {
    if (!Append(bytes, reply.body)) return false;
    if (status / 100 != 2) return true;
    size_t end = 0;
    while (!enough && (end = reply.body.find('\n')) != std::string::npos) {
      enough = !take(reply.body.substr(0, end));
      reply.body.erase(0, end + 1);
    }
    return !enough;
  };
  const absl::StatusOr<int> status = Perform(socket, request, patience, split);
  if (enough) return HttpReply{200, ""};
  RETURN_IF_ERROR(status.status());
  reply.status = *status;
  return reply;
}

std::string UrlEscape(const std::string& text) {
  const CurlPtr<char> escaped(
      curl_easy_escape(nullptr, text.c_str(), static_cast<int>(text.size())));
  return escaped == nullptr ? "" : escaped.get();
}

}  // namespace headgate::ctl
