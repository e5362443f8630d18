// IMAP up to LOGOUT: RFC 3501, 7.1 (greeting) and 6.1.3; STARTTLS: 6.2.1.
#pragma once

#include <string>

#include "health/dialog.h"

namespace headgate::health {

class ImapDialog final : public Dialog {
 public:
  // `header`: a PROXY header went in front.
  ImapDialog(bool starttls, bool header)
      : starttls_(starttls), header_(header) {}

  Move OnLine(absl::string_view line) override;
  Move OnTls() override;
  Verdict OnEof() override;
  std::string WaitedFor() const override;

 private:
  enum class Awaits { kGreeting, kStartTls, kTls, kBye };

  Move OnGreeting(absl::string_view line);
  Move OnStartTls(absl::string_view line);
  Move OnBye(absl::string_view line);
  Move Logout();

  const bool starttls_;
  const bool header_;
  Awaits awaits_ = Awaits::kGreeting;
  std::string greeting_;
};

}  // namespace headgate::health
