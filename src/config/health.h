// Which check a service gets when its configuration leaves that open.
#pragma once

#include "config/types.h"

namespace headgate::config {

// `service.health` with nothing left open: a type that is not auto, a header, a
// timeout, all intervals. Listen ports decide what auto is (25, 587, 2525 smtp;
// 465 smtp in TLS; 143, 993 imap; 110, 995 greeting, of POP3; all others, and
// ports of several kinds, tcp). Only auto looks at service.proxy_protocol:
// where the backend expects a header, and health.port names no port without
// one, the check sends `local`.
Health Resolved(const Service& service);

}  // namespace headgate::config
