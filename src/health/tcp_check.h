// One health check of type tcp: does the port accept?
//
// Without a header the server's application never sees it: the handshake's
// last ACK is held back (TCP_QUICKACK off) and the connection is reset, as
// HAProxy does on Linux. With a header it ends in order: header, FIN, then the
// server's FIN; a LOCAL header followed by RST makes Postfix before 3.11 fatal.
#pragma once

#include <string>
#include <vector>

#include "base/unique_fd.h"
#include "health/check.h"

namespace headgate::health {

class TcpCheck final : public Check, public IoHandler {
 public:
  TcpCheck(EventLoop* loop, Farewells* farewells, const CheckRequest& request,
           Done done);
  ~TcpCheck() override;

  void OnIo(uint32_t events) override;
  bool met_server() const override;

 private:
  void OnTimer();
  void Connected();
  void Leave();  // Gives fd_ away.
  void Finish(Outcome outcome, std::string detail);
  void FinishWithErrno(int error);
  void Note(std::string what);

  EventLoop* loop_;
  Farewells* farewells_;
  const Endpoint target_;
  const bool explain_;
  const config::CheckHeader header_;
  const absl::Duration timeout_;
  const int64_t started_ns_;
  UniqueFd fd_;
  int start_error_ = 0;
  std::vector<Step> steps_;
  bool header_sent_ = false;
  Timer timer_;
};

}  // namespace headgate::health
