// What the tests of the configuration start from, and errors as text.
#pragma once

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "config/parse.h"

namespace headgate::config {

// The example of the documentation.
inline constexpr absl::string_view kExample = R"(metrics:
  listen: 127.0.0.1:9140            # /metrics and the live page; absent: off
pools:
  mail-nodes:
    backends:
      - {name: k8s-node1, address: 198.18.2.11}
      - {name: k8s-node2, address: 198.18.2.12, weight: 2}
      - {name: spare, address: "[2001:db8:2::9]:30125", backup: true}
services:
  smtp:
    listen: [198.18.1.1:25, "[2001:db8:1::1]:25"]   # exact addresses, nothing wider
    pool: mail-nodes
    backend_port: 30125             # for backends whose address has no port
    datapath: splice                # splice | relay | packet
    balance: round_robin            # round_robin | least_connections | maglev | source
    proxy_protocol: v2              # none | v1 | v2
    health:
      type: tcp                     # none | tcp | greeting | smtp | imap | tls | http
      port: 30145                   # default: the backend's own port
      proxy_protocol: none          # none | local | own: a switch of its own, never inherited
      interval: 5s
      timeout: 2s
      rise: 2
      fall: 3
    timeouts: {connect: 5s, idle: 1h}
    max_connections: 0              # 0: no limit
)";

// A minimal configuration, one piece of which tests replace or append to.
inline constexpr absl::string_view kMinimal = R"(pools:
  mail:
    backends:
      - {name: a, address: 198.18.2.1:25}
services:
  smtp:
    listen: 198.18.1.1:25
    pool: mail
)";

// "LINE:COLUMN: message" for each error.
inline std::vector<std::string> ErrorsOf(absl::string_view text) {
  std::vector<std::string> lines;
  for (const Error& error : Parse(text).errors) {
    lines.push_back(
        absl::StrCat(error.line, ":", error.column, ": ", error.message));
  }
  return lines;
}

}  // namespace headgate::config
