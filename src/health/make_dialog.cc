#include "health/dialog.h"
#include "health/greeting_dialog.h"
#include "health/http_dialog.h"
#include "health/imap_dialog.h"
#include "health/smtp_dialog.h"

namespace headgate::health {
namespace {

// STARTTLS needs an EHLO; this name is nobody's (RFC 2606).
constexpr char kNobody[] = "headgate.invalid";

// The handshake was all.
class TlsDialog final : public Dialog {
 public:
  Move OnReady() override { return Move::End({Outcome::kPassed, 0, "", ""}); }
  Move OnLine(absl::string_view) override { return Move::Wait(); }
  std::string WaitedFor() const override { return "the TLS handshake"; }
};

}  // namespace

std::unique_ptr<Dialog> MakeDialog(const config::Health& health,
                                   const std::string& default_host,
                                   bool header) {
  switch (health.type) {
    case config::HealthType::kSmtp: {
      const bool nameless = health.ehlo.empty() && health.starttls;
      return std::make_unique<SmtpDialog>(SmtpDialog::Options{
          health.postscreen == config::Postscreen::kFull,
          nameless ? kNobody : health.ehlo, health.starttls, header});
    }
    case config::HealthType::kImap:
      return std::make_unique<ImapDialog>(health.starttls, header);
    case config::HealthType::kHttp:
      return std::make_unique<HttpDialog>(HttpDialog::Options{
          health.path, health.host.empty() ? default_host : health.host,
          health.status, health.weight_header});
    case config::HealthType::kTls:
      return std::make_unique<TlsDialog>();
    default:
      return std::make_unique<GreetingDialog>(health.expect);
  }
}

}  // namespace headgate::health
