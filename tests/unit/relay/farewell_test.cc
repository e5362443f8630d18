#include "relay/farewell.h"

#include <gtest/gtest.h>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"

namespace headgate::relay {
namespace {

TEST(FarewellLineTest, IsOneReplyLineOfItsProtocol) {
  const absl::string_view smtp = FarewellLine(config::NoBackend::kSmtp421);
  const absl::string_view imap = FarewellLine(config::NoBackend::kImapBye);
  EXPECT_TRUE(absl::StartsWith(smtp, "421 "));
  EXPECT_TRUE(absl::StartsWith(imap, "* BYE "));
  for (const absl::string_view line : {smtp, imap}) {
    EXPECT_LE(line.size(), 512u);  // RFC 5321, 4.5.3.1.5.
    EXPECT_EQ(line.find("\r\n"), line.size() - 2);
    for (const char c : line.substr(0, line.size() - 2)) {
      EXPECT_TRUE(absl::ascii_isprint(static_cast<unsigned char>(c)));
    }
  }
  EXPECT_EQ(FarewellLine(config::NoBackend::kReset), "");
}

}  // namespace
}  // namespace headgate::relay
