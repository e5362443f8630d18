#include "datapath/xdp_devices.h"

#include <linux/genetlink.h>
#include <linux/netlink.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "base/status.h"
#include "base/unique_fd.h"

namespace headgate::datapath {
namespace {

// linux/netdev.h of Linux 6.3, which Debian 12 does not have.
constexpr char kFamily[] = "netdev";
constexpr uint8_t kDevGet = 1;
constexpr uint16_t kIfindex = 1, kXdpFeatures = 3;
constexpr uint64_t kBasic = 1, kRedirect = 2, kNdoXmit = 4;

constexpr size_t kReceive = 64 * 1024;

constexpr size_t Aligned(size_t size) { return (size + 3) & ~size_t{3}; }

// The attributes of a message of generic netlink.
class Attributes {
 public:
  explicit Attributes(absl::string_view message)
      : bytes_(message.substr(
            std::min(message.size(), sizeof(nlmsghdr) + sizeof(genlmsghdr)))) {}

  template <typename T>
  std::optional<T> Find(uint16_t type) const {
    absl::string_view left = bytes_;
    nlattr head{};
    while (left.size() >= sizeof head) {
      std::memcpy(&head, left.data(), sizeof head);
      if (head.nla_len < sizeof head || head.nla_len > left.size()) break;
      if ((head.nla_type & NLA_TYPE_MASK) == type &&
          head.nla_len >= sizeof head + sizeof(T)) {
        T value{};
        std::memcpy(&value, left.data() + sizeof head, sizeof value);
        return value;
      }
      left.remove_prefix(std::min(left.size(), Aligned(head.nla_len)));
    }
    return std::nullopt;
  }

 private:
  absl::string_view bytes_;
};

template <typename T>
absl::string_view BytesOf(const T& value) {
  return {reinterpret_cast<const char*>(&value), sizeof value};
}

using Visit = std::function<void(const Attributes&)>;

// Until the answer's end: a dump's, or the acknowledgment.
absl::Status Ask(int fd, uint16_t type, uint8_t command, uint16_t flags,
                 const std::string& attributes, const Visit& visit) {
  nlmsghdr head{};
  genlmsghdr generic{};
  head.nlmsg_len =
      static_cast<uint32_t>(sizeof head + sizeof generic + attributes.size());
  head.nlmsg_type = type;
  head.nlmsg_flags = static_cast<uint16_t>(NLM_F_REQUEST | flags);
  generic.cmd = command;
  generic.version = 1;
  const std::string request =
      absl::StrCat(BytesOf(head), BytesOf(generic), attributes);
  if (send(fd, request.data(), request.size(), 0) < 0) {
    return ErrnoStatus(errno, "send to netlink");
  }
  std::vector<char> buffer(kReceive);
  while (true) {
    const ssize_t size = recv(fd, buffer.data(), buffer.size(), 0);
    if (size < 0) return ErrnoStatus(errno, "receive from netlink");
    absl::string_view left(buffer.data(), static_cast<size_t>(size));
    while (left.size() >= sizeof head) {
      std::memcpy(&head, left.data(), sizeof head);
      if (head.nlmsg_len < sizeof head || head.nlmsg_len > left.size()) break;
      if (head.nlmsg_type == NLMSG_DONE) return absl::OkStatus();
      if (head.nlmsg_type == NLMSG_ERROR) {
        nlmsgerr answer{};
        std::memcpy(&answer, left.data() + sizeof head,
                    std::min(sizeof answer, left.size() - sizeof head));
        return answer.error == 0 ? absl::OkStatus()
                                 : ErrnoStatus(-answer.error, "ask netlink");
      }
      visit(Attributes(left.substr(0, head.nlmsg_len)));
      left.remove_prefix(std::min(left.size(), Aligned(head.nlmsg_len)));
    }
  }
}

absl::StatusOr<uint16_t> FindFamily(int fd) {
  nlattr name{};
  name.nla_type = CTRL_ATTR_FAMILY_NAME;
  name.nla_len = sizeof name + sizeof kFamily;
  std::string attribute =
      absl::StrCat(BytesOf(name), absl::string_view(kFamily, sizeof kFamily));
  attribute.resize(Aligned(attribute.size()));
  uint16_t id = 0;
  RETURN_IF_ERROR(
      Ask(fd, GENL_ID_CTRL, CTRL_CMD_GETFAMILY, NLM_F_ACK, attribute,
          [&id](const Attributes& found) {
            id = found.Find<uint16_t>(CTRL_ATTR_FAMILY_ID).value_or(0);
          }));
  return id;
}

}  // namespace

absl::StatusOr<XdpDevices> QueryXdpDevices() {
  const UniqueFd fd(
      socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_GENERIC));
  if (!fd.valid()) return ErrnoStatus(errno, "open netlink");
  const auto family = FindFamily(fd.get());
  if (!family.ok()) {
    return absl::UnimplementedError(
        "the kernel does not tell what XDP can do here: Linux 6.3 does");
  }
  XdpDevices devices;
  RETURN_IF_ERROR(Ask(
      fd.get(), *family, kDevGet, NLM_F_DUMP, "",
      [&devices](const Attributes& device) {
        const uint64_t has = device.Find<uint64_t>(kXdpFeatures).value_or(0);
        XdpFeatures& features =
            devices[device.Find<uint32_t>(kIfindex).value_or(0)];
        features.native = (has & kBasic) != 0 && (has & kRedirect) != 0;
        features.transmits = (has & kNdoXmit) != 0;
      }));
  return devices;
}

}  // namespace headgate::datapath
