#include "admin/routes.h"

#include <memory>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "admin/json.h"
#include "admin/lists.h"
#include "admin/live_page.h"
#include "admin/metrics.h"
#include "admin/trace.h"
#include "config/diff.h"
#include "config/parse.h"
#include "config/values.h"
#include "health/result.h"

namespace headgate::admin {
namespace {

using control::Controller;
using Path = std::vector<std::string>;

Response Json(std::string body) {
  return {200, "application/json", std::move(body), {}};
}

Response Failure(int status, absl::string_view message,
                 const std::vector<config::Error>& errors = {}) {
  return {status, "application/json", ErrorJson(message, errors), {}};
}

int HttpStatus(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kNotFound:
      return 404;
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kResourceExhausted:
      return 422;
    case absl::StatusCode::kAlreadyExists:
    case absl::StatusCode::kFailedPrecondition:
      return 409;
    default:
      return 500;
  }
}

Response Failure(const absl::Status& status) {
  return Failure(HttpStatus(status), status.message());
}

bool HasService(const Controller& controller, const std::string& name) {
  return controller.config().services.contains(name);
}

// ---- GET -------------------------------------------------------------------

Response ListBackends(const Controller& controller,
                      const std::string& service) {
  if (!service.empty() && !HasService(controller, service)) {
    return Failure(404, absl::StrCat("no service ", service));
  }
  std::vector<control::BackendRow> rows = controller.Backends();
  std::vector<control::LeavingRow> leaving = controller.Leaving();
  if (!service.empty()) {
    const auto other = [&](const auto& r) { return r.service != service; };
    std::erase_if(rows, other);
    std::erase_if(leaving, other);
  }
  return Json(BackendsJson(rows, leaving));
}

absl::StatusOr<control::ConnectionFilter> ParseFilter(const Request& request) {
  control::ConnectionFilter filter;
  filter.service = request.query("service");
  if (const std::string text = request.query("client"); !text.empty()) {
    const auto target = config::ParseTarget(text);
    if (!target.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat("client: ", target.status().message()));
    }
    filter.client = {target->address, target->port.value_or(0)};
  }
  return filter;
}

// /v1/connections and /v1/flows.
Response List(const Controller& controller, const Request& request,
              ListText (*list)(const Controller*,
                               const control::ConnectionFilter&, uint64_t)) {
  const auto filter = ParseFilter(request);
  if (!filter.ok()) return Failure(400, filter.status().message());
  if (!filter->service.empty() && !HasService(controller, filter->service)) {
    return Failure(404, absl::StrCat("no service ", filter->service));
  }
  uint64_t limit = UINT64_MAX;
  const std::string text = request.query("limit");
  if (!text.empty() && !absl::SimpleAtoi(text, &limit)) {
    return Failure(400, "limit: not a number");
  }
  Response response;
  response.stream = list(&controller, *filter, limit);
  response.pause = absl::ZeroDuration();
  return response;
}

// At most one client has this.
Response Trace(Controller& controller, const Request& request) {
  const auto filter = ParseFilter(request);
  if (!filter.ok()) return Failure(400, filter.status().message());
  auto trace = controller.Trace(*filter);
  if (!trace.ok()) return Failure(trace.status());
  auto stream = std::make_unique<TraceStream>(
      &controller, *std::move(trace), request.query("frames") == "true");
  Response response;
  response.content_type = "application/x-ndjson";
  response.stream = [stream = std::move(stream)] { return stream->Next(); };
  return response;
}

// ---- changes ---------------------------------------------------------------

Response SetAdmin(Controller& controller, const Path& path, hg_admin admin) {
  const absl::Status status = controller.SetAdmin(path[2], path[3], admin);
  if (!status.ok()) return Failure(status);
  return Json(AdminJson(path[2], path[3], admin));
}

Response Drain(Controller& controller, const Path& path,
               const std::string& body) {
  if (body.empty()) return SetAdmin(controller, path, HG_ADMIN_DRAIN);
  const absl::StatusOr<control::Pace> pace = ParsePace(body);
  if (!pace.ok()) return Failure(400, pace.status().message());
  const absl::Status status = controller.Drain(path[2], path[3], *pace);
  if (!status.ok()) return Failure(status);
  return Json(AdminJson(path[2], path[3], HG_ADMIN_DRAIN));
}

Response AddBackend(Controller& controller, const Path& path,
                    const std::string& body) {
  const absl::StatusOr<config::Backend> backend = ParseBackend(path[3], body);
  if (!backend.ok()) return Failure(400, backend.status().message());
  const absl::Status status = controller.AddBackend(path[2], *backend);
  if (!status.ok()) return Failure(status);
  return Json(BackendJson(path[2], path[3], "added"));
}

Response RemoveBackend(Controller& controller, const Path& path) {
  const absl::Status status = controller.RemoveBackend(path[2], path[3]);
  if (!status.ok()) return Failure(status);
  return Json(BackendJson(path[2], path[3], "removed"));
}

Response SetWeight(Controller& controller, const Path& path,
                   const std::string& body) {
  const std::optional<uint32_t> weight = ParseWeight(body);
  if (!weight.has_value()) {
    return Failure(400, "the body must be {\"weight\":N} with N from 0 to 256");
  }
  const absl::Status status = controller.SetWeight(path[2], path[3], *weight);
  if (!status.ok()) return Failure(status);
  return Json(WeightJson(path[2], path[3], *weight));
}

