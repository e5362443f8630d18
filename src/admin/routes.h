// The admin API (all of it, on the control socket) and what may be seen over
// TCP: /metrics, the live page and the rows behind it, read-only.
#pragma once

#include "admin/http_server.h"
#include "control/controller.h"

namespace headgate::admin {

Response HandleAdmin(control::Controller& controller, const Request& request);
Response HandlePublic(control::Controller& controller, const Request& request);

}  // namespace headgate::admin
