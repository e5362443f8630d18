// One frame through the packet path's program at either hook (BPF_PROG_RUN).
#pragma once

#include <bpf/bpf.h>
#include <gtest/gtest.h>
#include <linux/bpf.h>

#include <cstdlib>
#include <cstring>
#include <map>
#include <string>

#include "absl/strings/str_cat.h"
#include "packet_frames.h"

namespace headgate::datapath {

enum Verdict { kNotOurs = -1, kDropped = 2, kSent = 7 };  // TC_ACT_...

inline bool IsHook(const char* name) {
  static const char* const hook = std::getenv("HG_PACKET_HOOK");
  return hook != nullptr && std::strcmp(hook, name) == 0;
}
inline bool AtGeneric() { return IsHook("generic"); }
inline bool AtXdp() { return IsHook("xdp") || AtGeneric(); }

using Exits = std::map<std::string, uint64_t>;  // By name; none is 0.

inline Exits Once(hg_packet_exit exit) { return {{PacketExitName(exit), 1}}; }

inline std::string Hex(const Bytes& bytes) {
  std::string text;
  for (size_t i = 0; i < bytes.size(); ++i) {
    absl::StrAppend(&text, i % 16 == 0 ? "\n" : " ",
                    absl::Hex(bytes[i], absl::kZeroPad2));
  }
  return text;
}

struct Outcome {
  int verdict = 0;
  int xdp = -1;            // Its action; -1: did not run.
  bool rewritten = false;  // By XDP, which leaves it to tc to send it.
  Bytes frame;
  uint32_t mark = 0;
  uint32_t segments = 0;  // 0: it is none of many.
  Exits exits;
};

// The context comes back in its place.
inline bpf_test_run_opts RunOptions(const Bytes& frame, Bytes* out,
                                    void* context, size_t context_size) {
  bpf_test_run_opts options{};
  options.sz = sizeof options;
  options.data_in = frame.data();
  options.data_out = out->data();
  options.data_size_in = static_cast<uint32_t>(frame.size());
  options.data_size_out = static_cast<uint32_t>(out->size());
  options.ctx_in = context;
  options.ctx_out = context;
  options.ctx_size_in = static_cast<uint32_t>(context_size);
  options.ctx_size_out = static_cast<uint32_t>(context_size);
  return options;
}
inline bpf_test_run_opts RunOptions(const Bytes& frame, Bytes* out,
                                    __sk_buff* context) {
  return RunOptions(frame, out, context, sizeof *context);
}
inline bpf_test_run_opts RunOptions(const Bytes& frame, Bytes* out,
                                    xdp_md* context) {
  context->data_end = static_cast<uint32_t>(frame.size());
  return RunOptions(frame, out, context, sizeof *context);
}

inline Outcome RunAtTc(int program, const Bytes& frame, uint32_t ifindex,
                       uint32_t mark, uint32_t gso_size) {
  Outcome outcome;
  outcome.frame.resize(frame.size() + 256);
  __sk_buff context{};
  context.ifindex = ifindex;
  context.mark = mark;
  context.gso_size = gso_size;
  // Of the two, this comes back.
  if (gso_size != 0) {
    context.gso_segs = static_cast<uint32_t>(frame.size() / gso_size + 1);
  }
  bpf_test_run_opts options = RunOptions(frame, &outcome.frame, &context);
  EXPECT_EQ(bpf_prog_test_run_opts(program, &options), 0)
      << strerror(errno) << Hex(frame);
  outcome.verdict = static_cast<int>(options.retval);
  outcome.frame.resize(options.data_size_out);
  outcome.mark = context.mark;
  outcome.segments = context.gso_segs;
  return outcome;
}

inline Outcome RunAtXdp(int program, const Bytes& frame, uint32_t ifindex) {
  Outcome outcome;
  outcome.frame.resize(frame.size() + 256);
  xdp_md context{};
  context.ingress_ifindex = ifindex;
  bpf_test_run_opts options = RunOptions(frame, &outcome.frame, &context);
  EXPECT_EQ(bpf_prog_test_run_opts(program, &options), 0)
      << strerror(errno) << Hex(frame);
  outcome.xdp = static_cast<int>(options.retval);
  outcome.frame.resize(options.data_size_out);
  uint32_t note = 0;  // Ahead of it: what tc is told about it.
  if (context.data - context.data_meta == sizeof note) {
    std::memcpy(&note, outcome.frame.data(), sizeof note);
    outcome.frame.erase(outcome.frame.begin(),
                        outcome.frame.begin() + sizeof note);
  }
  outcome.rewritten = note == HG_PACKET_REWRITTEN;
  outcome.verdict = outcome.xdp == XDP_REDIRECT ? kSent : kDropped;
  return outcome;
}

}  // namespace headgate::datapath
