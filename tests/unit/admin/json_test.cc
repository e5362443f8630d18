#include "admin/json.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace headgate::admin {
namespace {

using nlohmann::json;

TEST(StatusJsonTest, SaysWhatTheContractNames) {
  control::StatusRow row;
  row.ready = true;
  row.services = 4;
  row.backends_up = 15;
  row.backends_total = 16;
  row.connections_active = 7;
  row.splice_reason = "splice.mode is off";
  const json status = json::parse(StatusJson(row));
  EXPECT_EQ(status["ready"], true);
  EXPECT_EQ(status["services"], 4);
  EXPECT_EQ(status["backends_up"], 15);
  EXPECT_EQ(status["backends_total"], 16);
  EXPECT_EQ(status["connections_active"], 7);
  EXPECT_EQ(status["datapaths"]["splice"], false);
  EXPECT_EQ(status["splice_reason"], "splice.mode is off");
}

control::BackendRow MakeBackend() {
  control::BackendRow row;
  row.service = "smtp";
  row.name = "n1";
  row.address = *Endpoint::Parse("[2001:db8::1]:25");
  row.weight = 2;
  return row;
}

TEST(BackendsJsonTest, BeforeTheFirstCheck) {
  const json backend =
      json::parse(BackendsJson({MakeBackend()}))["backends"][0];
  EXPECT_EQ(backend["state"], "starting");
  EXPECT_EQ(backend["admin"], "ready");
  EXPECT_EQ(backend["address"], "[2001:db8::1]:25");
  EXPECT_TRUE(backend["last_check"].is_null());
}

TEST(BackendsJsonTest, WhatOperatorsAskedForWinsOverHealth) {
  control::BackendRow row = MakeBackend();
  row.health = health::State::kUp;
  row.admin = HG_ADMIN_DRAIN;
  health::CheckResult check;
  check.outcome = health::Outcome::kRefused;
  check.detail = "Connection refused";
  check.duration = absl::Milliseconds(1500);
  check.time = absl::FromUnixSeconds(0);
  row.last_check = check;
  const json backend = json::parse(BackendsJson({row}))["backends"][0];
  EXPECT_EQ(backend["state"], "drain");
  EXPECT_EQ(backend["last_check"]["result"], "refused");
  EXPECT_EQ(backend["last_check"]["duration_seconds"], 1.5);
  EXPECT_EQ(backend["last_check"]["time"], "1970-01-01T00:00:00.000Z");
}

TEST(ErrorJsonTest, SurvivesBytesThatAreNotText) {
  EXPECT_TRUE(
      json::parse(ErrorJson("\xff\xfe \"quoted\""))["error"].is_string());
}

TEST(ParseWeightTest, TakesOnlyWholeNumbersInRange) {
  EXPECT_EQ(ParseWeight(R"({"weight":0})"), 0U);
  EXPECT_EQ(ParseWeight(R"({"weight":256})"), 256U);
  for (const char* bad :
       {"", "{}", "5", R"({"weight":257})", R"({"weight":-1})",
        R"({"weight":"5"})", R"({"weight":1.5})", R"({"weight":1)"}) {
    EXPECT_EQ(ParseWeight(bad), std::nullopt) << bad;
  }
}

}  // namespace
}  // namespace headgate::admin
