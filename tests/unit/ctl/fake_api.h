// A daemon's admin API for tests of headgatectl: a unix socket in a temporary
// folder and a thread that gives canned replies. A key is "METHOD /path?query".
#pragma once

#include <deque>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "base/unique_fd.h"

namespace headgate::ctl {

class FakeApi {
 public:
  FakeApi();
  FakeApi(const FakeApi&) = delete;
  FakeApi& operator=(const FakeApi&) = delete;
  ~FakeApi();

  const std::string& socket() const { return socket_; }
  // A path in the temporary folder.
  std::string Path(const std::string& name) const { return dir_ + "/" + name; }

  // Each call queues one reply; the last one of a key is given for ever. A key
  // without a reply gets 404.
  void On(const std::string& key, int status, const std::string& json);
  // Bytes instead of a reply; then the connection is closed.
  void OnRaw(const std::string& key, const std::string& bytes);
  // Accepts, reads, and says nothing.
  void OnSilence(const std::string& key);

  struct Request {
    std::string key;
    std::string body;
  };
  std::vector<Request> requests() const;

 private:
  void Serve();
  void Answer(UniqueFd connection);

  std::string dir_;
  std::string socket_;
  UniqueFd listener_;
  mutable std::mutex mutex_;  // Guards the two below.
  std::map<std::string, std::deque<std::string>> replies_;  // "": silence.
  std::vector<Request> requests_;
  std::vector<UniqueFd> silent_;  // Of the thread.
  std::thread thread_;
};

// What a run of headgatectl left.
struct Outcome {
  int code = 0;
  std::string out;
  std::string err;
};

Outcome RunCtl(const std::vector<std::string>& args);
// `args` are split at blanks; --socket comes from `api`.
Outcome RunCtl(const FakeApi& api, const std::string& args);

}  // namespace headgate::ctl
