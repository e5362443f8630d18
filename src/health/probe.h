// A check that talks: connect, the PROXY header if one is asked for (one
// segment, first), TLS if asked for, then a Dialog. Ends in order: its
// connection goes to Farewells whatever the verdict, never by RST.
//
// Bounded by health.timeout from start to verdict, the connection by two
// seconds of it, what the server says by LineReader's limits.
#pragma once

#include <memory>
#include <string>

#include "absl/functional/function_ref.h"
#include "base/unique_fd.h"
#include "health/check.h"
#include "health/dialog.h"
#include "health/line_reader.h"
#include "health/tls.h"

namespace headgate::health {

class Probe final : public Check, public IoHandler {
 public:
  Probe(EventLoop* loop, Farewells* farewells, const CheckRequest& request,
        Done done);
  ~Probe() override;

  void OnIo(uint32_t events) override;
  bool met_server() const override;

 private:
  enum class Phase { kConnect, kHandshake, kDialog };

  void OnTimer();
  bool Connected();  // False, as below: it has finished.
  bool SendHeader();
  bool StartTls();
  bool ContinueHandshake();
  bool OnTlsUp();
  bool CheckCertificate();
  bool Receive();
  bool WatchAgain();
  bool TakeBytes(absl::string_view bytes);
  void Leave();  // Gives fd_ away.
  bool TakePlain(absl::string_view bytes);
  bool Act(Move move);
  bool OnClosed(int error);
  bool FailTls();

  void Say(absl::string_view text);
  void Flush();
  // For people who ask; `what` is not called otherwise.
  void Note(absl::FunctionRef<std::string()> what);
  void NoteLine(absl::string_view line);

  // Always false: "return Finish(...)". The probe may be gone after it.
  bool Finish(Verdict verdict);
  bool FinishWithErrno(int error);
  Layer layer() const;

  EventLoop* loop_;
  Farewells* farewells_;
  const CheckRequest request_;
  const int64_t started_ns_;
  Phase phase_ = Phase::kConnect;
  UniqueFd fd_;
  uint32_t events_ = 0;  // What is being told of it.
  int start_error_ = 0;
  std::string unsent_;
  std::unique_ptr<Tls> tls_;
  bool tls_up_ = false;
  bool in_dialog_ = false;   // The dialog has been told that it may begin.
  std::string first_bytes_;  // What the server said to our TLS handshake.
  LineReader lines_;
  std::unique_ptr<Dialog> dialog_;
  CheckResult result_;
  Timer timer_;
};

// What an errno says of the target.
Outcome OutcomeOf(int error);

}  // namespace headgate::health
