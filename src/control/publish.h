// What writers of the maps share.
#pragma once

#include <algorithm>
#include <cstring>
#include <string>

#include "absl/status/status.h"
#include "base/log.h"
#include "bpf/abi/types.h"

namespace headgate::control {

inline void CopyName(const std::string& name, char (&out)[HG_NAME_LEN]) {
  std::memset(out, 0, sizeof out);
  std::memcpy(out, name.data(), std::min<size_t>(name.size(), HG_NAME_LEN - 1));
}

// For what takes no memory. Other writes are a MapWriter's.
inline void LogIfFailed(const absl::Status& status) {
  if (!status.ok()) log::Error("%s", status.message());
}

}  // namespace headgate::control
