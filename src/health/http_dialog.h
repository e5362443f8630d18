// One GET over HTTP/1.1 (RFC 9112), up to the end of the answer's head. Made
// for kube-proxy's healthz and healthCheckNodePort.
#pragma once

#include <optional>
#include <string>

#include "health/dialog.h"

namespace headgate::health {

class HttpDialog final : public Dialog {
 public:
  struct Options {
    std::string path;
    std::string host;
    int status = 200;           // The one that passes.
    std::string weight_header;  // Empty: none.
  };
  explicit HttpDialog(Options options) : options_(std::move(options)) {}

  Move OnReady() override;
  Move OnLine(absl::string_view line) override;
  std::string WaitedFor() const override;
  std::optional<uint32_t> weight() const override { return weight_; }

 private:
  Move OnStatusLine(absl::string_view line);
  void OnField(absl::string_view line);

  const Options options_;
  int status_ = 0;  // 0: not come yet.
  std::string status_line_;
  std::optional<uint32_t> weight_;
};

}  // namespace headgate::health
