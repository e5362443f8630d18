#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "base/unique_fd.h"
#include "control/saved_state.h"

namespace headgate::control {
namespace {

// What 4095 backends need is a tenth of that.
constexpr size_t kMaxBytes = 16 << 20;

absl::Status WriteAll(int fd, absl::string_view text, const std::string& path) {
  while (!text.empty()) {
    const ssize_t put = ::write(fd, text.data(), text.size());
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) return ErrnoStatus(errno, absl::StrCat("write ", path));
    text.remove_prefix(static_cast<size_t>(put));
  }
  return absl::OkStatus();
}

// A file that is renamed before its bytes are on the disk may be empty after
// a power cut.
absl::Status WriteNew(const std::string& path, absl::string_view text) {
  // What a crash has left, or a link to elsewhere, is not written to.
  ::unlink(path.c_str());
  UniqueFd file(
      ::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (!file.valid()) return ErrnoStatus(errno, absl::StrCat("open ", path));
  RETURN_IF_ERROR(WriteAll(file.get(), text, path));
  if (::fsync(file.get()) != 0) {
    return ErrnoStatus(errno, absl::StrCat("fsync ", path));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::string> ReadStateFile(const std::string& path) {
  UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  const int error = errno;
  if (!file.valid() && error == ENOENT) return absl::NotFoundError(path);
  if (!file.valid()) return ErrnoStatus(error, absl::StrCat("open ", path));
  std::string text;
  char buffer[16384];
  while (true) {
    const ssize_t got = ::read(file.get(), buffer, sizeof buffer);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return ErrnoStatus(errno, absl::StrCat("read ", path));
    if (got == 0) return text;
    text.append(buffer, static_cast<size_t>(got));
    if (text.size() > kMaxBytes) {
      return ErrnoStatus(EFBIG, absl::StrCat("read ", path));
    }
  }
}

absl::Status WriteStateFile(const std::string& path, absl::string_view text) {
  std::error_code ignored;  // To open the file fails, then, and says so.
  const std::filesystem::path folder =
      std::filesystem::path(path).parent_path();
  std::filesystem::create_directories(folder, ignored);
  const std::string fresh = absl::StrCat(path, ".new");
  RETURN_IF_ERROR(WriteNew(fresh, text));
  if (std::rename(fresh.c_str(), path.c_str()) != 0) {
    return ErrnoStatus(errno, absl::StrCat("rename ", fresh));
  }
  UniqueFd directory(
      ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (directory.valid()) ::fsync(directory.get());
  return absl::OkStatus();
}

}  // namespace headgate::control
