#include "base/status.h"

#include <fcntl.h>
#include <gtest/gtest.h>

#include "base/unique_fd.h"

namespace headgate {
namespace {

TEST(ErrnoStatusTest, NamesOperationReasonAndSymbol) {
  const absl::Status status = ErrnoStatus(EADDRINUSE, "listen on 192.0.2.1:25");
  EXPECT_EQ(status.message(),
            "listen on 192.0.2.1:25: Address already in use (EADDRINUSE)");
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
}

TEST(ErrnoStatusTest, UnknownNumbersAreNamedToo) {
  EXPECT_EQ(ErrnoStatus(4711, "x").message(), "x: unknown error (errno 4711)");
}

bool IsOpen(int fd) { return fcntl(fd, F_GETFD) != -1; }

TEST(UniqueFdTest, ClosesOnceAndMoves) {
  UniqueFd first(open("/dev/null", O_RDONLY | O_CLOEXEC));
  const int fd = first.get();
  ASSERT_TRUE(first.valid());
  UniqueFd second(std::move(first));
  EXPECT_FALSE(first.valid());  // NOLINT(bugprone-use-after-move)
  EXPECT_EQ(second.get(), fd);
  EXPECT_TRUE(IsOpen(fd));
  second.reset();
  EXPECT_FALSE(IsOpen(fd));
}

TEST(UniqueFdTest, ReleaseLeavesItOpen) {
  UniqueFd owner(open("/dev/null", O_RDONLY | O_CLOEXEC));
  const int fd = owner.release();
  EXPECT_FALSE(owner.valid());
  EXPECT_TRUE(IsOpen(fd));
  close(fd);
}

}  // namespace
}  // namespace headgate
