#include "datapath/packet_hook.h"

#include <gtest/gtest.h>

#include <sstream>

namespace headgate::datapath {
namespace {

// As net/8021q/vlanproc.c writes it.
TEST(HasVlanTest, IsAboutTheInterfaceBelow) {
  constexpr char kConfig[] =
      "VLAN Dev name    | VLAN ID\n"
      "Name-Type: VLAN_NAME_TYPE_RAW_PLUS_VID_NO_PAD\n"
      "eth0.5         | 5  | eth0\n"
      "guests         | 4094  | eth10\n";
  for (const char* below : {"eth0", "eth10"}) {
    std::istringstream config(kConfig);
    EXPECT_TRUE(HasVlan(config, below)) << below;
  }
  for (const char* other : {"eth1", "eth0.5", "guests", "5", ""}) {
    std::istringstream config(kConfig);
    EXPECT_FALSE(HasVlan(config, other)) << other;
  }
  std::istringstream none;
  EXPECT_FALSE(HasVlan(none, "eth0"));
}

}  // namespace
}  // namespace headgate::datapath
