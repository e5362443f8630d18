// Lines out of a stream, in bounded memory: what a peer sends may end in a
// verdict, never in growth.
#pragma once

#include <optional>
#include <string>

#include "absl/strings/string_view.h"

namespace headgate::health {

class LineReader {
 public:
  static constexpr size_t kMaxLine = 8 * 1024;
  // Of a whole conversation: ten times the longest that a check needs.
  static constexpr size_t kMaxTotal = 64 * 1024;

  // Takes what came from the peer. False: the line or the conversation is too
  // long, and nothing was taken.
  bool Append(absl::string_view bytes) {
    total_ += bytes.size();
    if (total_ > kMaxTotal) return false;
    buffer_.append(bytes.data(), bytes.size());
    return buffer_.find('\n') <= kMaxLine || buffer_.size() <= kMaxLine;
  }

  // The next line, without its end (CRLF or LF); nothing: not whole yet.
  std::optional<std::string> Next() {
    const size_t end = buffer_.find('\n');
    if (end == std::string::npos) return std::nullopt;
    std::string line = buffer_.substr(0, end);
    buffer_.erase(0, end + 1);
    if (!line.empty() && line.back() == '\r') line.pop_back();
    return line;
  }

  // What has come of the next line.
  absl::string_view partial() const { return buffer_; }
  size_t total() const { return total_; }
  // TLS starts afresh: what was said before it in the clear counts no more
  // (RFC 3207, 4.2).
  void Forget() { buffer_.clear(); }

 private:
  std::string buffer_;
  size_t total_ = 0;
};

}  // namespace headgate::health
