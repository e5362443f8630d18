#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>

#include "tests/unit/ctl/fake_api.h"

namespace headgate::ctl {
namespace {

using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

constexpr char kText[] = "pools: {}\n";
constexpr char kErrors[] =
    R"("errors":[{"line":3,"column":5,"message":"unknown key \"pol\""},)"
    R"({"line":0,"column":0,"message":"listener 198.18.1.1:25: in use"}])";

class ConfigTest : public testing::Test {
 protected:
  ConfigTest() : file_(api_.Path("headgate.yaml")) {
    std::ofstream(file_) << kText;
  }

  Outcome Ctl(const std::string& verb, const std::string& more = "") {
    return RunCtl(api_, "config " + verb + " " + file_ + " " + more);
  }

  // The errors above, as they are printed for `file`.
  static std::string Printed(const std::string& file) {
    return file + ":3:5: error: unknown key \"pol\"\n" + file +
           ": error: listener 198.18.1.1:25: in use\n";
  }

  FakeApi api_;
  const std::string file_;
};

TEST_F(ConfigTest, CheckOfAValidFile) {
  api_.On("POST /v1/config/check", 200, R"({"valid":true,"errors":[]})");
  const Outcome outcome = Ctl("check");
  EXPECT_EQ(outcome.code, 0);
  EXPECT_EQ(outcome.out, file_ + ": valid\n");
  ASSERT_THAT(api_.requests(), SizeIs(1));
  EXPECT_EQ(api_.requests()[0].body, kText);
}

TEST_F(ConfigTest, CheckNamesEveryError) {
  const std::string body = std::string("{\"valid\":false,") + kErrors + "}";
  api_.On("POST /v1/config/check", 200, body);
  const Outcome table = Ctl("check");
  EXPECT_EQ(table.code, 1);
  EXPECT_EQ(table.err, Printed(file_));
  EXPECT_THAT(table.out, IsEmpty());
  const Outcome json = Ctl("check", "-o json");
  EXPECT_EQ(json.code, 1);
  EXPECT_EQ(json.out, body + "\n");
}

// Stdin is `path` while this lives.
class StdinFrom {
 public:
  explicit StdinFrom(const std::string& path) : saved_(::dup(STDIN_FILENO)) {
    const UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    ::dup2(file.get(), STDIN_FILENO);
  }
  StdinFrom(const StdinFrom&) = delete;
  StdinFrom& operator=(const StdinFrom&) = delete;
  ~StdinFrom() { ::dup2(saved_.get(), STDIN_FILENO); }

 private:
  UniqueFd saved_;
};

TEST_F(ConfigTest, ADashIsStdin) {
  api_.On("POST /v1/config/check", 200, R"({"valid":true})");
  const StdinFrom input(file_);
  const Outcome outcome = RunCtl(api_, "config check -");
  EXPECT_EQ(outcome.code, 0);
  EXPECT_EQ(outcome.out, "-: valid\n");
  ASSERT_THAT(api_.requests(), SizeIs(1));
  EXPECT_EQ(api_.requests()[0].body, kText);
}

TEST_F(ConfigTest, UnreadableFilesAreFailures) {
  for (const std::string name : {"/nonexistent.yaml", "/", "/dev/zero"}) {
    const Outcome outcome = RunCtl(api_, "config check " + name);
    EXPECT_EQ(outcome.code, 1);
    EXPECT_THAT(outcome.err, HasSubstr("headgatectl: read " + name + ": "));
  }
  EXPECT_THAT(api_.requests(), IsEmpty());
}

TEST_F(ConfigTest, DiffOfEqualFiles) {
  api_.On("POST /v1/config/diff", 200, R"({"changes":[]})");
  const Outcome outcome = Ctl("diff");
  EXPECT_EQ(outcome.code, 0);
  EXPECT_EQ(outcome.out, "no changes\n");
}

TEST_F(ConfigTest, DiffThatDiffers) {
  const std::string body = R"({"changes":["add service smtp","x\u001b"]})";
  api_.On("POST /v1/config/diff", 200, body);
  const Outcome table = Ctl("diff");
  EXPECT_EQ(table.code, 1);
  EXPECT_EQ(table.out, "add service smtp\nx\n");
  const Outcome json = Ctl("diff", "-o json");
  EXPECT_EQ(json.code, 1);
  EXPECT_EQ(json.out, body + "\n");
}

TEST_F(ConfigTest, DiffOfAnInvalidFile) {
  const std::string body = std::string("{") + kErrors + "}";
  api_.On("POST /v1/config/diff", 422, body);
  const Outcome outcome = Ctl("diff", "-o json");
  EXPECT_EQ(outcome.code, 1);
  EXPECT_EQ(outcome.out, body + "\n");
  EXPECT_EQ(
      outcome.err,
      Printed(file_) + "headgatectl: the daemon refuses the configuration\n");
}

TEST_F(ConfigTest, Apply) {
  const std::string body = R"({"generation":7,"changes":["add pool mail"]})";
  api_.On("POST /v1/config/apply", 200, body);
  const Outcome table = Ctl("apply");
  EXPECT_EQ(table.code, 0);
  EXPECT_EQ(table.out, "add pool mail\napplied: generation 7\n");
  EXPECT_EQ(Ctl("apply", "-o json").out, body + "\n");
}

TEST_F(ConfigTest, ApplyRefused) {
  api_.On("POST /v1/config/apply", 422,
          std::string("{\"error\":\"configuration refused\",") + kErrors + "}");
  const Outcome outcome = Ctl("apply");
  EXPECT_EQ(outcome.code, 1);
  EXPECT_EQ(outcome.err,
            Printed(file_) + "headgatectl: configuration refused\n");
  EXPECT_THAT(outcome.out, IsEmpty());
}

TEST_F(ConfigTest, ReloadRefusedNamesTheDaemonsFile) {
  api_.On("POST /v1/config/reload", 422,
          std::string("{\"error\":\"refused\",") + kErrors + "}");
  api_.On("GET /v1/config", 200, R"({"file":"/etc/headgate/headgate.yaml"})");
  const Outcome outcome = RunCtl(api_, "config reload");
  EXPECT_EQ(outcome.code, 1);
  EXPECT_EQ(outcome.err,
            Printed("/etc/headgate/headgate.yaml") + "headgatectl: refused\n");
}

TEST_F(ConfigTest, Reload) {
  api_.On("POST /v1/config/reload", 200, R"({"generation":2,"changes":[]})");
  const Outcome outcome = RunCtl(api_, "config reload");
  EXPECT_EQ(outcome.code, 0);
  EXPECT_EQ(outcome.out, "applied: generation 2\n");
}

TEST_F(ConfigTest, Show) {
  const std::string body =
      R"({"generation":2,"file":"/etc/a","yaml":"a:\n  b: \u001b1\n"})";
  api_.On("GET /v1/config", 200, body);
  EXPECT_EQ(RunCtl(api_, "config show").out, "a:\n  b: 1\n");
  EXPECT_EQ(RunCtl(api_, "config show -o json").out, body + "\n");
}

TEST_F(ConfigTest, ShowWithoutYaml) {
  api_.On("GET /v1/config", 200, "{}");
  const Outcome outcome = RunCtl(api_, "config show");
  EXPECT_EQ(outcome.code, 1);
  EXPECT_EQ(outcome.err, "headgatectl: reply has no yaml\n");
}

}  // namespace
}  // namespace headgate::ctl
