#include "support/session.h"

#include <gtest/gtest.h>

#include <sstream>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "support/lab.h"
#include "support/process.h"

namespace headgate::testing {
namespace {

struct Queues {
  int64_t unread = 0;
  int64_t unacknowledged = 0;
  int64_t received = 0;
  int64_t acknowledged = 0;
};

// Of the edge's socket between two endpoints.
Queues QueuesAtEdge(const Endpoint& local, const Endpoint& peer) {
  const ProcessResult shown =
      RunCommand({"ip", "netns", "exec", kEdge, "ss", "-tinHO", "src",
                  local.ToString(), "dst", peer.ToString()});
  std::istringstream words(shown.out);
  Queues queues;
  std::string word;
  words >> word >> queues.unread >> queues.unacknowledged;
  EXPECT_TRUE(words) << "ss: " << shown.out << shown.err;
  while (words >> word) {
    absl::string_view value(word);
    int64_t* field =
        absl::ConsumePrefix(&value, "bytes_acked:")      ? &queues.acknowledged
        : absl::ConsumePrefix(&value, "bytes_received:") ? &queues.received
                                                         : nullptr;
    if (field != nullptr && !absl::SimpleAtoi(value, field)) {
      ADD_FAILURE() << "ss: " << word;
    }
  }
  return queues;
}

}  // namespace

bool Session::Exchange(size_t size) {
  const std::string bytes(size, 'e');
  return client.Send(bytes) && backend.Receive(size) == bytes &&
         backend.Send(bytes) && client.Receive(size) == bytes;
}

Session OpenSession(const Endpoint& vip, const UniqueFd& listener) {
  return AcceptSession(TcpSocket::Connect(kClient, vip), listener);
}

Session AcceptSession(TcpSocket client, const UniqueFd& listener) {
  Session session;
  session.client = std::move(client);
  session.backend = TcpSocket::Accept(listener);
  if (!session.valid()) {
    ADD_FAILURE() << "not connected: "
                  << (session.client.valid() ? "backend" : "client");
    return session;
  }
  const std::string expected =
      ExpectedHeader(HeaderKind::kV2, LocalEndpoint(session.client.fd()),
                     PeerEndpoint(session.client.fd()));
  session.header = session.backend.Receive(expected.size());
  EXPECT_EQ(session.header, expected);
  return session;
}

int64_t UnchargedBytes(const Session& session) {
  const Queues source = QueuesAtEdge(PeerEndpoint(session.backend.fd()),
                                     LocalEndpoint(session.backend.fd()));
  const Queues sink = QueuesAtEdge(PeerEndpoint(session.client.fd()),
                                   LocalEndpoint(session.client.fd()));
  return source.received - source.unread - sink.acknowledged -
         sink.unacknowledged;
}

}  // namespace headgate::testing
