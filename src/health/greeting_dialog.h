// Any server that speaks first: its first line, and a goodbye in its protocol
// if the line tells which that is.
#pragma once

#include <re2/re2.h>

#include <memory>
#include <string>

#include "health/dialog.h"

namespace headgate::health {

class GreetingDialog final : public Dialog {
 public:
  // `expect`: an RE2 that the line must match somewhere; empty: any line.
  explicit GreetingDialog(const std::string& expect);

  Move OnLine(absl::string_view line) override;
  Verdict OnEof() override;
  std::string WaitedFor() const override;

 private:
  const std::unique_ptr<const RE2> expect_;  // Null: any line.
  bool leaves_ = false;
  std::string greeting_;
};

}  // namespace headgate::health
