// SMTP up to QUIT: RFC 5321; STARTTLS: RFC 3207.
//
// Postscreen greets twice: "220-" at once, to tempt clients that talk too
// early, and "220 " after its tests. Whoever says anything in between is taken
// for a spammer (PREGREET), so a teaser is answered by silence: by default the
// check ends there, and with postscreen: full it waits for the second line.
#pragma once

#include <string>

#include "health/dialog.h"

namespace headgate::health {

class SmtpDialog final : public Dialog {
 public:
  struct Options {
    bool whole_greeting = false;  // postscreen: full
    std::string ehlo;             // Empty: QUIT follows the greeting.
    bool starttls = false;
    bool header = false;  // A PROXY header went in front.
  };
  explicit SmtpDialog(Options options) : options_(std::move(options)) {}

  Move OnLine(absl::string_view line) override;
  Move OnTls() override;
  Verdict OnEof() override;
  std::string WaitedFor() const override;

 private:
  enum class Awaits { kGreeting, kEhlo, kStartTls, kTls, kBye };

  Move OnGreeting(absl::string_view line);
  Move OnEhlo(absl::string_view line);
  Move OnStartTls(absl::string_view line);
  Move OnBye(absl::string_view line);
  Move Quit();
  // Ends with QUIT, which a refused client says too (RFC 5321, 3.1).
  Move Refuse(Verdict verdict);

  const Options options_;
  Awaits awaits_ = Awaits::kGreeting;
  std::string greeting_;
  bool teased_ = false;
  bool offers_starttls_ = false;
};

}  // namespace headgate::health
