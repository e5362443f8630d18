#include "proxyproto/decode.h"

#include <array>
#include <cstring>
#include <optional>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_split.h"
#include "proxyproto/crc32c.h"
#include "proxyproto/wire.h"

namespace headgate::proxyproto {
namespace {

DecodeResult Incomplete() { return {}; }

DecodeResult Invalid(absl::string_view error) {
  DecodeResult result;
  result.outcome = Outcome::kInvalid;
  result.error = error;
  return result;
}

// Whether `bytes`, which may still be growing, can begin with `prefix`.
bool CanBeginWith(absl::string_view bytes, absl::string_view prefix) {
  return bytes.substr(0, prefix.size()) == prefix.substr(0, bytes.size());
}

std::optional<IpAddress> ParseV1Address(absl::string_view text, bool v6) {
  // The characters are checked because Parse() takes either family and, like
  // every user of C strings, stops at a NUL.
  const absl::string_view allowed =
      v6 ? "0123456789abcdefABCDEF:." : "0123456789.";
  if (text.find_first_not_of(allowed) != absl::string_view::npos ||
      absl::StrContains(text, ':') != v6) {
    return std::nullopt;
  }
  return IpAddress::Parse(text);
}

std::optional<uint16_t> ParseV1Port(absl::string_view text) {
  if (text.empty() || text.size() > 5) return std::nullopt;
  if (text.size() > 1 && text.front() == '0') return std::nullopt;
  unsigned value = 0;
  for (const char c : text) {
    if (c < '0' || c > '9') return std::nullopt;
    value = value * 10 + static_cast<unsigned>(c - '0');
  }
  if (value > UINT16_MAX) return std::nullopt;
  return static_cast<uint16_t>(value);
}

// `line` is what stands between "PROXY " and CRLF.
DecodeResult DecodeV1Fields(absl::string_view line) {
  DecodeResult result;
  if (line == "UNKNOWN" || absl::StartsWith(line, "UNKNOWN ")) {
    result.outcome = Outcome::kUnknown;
    return result;
  }
  const bool v6 = absl::StartsWith(line, "TCP6 ");
  if (!v6 && !absl::StartsWith(line, "TCP4 ")) {
    return Invalid("neither TCP4, TCP6 nor UNKNOWN");
  }
  const std::vector<absl::string_view> fields = absl::StrSplit(line, ' ');
  if (fields.size() != 5) return Invalid("not four fields after TCP4 or TCP6");
  const std::optional<IpAddress> source = ParseV1Address(fields[1], v6);
  const std::optional<IpAddress> destination = ParseV1Address(fields[2], v6);
  if (!source || !destination) return Invalid("not an address of the family");
  const std::optional<uint16_t> source_port = ParseV1Port(fields[3]);
  const std::optional<uint16_t> destination_port = ParseV1Port(fields[4]);
  if (!source_port || !destination_port) {
    return Invalid("not a port from 0 to 65535");
  }
  result.outcome = Outcome::kProxy;
  result.family = v6 ? Family::kInet6 : Family::kInet;
  result.transport = Transport::kStream;
  result.source = {*source, *source_port};
  result.destination = {*destination, *destination_port};
  return result;
}

DecodeResult DecodeV1(absl::string_view bytes) {
  if (!CanBeginWith(bytes, kV1Prefix)) return Invalid("no signature");
  const absl::string_view line = bytes.substr(0, kMaxV1Length);
  const size_t end = line.find_first_of("\r\n");
  if (end == absl::string_view::npos || line.substr(end) == "\r") {
    if (line.size() < kMaxV1Length) return Incomplete();
    return Invalid("no CRLF within 107 bytes");
  }
  if (line.substr(end, 2) != "\r\n") return Invalid("CR or LF on its own");
  DecodeResult result =
      DecodeV1Fields(line.substr(kV1Prefix.size(), end - kV1Prefix.size()));
  if (result.outcome != Outcome::kInvalid) {
    result.version = 1;
    result.header_length = end + 2;
  }
  return result;
}

IpAddress LoadAddress(absl::string_view bytes) {
  if (bytes.size() == sizeof(in_addr)) {
    in_addr v4{};
    std::memcpy(&v4, bytes.data(), sizeof v4);
    return IpAddress::FromV4(v4);
  }
  std::array<uint8_t, 16> v6{};
  std::memcpy(v6.data(), bytes.data(), v6.size());
  return IpAddress::FromBytes(v6);
}

// `block`: two addresses of `size` bytes, then two ports.
void LoadEndpoints(absl::string_view block, size_t size, DecodeResult* result) {
  result->source = {LoadAddress(block.substr(0, size)),
                    LoadBe16(block, 2 * size)};
  result->destination = {LoadAddress(block.substr(size, size)),
                         LoadBe16(block, 2 * size + 2)};
}

bool Crc32cMatches(absl::string_view header, absl::string_view field) {
  const auto offset = static_cast<size_t>(field.data() - header.data());
  uint32_t crc = Crc32c(header.substr(0, offset));
  crc = Crc32c(absl::string_view("\0\0\0\0", kCrc32cLength), crc);
  crc = Crc32c(header.substr(offset + kCrc32cLength), crc);
  return crc == LoadBe32(field, 0);
}

bool SubTlvsAreSound(absl::string_view ssl) {
  if (ssl.size() < kSslPrefixLength) return false;
  TlvReader reader(ssl.substr(kSslPrefixLength));
  while (reader.Next()) {
  }
  return reader.at_end();
}

// Returns what is wrong with the TLVs of `header`, or nothing.
absl::string_view FindTlvError(absl::string_view header, TlvReader tlvs) {
  bool crc_seen = false;
  while (const std::optional<Tlv> tlv = tlvs.Next()) {
    if (tlv->type == kCrc32c) {
      if (tlv->value.size() != kCrc32cLength) return "CRC32C is not 4 bytes";
      if (crc_seen) return "more than one CRC32C";
      if (!Crc32cMatches(header, tlv->value)) return "CRC32C does not match";
      crc_seen = true;
    } else if (tlv->type == kUniqueId &&
               tlv->value.size() > kMaxUniqueIdLength) {
      return "UNIQUE_ID is longer than 128 bytes";
    } else if (tlv->type == kSsl && !SubTlvsAreSound(tlv->value)) {
      return "SSL is malformed";
    }
  }
  return tlvs.at_end() ? "" : "a TLV does not end within the header";
}

// `header` is whole and its length covers `addresses_length` bytes.
DecodeResult DecodeV2Proxy(absl::string_view header, Family family,
                           Transport transport, size_t addresses_length) {
  DecodeResult result;
  result.family = family;
  result.transport = transport;
  const absl::string_view block = header.substr(kV2FixedLength);
  if (family == Family::kUnix) {
    result.outcome = Outcome::kUnix;
  } else {
    result.outcome = Outcome::kProxy;
    LoadEndpoints(block, family == Family::kInet ? 4 : 16, &result);
  }
  result.tlvs = TlvReader(block.substr(addresses_length));
  const absl::string_view error = FindTlvError(header, result.tlvs);
  return error.empty() ? result : Invalid(error);
}

DecodeResult DecodeV2Fields(absl::string_view bytes, size_t header_length) {
  static constexpr std::array<size_t, 4> kAddressesLength = {
      0, kInetAddressesLength, kInet6AddressesLength, kUnixAddressesLength};
  const bool whole = bytes.size() >= header_length;
  DecodeResult skipped;
  if (LoadByte(bytes, 12) == kV2Local) {
    skipped.outcome = Outcome::kLocal;
    return whole ? skipped : Incomplete();
  }
  const uint8_t family = LoadByte(bytes, 13) >> 4;
  const uint8_t transport = LoadByte(bytes, 13) & 0x0f;
  if (family > 3 || transport > 2) return Invalid("unassigned family");
  if (family == 0 || transport == 0) {
    skipped.outcome = Outcome::kUnspec;
    return whole ? skipped : Incomplete();
  }
  const size_t addresses_length = kAddressesLength[family];
  if (header_length - kV2FixedLength < addresses_length) {
    return Invalid("length is shorter than the addresses");
  }
  if (!whole) return Incomplete();
  return DecodeV2Proxy(bytes.substr(0, header_length), Family{family},
                       Transport{transport}, addresses_length);
}

DecodeResult DecodeV2(absl::string_view bytes) {
  if (!CanBeginWith(bytes, kV2Signature)) return Invalid("no signature");
  if (bytes.size() > kV2Signature.size()) {
    const uint8_t command = LoadByte(bytes, kV2Signature.size());
    if (command != kV2Local && command != kV2Proxy) {
      return Invalid("neither LOCAL nor PROXY of version 2");
    }
  }
  if (bytes.size() < kV2FixedLength) return Incomplete();
  const size_t length = LoadBe16(bytes, 14);
  if (length > kMaxV2Length) return Invalid("length is more than 4096");
  const size_t header_length = kV2FixedLength + length;
  DecodeResult result = DecodeV2Fields(bytes, header_length);
  if (result.outcome != Outcome::kInvalid &&
      result.outcome != Outcome::kIncomplete) {
    result.version = 2;
    result.header_length = header_length;
  }
  return result;
}

}  // namespace

DecodeResult Decode(absl::string_view bytes) {
  if (bytes.empty()) return Incomplete();
  return bytes.front() == kV2Signature.front() ? DecodeV2(bytes)
                                               : DecodeV1(bytes);
}

}  // namespace headgate::proxyproto
