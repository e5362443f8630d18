#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "tests/unit/ctl/fake_api.h"

namespace headgate::ctl {
namespace {

using testing::HasSubstr;
using testing::IsEmpty;

constexpr char kHeader[] =
    R"({"time":"2026-01-02T03:04:05.678901234Z","verdict":"forwarded",)"
    R"("reason":"header","before":{"interface":"e0","frame_bytes":4,)"
    R"("source":"198.18.0.2:1025","destination":"198.18.1.1:25",)"
    R"("flags":".","seq":101,"ack":900,"payload_bytes":0,)"
    R"("frame":"01020304"},"after":{"interface":"e1","frame_bytes":6,)"
    R"("source":"198.18.2.1:10240","destination":"198.18.2.11:25",)"
    R"("flags":"P.","seq":101,"ack":900,"payload_bytes":28,)"
    R"("frame":"0a0b0c0d0e0f"}})";
constexpr char kConsumed[] =
    R"({"time":"2026-01-02T03:04:05.7Z","verdict":"consumed",)"
    R"("reason":"header_acked","before":{"interface":"e1","frame_bytes":4,)"
    R"("source":"198.18.2.11:25","destination":"198.18.2.1:10240",)"
    R"("flags":".","seq":900,"ack":129,"payload_bytes":0,)"
    R"("frame":"01020304"},"after":null})";
constexpr char kDrop[] =
    R"({"time":"2026-01-02T03:04:06Z","verdict":"dropped","reason":"ttl",)"
    R"("before":{"interface":"e0","frame_bytes":4,"source":"198.18.0.2:1025",)"
    R"("destination":"198.18.1.1:25","flags":"S","seq":100,"ack":0,)"
    R"("payload_bytes":0,"frame":"01020304"},"after":null})";
constexpr char kReset[] =
    R"({"time":"2026-01-02T03:04:07Z","verdict":"reset","reason":"no_flow",)"
    R"("again":true,"before":{"interface":"e0","frame_bytes":4,)"
    R"("source":"198.18.0.9","destination":"198.18.1.1","icmp_type":3,)"
    R"("icmp_code":4,"frame":"01020304"},"after":{"interface":"e0",)"
    R"("frame_bytes":1,"source":"\u001b[2J","destination":"198.18.0.9",)"
    R"("frame":"05"}})";

std::string Lines(std::initializer_list<std::string> lines) {
  std::string text;
  for (const std::string& line : lines) absl::StrAppend(&text, line, "\n");
  return text;
}

std::string Local(const std::string& time) {
  absl::Time parsed;
  EXPECT_TRUE(absl::ParseTime(absl::RFC3339_full, time, &parsed, nullptr));
  return absl::FormatTime("%H:%M:%E6S", parsed, absl::LocalTimeZone());
}

std::string Contents(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

TEST(FlowTrace, ALineAPacket) {
  FakeApi api;
  api.On("GET /v1/trace", 200,
         Lines({R"({"lost":0})", kHeader, kConsumed, kDrop, kReset,
                R"({"lost":0})"}));
  const Outcome trace = RunCtl(api, "flow trace --count=4");
  EXPECT_EQ(trace.code, 0);
  EXPECT_EQ(trace.err, "tracing; Ctrl-C ends it\n");
  EXPECT_EQ(
      trace.out,
      absl::StrCat(Local("2026-01-02T03:04:05.678901Z"),
                   " e0>e1 header     198.18.0.2:1025 > 198.18.1.1:25 [.] "
                   "seq 101 ack 900 len 0 => 198.18.2.1:10240 > "
                   "198.18.2.11:25 [P.] seq 101 ack 900 len 28\n",
                   Local("2026-01-02T03:04:05.7Z"),
                   " e1>- header_acked 198.18.2.11:25 > 198.18.2.1:10240 [.] "
                   "seq 900 ack 129 len 0\n",
                   Local("2026-01-02T03:04:06Z"),
                   " e0>- dropped: ttl 198.18.0.2:1025 > 198.18.1.1:25 [S] "
                   "seq 100 len 0\n",
                   Local("2026-01-02T03:04:07Z"),
                   " e0>e0 reset: no_flow 198.18.0.9 > 198.18.1.1 icmp 3/4 "
                   "=> [2J > 198.18.0.9\n"));
  EXPECT_EQ(RunCtl(api, "flow trace --count=1 -o json").out,
            absl::StrCat(kHeader, "\n"));
}

TEST(FlowTrace, AsksForWhatWasAskedFor) {
  FakeApi api;
  RunCtl(api, "flow trace --client=[2001:db8::1]:25 --service=a/b");
  EXPECT_EQ(api.requests().at(0).key,
            "GET /v1/trace?service=a%2Fb&client=%5B2001%3Adb8%3A%3A1%5D%3A25");
}

TEST(FlowTrace, SaysWhatGotLost) {
  FakeApi api;
  api.On("GET /v1/trace", 200,
         Lines({R"({"lost":0})", R"({"lost":7})", R"({"lost":7})", kHeader}));
  const Outcome trace = RunCtl(api, "flow trace --count=1");
  EXPECT_EQ(trace.code, 0);
  EXPECT_EQ(trace.err,
            "tracing; Ctrl-C ends it\n7 packets lost so far: too many to "
            "follow; --client or --service make them fewer\n");
}

TEST(FlowTrace, TheDaemonMayRefuseOrEndIt) {
  FakeApi api;
  api.On("GET /v1/trace", 409, R"({"error":"somebody traces"})");
  api.On("GET /v1/trace", 400, R"({"error":"client: not an address"})");
  api.On("GET /v1/trace", 200, Lines({R"({"lost":0})", kHeader}));
  const Outcome conflict = RunCtl(api, "flow trace");
  EXPECT_EQ(conflict.code, 7);
  EXPECT_EQ(conflict.err, "headgatectl: somebody traces\n");
  EXPECT_EQ(RunCtl(api, "flow trace").code, 2);
  const Outcome ended = RunCtl(api, "flow trace");
  EXPECT_EQ(ended.code, 1);
  EXPECT_THAT(ended.err, HasSubstr("the daemon closed the packet path"));
  EXPECT_EQ(RunCtl(api, "flow trace --count=0").code, 2);
  EXPECT_EQ(RunCtl(api, "flow list --count=1").code, 2);
}

TEST(FlowCapture, WritesBothSides) {
  FakeApi api;
  api.On("GET /v1/trace?frames=true", 200,
         Lines({R"({"lost":0})", kHeader, kDrop, kReset}));
  const std::string path = api.Path("flow.pcapng");
  const Outcome capture =
      RunCtl(api, absl::StrCat("flow capture ", path, " --count=3"));
  EXPECT_EQ(capture.code, 0) << capture.err;
  EXPECT_THAT(capture.out, IsEmpty());
  const std::string file = Contents(path);
  EXPECT_EQ(RunCtl(api, "flow capture - --count=3").out, file);
  // Before, after; before; after, whose arrival was told before.
  std::vector<std::string> frames;
  size_t interfaces = 0;
  for (size_t at = 0; at + 12 <= file.size();) {
    uint32_t type = 0, length = 0, captured = 0;
    file.copy(reinterpret_cast<char*>(&type), 4, at);
    file.copy(reinterpret_cast<char*>(&length), 4, at + 4);
    ASSERT_GE(length, 12u);
    file.copy(reinterpret_cast<char*>(&captured), 4, at + 20);
    if (type == 1) ++interfaces;
    if (type == 6) frames.push_back(file.substr(at + 28, captured));
    at += length;
  }
  EXPECT_EQ(interfaces, 2u);
  EXPECT_THAT(frames, testing::ElementsAre("\x01\x02\x03\x04",
                                           "\x0a\x0b\x0c\x0d\x0e\x0f",
                                           "\x01\x02\x03\x04", "\x05"));
  EXPECT_THAT(file, HasSubstr("dropped: ttl"));
}

// Another trace may be under way, into this very file.
TEST(FlowCapture, ARefusalLeavesTheFileAsItIs) {
  FakeApi api;
  api.On("GET /v1/trace?frames=true", 409, R"({"error":"somebody traces"})");
  const std::string path = api.Path("flow.pcapng");
  std::ofstream(path) << "captured before";
  EXPECT_EQ(RunCtl(api, absl::StrCat("flow capture ", path)).code, 7);
  EXPECT_EQ(Contents(path), "captured before");
  EXPECT_THAT(RunCtl(api, "flow capture -").out, IsEmpty());
}

TEST(FlowCapture, NeedsAFileThatCanBeWritten) {
  FakeApi api;
  api.On("GET /v1/trace?frames=true", 200, Lines({R"({"lost":0})", kHeader}));
  EXPECT_EQ(RunCtl(api, "flow capture").code, 2);
  const Outcome denied = RunCtl(api, "flow capture /nonexistent/file");
  EXPECT_EQ(denied.code, 4) << denied.err;
  EXPECT_THAT(denied.err, HasSubstr("write /nonexistent/file"));
}

}  // namespace
}  // namespace headgate::ctl
