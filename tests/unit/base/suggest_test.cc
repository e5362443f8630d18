#include "base/suggest.h"

#include <gtest/gtest.h>

namespace headgate {
namespace {

TEST(SuggestTest, NearestWins) {
  EXPECT_EQ(Nearest("mail-node", {"web-node", "mail-nodes"}), "mail-nodes");
  EXPECT_EQ(Nearest("wieght", {"address", "weight"}), "weight");
  EXPECT_EQ(Nearest("imap", {"imaps", "imap4"}), "imaps") << "first of equals";
}

TEST(SuggestTest, NothingNear) {
  EXPECT_EQ(Nearest("xyz", {"tcp", "greeting"}), std::nullopt);
  EXPECT_EQ(Nearest("", {"a", "tcp"}), std::nullopt);
  EXPECT_EQ(Nearest("tcp", {}), std::nullopt);
}

TEST(SuggestTest, ListsWhatThereIsIfThatIsShort) {
  EXPECT_EQ(Suggestion("xyz", {"none", "smtp"}), "; one of: none, smtp");
  EXPECT_EQ(Suggestion("stmp", {"none", "smtp"}), "; did you mean \"smtp\"?");
  EXPECT_EQ(Suggestion("xyz", std::vector<absl::string_view>(21, "name")), "");
}

}  // namespace
}  // namespace headgate
