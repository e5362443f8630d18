#include "admin/http_server.h"

#include <microhttpd.h>
#include <poll.h>
#include <sys/epoll.h>

#include <optional>

#include "base/status.h"

namespace headgate::admin {
namespace {

constexpr unsigned kMaxConnections = 64;
constexpr unsigned kIdleSeconds = 30;
// For a connection that could not be accepted: no descriptor was left.
constexpr absl::Duration kRetryAfter = absl::Milliseconds(20);
constexpr size_t kStreamBlock = 16 * 1024;

}  // namespace

// A request while it comes in.
struct HttpServer::Exchange {
  std::string body;
  bool too_large = false;
  std::optional<Response> answer;       // That came later.
  MHD_Connection* suspended = nullptr;  // While it has not.
};

// A body that is made while it is sent; the library owns it.
struct HttpServer::Stream final : public IoHandler {
  Stream(HttpServer* of, MHD_Connection* to, Response& response);
  void OnIo(uint32_t events) override;  // While the connection rests.

  HttpServer* server;
  MHD_Connection* connection;
  absl::AnyInvocable<std::optional<std::string>()> next;
  const absl::Duration pause;
  std::string left;  // Of what `next` gave last.
  Timer news;        // Likewise.
};

// The library's callbacks.
struct Callbacks {
  static MHD_Result Handle(void* self, MHD_Connection* connection,
                           const char* url, const char* method, const char*,
                           const char* data, size_t* size, void** state) {
    auto* server = static_cast<HttpServer*>(self);
    if (*state == nullptr) {
      *state = new HttpServer::Exchange;
      return MHD_YES;
    }
    auto* exchange = static_cast<HttpServer::Exchange*>(*state);
    if (*size > 0) {
      exchange->too_large |=
          exchange->body.size() + *size > server->options_.max_body_bytes;
      if (!exchange->too_large) exchange->body.append(data, *size);
      *size = 0;
      return MHD_YES;
    }
    if (exchange->answer.has_value()) {
      return Send(server, connection, *exchange->answer);
    }
    Response response;
    if (exchange->too_large) {
      response.status = MHD_HTTP_CONTENT_TOO_LARGE;
      response.body = R"({"error":"the body is too large"})";
    } else {
      Request request;
      request.method = method;
      request.path = url;
      request.body = std::move(exchange->body);
      request.query = [connection](absl::string_view key) -> std::string {
        const char* value = MHD_lookup_connection_value(
            connection, MHD_GET_ARGUMENT_KIND, std::string(key).c_str());
        return value == nullptr ? "" : value;
      };
      response = server->handler_(request);
      if (response.later) {
        Suspend(server, connection, exchange, std::move(response));
        return MHD_YES;
      }
    }
    return Send(server, connection, response);
  }

  // The library asks again with the same exchange once the connection is
  // resumed.
  static void Suspend(HttpServer* server, MHD_Connection* connection,
                      HttpServer::Exchange* exchange, Response response) {
    exchange->suspended = connection;
    server->waiting_.insert(exchange);
    MHD_suspend_connection(connection);
    response.later(
        [server = std::weak_ptr(server->self_), exchange](Response answer) {
          const auto alive = server.lock();
          if (alive != nullptr) Resume(*alive, exchange, std::move(answer));
        });
  }

  static void Resume(HttpServer* server, HttpServer::Exchange* exchange,
                     Response answer) {
    exchange->answer = std::move(answer);
    server->waiting_.erase(exchange);
    MHD_resume_connection(exchange->suspended);
    server->timer_.Set(absl::ZeroDuration());
  }

  // The library asks whenever there is room for `size` bytes to the client.
  static ssize_t Stream(void* self, uint64_t, char* out, size_t size) {
    auto* stream = static_cast<HttpServer::Stream*>(self);
    pollfd client{Socket(stream), 0, 0};
    if (poll(&client, 1, 0) != 0) return MHD_CONTENT_READER_END_WITH_ERROR;
    if (stream->left.empty()) {
      std::optional<std::string> next = stream->next();
      if (!next.has_value()) return MHD_CONTENT_READER_END_OF_STREAM;
      stream->left = *std::move(next);
    }
    if (stream->left.empty()) {
      Rest(stream);
      return 0;
    }
    const size_t count = stream->left.copy(out, size);
    stream->left.erase(0, count);
    return static_cast<ssize_t>(count);
  }

  static int Socket(HttpServer::Stream* stream) {
    return MHD_get_connection_info(stream->connection,
                                   MHD_CONNECTION_INFO_CONNECTION_FD)
        ->connect_fd;
  }

  // The library does not look at a suspended connection: we see its end.
  static void Rest(HttpServer::Stream* stream) {
    stream->server->resting_.insert(stream);
    MHD_suspend_connection(stream->connection);
    stream->server->loop_->Add(Socket(stream), 0, stream).IgnoreError();
    stream->news.Set(stream->pause);
  }

