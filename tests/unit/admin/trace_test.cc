#include "admin/trace.h"

#include <gtest/gtest.h>

#include <array>
#include <nlohmann/json.hpp>

namespace headgate::admin {
namespace {

using nlohmann::json;

// Beginning of a SYN over IPv4.
constexpr std::array<uint8_t, 54> kSyn = {
    2,    0,  0,   0,  0,    1, 2,    0, 0,  0,  0,    10,   0x08, 0x00,
    0x45, 0,  0,   40, 0,    7, 0,    0, 64, 6,  0,    0,    198,  18,
    0,    10, 198, 18, 1,    1, 4,    1, 0,  25, 0x11, 0x22, 0x33, 0x44,
    0,    0,  0,   0,  0x50, 2, 0x10, 0, 0,  0,  0,    0};

TEST(TraceJsonTest, SaysWhatBecameOfThePacket) {
  control::TraceRow row;
  row.connection = 42;
  row.service = "mail";
  row.backend = "one";
  row.from = "client";
  row.verdict = "forwarded";
  row.reason = "header";
  row.before = {"e0", 54, kSyn};
  row.after = {"e1", 1400, kSyn};
  const absl::Time came = absl::FromUnixNanos(1'234'567'890'123'456'789);
  const json packet = json::parse(TraceJson(row, came, false));
  EXPECT_EQ(packet["time"], "2009-02-13T23:31:30.123456789Z");
  EXPECT_EQ(packet["verdict"], "forwarded");
  EXPECT_EQ(packet["reason"], "header");
  EXPECT_EQ(packet["connection"], 42);
  EXPECT_EQ(packet["service"], "mail");
  EXPECT_EQ(packet["backend"], "one");
  EXPECT_EQ(packet["from"], "client");
  EXPECT_FALSE(packet.contains("again"));
  EXPECT_EQ(packet["before"], json::parse(R"({"interface":"e0","frame_bytes":54,
              "source":"198.18.0.10:1025","destination":"198.18.1.1:25",
              "flags":"S","seq":287454020,"ack":0,"payload_bytes":0})"));
  EXPECT_EQ(packet["after"]["frame_bytes"], 1400);
}

TEST(TraceJsonTest, WhatWasDroppedHasNoAfter) {
  control::TraceRow row;
  row.verdict = "dropped";
  row.reason = "ttl";
  row.again = true;
  row.before = {"e0", 54, kSyn};
  const json packet = json::parse(TraceJson(row, absl::UnixEpoch(), true));
  EXPECT_TRUE(packet["after"].is_null());
  EXPECT_EQ(packet["again"], true);
  for (const char* absent : {"connection", "service", "backend", "from"}) {
    EXPECT_FALSE(packet.contains(absent)) << absent;
  }
  const std::string frame = packet["before"]["frame"];
  EXPECT_EQ(frame.size(), 108u);
  EXPECT_EQ(frame.substr(0, 28), "02000000000102000000000a0800");
}

}  // namespace
}  // namespace headgate::admin
