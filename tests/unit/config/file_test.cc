#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>

#include "config/parse.h"
#include "config/yaml.h"

namespace headgate::config {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

constexpr uid_t kNobody = 65534;

class ReadFileTest : public ::testing::Test {
 protected:
  void SetUp() override { ASSERT_NE(::mkdtemp(dir_.data()), nullptr); }
  void TearDown() override {
    std::remove(path().c_str());
    std::remove(dir_.c_str());
  }
  void Write(const std::string& text) { std::ofstream(path()) << text; }
  std::string path() const { return dir_ + "/headgate.yaml"; }
  const std::string& dir() const { return dir_; }

 private:
  std::string dir_ = ::testing::TempDir() + "read_file_XXXXXX";
};

TEST_F(ReadFileTest, ReturnsTheContents) {
  Write("services: {}\n");
  EXPECT_EQ(ReadFile(path()).value(), "services: {}\n");
  Write("");
  EXPECT_EQ(ReadFile(path()).value(), "");
}

TEST_F(ReadFileTest, Missing) {
  const absl::Status status = ReadFile(path()).status();
  EXPECT_TRUE(absl::IsNotFound(status)) << status;
  EXPECT_THAT(std::string(status.message()), StartsWith("open " + path()));
}

TEST_F(ReadFileTest, Directory) {
  EXPECT_THAT(std::string(ReadFile(dir()).status().message()),
              HasSubstr("EISDIR"));
}

TEST_F(ReadFileTest, NotPermitted) {
  Write("services: {}\n");
  ASSERT_EQ(::chmod(path().c_str(), 0), 0);
  // Root may read anything: look as somebody else.
  const uid_t self = ::geteuid();
  if (self == 0) {
    ASSERT_EQ(::chmod(dir().c_str(), 0755), 0);
    ASSERT_EQ(::seteuid(kNobody), 0);
  }
  const absl::Status status = ReadFile(path()).status();
  ASSERT_EQ(::seteuid(self), 0);
  EXPECT_TRUE(absl::IsPermissionDenied(status)) << status;
}

TEST_F(ReadFileTest, Size) {
  const std::string largest(kMaxFileBytes, '#');
  Write(largest);
  EXPECT_EQ(ReadFile(path()).value(), largest);
  Write(largest + "#");
  EXPECT_THAT(std::string(ReadFile(path()).status().message()),
              HasSubstr("more than 1048576 bytes"));
}

}  // namespace
}  // namespace headgate::config