  static void Wake(HttpServer::Stream* stream) {
    stream->server->resting_.erase(stream);
    stream->server->loop_->Remove(Socket(stream), stream);
    stream->news.Cancel();
    MHD_resume_connection(stream->connection);
    stream->server->timer_.Set(absl::ZeroDuration());
  }

  static void EndStream(void* self) {
    delete static_cast<HttpServer::Stream*>(self);
  }

  static MHD_Response* Body(HttpServer* server, MHD_Connection* connection,
                            Response& response) {
    if (!response.stream) {
      return MHD_create_response_from_buffer(
          response.body.size(), const_cast<char*>(response.body.data()),
          MHD_RESPMEM_MUST_COPY);
    }
    auto* stream = new HttpServer::Stream(server, connection, response);
    return MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, kStreamBlock,
                                             Stream, stream, EndStream);
  }

  static MHD_Result Send(HttpServer* server, MHD_Connection* connection,
                         Response& response) {
    MHD_Response* out = Body(server, connection, response);
    if (out == nullptr) return MHD_NO;
    MHD_add_response_header(out, "Content-Type", response.content_type.c_str());
    MHD_add_response_header(out, "Cache-Control", "no-store");
    const MHD_Result result = MHD_queue_response(
        connection, static_cast<unsigned>(response.status), out);
    MHD_destroy_response(out);
    return result;
  }

  static void Completed(void*, MHD_Connection*, void** state,
                        MHD_RequestTerminationCode) {
    delete static_cast<HttpServer::Exchange*>(*state);
    *state = nullptr;
  }
};

HttpServer::Stream::Stream(HttpServer* of, MHD_Connection* to,
                           Response& response)
    : server(of),
      connection(to),
      next(std::move(response.stream)),
      pause(response.pause),
      news(of->loop_, [this] { Callbacks::Wake(this); }) {}

void HttpServer::Stream::OnIo(uint32_t) { Callbacks::Wake(this); }

HttpServer::HttpServer(EventLoop* loop, const Options& options, Handler handler)
    : loop_(loop),
      options_(options),
      handler_(std::move(handler)),
      timer_(loop, [this] { OnIo(0); }) {}

absl::StatusOr<std::unique_ptr<HttpServer>> HttpServer::Make(
    EventLoop* loop, UniqueFd listener, const Options& options,
    Handler handler) {
  std::unique_ptr<HttpServer> server(
      new HttpServer(loop, options, std::move(handler)));
  server->daemon_ = MHD_start_daemon(
      MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME, 0, nullptr, nullptr,
      &Callbacks::Handle, server.get(), MHD_OPTION_LISTEN_SOCKET,
      listener.get(), MHD_OPTION_CONNECTION_LIMIT, kMaxConnections,
      MHD_OPTION_CONNECTION_TIMEOUT, kIdleSeconds, MHD_OPTION_NOTIFY_COMPLETED,
      &Callbacks::Completed, nullptr, MHD_OPTION_END);
  if (server->daemon_ == nullptr) {
    return absl::InternalError("start the HTTP server: libmicrohttpd refused");
  }
  listener.release();  // The library closes it.
  const MHD_DaemonInfo* info =
      MHD_get_daemon_info(server->daemon_, MHD_DAEMON_INFO_EPOLL_FD);
  if (info == nullptr) {
    return absl::InternalError("start the HTTP server: it has no epoll");
  }
  server->epoll_fd_ = info->epoll_fd;
  // Edges: what the library cannot accept would keep the loop spinning.
  RETURN_IF_ERROR(
      loop->Add(server->epoll_fd_, EPOLLIN | EPOLLET, server.get()));
  return server;
}

HttpServer::~HttpServer() {
  if (daemon_ == nullptr) return;
  if (epoll_fd_ >= 0) loop_->Remove(epoll_fd_, this);
  self_.reset();
  // The library must not stop before.
  while (!resting_.empty()) Callbacks::Wake(*resting_.begin());
  while (!waiting_.empty()) {
    Callbacks::Resume(this, *waiting_.begin(),
                      {503, "application/json", R"({"error":"stopping"})", {}});
  }
  MHD_stop_daemon(daemon_);
}

void HttpServer::OnIo(uint32_t) {
  MHD_run(daemon_);
  pollfd left{epoll_fd_, POLLIN, 0};
  MHD_UNSIGNED_LONG_LONG milliseconds = 0;
  if (poll(&left, 1, 0) != 0) {
    timer_.Set(kRetryAfter);
  } else if (MHD_get_timeout(daemon_, &milliseconds) == MHD_YES) {
    timer_.Set(absl::Milliseconds(milliseconds));
  } else {
    timer_.Cancel();
  }
}

}  // namespace headgate::admin
