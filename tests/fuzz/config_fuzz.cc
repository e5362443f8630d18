// Any bytes as a configuration: no crash, errors that can be printed, and what
// is accepted survives being written out and read again.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/string_view.h"
#include "config/describe.h"
#include "config/diff.h"
#include "config/parse.h"

namespace {

using headgate::config::Parse;
using headgate::config::Parsed;

void Require(bool condition, const char* what) {
  if (condition) return;
  std::fprintf(stderr, "violated: %s\n", what);
  std::abort();
}

void CheckErrors(const Parsed& parsed) {
  int line = 1;
  for (const headgate::config::Error& error : parsed.errors) {
    Require(error.line >= line && error.column >= 1, "errors in file order");
    line = error.line;
    Require(!error.message.empty(), "errors say something");
    for (char c : error.message) {
      Require(!absl::ascii_iscntrl(static_cast<unsigned char>(c)),
              "errors are single lines");
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text(data, data + size);
  const Parsed parsed = Parse(text);
  CheckErrors(parsed);
  if (!parsed.errors.empty()) return 0;
  const Parsed again = Parse(ToYaml(parsed.config));
  Require(again.errors.empty(), "ToYaml() writes what Parse() accepts");
  Require(again.config == parsed.config, "ToYaml() keeps everything");
  Require(Diff(parsed.config, again.config).empty(), "Diff() of equals");
  return 0;
}
