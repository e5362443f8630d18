#include "support/process.h"

#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>

#include "absl/strings/str_join.h"
#include "base/status.h"

namespace headgate::testing {
namespace {

UniqueFd MakeMemfd(const char* name) {
  UniqueFd fd(::memfd_create(name, MFD_CLOEXEC));
  if (!fd.valid()) Die(absl::StrCat("memfd_create: ", ErrnoName(errno)));
  return fd;
}

std::string ReadAll(int fd) {
  std::string result;
  char buffer[65536];
  ssize_t n = 0;
  while ((n = ::pread(fd, buffer, sizeof buffer,
                      static_cast<off_t>(result.size()))) > 0) {
    result.append(buffer, static_cast<size_t>(n));
  }
  return result;
}

}  // namespace

void Die(const std::string& why) {
  std::fprintf(stderr, "test bed: %s\n", why.c_str());
  std::exit(1);
}

Process::Process(const std::vector<std::string>& argv, const std::string& input)
    : in_(MakeMemfd("stdin")),
      out_(MakeMemfd("stdout")),
      err_(MakeMemfd("stderr")) {
  const ssize_t written = ::pwrite(in_.get(), input.data(), input.size(), 0);
  if (written != static_cast<ssize_t>(input.size())) Die("stdin: short write");
  std::vector<char*> pointers;
  for (const std::string& arg : argv) {
    pointers.push_back(const_cast<char*>(arg.c_str()));
  }
  pointers.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, in_.get(), STDIN_FILENO);
  posix_spawn_file_actions_adddup2(&actions, out_.get(), STDOUT_FILENO);
  posix_spawn_file_actions_adddup2(&actions, err_.get(), STDERR_FILENO);
  // Ignored in what a shell runs in the background, and inherited.
  sigset_t interrupts;
  sigemptyset(&interrupts);
  sigaddset(&interrupts, SIGINT);
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  posix_spawnattr_setsigdefault(&attributes, &interrupts);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGDEF);
  const int error = ::posix_spawnp(&pid_, pointers[0], &actions, &attributes,
                                   pointers.data(), environ);
  posix_spawnattr_destroy(&attributes);
  posix_spawn_file_actions_destroy(&actions);
  if (error != 0) {
    Die(absl::StrCat("start ", absl::StrJoin(argv, " "), ": ",
                     ErrnoName(error)));
  }
  // glibc 2.36 declares pidfd_open() without C linkage.
  pidfd_.reset(static_cast<int>(::syscall(SYS_pidfd_open, pid_, 0)));
}

Process::~Process() {
  Signal(SIGKILL);
  Wait(absl::Seconds(30));
}

void Process::Signal(int signal) const {
  if (!status_.has_value()) ::kill(pid_, signal);
}

std::optional<int> Process::Wait(absl::Duration timeout) {
  if (status_.has_value()) return status_;
  pollfd ended{pidfd_.get(), POLLIN, 0};
  const int milliseconds = static_cast<int>(absl::ToInt64Milliseconds(timeout));
  if (::poll(&ended, 1, milliseconds) != 1) return std::nullopt;
  int status = 0;
  if (::waitpid(pid_, &status, 0) != pid_) return std::nullopt;
  status_ = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return status_;
}

std::string Process::out() const { return ReadAll(out_.get()); }
std::string Process::err() const { return ReadAll(err_.get()); }

ProcessResult RunCommand(const std::vector<std::string>& argv,
                         const std::string& input, absl::Duration timeout) {
  Process process(argv, input);
  const std::optional<int> status = process.Wait(timeout);
  return {status.value_or(-1), process.out(), process.err()};
}

}  // namespace headgate::testing
