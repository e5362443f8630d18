#include "health/greeting_dialog.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace headgate::health {
namespace {

// FTP, SMTP and LMTP greet with 220, POP3 with +OK, IMAP with "* OK". Nothing
// for a greeting that goes on: that may be postscreen's.
std::string Goodbye(absl::string_view line) {
  if (absl::StartsWith(line, "220 ") || absl::StartsWith(line, "+OK")) {
    return "QUIT\r\n";
  }
  return absl::StartsWith(line, "* OK") ? "a LOGOUT\r\n" : "";
}

bool IsLastWord(absl::string_view line) {
  return absl::StartsWith(line, "221 ") || absl::StartsWith(line, "+OK") ||
         absl::StartsWith(line, "a OK");
}

}  // namespace

GreetingDialog::GreetingDialog(const std::string& expect)
    : expect_(expect.empty() ? nullptr
                             : std::make_unique<RE2>(expect, RE2::Quiet)) {}

Move GreetingDialog::OnLine(absl::string_view line) {
  const Verdict passed{Outcome::kPassed, 0, greeting_, ""};
  if (leaves_) return IsLastWord(line) ? Move::End(passed) : Move::Wait();
  const re2::StringPiece text(line.data(), line.size());
  if (expect_ != nullptr && !RE2::PartialMatch(text, *expect_)) {
    return Move::End(
        {Outcome::kWrongAnswer, 0,
         absl::StrCat("does not match health.expect: ", Printable(line)), ""},
        Goodbye(line));
  }
  greeting_ = Printable(line);
  const std::string goodbye = Goodbye(line);
  if (goodbye.empty()) {
    return Move::End({Outcome::kPassed, 0, greeting_, ""});
  }
  leaves_ = true;
  return Move::Say(goodbye);
}

Verdict GreetingDialog::OnEof() {
  if (leaves_) return {Outcome::kPassed, 0, greeting_, ""};
  return Dialog::OnEof();
}

std::string GreetingDialog::WaitedFor() const {
  return leaves_ ? "the answer to the goodbye" : "a greeting";
}

}  // namespace headgate::health