// One check, now; {"explain":true} in the body asks for its steps.
Response CheckBackend(Controller& controller, const Path& path,
                      const std::string& body) {
  // What the check finds before the library waits for it is nothing: checks
  // answer from the loop.
  auto answer = std::make_shared<Response::Done>();
  const absl::Status status = controller.CheckNow(
      path[2], path[3], WantsExplanation(body),
      [answer, path](const health::CheckResult& result) {
        if (*answer) (*answer)(Json(CheckedJson(path[2], path[3], result)));
      });
  if (!status.ok()) return Failure(status);
  Response response;
  response.later = [answer](Response::Done done) { *answer = std::move(done); };
  return response;
}

Response ChangeBackend(Controller& controller, const Path& path,
                       const std::string& body) {
  const std::string& verb = path[4];
  if (verb == "add") return AddBackend(controller, path, body);
  if (verb == "drain") return Drain(controller, path, body);
  if (verb == "ready") return SetAdmin(controller, path, HG_ADMIN_READY);
  if (verb == "maint") return SetAdmin(controller, path, HG_ADMIN_MAINT);
  if (verb == "weight") return SetWeight(controller, path, body);
  if (verb == "check") return CheckBackend(controller, path, body);
  return Failure(404, absl::StrCat("no such operation: ", verb));
}

Response Kill(Controller& controller, const std::string& id_text) {
  uint64_t id = 0;
  if (!absl::SimpleAtoi(id_text, &id) || !controller.KillConnection(id)) {
    return Failure(404, absl::StrCat("no connection ", id_text));
  }
  return Json(KilledJson(id));
}

Response Diff(const Controller& controller, const std::string& text) {
  const config::Parsed parsed = config::Parse(text);
  if (!parsed.errors.empty()) {
    return Failure(422, "the configuration is not valid", parsed.errors);
  }
  return Json(ChangesJson(config::Diff(controller.config(), parsed.config),
                          controller.RuntimeLines()));
}

Response Apply(Controller& controller, const std::string& text) {
  config::Parsed parsed = config::Parse(text);
  if (!parsed.errors.empty()) {
    return Failure(422, "the configuration is not valid", parsed.errors);
  }
  const auto applied =
      controller.Apply(std::move(parsed.config), Controller::Binding::kStrict);
  // What stands in the way of binding is the request's problem, not ours.
  if (!applied.ok()) return Failure(422, applied.status().message());
  return Json(AppliedJson(*applied));
}

Response Reload(Controller& controller) {
  std::vector<config::Error> mistakes;
  const auto applied = controller.Reload(&mistakes);
  if (!mistakes.empty()) {
    return Failure(422, "the configuration is not valid", mistakes);
  }
  if (!applied.ok()) return Failure(422, applied.status().message());
  return Json(AppliedJson(*applied));
}

Response Post(Controller& controller, const Path& path,
              const std::string& body) {
  if (path.size() == 5 && path[1] == "backends") {
    return ChangeBackend(controller, path, body);
  }
  if (path.size() == 3 && path[1] == "config") {
    if (path[2] == "check") return Json(CheckJson(config::Parse(body).errors));
    if (path[2] == "diff") return Diff(controller, body);
    if (path[2] == "apply") return Apply(controller, body);
    if (path[2] == "reload") return Reload(controller);
  }
  return Failure(404, "no such path");
}

Response Get(Controller& controller, const Request& request) {
  const std::string& path = request.path;
  if (path == "/v1/status") return Json(StatusJson(controller.Status()));
  if (path == "/v1/services") return Json(ServicesJson(controller.Services()));
  if (path == "/v1/backends") {
    return ListBackends(controller, request.query("service"));
  }
  if (path == "/v1/connections") {
    return List(controller, request, ListConnections);
  }
  if (path == "/v1/connections/count") {
    return Json(ConnectionCountJson(controller.ConnectionsActive()));
  }
  if (path == "/v1/flows") return List(controller, request, ListFlows);
  if (path == "/v1/trace") return Trace(controller, request);
  if (path == "/v1/config") return Json(ConfigJson(controller));
  if (path == "/metrics") {
    return {200, "text/plain; version=0.0.4", MetricsText(controller), {}};
  }
  return Failure(404, "no such path");
}

}  // namespace

Response HandleAdmin(Controller& controller, const Request& request) {
  if (request.method == "GET" || request.method == "HEAD") {
    return Get(controller, request);
  }
  const Path path = absl::StrSplit(request.path, '/', absl::SkipEmpty());
  if (path.empty() || path[0] != "v1") return Failure(404, "no such path");
  if (request.method == "POST") return Post(controller, path, request.body);
  if (request.method == "DELETE" && path.size() == 3 &&
      path[1] == "connections") {
    return Kill(controller, path[2]);
  }
  if (request.method == "DELETE" && path.size() == 4 && path[1] == "backends") {
    return RemoveBackend(controller, path);
  }
  return Failure(405, "no such method here");
}

Response HandlePublic(Controller& controller, const Request& request) {
  if (request.method != "GET" && request.method != "HEAD") {
    return Failure(405,
                   "read-only here: changes go through the control socket");
  }
  if (request.path == "/") {
    return {200, "text/html; charset=utf-8", std::string(kLivePage), {}};
  }
  // Clients' addresses are not for everybody who may see the metrics.
  if (request.path == "/metrics" || request.path == "/v1/status" ||
      request.path == "/v1/services" || request.path == "/v1/backends") {
    return Get(controller, request);
  }
  return Failure(404, "no such path");
}

}  // namespace headgate::admin
