#include "health/http_dialog.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace headgate::health {
namespace {

constexpr uint32_t kMaxWeight = 256;

}  // namespace

Move HttpDialog::OnReady() {
  return Move::Say(absl::StrCat("GET ", options_.path,
                                " HTTP/1.1\r\nHost: ", options_.host,
                                "\r\nUser-Agent: headgate\r\nAccept: */*\r\n"
                                "Connection: close\r\n\r\n"));
}

Move HttpDialog::OnLine(absl::string_view line) {
  if (status_ == 0) return OnStatusLine(line);
  if (!line.empty()) {
    OnField(line);
    return Move::Wait();
  }
  if (status_ < 200) {  // An interim answer: the real one follows.
    status_ = 0;
    return Move::Wait();
  }
  if (status_ == options_.status) {
    return Move::End({Outcome::kPassed, status_, status_line_, ""});
  }
  return Move::End({Outcome::kWrongAnswer, status_, status_line_, ""});
}

// "HTTP/1.1 200 OK"
Move HttpDialog::OnStatusLine(absl::string_view line) {
  status_line_ = Printable(line);
  int status = 0;
  const bool http = absl::StartsWith(line, "HTTP/1.") && line.size() >= 12 &&
                    line[8] == ' ' &&
                    absl::SimpleAtoi(line.substr(9, 3), &status) &&
                    status >= 100;
  if (!http) {
    return Move::End({Outcome::kWrongAnswer, 0,
                      absl::StrCat("not HTTP: ", status_line_), ""});
  }
  status_ = status;
  return Move::Wait();
}

void HttpDialog::OnField(absl::string_view line) {
  const size_t colon = line.find(':');
  if (options_.weight_header.empty() || colon == absl::string_view::npos ||
      !absl::EqualsIgnoreCase(line.substr(0, colon), options_.weight_header)) {
    return;
  }
  uint32_t weight = 0;
  if (absl::SimpleAtoi(absl::StripAsciiWhitespace(line.substr(colon + 1)),
                       &weight)) {
    weight_ = std::min(weight, kMaxWeight);
  }
}

std::string HttpDialog::WaitedFor() const {
  return status_ == 0 ? "a status line" : "the end of the header fields";
}

}  // namespace headgate::health
