// GET /v1/trace: a line of JSON for each packet that the packet path handles,
// for as long as the client stays. Once a second, and first of all, there is a
// line {"lost":N}: so many packets were too much for the client so far.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "control/controller.h"

namespace headgate::admin {

// The packet as JSON; `frames`: with the frames' first bytes, in hex.
std::string TraceJson(const control::TraceRow& row, absl::Time came,
                      bool frames);

class TraceStream {
 public:
  TraceStream(const control::Controller* controller,
              std::shared_ptr<datapath::PacketTrace> trace, bool frames);

  // For Response::stream. Over when the packet path is closed.
  std::optional<std::string> Next();

 private:
  const control::Controller* controller_;
  std::shared_ptr<datapath::PacketTrace> trace_;
  const bool frames_;
  // One reading of the wall clock for all: so no packet comes before another.
  const absl::Time boot_;
  std::optional<int64_t> told_ns_;  // When `lost` was told last.
};

}  // namespace headgate::admin
