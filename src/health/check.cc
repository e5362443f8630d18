#include "health/check.h"

#include "absl/types/span.h"
#include "health/probe.h"
#include "health/tcp_check.h"

namespace headgate::health {

UniqueFd ConnectForCheck(const CheckRequest& request, HandshakeAck ack,
                         int* error) {
  static constexpr IpAddress kAny;
  absl::Span<const IpAddress> sources = request.sources;
  if (sources.empty()) sources = {&kAny, 1};
  UniqueFd fd;
  for (const IpAddress& source : sources) {
    fd = ConnectTcp(request.target, error, {.source = source, .ack = ack});
    if (!IsSourceError(*error)) break;
  }
  return fd;
}

std::unique_ptr<Check> StartCheck(EventLoop* loop, Farewells* farewells,
                                  const CheckRequest& request,
                                  Check::Done done) {
  if (request.health.type == config::HealthType::kTcp) {
    return std::make_unique<TcpCheck>(loop, farewells, request,
                                      std::move(done));
  }
  return std::make_unique<Probe>(loop, farewells, request, std::move(done));
}

}  // namespace headgate::health
