#include "control/ejections.h"

#include <algorithm>
#include <numeric>
#include <utility>

namespace headgate::control {
namespace {

size_t Index(Failure failure) { return static_cast<size_t>(failure); }

uint64_t Total(const Outcomes& outcomes) {
  return std::accumulate(outcomes.failures.begin(), outcomes.failures.end(),
                         uint64_t{0});
}

// An id that was given to another backend counts from 0 again.
bool IsLess(const Outcomes& a, const Outcomes& b) {
  for (size_t i = 0; i < kFailures; ++i) {
    if (a.failures[i] < b.failures[i]) return true;
  }
  return a.successes < b.successes;
}

Failure Foremost(const Outcomes& before, const Outcomes& now) {
  size_t most = 0;
  for (size_t i = 1; i < kFailures; ++i) {
    if (now.failures[i] - before.failures[i] >
        now.failures[most] - before.failures[most]) {
      most = i;
    }
  }
  return static_cast<Failure>(most);
}

}  // namespace

const char* FailureName(Failure failure) {
  switch (failure) {
    case Failure::kRefused:
      return "refused";
    case Failure::kTimeout:
      return "timeout";
    case Failure::kUnreachable:
      return "unreachable";
    case Failure::kReset:
      return "reset";
    case Failure::kOvertaken:
      return "overtaken";
    case Failure::kClosed:
      return "closed";
    case Failure::kGreetingTimeout:
      return "greeting_timeout";
  }
  return "refused";
}

// Failures of our own (connect_error, no source port) say nothing of a backend.
Outcomes CountOutcomes(const hg_backend_stats& stats,
                       const hg_greeting_times& greetings,
                       bool server_speaks_first) {
  Outcomes outcomes;
  auto& failures = outcomes.failures;
  failures[Index(Failure::kRefused)] = stats.connect_refused;
  failures[Index(Failure::kTimeout)] = stats.connect_timeout;
  failures[Index(Failure::kUnreachable)] = stats.connect_unreachable;
  failures[Index(Failure::kReset)] = stats.connect_reset;
  failures[Index(Failure::kOvertaken)] = stats.connect_overtaken;
  outcomes.successes = stats.connections_total;
  if (server_speaks_first) {
    failures[Index(Failure::kReset)] += stats.early_reset;
    failures[Index(Failure::kClosed)] = stats.early_closed;
    failures[Index(Failure::kGreetingTimeout)] = stats.greeting_timeout;
    outcomes.successes = std::accumulate(std::begin(greetings.counts),
                                         std::end(greetings.counts), 0ULL);
  }
  return outcomes;
}

std::vector<uint32_t> Ejections::Look(absl::Time now,
                                      const std::vector<Backend>& backends) {
  Know(backends);
  std::vector<uint32_t> to_check;
  for (const Backend& backend : backends) {
    History& history = histories_.at(backend.id);
    if (Absorb(now, backend, history) &&
        now - history.checked >= kCheckInterval) {
      history.checked = now;
      to_check.push_back(backend.id);
    }
    const bool over =
        history.ejected.has_value() &&
        (!backend.in_service || backend.down || now >= history.ejected->until);
    if (!over) continue;
    history.ejected.reset();
    history.ended = now;
  }
  Groups groups = Count(backends);
  Relieve(now, backends, groups);
  EjectFailing(now, backends, groups);
  return to_check;
}

void Ejections::Know(const std::vector<Backend>& backends) {
  std::map<uint32_t, History> known;
  for (const Backend& backend : backends) {
    auto found = histories_.extract(backend.id);
    if (found.empty() || IsLess(backend.outcomes, found.mapped().outcomes)) {
      known[backend.id].outcomes = backend.outcomes;
    } else {
      known.insert(std::move(found));
    }
  }
  histories_ = std::move(known);
}

bool Ejections::Absorb(absl::Time now, const Backend& backend,
                       History& history) {
  const Outcomes before = std::exchange(history.outcomes, backend.outcomes);
  const uint64_t failures = Total(backend.outcomes) - Total(before);
  const bool succeeded = backend.outcomes.successes > before.successes;
  if (failures > 0 || succeeded) active_ = now;
  // What fails now began before it was out.
  const bool out =
      !backend.in_service || backend.down || history.ejected.has_value();
  if (out || succeeded) {
    history.streak = 0;
  } else if (failures > 0) {
    history.streak += failures;
    history.last = Foremost(before, backend.outcomes);
  }
  return !out && failures > 0;
}

Ejections::Groups Ejections::Count(const std::vector<Backend>& backends) const {
  Groups groups;
  for (const Backend& backend : backends) {
    Group& group = groups[backend.service];
    if (!backend.in_service) continue;
    Group::Tier& tier = group.tiers[backend.backup ? 1 : 0];
    const bool ejected = histories_.at(backend.id).ejected.has_value();
    ++tier.size;
    tier.ejected += ejected ? 1 : 0;
    group.eligible += ejected || backend.down ? 0 : 1;
  }
  return groups;
}

// Others may have gone since: those come back whose time is up next.
void Ejections::Relieve(absl::Time now, const std::vector<Backend>& backends,
                        Groups& groups) {
  std::vector<const Backend*> ejected;
  for (const Backend& backend : backends) {
    if (histories_.at(backend.id).ejected.has_value()) {
      ejected.push_back(&backend);
    }
  }
  const auto until = [this](const Backend* backend) {
    return histories_.at(backend->id).ejected->until;
  };
  std::stable_sort(
      ejected.begin(), ejected.end(),
      [&](const Backend* a, const Backend* b) { return until(a) < until(b); });
  for (const Backend* backend : ejected) {
    Group& group = groups.at(backend->service);
    Group::Tier& tier = group.tiers[backend->backup ? 1 : 0];
    const bool too_many =
        tier.ejected * 100 > tier.size * backend->rule.max_percent;
    if (group.eligible > 0 && !too_many) continue;
    History& history = histories_.at(backend->id);
    history.ejected.reset();
    history.ended = now;
    --tier.ejected;
    ++group.eligible;
  }
}

void Ejections::EjectFailing(absl::Time now,
                             const std::vector<Backend>& backends,
                             Groups& groups) {
  for (const Backend& backend : backends) {
    History& history = histories_.at(backend.id);
    if (history.streak < static_cast<uint64_t>(backend.rule.failures)) continue;
    Group& group = groups.at(backend.service);
    Group::Tier& tier = group.tiers[backend.backup ? 1 : 0];
    const bool room =
        (tier.ejected + 1) * 100 <= tier.size * backend.rule.max_percent;
    if (!room || group.eligible <= 1) continue;
    absl::Duration length = backend.rule.time;
    if (now - history.ended < kLongest) {
      length = std::max(length, std::min(2 * history.last_length, kLongest));
    }
    history.ejected = {now + length, length, history.last};
    history.last_length = length;
    history.streak = 0;
    ++tier.ejected;
    --group.eligible;
  }
}

absl::Duration Ejections::Wait(absl::Time now) const {
  absl::Duration wait =
      now - active_ < kIdleInterval ? kBusyInterval : kIdleInterval;
  for (const auto& [id, history] : histories_) {
    if (!history.ejected.has_value()) continue;
    wait = std::min(wait, history.ejected->until - now);
  }
  return std::max(wait, absl::ZeroDuration());
}

std::optional<Ejections::Ejected> Ejections::Of(uint32_t backend) const {
  const auto found = histories_.find(backend);
  if (found == histories_.end()) return std::nullopt;
  return found->second.ejected;
}

}  // namespace headgate::control
