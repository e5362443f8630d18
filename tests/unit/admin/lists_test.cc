#include "admin/lists.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace headgate::admin {
namespace {

using nlohmann::json;

std::string Quoted(const int& row) { return absl::StrCat("\"", row, "\""); }

// All that a list of these parts comes to.
std::string TextOf(std::vector<std::vector<int>> parts, uint64_t limit) {
  auto source = [parts = std::move(parts), at = size_t{0}]() mutable {
    std::optional<std::vector<int>> part;
    if (at < parts.size()) part = parts[at++];
    return part;
  };
  ListStream<int> list("rows", limit, std::move(source), Quoted);
  std::string text;
  while (const std::optional<std::string> more = list.Next()) text += *more;
  EXPECT_FALSE(list.Next().has_value());
  return text;
}

TEST(ListStream, IsOneObjectOfManyParts) {
  EXPECT_EQ(TextOf({{1, 2}, {}, {3}}, 9),
            "{\"rows\":[\n\"1\",\n\"2\",\n\"3\"\n],\"total\":3}\n");
}

TEST(ListStream, CountsWhatItDoesNotList) {
  const json some = json::parse(TextOf({{}, {1}, {2, 3, 4}}, 2));
  EXPECT_EQ(some["rows"], json({"1", "2"}));
  EXPECT_EQ(some["total"], 4);
  EXPECT_EQ(json::parse(TextOf({{1}}, 0)),
            json({{"rows", json::array()}, {"total", 1}}));
}

TEST(ListStream, MayBeEmpty) {
  const json none = {{"rows", json::array()}, {"total", 0}};
  EXPECT_EQ(json::parse(TextOf({}, 9)), none);
  EXPECT_EQ(json::parse(TextOf({{}, {}}, 9)), none);
}

}  // namespace
}  // namespace headgate::admin
