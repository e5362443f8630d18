// What a check found, and the words for it.
#pragma once

#include <array>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"

namespace headgate::health {

// More than passed and failed, because the remedies differ:
//   kRateLimited    the server is alive and turns checks away: says nothing new
//   kHeaderRefused  one side expects a PROXY header that the other does not
//   kCertificate    expires too soon, or was not verified
//   kError          something is wrong on this side (no descriptors, no
//   memory),
//                   which says nothing of the target
enum class Outcome {
  kPassed,
  kRefused,
  kTimeout,
  kUnreachable,
  kTls,
  kWrongAnswer,
  kRateLimited,
  kHeaderRefused,
  kCertificate,
  kError,
};
inline constexpr std::array kOutcomes = {
    Outcome::kPassed,      Outcome::kRefused,       Outcome::kTimeout,
    Outcome::kUnreachable, Outcome::kTls,           Outcome::kWrongAnswer,
    Outcome::kRateLimited, Outcome::kHeaderRefused, Outcome::kCertificate,
    Outcome::kError};

// How far a check had got: the Layer4, Layer6 and Layer7 of HAProxy's words.
enum class Layer { kTcp = 4, kTls = 6, kDialog = 7 };

struct Certificate {
  std::string subject;
  absl::Time not_after;
  bool operator==(const Certificate&) const = default;
};

// One thing that happened, for people who ask what a check does.
struct Step {
  absl::Duration at;  // Since the start.
  std::string what;
};

struct CheckResult {
  Outcome outcome = Outcome::kError;
  Layer layer = Layer::kTcp;
  int code = 0;        // The server's status code; 0: none.
  std::string detail;  // "Connection refused"; what was said, if passed.
  std::string hint;    // What to change and where, if that is known.
  absl::Duration duration;
  absl::Time time;  // When it ended.
  std::optional<Certificate> certificate;
  std::string tls;  // "TLSv1.3, TLS_AES_256_GCM_SHA384"; empty: no TLS.
  std::optional<uint32_t> weight;  // What the server asks for.
  std::vector<Step> steps;         // Only if asked for.
};

// The word of JSON and metrics: "passed", "wrong_answer".
const char* OutcomeName(Outcome outcome);

// HAProxy's name of the same (srv_check_status): "L4CON", "L7OK".
std::string StatusName(const CheckResult& result);
// HAProxy's words, which alerts know: `Layer4 connection problem, info:
// "Connection refused"`, `Layer7 wrong status, code: 554, info: "..."`.
std::string Reason(const CheckResult& result);

// Whole days until it expires; negative once it has.
int64_t DaysLeft(const Certificate& certificate, absl::Time now);

}  // namespace headgate::health
