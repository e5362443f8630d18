#include "proxyproto/encode.h"

#include <arpa/inet.h>

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "proxyproto/crc32c.h"

namespace headgate::proxyproto {

// Appends to a Header. Header::kCapacity is what keeps it within bounds.
class HeaderWriter {
 public:
  explicit HeaderWriter(Header* header) : header_(*header) {}

  void Bytes(absl::string_view bytes) {
    std::memcpy(header_.data_.data() + header_.size_, bytes.data(),
                bytes.size());
    header_.size_ += bytes.size();
  }
  void Byte(uint8_t value) {
    header_.data_[header_.size_++] = static_cast<char>(value);
  }
  void Be16(size_t value) {
    Byte(static_cast<uint8_t>(value >> 8));
    Byte(static_cast<uint8_t>(value));
  }
  void Be32(uint32_t value) {
    Be16(value >> 16);
    Be16(value);
  }
  void TlvPrefix(uint8_t type, size_t length) {
    Byte(type);
    Be16(length);
  }
  size_t size() const { return header_.size_; }
  // The next bytes replace those from `size` on; returns where the end was.
  size_t Seek(size_t size) { return std::exchange(header_.size_, size); }

 private:
  Header& header_;
};

namespace {

bool BothV4(const Endpoint& a, const Endpoint& b) {
  return a.address.is_v4() && b.address.is_v4();
}

void WriteFixed(uint8_t command, uint8_t family, size_t length,
                HeaderWriter* writer) {
  writer->Bytes(kV2Signature);
  writer->Byte(command);
  writer->Byte(family);
  writer->Be16(length);
}

void WriteAddress(const IpAddress& address, bool as_v4, HeaderWriter* writer) {
  const auto& bytes = address.bytes();
  const absl::string_view mapped(reinterpret_cast<const char*>(bytes.data()),
                                 bytes.size());
  writer->Bytes(as_v4 ? mapped.substr(12) : mapped);
}

size_t TlvsLength(const V2Options& options) {
  const size_t crc = options.crc32c ? kTlvPrefixLength + kCrc32cLength : 0;
  const size_t id = options.unique_id.empty()
                        ? 0
                        : kTlvPrefixLength + options.unique_id.size();
  return crc + id;
}

Header BuildV2(const Endpoint& source, const Endpoint& destination,
               const V2Options& options) {
  const bool v4 = BothV4(source, destination);
  Header header;
  HeaderWriter writer(&header);
  WriteFixed(
      kV2Proxy, v4 ? kTcp4 : kTcp6,
      (v4 ? kInetAddressesLength : kInet6AddressesLength) + TlvsLength(options),
      &writer);
  WriteAddress(source.address, v4, &writer);
  WriteAddress(destination.address, v4, &writer);
  writer.Be16(source.port);
  writer.Be16(destination.port);
  size_t crc_offset = 0;
  if (options.crc32c) {
    writer.TlvPrefix(kCrc32c, kCrc32cLength);
    crc_offset = writer.size();
    writer.Be32(0);  // The sum is taken over a header with zeros here.
  }
  if (!options.unique_id.empty()) {
    writer.TlvPrefix(kUniqueId, options.unique_id.size());
    writer.Bytes(options.unique_id);
  }
  if (options.crc32c) {
    const uint32_t crc = Crc32c(header.bytes());
    const size_t end = writer.Seek(crc_offset);
    writer.Be32(crc);
    writer.Seek(end);
  }
  return header;
}

struct AddressText {
  char text[INET6_ADDRSTRLEN] = {};
};

AddressText FormatV1(const IpAddress& address, bool as_v4) {
  AddressText result;
  const auto& bytes = address.bytes();
  if (as_v4) {
    inet_ntop(AF_INET, bytes.data() + 12, result.text, sizeof result.text);
  } else if (address.is_v4()) {
    // Hex groups: the grammar of 2.1 has no dotted quad inside IPv6.
    std::snprintf(result.text, sizeof result.text, "::ffff:%x:%x",
                  bytes[12] << 8 | bytes[13], bytes[14] << 8 | bytes[15]);
  } else {
    inet_ntop(AF_INET6, bytes.data(), result.text, sizeof result.text);
  }
  return result;
}

}  // namespace

Header EncodeV2(const Endpoint& source, const Endpoint& destination) {
  return BuildV2(source, destination, {});
}

absl::StatusOr<Header> EncodeV2(const Endpoint& source,
                                const Endpoint& destination,
                                const V2Options& options) {
  if (options.unique_id.size() > kMaxUniqueIdLength) {
    return absl::InvalidArgumentError(
        absl::StrCat("encode unique_id: ", options.unique_id.size(),
                     " bytes are more than ", kMaxUniqueIdLength));
  }
  return BuildV2(source, destination, options);
}

Header EncodeV2Local() {
  Header header;
  HeaderWriter writer(&header);
  WriteFixed(kV2Local, 0, 0, &writer);
  return header;
}

Header EncodeV1(const Endpoint& source, const Endpoint& destination) {
  const bool v4 = BothV4(source, destination);
  char line[kMaxV1Length + 1];
  const int size = std::snprintf(
      line, sizeof line, "PROXY TCP%c %s %s %u %u\r\n", v4 ? '4' : '6',
      FormatV1(source.address, v4).text, FormatV1(destination.address, v4).text,
      unsigned{source.port}, unsigned{destination.port});
  Header header;
  HeaderWriter(&header).Bytes({line, static_cast<size_t>(size)});
  return header;
}

}  // namespace headgate::proxyproto
