// The state machine of a checked backend, with HAProxy's counting: DOWN after
// `fall` failures in a row, UP after `rise` successes in a row, any success
// while UP restores full credit. Before the first result a backend is starting
// and takes connections; the first result decides at once.
//
// A state from before a restart goes on: UP falls as ever; DOWN takes no
// connections until a success, and one is enough, for nobody knows how many
// there would have been meanwhile.
#pragma once

namespace headgate::health {

enum class State { kStarting, kUp, kDown };

class RiseFall {
 public:
  RiseFall() = default;
  RiseFall(int rise, int fall, State state = State::kStarting)
      : rise_(rise), fall_(fall), state_(state) {}

  static RiseFall Remembered(int rise, int fall, State state) {
    RiseFall result(rise, fall, state);
    if (state == State::kDown) result.streak_ = rise - 1;
    return result;
  }

  // True: the state changed.
  bool OnResult(bool passed) {
    const State before = state_;
    if (state_ == State::kStarting) {
      state_ = passed ? State::kUp : State::kDown;
      streak_ = 0;
    } else if (passed == (state_ == State::kUp)) {
      streak_ = 0;
    } else if (++streak_ >= (passed ? rise_ : fall_)) {
      state_ = passed ? State::kUp : State::kDown;
      streak_ = 0;
    }
    return state_ != before;
  }

  State state() const { return state_; }
  // The next results may change the state: there is none yet, or the last one
  // spoke against it.
  bool in_transition() const {
    return state_ == State::kStarting || streak_ > 0;
  }

 private:
  int rise_ = 1;
  int fall_ = 1;
  State state_ = State::kStarting;
  int streak_ = 0;  // Results in a row that speak against the state.
};

}  // namespace headgate::health
