#include "health/check.h"

#include <sys/epoll.h>

#include "absl/types/span.h"
#include "health/probe.h"
#include "health/tcp_check.h"

namespace headgate::health {

UniqueFd ConnectForCheck(const CheckRequest& request, ConnectOptions options,
                         int* error) {
  static constexpr IpAddress kAny;
  absl::Span<const IpAddress> sources = request.sources;
  if (sources.empty()) sources = {&kAny, 1};
  UniqueFd fd;
  for (const IpAddress& source : sources) {
    options.source = source;
    fd = ConnectTcp(request.target, error, options);
    if (!IsSourceError(*error)) break;
  }
  return fd;
}

int ErrorOf(int fd, uint32_t events) {
  return (events & (EPOLLERR | EPOLLHUP)) == 0 ? 0 : TakeSocketError(fd);
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
