// Errors as values. Messages read "operation object: reason", lower case, no
// full stop; they are logged once, by the layer that decides what to do.
#pragma once

#include <cerrno>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"

namespace headgate {

// "<what>: <strerror> (EADDRINUSE)". Takes errno by value: read it first.
absl::Status ErrnoStatus(int error, absl::string_view what);

// The symbolic name, e.g. "ECONNREFUSED"; "errno 4711" for unknown ones.
std::string ErrnoName(int error);

}  // namespace headgate

#define HG_CONCAT_INNER(a, b) a##b
#define HG_CONCAT(a, b) HG_CONCAT_INNER(a, b)

#define RETURN_IF_ERROR(expr)              \
  do {                                     \
    absl::Status hg_status = (expr);       \
    if (!hg_status.ok()) return hg_status; \
  } while (false)

#define ASSIGN_OR_RETURN(lhs, expr) \
  ASSIGN_OR_RETURN_IMPL(HG_CONCAT(hg_status_or_, __LINE__), lhs, expr)
#define ASSIGN_OR_RETURN_IMPL(tmp, lhs, expr) \
  auto tmp = (expr);                          \
  if (!tmp.ok()) return tmp.status();         \
  lhs = *std::move(tmp)
