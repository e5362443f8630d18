// headgatectl flow trace and capture, on the real daemon: what they show of a
// connection, and that readers who leave, or only stay, harm nobody.
#include <signal.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <regex>

#include "absl/strings/str_split.h"
#include "packet_fixture.h"
#include "support/edge.h"

namespace headgate::testing {
namespace {

class TraceTest : public PacketLab {
 protected:
  // It runs, and misses nothing from now on.
  std::unique_ptr<Process> Ctl(std::vector<std::string> args) const {
    args.insert(args.begin(),
                {Program("headgatectl"),
                 absl::StrCat("--socket=", daemon_->socket_path()), "flow"});
    auto process = std::make_unique<Process>(args);
    EXPECT_TRUE(WaitUntil(absl::Seconds(10), [&] {
      return absl::StrContains(process->err(), "tracing");
    })) << process->err();
    return process;
  }
  // A reader that asks and then does nothing.
  UniqueFd Ask(const std::string& path) const {
    UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    daemon_->socket_path().copy(address.sun_path, sizeof address.sun_path - 1);
    EXPECT_EQ(::connect(fd.get(), reinterpret_cast<sockaddr*>(&address),
                        sizeof address),
              0);
    const std::string request =
        absl::StrCat("GET ", path, " HTTP/1.1\r\nHost: x\r\n\r\n");
    EXPECT_EQ(::send(fd.get(), request.data(), request.size(), 0),
              static_cast<ssize_t>(request.size()));
    char first[1] = {};
    EXPECT_EQ(::recv(fd.get(), first, 1, 0), 1);
    return fd;
  }
  // Nobody traces any more: then another may.
  bool BecomesFree() const {
    return WaitUntil(absl::Seconds(5), [&] {
      return daemon_->Ctl({"flow", "trace", "--timeout=50ms"}).exit_code == 6;
    });
  }
  static std::string TcpDump(const std::vector<std::string>& args) {
    std::vector<std::string> argv = {"tcpdump", "-n"};
    argv.insert(argv.end(), args.begin(), args.end());
    const ProcessResult result = RunCommand(argv);
    EXPECT_EQ(result.exit_code, 0) << result.err;
    return result.out;
  }
  static size_t Lines(const std::string& text) {
    return static_cast<size_t>(std::count(text.begin(), text.end(), '\n'));
  }
};

// One line: before, and after if it left.
struct Line {
  std::string interfaces, verdict, from, to, flags, new_from, new_to, new_flags;
  uint32_t seq = 0, length = 0, new_seq = 0, new_length = 0;
};
std::vector<Line> Parse(const std::string& text) {
  static const std::regex kLine(
      R"(\d\d:\d\d:\d\d\.\d{6} (\S+) (\S+) +)"
      R"((\S+) > (\S+) \[(\S+)\] seq (\d+)(?: ack \d+)? len (\d+)(?: => )"
      R"((\S+) > (\S+) \[(\S+)\] seq (\d+)(?: ack \d+)? len (\d+))?)");
  std::vector<Line> lines;
  for (const std::string& line : std::vector<std::string>(
           absl::StrSplit(text, '\n', absl::SkipEmpty()))) {
    std::smatch m;
    if (!std::regex_match(line, m, kLine)) {
      ADD_FAILURE() << line;
      continue;
    }
    const auto number = [&](size_t i) {
      return m[i].matched ? static_cast<uint32_t>(std::stoul(m[i])) : 0;
    };
    lines.push_back({m[1], m[2], m[3], m[4], m[5], m[8], m[9], m[10], number(6),
                     number(7), number(11), number(12)});
  }
  return lines;
}

TEST_F(TraceTest, AConnectionIsFollowedAndItsHeaderIsSeen) {
  const UniqueFd listener = ListenAt("198.18.2.11:25");
  Start();
  const auto trace = Ctl({"trace", "--service=mail", "--count=7"});
  TcpSocket other = TcpSocket::Connect(kClient, vip6_);  // Of another service.
  Session session = OpenSession(vip_, listener);
  ASSERT_TRUE(HeaderIsAcked());
  ASSERT_TRUE(session.Exchange(1000));
  EXPECT_EQ(trace->Wait(absl::Seconds(10)), 0) << trace->err();
  std::cout << trace->out();
  const std::vector<Line> lines = Parse(trace->out());
  ASSERT_EQ(lines.size(), 7u);
  const std::string client = LocalEndpoint(session.client.fd()).ToString();
  const std::string source = PeerEndpoint(session.backend.fd()).ToString();
  EXPECT_EQ(lines[0].interfaces, "e0>e1");
  EXPECT_EQ(lines[0].flags, "S");
  EXPECT_EQ(lines[0].from, client);
  EXPECT_EQ(lines[0].to, "198.18.1.1:25");
  EXPECT_EQ(lines[0].new_from, source);
  EXPECT_EQ(lines[0].new_to, "198.18.2.11:25");
  EXPECT_EQ(lines[1].interfaces, "e1>e0");
  EXPECT_EQ(lines[1].flags, "S.");
  EXPECT_EQ(lines[1].new_to, client);
  EXPECT_EQ(lines[2].verdict, "header");
  EXPECT_EQ(lines[2].flags, ".");
  EXPECT_EQ(lines[2].length, 0u);
  EXPECT_EQ(lines[2].new_flags, "P.");
  EXPECT_EQ(lines[2].new_length, 28u);
  const uint32_t shift = lines[0].new_seq - lines[0].seq;
  EXPECT_EQ(lines[2].new_seq - lines[2].seq, shift);
  EXPECT_EQ(lines[3].interfaces, "e1>-");
  EXPECT_EQ(lines[3].verdict, "header_acked");
  EXPECT_EQ(lines[3].from, "198.18.2.11:25");
  EXPECT_EQ(lines[3].new_to, "");
  // The data behind it are 28 further on.
  const auto data =
      std::find_if(lines.begin(), lines.end(),
                   [&](const Line& l) { return l.from == client && l.length; });
  ASSERT_NE(data, lines.end());
  EXPECT_EQ(data->length, 1000u);
  EXPECT_EQ(data->new_length, 1000u);
  EXPECT_EQ(data->new_seq - data->seq, shift + 28);
}

TEST_F(TraceTest, WhatIsAnsweredByIcmpSaysWhy) {
  Shell("ip netns exec client sysctl -qw net.ipv4.ip_default_ttl=1");
  Start();
  const auto trace = Ctl({"trace", "--service=mail", "--count=1"});
  const UniqueFd client =
      RunIn(kClient, [&] { return StartConnect({}, vip_); });
  EXPECT_EQ(trace->Wait(absl::Seconds(10)), 0) << trace->err();
  const std::string line = trace->out();
  EXPECT_NE(line.find(" e0>e0 answered: ttl 198.18.0.2:"), line.npos) << line;
  EXPECT_NE(line.find(" => 198.18.1.1 > 198.18.0.2 icmp 11/0"), line.npos)
      << line;
}

TEST_F(TraceTest, ACaptureHasBothSidesAndOthersCanReadIt) {
  const UniqueFd listener = ListenAt("198.18.2.11:25");
  Start();
  const std::string path = std::filesystem::temp_directory_path() /
                           absl::StrCat("flow", ::getpid(), ".pcapng");
  const auto capture = Ctl({"capture", path, "--client=198.18.0.2"});
  Session session = OpenSession(vip_, listener);
  ASSERT_TRUE(HeaderIsAcked());
  ASSERT_TRUE(session.Exchange(1000));
  const uint16_t port = LocalEndpoint(session.client.fd()).port;
  session.client.Close();
  session.backend.Close();
  const std::string from_client =
      absl::StrCat("src host 198.18.0.2 and src port ", port);
  const std::string to_backend = "dst host 198.18.2.11";
  const std::string fin = " and tcp[13] & 1 != 0";
  // Before the first frame there is no interface, which tcpdump minds.
  ASSERT_TRUE(WaitUntil(absl::Seconds(10), [&] {
    return Lines(RunCommand({"tcpdump", "-n", "-r", path, to_backend + fin})
                     .out) == 1;
  }));
  capture->Signal(SIGINT);
  EXPECT_EQ(capture->Wait(absl::Seconds(5)), 128 + SIGINT);
  std::cout << TcpDump({"-r", path});
  // As many came as left, but for what acknowledges the header; and the
  // handshake's ACK left with that.
  EXPECT_EQ(Lines(TcpDump({"-r", path, from_client})),
            Lines(TcpDump({"-r", path, to_backend})));
  EXPECT_EQ(Lines(TcpDump({"-r", path, "src host 198.18.2.11"})),
            Lines(TcpDump({"-r", path, "dst host 198.18.0.2"})) + 1);
  EXPECT_EQ(Lines(TcpDump({"-r", path, from_client + fin})), 1u);
  const std::string headers = TcpDump(
      {"-r", path, "-A",
       to_backend + " and (tcp[20:4] = 0x0d0a0d0a or tcp[32:4] = 0x0d0a0d0a)"});
  EXPECT_TRUE(absl::StrContains(headers, "length 28")) << headers;
  EXPECT_TRUE(absl::StrContains(headers, "QUIT")) << headers;
  std::filesystem::remove(path);
}

TEST_F(TraceTest, OneTracesAtATimeUntilItsCtrlC) {
  const auto server = Node();
  Start();
  const auto trace = Ctl({"trace"});
  const ProcessResult second = daemon_->Ctl({"flow", "trace"});
  EXPECT_EQ(second.exit_code, 7);
  EXPECT_TRUE(absl::StrContains(second.err, "one can at a time")) << second.err;
  EXPECT_EQ(Load(5).ok, 5u);
  trace->Signal(SIGINT);
  EXPECT_EQ(trace->Wait(absl::Seconds(5)), 128 + SIGINT);
  EXPECT_TRUE(BecomesFree());
  const auto killed = Ctl({"trace"});
  killed->Signal(SIGKILL);
  EXPECT_TRUE(BecomesFree());
  EXPECT_EQ(daemon_->Ctl({"flow", "trace", "--service=none"}).exit_code, 4);
  EXPECT_EQ(daemon_->Ctl({"flow", "trace", "--client=mars"}).exit_code, 2);
}

TEST_F(TraceTest, AReaderWhoDoesNotReadHarmsNobody) {
  const auto server = Node();
  Start();
  EXPECT_EQ(Load(100).ok, 100u);  // What memory it takes anyway.
  const int64_t before = ResidentBytes(daemon_->pid());
  UniqueFd reader = Ask("/v1/trace?frames=true");
  // Some 12 events a connection: the socket takes hundreds, the ring 1,800.
  EXPECT_EQ(Load(1000).ok, 1000u);
  EXPECT_LT(ResidentBytes(daemon_->pid()) - before, 4 << 20);
  EXPECT_EQ(daemon_->Ctl({"status"}).exit_code, 0);
  std::string got;
  char buffer[65536];
  static const std::regex kLost(R"(\{"lost":[1-9]\d*\})");
  EXPECT_TRUE(WaitUntil(absl::Seconds(10), [&] {
    const ssize_t size = ::recv(reader.get(), buffer, sizeof buffer, 0);
    if (size > 0) got.append(buffer, static_cast<size_t>(size));
    return size <= 0 || std::regex_search(got, kLost);
  }));
  EXPECT_TRUE(std::regex_search(got, kLost));
  reader.reset();
  EXPECT_TRUE(BecomesFree());
}

TEST_F(TraceTest, ItEndsWithTheDaemonAndWithThePath) {
  const auto server = Node();
  Start();
  const auto trace = Ctl({"trace"});
  std::string spliced = PacketConfig();
  for (size_t at = 0;
       (at = spliced.find("datapath: packet", at)) != std::string::npos;) {
    spliced.replace(at, 16, "datapath: splice");
  }
  daemon_->Reload(spliced);
  EXPECT_EQ(trace->Wait(absl::Seconds(10)), 1);
  EXPECT_TRUE(absl::StrContains(trace->err(), "closed the packet path"))
      << trace->err();
  const ProcessResult closed = daemon_->Ctl({"flow", "trace"});
  EXPECT_EQ(closed.exit_code, 7) << closed.err;
  daemon_->Reload(PacketConfig());
  EXPECT_TRUE(WaitUntil(absl::Seconds(10), [&] { return OnPacketPath(); }));
  const auto again = Ctl({"trace"});
  daemon_->Stop();
  EXPECT_EQ(again->Wait(absl::Seconds(10)), 1);
}

}  // namespace
}  // namespace headgate::testing
