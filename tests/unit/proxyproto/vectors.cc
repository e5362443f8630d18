#include "vectors.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>

#include "absl/strings/escaping.h"

namespace headgate::proxyproto {
namespace {

using nlohmann::json;

Endpoint ToEndpoint(const json& expect, const char* address, const char* port) {
  if (!expect.contains(address)) return {};
  return {IpAddress::Parse(expect.at(address).get<std::string>()).value(),
          expect.at(port).get<uint16_t>()};
}

Vector ToVector(const json& entry) {
  const json& expect = entry.at("expect");
  Vector vector;
  vector.name = entry.at("name");
  vector.bytes = absl::HexStringToBytes(entry.at("hex").get<std::string>());
  vector.verdict = expect.at("verdict");
  vector.version = expect.value("version", 0);
  vector.header_length = expect.value("header_len", size_t{0});
  vector.family = expect.value("family", "");
  vector.transport = expect.value("transport", "");
  vector.source = ToEndpoint(expect, "src", "sport");
  vector.destination = ToEndpoint(expect, "dst", "dport");
  for (const json& tlv : expect.value("tlvs", json::array())) {
    vector.tlvs.emplace_back(
        tlv.at(0).get<uint8_t>(),
        absl::HexStringToBytes(tlv.at(1).get<std::string>()));
  }
  return vector;
}

std::vector<Vector> Load() {
  std::ifstream file(HG_TEST_DATA_DIR "/proxy_vectors.json");
  std::vector<Vector> vectors;
  for (const json& entry : json::parse(file)) {
    vectors.push_back(ToVector(entry));
  }
  return vectors;
}

}  // namespace

const std::vector<Vector>& AllVectors() {
  static const std::vector<Vector> vectors = Load();
  return vectors;
}

const Vector& VectorNamed(const std::string& name) {
  const auto found =
      std::find_if(AllVectors().begin(), AllVectors().end(),
                   [&](const Vector& vector) { return vector.name == name; });
  if (found == AllVectors().end()) {
    std::fprintf(stderr, "no vector is named %s\n", name.c_str());
    std::abort();
  }
  return *found;
}

}  // namespace headgate::proxyproto
