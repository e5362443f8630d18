#include "admin/json.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "net/event_loop.h"

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
  row.packet_hooks = {{"e0", "xdp", "", "its driver has no native XDP"}};
  const json status = json::parse(StatusJson(row));
  EXPECT_EQ(status["ready"], true);
  EXPECT_EQ(status["services"], 4);
  EXPECT_EQ(status["backends_up"], 15);
  EXPECT_EQ(status["backends_total"], 16);
  EXPECT_EQ(status["connections_active"], 7);
  EXPECT_EQ(status["datapaths"]["splice"], false);
  EXPECT_EQ(status["splice_reason"], "splice.mode is off");
  EXPECT_EQ(status["packet_hooks"],
            json::parse(R"([{"interface": "e0", "hook": "xdp", "mode": "",
                             "reason": "its driver has no native XDP"}])"));
}

// Ends are kept by the clock that nobody sets, and shown by the other.
int64_t InAMinute() {
  return MonotonicNs() + absl::ToInt64Nanoseconds(absl::Minutes(1));
}
void ExpectInAMinute(const json& shown) {
  absl::Time time;
  std::string error;
  ASSERT_TRUE(absl::ParseTime(absl::RFC3339_full, shown.get<std::string>(),
                              &time, &error))
      << error;
  const absl::Duration left = time - absl::Now();
  EXPECT_LT(left, absl::Minutes(1) + absl::Seconds(1));
  EXPECT_GT(left, absl::Seconds(30));
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
      json::parse(BackendsJson({MakeBackend()}, {}))["backends"][0];
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
  const json backend = json::parse(BackendsJson({row}, {}))["backends"][0];
  EXPECT_EQ(backend["state"], "drain");
  EXPECT_EQ(backend["last_check"]["result"], "refused");
  EXPECT_EQ(backend["last_check"]["duration_seconds"], 1.5);
  EXPECT_EQ(backend["last_check"]["time"], "1970-01-01T00:00:00.000Z");
}

TEST(BackendsJsonTest, ADrainAndWhoIsLeaving) {
  control::BackendRow row = MakeBackend();
  row.draining = {7, InAMinute()};
  row.weight_effective = 0.5;
  const json list = json::parse(BackendsJson(
      {row}, {{"smtp", "n2", *Endpoint::Parse("198.18.2.2:25"), 3}}));
  const json backend = list["backends"][0];
  EXPECT_EQ(backend["draining"]["left"], 7);
  ExpectInAMinute(backend["draining"]["ends"]);
  EXPECT_EQ(backend["weight_effective"], 0.5);
  EXPECT_EQ(list["leaving"][0]["name"], "n2");
  EXPECT_EQ(list["leaving"][0]["address"], "198.18.2.2:25");
  EXPECT_EQ(list["leaving"][0]["connections_active"], 3);
}

TEST(CheckedJsonTest, SaysWhatWasFoundAndHow) {
  health::CheckResult check;
  check.outcome = health::Outcome::kHeaderRefused;
  check.layer = health::Layer::kDialog;
  check.code = 421;
  check.hint = "the backend expects a PROXY header";
  check.time = absl::FromUnixSeconds(0);
  check.certificate = {"/CN=mail", absl::FromUnixSeconds(86400 * 3 + 1)};
  check.steps = {{absl::Milliseconds(2), "connected"}};
  const json checked = json::parse(CheckedJson("smtp", "node1", check));
  EXPECT_EQ(checked["service"], "smtp");
  EXPECT_EQ(checked["result"], "header_refused");
  EXPECT_EQ(checked["status"], "L7STS");
  EXPECT_EQ(checked["code"], 421);
  EXPECT_EQ(checked["hint"], "the backend expects a PROXY header");
  EXPECT_EQ(checked["certificate"]["days_left"], 3);
  EXPECT_EQ(checked["steps"][0]["what"], "connected");
  EXPECT_EQ(checked["steps"][0]["at_seconds"], 0.002);
}

TEST(BackendsJsonTest, AnEjection) {
  control::BackendRow row = MakeBackend();
  row.health = health::State::kUp;
  EXPECT_TRUE(
      json::parse(BackendsJson({row}, {}))["backends"][0]["ejected"].is_null());
  row.ejected = {InAMinute(), control::Failure::kOvertaken};
  const json backend = json::parse(BackendsJson({row}, {}))["backends"][0];
  EXPECT_EQ(backend["state"], "down");
  ExpectInAMinute(backend["ejected"]["until"]);
  EXPECT_EQ(backend["ejected"]["reason"], "overtaken");
  row.admin = HG_ADMIN_DRAIN;
  EXPECT_STREQ(row.state(), "drain");
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

TEST(ParsePaceTest, TakesATimeAndAnOrder) {
  const auto pace = ParsePace(R"({"over_seconds":0.5e1,"order":"idle"})");
  ASSERT_TRUE(pace.ok()) << pace.status();
  EXPECT_EQ(pace->over, absl::Seconds(5));
  EXPECT_EQ(pace->order, control::Pace::Order::kIdle);
  EXPECT_EQ(ParsePace(R"({"over_seconds":60})")->order,
            control::Pace::Order::kOldest);
  for (const char* bad :
       {"{}", "[]", "5", R"({"over_seconds":0})", R"({"over_seconds":86401})",
        R"({"over_seconds":"5"})", R"({"over_seconds":5,"order":"newest"})",
        R"({"over_seconds":5,"order":1})", R"({"over_seconds":5)"}) {
    EXPECT_FALSE(ParsePace(bad).ok()) << bad;
  }
}

TEST(ParseBackendTest, TakesWhatTheConfigurationTakes) {
  const auto backend = ParseBackend(
      "n5", R"({"address":"[2001:db8::5]:25","weight":3,"backup":true})");
  ASSERT_TRUE(backend.ok()) << backend.status();
  EXPECT_EQ(backend->name, "n5");
  EXPECT_EQ(backend->port, 25);
  EXPECT_EQ(backend->weight, 3U);
  EXPECT_TRUE(backend->backup);
  const auto plain = ParseBackend("n5", R"({"address":"198.18.2.5"})");
  ASSERT_TRUE(plain.ok()) << plain.status();
  EXPECT_EQ(plain->port, std::nullopt);
  EXPECT_EQ(plain->weight, 1U);
  EXPECT_FALSE(ParseBackend("a/b", R"({"address":"198.18.2.5"})").ok());
  for (const char* bad :
       {"", "{}", R"({"address":5})", R"({"address":"mail.example.org"})",
        R"({"address":"198.18.2.5","weight":257})",
        R"({"address":"198.18.2.5","backup":1})"}) {
    EXPECT_FALSE(ParseBackend("n5", bad).ok()) << bad;
  }
}

}  // namespace
}  // namespace headgate::admin
