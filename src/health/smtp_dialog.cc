#include "health/smtp_dialog.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace headgate::health {

Move SmtpDialog::OnLine(absl::string_view line) {
  switch (awaits_) {
    case Awaits::kGreeting:
      return OnGreeting(line);
    case Awaits::kEhlo:
      return OnEhlo(line);
    case Awaits::kStartTls:
      return OnStartTls(line);
    case Awaits::kTls:
      return Move::Wait();
    case Awaits::kBye:
      return OnBye(line);
  }
  return Move::Wait();
}

Move SmtpDialog::OnGreeting(absl::string_view line) {
  if (ReplyCode(line) != 220) {
    const Verdict verdict = JudgeSmtpRefusal(line, options_.header);
    // 421 closes by itself, and what is not SMTP is not asked to quit. Behind
    // a teaser a word could still be too early.
    if (verdict.code == 0 || verdict.code == 421 || teased_) {
      return Move::End(verdict);
    }
    return IsContinued(line) ? Move::End(verdict) : Refuse(verdict);
  }
  if (greeting_.empty()) greeting_ = Printable(line);
  if (IsContinued(line)) {
    teased_ = true;
    if (options_.whole_greeting) return Move::Wait();
    return Move::End({Outcome::kPassed, 220, greeting_, ""});
  }
  if (options_.ehlo.empty()) return Quit();
  awaits_ = Awaits::kEhlo;
  return Move::Say(absl::StrCat("EHLO ", options_.ehlo, "\r\n"));
}

Move SmtpDialog::OnEhlo(absl::string_view line) {
  const int code = ReplyCode(line);
  if (code == 500 && options_.header) return Refuse(HeaderNotWanted(line));
  // Exim, when it has not got a header.
  if (absl::StrContains(line, "Proxy negotiation failed")) {
    return Refuse(HeaderMissing(line, options_.header));
  }
  if (code != 250) {
    return Refuse({Outcome::kWrongAnswer, code, Printable(line), ""});
  }
  offers_starttls_ |= absl::EqualsIgnoreCase(
      line.substr(3).substr(line.size() > 3), "STARTTLS");
  if (IsContinued(line)) return Move::Wait();
  if (!options_.starttls) return Quit();
  if (!offers_starttls_) {
    return Refuse({Outcome::kTls, 0, "the server does not offer STARTTLS", ""});
  }
  awaits_ = Awaits::kStartTls;
  return Move::Say("STARTTLS\r\n");
}

Move SmtpDialog::OnStartTls(absl::string_view line) {
  if (IsContinued(line)) return Move::Wait();
  if (ReplyCode(line) != 220) {
    return Refuse({Outcome::kTls, ReplyCode(line), Printable(line), ""});
  }
  awaits_ = Awaits::kTls;
  Move move;
  move.start_tls = true;
  return move;
}

Move SmtpDialog::OnTls() { return Quit(); }

Move SmtpDialog::OnBye(absl::string_view line) {
  const int code = ReplyCode(line);
  // 500 to the header's bytes, which end in "QUIT".
  if (code == 500 && options_.header) return Move::End(HeaderNotWanted(line));
  if (IsContinued(line)) return Move::Wait();
  if (code == 221) return Move::End({Outcome::kPassed, 220, greeting_, ""});
  return Move::End({Outcome::kWrongAnswer, code,
                    absl::StrCat("answer to QUIT: ", Printable(line)), ""});
}

Verdict SmtpDialog::OnEof() {
  // It did serve; that it hangs up without a word is its own affair.
  if (awaits_ == Awaits::kBye) return {Outcome::kPassed, 220, greeting_, ""};
  Verdict verdict = Dialog::OnEof();
  if (awaits_ == Awaits::kGreeting && !teased_) {
    verdict.hint = options_.header
                       ? "perhaps the port does not expect the PROXY header "
                         "that the check sends, or does not trust its sender"
                       : "perhaps the port expects a PROXY header, which the "
                         "check does not send (health.proxy_protocol: local)";
  }
  return verdict;
}

std::string SmtpDialog::WaitedFor() const {
  switch (awaits_) {
    case Awaits::kGreeting:
      return teased_ ? "the rest of the greeting" : "a greeting";
    case Awaits::kEhlo:
      return "the answer to EHLO";
    case Awaits::kStartTls:
      return "the answer to STARTTLS";
    case Awaits::kTls:
      return "the TLS handshake";
    case Awaits::kBye:
      return "the answer to QUIT";
  }
  return "";
}

Move SmtpDialog::Quit() {
  awaits_ = Awaits::kBye;
  return Move::Say("QUIT\r\n");
}

Move SmtpDialog::Refuse(Verdict verdict) {
  return Move::End(std::move(verdict), "QUIT\r\n");
}

}  // namespace headgate::health
