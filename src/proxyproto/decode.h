// Strict decoder for PROXY protocol headers, versions 1 and 2. Call it with
// the bytes received so far and again with more while it says kIncomplete; the
// caller owns the deadline. Only for peers that are configured to send one:
// a header must never be guessed. Never throws, never reads past `bytes`.
//
// Where the text leaves a choice (haproxy/doc/proxy-protocol.txt, 2.1, 2.2):
//   LOCAL       everything behind the length is skipped unread: addresses,
//               family, TLVs and their checksum (AWS NLB sends addresses)
//   UNSPEC      either half of the family byte being 0 is enough; skipped too
//   TLVs        must end exactly with the header; CRC32C is verified and may
//               appear once; UNIQUE_ID and SSL keep their lengths
//   TCP6        may hold a dotted quad (nginx writes ::ffff:192.0.2.1)
//   second one  a header behind the header is payload
#pragma once

#include <cstddef>
#include <cstdint>

#include "absl/strings/string_view.h"
#include "net/address.h"
#include "proxyproto/tlv.h"

namespace headgate::proxyproto {

// A longer version 2 length is refused before any of it is buffered.
inline constexpr size_t kMaxV2Length = 4096;

enum class Outcome {
  kProxy,    // source and destination are those of the proxied connection.
  kLocal,    // v2 LOCAL: the real endpoints of the connection count.
  kUnknown,  // v1 UNKNOWN: likewise.
  kUnspec,   // v2 PROXY without a family: likewise.
  kUnix,     // v2 PROXY of a UNIX socket: likewise.
  kIncomplete,
  kInvalid,  // Close the connection; `error` says why.
};

enum class Family : uint8_t { kUnspec, kInet, kInet6, kUnix };
enum class Transport : uint8_t { kUnspec, kStream, kDatagram };

// Beyond outcome and error, fields are set only once a header is accepted.
struct DecodeResult {
  Outcome outcome = Outcome::kIncomplete;
  absl::string_view error;   // Only with kInvalid; static text.
  size_t header_length = 0;  // Bytes to strip; what follows is payload.
  int version = 0;           // 1 or 2.
  // As sent: an IPv4-mapped pair in INET6 is kInet6 with two IPv4 endpoints.
  Family family = Family::kUnspec;
  Transport transport = Transport::kUnspec;
  Endpoint source;
  Endpoint destination;
  TlvReader tlvs;  // Already checked; views into the bytes decoded.
};

DecodeResult Decode(absl::string_view bytes);

}  // namespace headgate::proxyproto
