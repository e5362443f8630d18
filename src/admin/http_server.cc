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

}  // namespace

// A request while it comes in.
struct HttpServer::Exchange {
  std::string body;
  bool too_large = false;
  std::optional<Response> answer;       // That came later.
  MHD_Connection* suspended = nullptr;  // While it has not.
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
      return Send(connection, *exchange->answer);
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
    return Send(connection, response);
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

  static MHD_Result Send(MHD_Connection* connection, const Response& response) {
    MHD_Response* out = MHD_create_response_from_buffer(
        response.body.size(), const_cast<char*>(response.body.data()),
        MHD_RESPMEM_MUST_COPY);
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
  while (!waiting_.empty()) {  // The library must not stop before.
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
