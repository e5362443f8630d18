// Frames that come in by the wire, with what a driver would say of them.
#pragma once

#include <linux/if_packet.h>
#include <net/if.h>
#include <sys/socket.h>

#include <cstring>

#include "base/unique_fd.h"
#include "packet_frames.h"

namespace headgate::datapath {

// As in linux/virtio_net.h, which is no C++.
struct VirtioNetHeader {
  static constexpr uint8_t kNeedsChecksum = 1, kGsoV4 = 1, kGsoV6 = 4;
  uint8_t flags = 0, gso_type = 0;
  // Of a frame of more than a page, what is behind so many bytes comes in pages
  // of its own.
  uint16_t hdr_len = 0;
  uint16_t gso_size = 0, csum_start = 0, csum_offset = 16;
};
static_assert(sizeof(VirtioNetHeader) == 10);

// In by in0, so many times.
inline void SendByWire(const VirtioNetHeader& head, const Bytes& frame,
                       int times = 1) {
  const UniqueFd fd(socket(AF_PACKET, SOCK_RAW, 0));
  const int on = 1;
  ASSERT_EQ(setsockopt(fd.get(), SOL_PACKET, PACKET_VNET_HDR, &on, sizeof on),
            0);
  Bytes packet(sizeof head);
  std::memcpy(packet.data(), &head, sizeof head);
  Append(packet, frame);
  sockaddr_ll to{};
  to.sll_family = AF_PACKET;
  to.sll_ifindex = static_cast<int>(if_nametoindex("in1"));
  for (int i = 0; i < times; ++i) {
    ASSERT_EQ(sendto(fd.get(), packet.data(), packet.size(), 0,
                     reinterpret_cast<sockaddr*>(&to), sizeof to),
              static_cast<ssize_t>(packet.size()))
        << strerror(errno);
  }
}

}  // namespace headgate::datapath
