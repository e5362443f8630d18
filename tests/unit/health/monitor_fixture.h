// A monitor whose checks end as the test says.
#pragma once

#include <gtest/gtest.h>

#include <deque>
#include <functional>
#include <map>
#include <string>

#include "absl/strings/str_cat.h"
#include "config/health.h"
#include "health/monitor.h"

namespace headgate::health {

inline constexpr absl::Duration kNever = absl::Hours(1);
inline constexpr absl::Duration kSoon = absl::Milliseconds(1);

// Ends in the next round of the loop.
class FakeCheck final : public Check {
 public:
  FakeCheck(EventLoop* loop, Outcome outcome, Done done)
      : Check(std::move(done)), timer_(loop, [this, outcome] {
          CheckResult result;
          result.outcome = outcome;
          if (outcome == Outcome::kWrongAnswer) result.layer = Layer::kDialog;
          Tell(std::move(result));  // It destroys us.
        }) {
    timer_.Set(absl::ZeroDuration());
  }
  bool met_server() const override { return true; }

 private:
  Timer timer_;
};

class MonitorTest : public ::testing::Test {
 protected:
  struct Started {
    absl::Duration since_begin;
    CheckRequest request;
  };

  // Intervals: as they come.
  static Monitor::Target Target(int host, absl::Duration interval,
                                absl::Duration fast = kNever,
                                absl::Duration down = kNever) {
    config::Service service;
    service.health.type = config::HealthType::kTcp;
    service.health.interval = interval;
    service.health.fast_interval = fast;
    service.health.down_interval = down;
    const std::string address =
        absl::StrCat("198.18.", host / 250, ".", host % 250 + 1, ":25");
    return {*Endpoint::Parse(address), config::Resolved(service), {}};
  }

  // '+' passed, '-' refused, 'x' the wrong answer, 'l' rate limited, 'e' an
  // error of ours. The last one of a script goes on. Checks that talk have one
  // of their own.
  Outcome NextOutcome(const CheckRequest& request) {
    const bool talks = request.health.type != config::HealthType::kTcp;
    std::string& script = talks && !deep_script_.empty()
                              ? deep_script_
                              : scripts_[request.target];
    const char next = script.empty() ? '+' : script.front();
    if (script.size() > 1) script.erase(0, 1);
    switch (next) {
      case '-':
        return Outcome::kRefused;
      case 'x':
        return Outcome::kWrongAnswer;
      case 'l':
        return Outcome::kRateLimited;
      case 'e':
        return Outcome::kError;
      default:
        return Outcome::kPassed;
    }
  }

  std::unique_ptr<Check> Start(const CheckRequest& request, Check::Done done) {
    started_.push_back({absl::Nanoseconds(MonotonicNs() - begin_ns_), request});
    return std::make_unique<FakeCheck>(loop_.get(), NextOutcome(request),
                                       std::move(done));
  }

  void OnResult(uint32_t id, const CheckResult&, State state, bool changed) {
    const char letter = state == State::kUp     ? 'U'
                        : state == State::kDown ? 'D'
                                                : 'S';
    seen_[id] += changed ? letter : static_cast<char>(letter + ('a' - 'A'));
    if (meanwhile_) meanwhile_(id);
  }

  void RunUntil(std::function<bool()> done) {
    loop_->Stop();  // Each Run is one round from now on.
    bool timed_out = false;
    Timer deadline(loop_.get(), [&] { timed_out = true; });
    deadline.Set(absl::Seconds(30));
    while (!done()) {
      ASSERT_FALSE(timed_out);
      loop_->Run();
    }
  }
  void RunUntilSeen(uint32_t id, size_t results) {
    RunUntil([=, this] { return seen_[id].size() >= results; });
  }

  void Script(const Monitor::Target& target, const std::string& script) {
    scripts_[target.endpoint] = script;
  }

  const int64_t begin_ns_ = MonotonicNs();
  std::unique_ptr<EventLoop> loop_ = *EventLoop::Make();
  std::deque<Started> started_;
  std::map<Endpoint, std::string> scripts_;
  std::string deep_script_;
  // By target, as in RiseFallTest, with S for starting.
  std::map<uint32_t, std::string> seen_;
  std::function<void(uint32_t id)> meanwhile_;
  std::vector<std::unique_ptr<Check>> left_;
  Monitor monitor_{
      loop_.get(),
      [this](const CheckRequest& request, Check::Done done) {
        return Start(request, std::move(done));
      },
      [this](std::unique_ptr<Check> check) {
        check->set_done([](const CheckResult&) {});
        left_.push_back(std::move(check));
      },
      [this](uint32_t id, const CheckResult& result, State state,
             bool changed) { OnResult(id, result, state, changed); }};
};

}  // namespace headgate::health
