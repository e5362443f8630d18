// Maps that the last daemon left pinned.
#pragma once

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include <string>

#include "base/unique_fd.h"

namespace headgate::datapath {

// The map pinned at `path` if it is of the shape of `like`; else invalid.
inline UniqueFd OpenPinned(const std::string& path, const bpf_map* like) {
  UniqueFd fd(bpf_obj_get(path.c_str()));
  bpf_map_info info{};
  __u32 size = sizeof info;
  if (fd.valid() && (bpf_obj_get_info_by_fd(fd.get(), &info, &size) != 0 ||
                     info.type != bpf_map__type(like) ||
                     info.key_size != bpf_map__key_size(like) ||
                     info.value_size != bpf_map__value_size(like) ||
                     info.max_entries != bpf_map__max_entries(like))) {
    fd.reset();
  }
  return fd;
}

}  // namespace headgate::datapath
