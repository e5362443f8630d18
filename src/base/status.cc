#include "base/status.h"

#include <cstring>

namespace headgate {

std::string ErrnoName(int error) {
  const char* name = strerrorname_np(error);
  return name != nullptr ? name : absl::StrCat("errno ", error);
}

absl::Status ErrnoStatus(int error, absl::string_view what) {
  const char* text = strerrordesc_np(error);
  return absl::Status(
      absl::ErrnoToStatusCode(error),
      absl::StrCat(what, ": ", text != nullptr ? text : "unknown error", " (",
                   ErrnoName(error), ")"));
}

}  // namespace headgate
