// Whose port a connection has: the client's own, and one of the edge's towards
// the backend.
#include "packet_fixture.h"

namespace headgate::testing {
namespace {

class PacketPortsTest : public PacketLab {
 protected:
  // Another listener of each pool, at port 26.
  static std::string WithTwoServicesEach() {
    return PacketConfig({.health = "{type: none}"}) + R"(
  post:
    listen: [198.18.1.1:26]
    datapath: packet
    pool: nodes
    health: {type: none}
  post6:
    listen: ["[2001:db8:1::1]:26"]
    datapath: packet
    pool: nodes6
    health: {type: none}
)";
  }
};

// Each direction has bytes of its own, so that none can pass for another's.
std::string BytesOf(size_t connection, char first) {
  return std::string(100000,
                     static_cast<char>(first + static_cast<int>(connection)));
}

void ExpectTheirOwnBytes(std::vector<Session>& sessions, size_t begin) {
  for (size_t i = begin; i < sessions.size(); ++i) {
    ASSERT_TRUE(sessions[i].client.Send(BytesOf(i, 'a')));
    ASSERT_TRUE(sessions[i].backend.Send(BytesOf(i, 'A')));
  }
  for (size_t i = begin; i < sessions.size(); ++i) {
    EXPECT_TRUE(sessions[i].backend.Receive(100000) == BytesOf(i, 'a')) << i;
    EXPECT_TRUE(sessions[i].client.Receive(100000) == BytesOf(i, 'A')) << i;
  }
}

TEST_F(PacketPortsTest, B16_ClientsThatHaveTheSamePortAreNotMixed) {
  struct Family {
    const char* clients[2];
    const char* services[2];
    const char* backend;
  };
  daemon_ = std::make_unique<Daemon>(WithTwoServicesEach());
  for (const Family& family :
       {Family{{"198.18.0.2", "198.18.0.3"},
               {"198.18.1.1:25", "198.18.1.1:26"},
               "198.18.2.11:25"},
        Family{{"2001:db8::2", "2001:db8::3"},
               {"[2001:db8:1::1]:25", "[2001:db8:1::1]:26"},
               "[2001:db8:2::11]:25"}}) {
    SCOPED_TRACE(family.backend);
    lab_.AddClientAddress(family.clients[1]);
    const UniqueFd listener = ListenAt(family.backend);
    std::vector<Session> sessions;
    for (const char* client : family.clients) {
      for (const char* service : family.services) {
        SCOPED_TRACE(absl::StrCat(client, " to ", service));
        const IpAddress address = *IpAddress::Parse(client);
        sessions.push_back(AcceptSession(
            TcpSocket::Connect(kClient, At(service), 20001, address),
            listener));
        ASSERT_TRUE(sessions.back().valid());
        EXPECT_EQ(HeaderSource(sessions.back().header),
                  (Endpoint{address, 20001}));
      }
    }
    ExpectTheirOwnBytes(sessions, 0);
    sessions[0].client.Reset();
    EXPECT_TRUE(sessions[0].backend.ReceivesReset());
    EXPECT_TRUE(WaitActive(3));
    ExpectTheirOwnBytes(sessions, 1);
    sessions.clear();
    EXPECT_TRUE(WaitActive(0));
  }
}

TEST_F(PacketPortsTest, B16_AClientUsesItsPortAgainAtOnce) {
  const auto server = Node();
  Start();
  for (int i = 0; i < 50; ++i) {
    TcpSocket client = TcpSocket::Connect(kClient, vip_, 20001);
    ASSERT_EQ(client.Receive(11), kGreeting) << i;
    client.Reset();
  }
  EXPECT_TRUE(WaitActive(0));
}

TEST_F(PacketPortsTest, B17_WithoutASourcePortASynIsCounted) {
  const auto server = Node();
  Start({.packet = "  ports: 20000-20009"});
  std::vector<TcpSocket> held;
  for (int i = 0; i < 10; ++i) {
    held.push_back(TcpSocket::Connect(kClient, vip_));
    if (!held.back().valid()) break;
    EXPECT_EQ(held.back().Receive(11), kGreeting);
  }
  const UniqueFd more = RunIn(kClient, [&] { return StartConnect({}, vip_); });
  EXPECT_TRUE(WaitUntil(absl::Seconds(5),
                        [&] { return Drops("no_source_port") >= 1; }));
  for (TcpSocket& socket : held) {
    EXPECT_TRUE(socket.Send("x") && socket.Receive(1) == "x");
  }
}

}  // namespace
}  // namespace headgate::testing
