#include "ctl/render.h"

#include <gtest/gtest.h>

#include <sstream>

namespace headgate::ctl {
namespace {

TEST(Json, WhatIsNotThereIsAbsent) {
  const Json json = Json::Parse(R"({"a":{"b":[1,"x",null]},"t":true})");
  ASSERT_TRUE(json.is_object());
  const std::vector<Json> items = json["a"]["b"].Items();
  ASSERT_EQ(items.size(), 3U);
  EXPECT_EQ(items[0].Number(), 1.0);
  EXPECT_EQ(items[1].String(), "x");
  EXPECT_EQ(items[2].Text(), "-");
  EXPECT_EQ(json["t"].Bool(), true);
  EXPECT_EQ(json["none"]["deeper"].Text(), "-");
  EXPECT_EQ(json["t"].Number(), std::nullopt);
  EXPECT_TRUE(json["t"].Items().empty());
}

TEST(Json, NodesOutliveTheReply) {
  Json inner;
  {
    const Json json = Json::Parse(R"({"a":{"b":"kept"}})");
    inner = json["a"]["b"];
  }
  EXPECT_EQ(inner.Text(), "kept");
}

TEST(Json, MalformedTextIsAbsent) {
  for (const char* text : {"", "{", "{\"a\":1", "[1,]", "{\"a\":\"\xff\"}"}) {
    EXPECT_FALSE(Json::Parse(text).is_object()) << text;
  }
}

TEST(Json, LargeIntegersStayExact) {
  const Json json = Json::Parse(R"({"n":18446744073709551615})");
  EXPECT_EQ(json["n"].Text(), "18446744073709551615");
}

TEST(Clean, ControlCharactersGo) {
  EXPECT_EQ(Json::Clean("a\033[31mb\a\x7f"), "a[31mb");
  EXPECT_EQ(Json::Clean("one\ntwo\tthree\r"), "one two three ");
  EXPECT_EQ(Json::Clean("csi \xc2\x9b, \xc3\xa9"), "csi , \xc3\xa9");
  EXPECT_EQ(Json::Clean(absl::string_view("a\0b", 3)), "ab");
}

Json Value(const std::string& text) {
  return Json::Parse("{\"v\":" + text + "}")["v"];
}

TEST(Units, Bytes) {
  const std::pair<const char*, const char*> cases[] = {
      {"0", "0 B"},
      {"1023", "1023 B"},
      {"1024", "1.0 KiB"},
      {"1048575", "1.0 MiB"},
      {"1288490189", "1.2 GiB"},
      {"18446744073709551615", "16.0 EiB"},
      {"1e300", nullptr},
      {"null", "-"},
      {"\"many\"", "many"}};
  for (const auto& [value, text] : cases) {
    if (text != nullptr) {
      EXPECT_EQ(AsBytes(Value(value)).text, text);
    } else {
      EXPECT_NE(AsBytes(Value(value)).text.find(" EiB"), std::string::npos);
    }
  }
}

TEST(Units, Seconds) {
  const std::pair<const char*, const char*> cases[] = {
      {"0", "0s"},          {"0.0008", "0.8ms"}, {"0.85", "850ms"},
      {"12.9", "12s"},      {"200", "3m20s"},    {"7500", "2h5m"},
      {"273600", "3d4h"},   {"-1", "-1"},        {"1e300", "1e+300"},
      {"\"long\"", "long"}, {"null", "-"}};
  for (const auto& [value, text] : cases) {
    EXPECT_EQ(AsSeconds(Value(value)).text, text);
  }
}

constexpr Column kColumns[] = {
    {"NAME", "name"},
    {"N", "n", AsText, Align::kRight},
    {"STATE", "state", AsState},
};

TEST(Table, IsAlignedByCharacters) {
  const Json rows =
      Json::Parse(R"({"r":[{"name":"caf\u00e9","n":7,"state":"up","new":1},)"
                  R"({"name":"longer","n":1234},{}]})");
  std::ostringstream out;
  PrintTable(rows["r"].Items(), kColumns, false, out);
  EXPECT_EQ(out.str(),
            "NAME       N  STATE\n"
            "caf\xc3\xa9       7  up\n"
            "longer  1234  -\n"
            "-          -  -\n");
}

TEST(Table, ColourTakesNoRoom) {
  const Json rows = Json::Parse(R"({"r":[{"name":"a","n":1,"state":"down"}]})");
  std::ostringstream out;
  PrintTable(rows["r"].Items(), kColumns, true, out);
  EXPECT_EQ(out.str(), "NAME  N  STATE\na     1  \033[31mdown\033[0m\n");
}

TEST(Color, OnlyATerminalByDefault) {
  std::ostringstream out;
  EXPECT_FALSE(WantColor(Color::kAuto, out));
  EXPECT_TRUE(WantColor(Color::kAlways, out));
  EXPECT_FALSE(WantColor(Color::kNever, out));
}

TEST(Progress, WithoutATerminalALineForEachChange) {
  std::ostringstream out;
  {
    Progress progress(out);
    for (const char* text : {"2 left", "2 left", "1 left"}) {
      progress.Show(text);
    }
  }
  EXPECT_EQ(out.str(), "2 left\n1 left\n");
}

}  // namespace
}  // namespace headgate::ctl
