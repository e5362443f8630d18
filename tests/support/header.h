// PROXY protocol headers as receivers expect them, written down a second time
// (haproxy/doc/proxy-protocol.txt, 2.1 and 2.2) so that a mistake in
// src/proxyproto cannot hide behind itself. Addresses and ports go out in
// network byte order.
#pragma once

#include <cstddef>
#include <optional>
#include <string>

#include "absl/strings/string_view.h"
#include "net/address.h"

namespace headgate::testing {

enum class HeaderKind { kNone, kV1, kV2 };

// Both endpoints of one family.
std::string ExpectedHeader(HeaderKind kind, const Endpoint& source,
                           const Endpoint& destination);

// The size of the header at the start of `bytes`; nothing while incomplete.
std::optional<size_t> HeaderSize(HeaderKind kind, absl::string_view bytes);

// The source announced by a complete version 2 header.
Endpoint HeaderSource(absl::string_view header);

}  // namespace headgate::testing
