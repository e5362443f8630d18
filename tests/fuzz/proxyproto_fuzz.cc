// Arbitrary bytes into the PROXY protocol decoder. Besides not crashing: an
// accepted header lies within the input, needs each of its bytes, and says
// the same when the encoder writes it again.
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "proxyproto/decode.h"
#include "proxyproto/encode.h"

namespace headgate::proxyproto {
namespace {

void Require(bool condition) {
  if (!condition) std::abort();
}

void CheckTlvs(TlvReader tlvs, absl::string_view header) {
  size_t used = 0;
  while (const auto tlv = tlvs.Next()) {
    Require(tlv->value.empty() || (tlv->value.data() >= header.data() &&
                                   tlv->value.data() + tlv->value.size() <=
                                       header.data() + header.size()));
    used += kTlvPrefixLength + tlv->value.size();
    Require(used <= header.size());
  }
  Require(tlvs.at_end());
}

void CheckEncoded(const Header& header, const DecodeResult& expected) {
  const DecodeResult result = Decode(header.bytes());
  Require(result.outcome == Outcome::kProxy);
  Require(result.header_length == header.bytes().size());
  Require(result.source == expected.source);
  Require(result.destination == expected.destination);
}

void CheckAccepted(const DecodeResult& result, absl::string_view input) {
  Require(result.header_length > 0 && result.header_length <= input.size());
  Require(result.version == 1 || result.version == 2);
  const absl::string_view header = input.substr(0, result.header_length);
  const DecodeResult again = Decode(header);
  Require(again.outcome == result.outcome);
  Require(again.header_length == result.header_length);
  Require(Decode(header.substr(0, header.size() - 1)).outcome ==
          Outcome::kIncomplete);
  CheckTlvs(result.tlvs, header);
  if (result.outcome == Outcome::kProxy) {
    CheckEncoded(EncodeV1(result.source, result.destination), result);
    CheckEncoded(EncodeV2(result.source, result.destination), result);
  }
}

void CheckInput(absl::string_view input) {
  const DecodeResult result = Decode(input);
  if (result.outcome == Outcome::kInvalid) {
    Require(!result.error.empty() && result.header_length == 0);
  } else if (result.outcome == Outcome::kIncomplete) {
    Require(input.size() < kV2FixedLength + kMaxV2Length);
  } else {
    CheckAccepted(result, input);
  }
}

}  // namespace
}  // namespace headgate::proxyproto

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  headgate::proxyproto::CheckInput({reinterpret_cast<const char*>(data), size});
  return 0;
}
