#include "health/dialog.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace headgate::health {
namespace {

constexpr size_t kMaxPrintable = 200;

bool IsDigit(char c) {
  return absl::ascii_isdigit(static_cast<unsigned char>(c));
}

}  // namespace

Verdict Dialog::OnEof() {
  return {Outcome::kWrongAnswer, 0,
          absl::StrCat("closed by the server; waited for ", WaitedFor()), ""};
}

std::string Printable(absl::string_view line) {
  std::string text(line.substr(0, kMaxPrintable));
  for (char& c : text) {
    if (!absl::ascii_isprint(static_cast<unsigned char>(c))) c = '?';
  }
  return text;
}

int ReplyCode(absl::string_view line) {
  if (line.size() < 3 ||
      !std::all_of(line.begin(), line.begin() + 3, IsDigit)) {
    return 0;
  }
  if (line.size() > 3 && line[3] != ' ' && line[3] != '-') return 0;
  return 100 * (line[0] - '0') + 10 * (line[1] - '0') + (line[2] - '0');
}

bool IsContinued(absl::string_view line) {
  return line.size() > 3 && line[3] == '-';
}

Verdict HeaderNotWanted(absl::string_view line) {
  return {Outcome::kHeaderRefused, ReplyCode(line), Printable(line),
          "the backend does not expect the PROXY header that the check sends: "
          "set health.proxy_protocol: none, or let the port expect it "
          "(smtpd_upstream_proxy_protocol = haproxy in Postfix, haproxy = yes "
          "in Dovecot, hosts_proxy in Exim)"};
}

Verdict HeaderMissing(absl::string_view line, bool header) {
  Verdict verdict{Outcome::kHeaderRefused, ReplyCode(line), Printable(line),
                  "the backend expects a PROXY header that the check does not "
                  "send: set health.proxy_protocol: local, or health.port to a "
                  "port without it"};
  if (header) {
    verdict.hint =
        "the backend did not get or did not like the PROXY header; its log "
        "says why (Postfix: \"haproxy read\", \"proxy header\")";
  }
  return verdict;
}

Verdict JudgeSmtpRefusal(absl::string_view line, bool header) {
  const int code = ReplyCode(line);
  if (code == 0) {
    return {Outcome::kWrongAnswer, 0,
            absl::StrCat("not SMTP: ", Printable(line)), ""};
  }
  if (code == 421 &&
      absl::StrContains(absl::AsciiStrToLower(line), "too many")) {
    return {Outcome::kRateLimited, code, Printable(line),
            "the backend limits the checks as it does clients: add the "
            "check's address to smtpd_client_event_limit_exceptions, or check "
            "less often (health.interval)"};
  }
  // smtpd and postscreen, when they cannot read a header.
  if (absl::StrContains(line, "4.3.0") && code == 421) {
    return HeaderMissing(line, header);
  }
  if (absl::StrContains(line, "4.3.2 No system resources")) {
    return HeaderMissing(line, header);
  }
  // Exim without PIPECONNECT: the header has not waited for the greeting.
  if (header && absl::StrContains(line, "synchronization error")) {
    return HeaderNotWanted(line);
  }
  return {Outcome::kWrongAnswer, code, Printable(line), ""};
}

}  // namespace headgate::health
