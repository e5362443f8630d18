// Writes to the BPF maps, which may fail for want of memory: the kernel would
// go on with what it was told before. One that fails is made again every
// second, until it succeeds or another one to the same element takes its place.
// On the control thread.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <utility>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "net/event_loop.h"

namespace headgate::control {

class MapWriter {
 public:
  enum class Map { kServices, kBackends };
  using Element = std::pair<Map, uint32_t>;
  using Write = std::function<absl::Status()>;
  // Called after each failure, and once nothing is to be made again any more,
  // which an empty `problem` says.
  using OnProblem = absl::AnyInvocable<void(const std::string& problem)>;

  MapWriter(EventLoop* loop, OnProblem on_problem);

  void Do(Element element, Write write);

 private:
  void Again();
  void Tell();

  OnProblem on_problem_;
  std::map<Element, Write> failed_;
  absl::Status last_;  // Of those that failed.
  Timer timer_;
};

}  // namespace headgate::control
