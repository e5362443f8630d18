#include "admin/public_server.h"

#include "absl/strings/str_cat.h"
#include "admin/routes.h"
#include "base/log.h"
#include "net/socket.h"

namespace headgate::admin {
namespace {

constexpr absl::Duration kRetry = absl::Seconds(1);
constexpr char kProblem[] = "metrics";

}  // namespace

PublicServer::PublicServer(EventLoop* loop, control::Controller* controller)
    : loop_(loop), controller_(controller), retry_(loop, [this] { Open(); }) {}

void PublicServer::Refresh() {
  const std::optional<Endpoint>& wanted = controller_->config().metrics_listen;
  if (wanted == address_) return;
  address_ = wanted;
  server_.reset();
  retry_.Cancel();
  controller_->SetProblem(kProblem, "");
  if (address_.has_value()) Open();
}

void PublicServer::Open() {
  absl::StatusOr<std::vector<UniqueFd>> sockets = ListenTcp(*address_, 1);
  if (!sockets.ok()) {
    const std::string problem =
        absl::StrCat("metrics: ", sockets.status().message());
    if (controller_->SetProblem(kProblem, problem)) {
      log::Error("%s; trying again every second", problem);
    }
    retry_.Set(kRetry);
    return;
  }
  auto server = HttpServer::Make(
      loop_, std::move(sockets->front()), {.max_body_bytes = 0},
      [controller = controller_](const Request& request) {
        return HandlePublic(*controller, request);
      });
  controller_->SetProblem(kProblem, std::string(server.status().message()));
  if (server.ok()) server_ = *std::move(server);
}

}  // namespace headgate::admin
