// What a check says to a server's application and what it makes of the
// answers: state machines without sockets or time.
//
// The server speaks first, but for http. Whoever drives a dialog says what it
// is told to and closes in order, whatever the verdict.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "absl/strings/string_view.h"
#include "config/types.h"
#include "health/result.h"

namespace headgate::health {

struct Verdict {
  Outcome outcome = Outcome::kPassed;
  int code = 0;
  std::string detail;
  std::string hint;
};

// What to do next. All absent: wait for more lines. `say` comes before the
// rest.
struct Move {
  std::string say;
  bool start_tls = false;  // The server is about to listen for the handshake.
  std::optional<Verdict> verdict;  // The end of the dialog.

  static Move Wait() { return {}; }
  static Move Say(std::string text) { return {std::move(text), false, {}}; }
  static Move End(Verdict verdict, std::string last_words = "") {
    return {std::move(last_words), false, std::move(verdict)};
  }
};

class Dialog {
 public:
  virtual ~Dialog() = default;

  // The connection is ready: TCP, the header and, if it comes first, TLS.
  virtual Move OnReady() { return Move::Wait(); }
  // `line` has no line end.
  virtual Move OnLine(absl::string_view line) = 0;
  // TLS is up, after start_tls.
  virtual Move OnTls() { return Move::Wait(); }
  // The server has closed.
  virtual Verdict OnEof();
  // The server has sent nothing that ends the dialog, for too long.
  virtual std::string WaitedFor() const = 0;
  // What the server asks its weight to be.
  virtual std::optional<uint32_t> weight() const { return std::nullopt; }
};

// The dialog of health.type, which is not auto, none or tcp; for tls, one that
// has nothing to say. `header`: a PROXY header goes in front, which some
// answers are about.
std::unique_ptr<Dialog> MakeDialog(const config::Health& health,
                                   const std::string& default_host,
                                   bool header);

// `line` as it may be logged and shown: printable, 200 characters at most.
std::string Printable(absl::string_view line);

// ---- what answers mean (Postfix 3.7, Dovecot 2.3: measured) ----

// A greeting other than 220. Too many connections (anvil), a header that did
// not come or was not wanted, overload, refusal.
Verdict JudgeSmtpRefusal(absl::string_view line, bool header);
// The server has taken the header for commands.
Verdict HeaderNotWanted(absl::string_view line);
// It waited for a header that did not come, or did not like the one it got.
Verdict HeaderMissing(absl::string_view line, bool header);

// 250 of "250-SIZE"; 0: no reply of three digits.
int ReplyCode(absl::string_view line);
// Whether further lines of this reply follow ("250-").
bool IsContinued(absl::string_view line);

}  // namespace headgate::health
