// Lists of connections as JSON, made while they are sent. There may be a
// million: neither memory nor what else this thread has to do bears more than a
// part of them.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/strings/str_cat.h"
#include "control/controller.h"

namespace headgate::admin {

// As Response::stream.
using ListText = absl::AnyInvocable<std::optional<std::string>()>;

// {"NAME":[ROW, ...],"total":N}, with a line for each row.
template <typename Row>
class ListStream {
 public:
  // The next rows, maybe none of many looked at; nothing: that was all.
  using Source = absl::AnyInvocable<std::optional<std::vector<Row>>()>;

  // Has the first `limit` rows, by `json`; N counts the others, too.
  ListStream(const char* name, uint64_t limit, Source source,
             std::string (*json)(const Row&))
      : head_(absl::StrCat("{\"", name, "\":[")),
        limit_(limit),
        source_(std::move(source)),
        json_(json) {}

  std::optional<std::string> Next() {
    if (ended_) return std::nullopt;
    std::string text = std::exchange(head_, "");
    const std::optional<std::vector<Row>> rows = source_();
    if (!rows.has_value()) {
      ended_ = true;
      return absl::StrCat(text, "\n],\"total\":", total_, "}\n");
    }
    for (const Row& row : *rows) {
      if (total_++ >= limit_) continue;
      absl::StrAppend(&text, total_ == 1 ? "\n" : ",\n", json_(row));
    }
    return text;
  }

 private:
  std::string head_;
  const uint64_t limit_;
  Source source_;
  std::string (*json_)(const Row&);
  uint64_t total_ = 0;
  bool ended_ = false;
};

// `controller` must outlive them.
ListText ListConnections(const control::Controller* controller,
                         const control::ConnectionFilter& filter,
                         uint64_t limit);
ListText ListFlows(const control::Controller* controller,
                   const control::ConnectionFilter& filter, uint64_t limit);

}  // namespace headgate::admin
