// HTTP/1.1 on the control thread's loop: libmicrohttpd behind one function
// from request to response. At most 64 connections, each idle for 30 s at most:
// so long a client may take nothing of an answer, too.
#pragma once

#include <memory>
#include <optional>
#include <set>
#include <string>

#include "absl/functional/any_invocable.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/unique_fd.h"
#include "net/event_loop.h"

struct MHD_Daemon;

namespace headgate::admin {

struct Request {
  std::string method;
  std::string path;  // Decoded, without the query.
  std::string body;
  absl::AnyInvocable<std::string(absl::string_view key) const> query;
};

struct Response {
  using Done = absl::AnyInvocable<void(Response)>;

  int status = 200;
  std::string content_type = "application/json";
  std::string body;
  // If set, the answer comes later: called once with what takes it, from the
  // loop, not from within the call. The rest of this response is ignored.
  absl::AnyInvocable<void(Done)> later;
  // If set, the body is made while it is sent: it goes on with what this gives
  // each time that the client has taken all of it. Empty: nothing new, to be
  // asked again after `pause`, when others have had their turn; nothing: that
  // was all. Destroyed when the client has gone.
  absl::AnyInvocable<std::optional<std::string>()> stream = nullptr;
  absl::Duration pause = absl::Milliseconds(50);
};

class HttpServer final : public IoHandler {
 public:
  using Handler = absl::AnyInvocable<Response(const Request&)>;

  struct Options {
    size_t max_body_bytes = 0;
  };

  // Serves a listening socket of any family.
  static absl::StatusOr<std::unique_ptr<HttpServer>> Make(
      EventLoop* loop, UniqueFd listener, const Options& options,
      Handler handler);
  ~HttpServer();

  void OnIo(uint32_t events) override;

 private:
  struct Exchange;
  struct Stream;
  friend struct Callbacks;

  HttpServer(EventLoop* loop, const Options& options, Handler handler);

  EventLoop* loop_;
  const Options options_;
  Handler handler_;
  MHD_Daemon* daemon_ = nullptr;
  int epoll_fd_ = -1;            // The library's own.
  std::set<Exchange*> waiting_;  // For answers that come later.
  std::set<Stream*> resting_;    // Streams without news.
  // What an answer that comes after our end finds.
  std::shared_ptr<HttpServer*> self_ = std::make_shared<HttpServer*>(this);
  Timer timer_;
};

}  // namespace headgate::admin
