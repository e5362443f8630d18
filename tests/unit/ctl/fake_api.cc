#include "tests/unit/ctl/fake_api.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <sstream>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "ctl/run.h"

namespace headgate::ctl {
namespace {

UniqueFd Listen(const std::string& path) {
  UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof address.sun_path - 1);
  if (::bind(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) !=
          0 ||
      ::listen(fd.get(), 16) != 0) {
    ADD_FAILURE() << "listen on " << path << ": " << std::strerror(errno);
  }
  return fd;
}

size_t BodyLength(const std::string& head) {
  constexpr char kName[] = "Content-Length: ";
  const size_t at = head.find(kName);
  size_t length = 0;
  if (at == std::string::npos) return 0;
  const size_t begin = at + std::strlen(kName);
  EXPECT_TRUE(absl::SimpleAtoi(
      head.substr(begin, head.find("\r\n", begin) - begin), &length));
  return length;
}

FakeApi::Request ReadRequest(int fd) {
  std::string bytes;
  size_t body = 0;  // Where it starts, once that is known.
  char buffer[4096];
  while (body == 0 || bytes.size() < body + BodyLength(bytes.substr(0, body))) {
    const ssize_t got = ::recv(fd, buffer, sizeof buffer, 0);
    if (got <= 0) return {};
    bytes.append(buffer, static_cast<size_t>(got));
    const size_t blank = bytes.find("\r\n\r\n");
    if (blank != std::string::npos) body = blank + 4;
  }
  const std::vector<std::string> words =
      absl::StrSplit(bytes.substr(0, bytes.find("\r\n")), ' ');
  return {absl::StrCat(words[0], " ", words[1]), bytes.substr(body)};
}

std::string HttpReply(int status, const std::string& json) {
  return absl::StrCat("HTTP/1.1 ", status,
                      " X\r\nContent-Length: ", json.size(), "\r\n\r\n", json);
}

}  // namespace

FakeApi::FakeApi() {
  std::string dir = testing::TempDir() + "headgatectl.XXXXXX";
  if (::mkdtemp(dir.data()) == nullptr) ADD_FAILURE() << "mkdtemp " << dir;
  dir_ = dir;
  socket_ = Path("sock");
  listener_ = Listen(socket_);
  thread_ = std::thread([this] { Serve(); });
}

FakeApi::~FakeApi() {
  ::shutdown(listener_.get(), SHUT_RDWR);  // Ends accept().
  thread_.join();
  std::filesystem::remove_all(dir_);
}

void FakeApi::On(const std::string& key, int status, const std::string& json) {
  OnRaw(key, HttpReply(status, json));
}

void FakeApi::OnRaw(const std::string& key, const std::string& bytes) {
  const std::lock_guard lock(mutex_);
  replies_[key].push_back(bytes);
}

void FakeApi::OnSilence(const std::string& key) { OnRaw(key, ""); }

std::vector<FakeApi::Request> FakeApi::requests() const {
  const std::lock_guard lock(mutex_);
  return requests_;
}

void FakeApi::Serve() {
  while (true) {
    UniqueFd connection(
        ::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
    if (!connection.valid()) return;
    Answer(std::move(connection));
  }
}

void FakeApi::Answer(UniqueFd connection) {
  const Request request = ReadRequest(connection.get());
  std::string reply = HttpReply(404, R"({"error":"no such path"})");
  {
    const std::lock_guard lock(mutex_);
    requests_.push_back(request);
    if (auto found = replies_.find(request.key); found != replies_.end()) {
      reply = found->second.front();
      if (found->second.size() > 1) found->second.pop_front();
    }
  }
  if (reply.empty()) {
    silent_.push_back(std::move(connection));
    return;
  }
  size_t sent = 0;
  while (sent < reply.size()) {
    const ssize_t n = ::send(connection.get(), reply.data() + sent,
                             reply.size() - sent, MSG_NOSIGNAL);
    if (n <= 0) return;  // The client has had enough.
    sent += static_cast<size_t>(n);
  }
}

Outcome RunCtl(const std::vector<std::string>& args) {
  std::ostringstream out;
  std::ostringstream err;
  const int code = Run(args, out, err);
  return {code, out.str(), err.str()};
}

Outcome RunCtl(const FakeApi& api, const std::string& args) {
  std::vector<std::string> words = absl::StrSplit(args, ' ', absl::SkipEmpty());
  words.push_back("--socket=" + api.socket());
  return RunCtl(words);
}

}  // namespace headgate::ctl
