#include "health/result.h"

#include "absl/strings/str_cat.h"

namespace headgate::health {
namespace {

bool HasWrongStatus(const CheckResult& result) {
  return result.layer == Layer::kDialog && result.code != 0;
}

}  // namespace

const char* OutcomeName(Outcome outcome) {
  switch (outcome) {
    case Outcome::kPassed:
      return "passed";
    case Outcome::kRefused:
      return "refused";
    case Outcome::kTimeout:
      return "timeout";
    case Outcome::kUnreachable:
      return "unreachable";
    case Outcome::kTls:
      return "tls_error";
    case Outcome::kWrongAnswer:
      return "wrong_answer";
    case Outcome::kRateLimited:
      return "rate_limited";
    case Outcome::kHeaderRefused:
      return "header_refused";
    case Outcome::kCertificate:
      return "certificate";
    case Outcome::kError:
      return "error";
  }
  return "error";
}

std::string StatusName(const CheckResult& result) {
  const std::string layer = absl::StrCat("L", static_cast<int>(result.layer));
  switch (result.outcome) {
    case Outcome::kPassed:
      return absl::StrCat(layer, "OK");
    case Outcome::kTimeout:
      return absl::StrCat(layer, "TOUT");
    case Outcome::kRefused:
    case Outcome::kUnreachable:
      return "L4CON";
    case Outcome::kError:
      return "SOCKERR";
    default:
      return absl::StrCat(layer, HasWrongStatus(result) ? "STS" : "RSP");
  }
}

std::string Reason(const CheckResult& result) {
  std::string text = absl::StrCat("Layer", static_cast<int>(result.layer), " ");
  switch (result.outcome) {
    case Outcome::kPassed:
      return absl::StrCat(text, "check passed");
    case Outcome::kTimeout:
      absl::StrAppend(&text, "timeout");
      // HAProxy says no more of a handshake that nobody answers.
      if (result.layer == Layer::kTcp) return text;
      break;
    case Outcome::kRefused:
    case Outcome::kUnreachable:
      text = "Layer4 connection problem";
      break;
    case Outcome::kError:
      text = "Socket error";
      break;
    default:
      if (HasWrongStatus(result)) {
        absl::StrAppend(&text, "wrong status, code: ", result.code);
      } else {
        absl::StrAppend(&text, "invalid response");
      }
  }
  if (result.detail.empty()) return text;
  return absl::StrCat(text, ", info: \"", result.detail, "\"");
}

int64_t DaysLeft(const Certificate& certificate, absl::Time now) {
  return absl::ToInt64Hours(
             absl::Floor(certificate.not_after - now, absl::Hours(24))) /
         24;
}

}  // namespace headgate::health
