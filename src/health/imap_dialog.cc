#include "health/imap_dialog.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace headgate::health {
namespace {

constexpr char kLogout[] = "a LOGOUT\r\n";

// Dovecot's login process while the auth process does not answer.
bool AuthIsDown(absl::string_view line) {
  return absl::StrContains(line, "Waiting for authentication process");
}

}  // namespace

Move ImapDialog::OnLine(absl::string_view line) {
  if (AuthIsDown(line)) {
    return Move::End(
        {Outcome::kWrongAnswer, 0, Printable(line),
         "the server's authentication is down (Dovecot: service auth)"},
        kLogout);
  }
  switch (awaits_) {
    case Awaits::kGreeting:
      return OnGreeting(line);
    case Awaits::kStartTls:
      return OnStartTls(line);
    case Awaits::kTls:
      return Move::Wait();
    case Awaits::kBye:
      return OnBye(line);
  }
  return Move::Wait();
}

Move ImapDialog::OnGreeting(absl::string_view line) {
  const bool ok = absl::StartsWithIgnoreCase(line, "* OK") ||
                  absl::StartsWithIgnoreCase(line, "* PREAUTH");
  if (!ok) {
    const bool bye = absl::StartsWithIgnoreCase(line, "* BYE");
    return Move::End(
        {Outcome::kWrongAnswer, 0,
         bye ? Printable(line) : absl::StrCat("not IMAP: ", Printable(line)),
         ""});
  }
  greeting_ = Printable(line);
  if (!starttls_) return Logout();
  awaits_ = Awaits::kStartTls;
  return Move::Say("t STARTTLS\r\n");
}

Move ImapDialog::OnStartTls(absl::string_view line) {
  if (header_ && absl::StartsWithIgnoreCase(line, "* BAD")) {
    return Move::End(HeaderNotWanted(line), kLogout);
  }
  if (absl::StartsWith(line, "* ")) return Move::Wait();
  if (!absl::StartsWithIgnoreCase(line, "t OK")) {
    return Move::End({Outcome::kTls, 0, Printable(line), ""}, kLogout);
  }
  awaits_ = Awaits::kTls;
  Move move;
  move.start_tls = true;
  return move;
}

Move ImapDialog::OnTls() { return Logout(); }

Move ImapDialog::OnBye(absl::string_view line) {
  if (header_ && absl::StartsWithIgnoreCase(line, "* BAD")) {
    return Move::End(HeaderNotWanted(line));
  }
  if (absl::StartsWith(line, "* ")) return Move::Wait();
  if (absl::StartsWithIgnoreCase(line, "a OK")) {
    return Move::End({Outcome::kPassed, 0, greeting_, ""});
  }
  return Move::End({Outcome::kWrongAnswer, 0,
                    absl::StrCat("answer to LOGOUT: ", Printable(line)), ""});
}

Verdict ImapDialog::OnEof() {
  if (awaits_ == Awaits::kBye) return {Outcome::kPassed, 0, greeting_, ""};
  Verdict verdict = Dialog::OnEof();
  if (awaits_ != Awaits::kGreeting) return verdict;
  // Dovecot says nothing at all to either mistake.
  verdict.hint =
      header_ ? "perhaps the port does not expect the PROXY header that the "
                "check sends, or does not trust its sender "
                "(haproxy_trusted_networks in Dovecot)"
              : "perhaps the port expects a PROXY header, which the check does "
                "not send (health.proxy_protocol: local)";
  return verdict;
}

std::string ImapDialog::WaitedFor() const {
  switch (awaits_) {
    case Awaits::kGreeting:
      return "a greeting";
    case Awaits::kStartTls:
      return "the answer to STARTTLS";
    case Awaits::kTls:
      return "the TLS handshake";
    case Awaits::kBye:
      return "the answer to LOGOUT";
  }
  return "";
}

Move ImapDialog::Logout() {
  awaits_ = Awaits::kBye;
  return Move::Say(kLogout);
}

}  // namespace headgate::health
