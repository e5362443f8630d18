// What a client is told whom no backend can serve, before its connection is
// closed in order.
#pragma once

#include <cstddef>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "config/types.h"

namespace headgate::relay {

// A whole line; empty for kReset. Greetings that refuse (RFC 5321, 3.1 and
// 4.2.1; RFC 3501, 7.1.5) with the codes for it (RFC 3463, RFC 5530).
absl::string_view FarewellLine(config::NoBackend answer);

class Farewell {
 public:
  // What a client may send meanwhile, and how long it may take.
  static constexpr size_t kMostBytes = 1024 * 1024;
  static constexpr absl::Duration kMostTime = absl::Seconds(2);

  // Sends the line and the end of the stream. False: the socket is broken.
  bool Send(int client, absl::string_view line);
  // Throws away what the client sends: unread, it would turn the close into a
  // RST, which may overtake the line. False: nothing more will come, or too
  // much has; close it.
  bool Drain(int client);

 private:
  size_t left_ = kMostBytes;
};

}  // namespace headgate::relay
