// What may be seen over TCP (/metrics and the live page), where the running
// configuration says so. An address that cannot be bound is tried again every
// second: metrics are worth less than the service, but not nothing.
#pragma once

#include <memory>
#include <optional>

#include "admin/http_server.h"
#include "control/controller.h"
#include "net/event_loop.h"

namespace headgate::admin {

class PublicServer {
 public:
  PublicServer(EventLoop* loop, control::Controller* controller);

  // Follows the configuration; call after each change of it.
  void Refresh();

 private:
  void Open();

  EventLoop* loop_;
  control::Controller* controller_;
  std::optional<Endpoint> address_;
  std::unique_ptr<HttpServer> server_;
  Timer retry_;
};

}  // namespace headgate::admin
