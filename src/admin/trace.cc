#include "admin/trace.h"

#include <nlohmann/json.hpp>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "net/event_loop.h"
#include "net/frame.h"

namespace headgate::admin {
namespace {

using Json = nlohmann::ordered_json;

constexpr uint32_t kBatch = 64;  // Packets at once.
constexpr int64_t kTellLostNs = 1'000'000'000;

std::string Name(const Endpoint& end) {
  return end.port == 0 ? end.address.ToString() : end.ToString();
}

Json SideObject(const control::TraceRow::Side& side, bool frames) {
  if (side.size == 0) return nullptr;
  Json json = {{"interface", side.interface}, {"frame_bytes", side.size}};
  if (const auto frame = ParseFrame(side.bytes, side.size)) {
    json["source"] = Name(frame->source);
    json["destination"] = Name(frame->destination);
    if (frame->tcp.has_value()) {
      json["flags"] = frame->tcp->flags;
      json["seq"] = frame->tcp->seq;
      json["ack"] = frame->tcp->ack;
      json["payload_bytes"] = frame->tcp->payload;
    }
    if (frame->icmp.has_value()) {
      json["icmp_type"] = frame->icmp->type;
      json["icmp_code"] = frame->icmp->code;
    }
  }
  if (frames) {
    json["frame"] = absl::BytesToHexString(absl::string_view(
        reinterpret_cast<const char*>(side.bytes.data()), side.bytes.size()));
  }
  return json;
}

}  // namespace

std::string TraceJson(const control::TraceRow& row, absl::Time came,
                      bool frames) {
  Json json = {{"time", absl::FormatTime("%Y-%m-%dT%H:%M:%E9SZ", came,
                                         absl::UTCTimeZone())},
               {"verdict", row.verdict},
               {"reason", row.reason}};
  if (row.connection != 0) json["connection"] = row.connection;
  if (!row.service.empty()) json["service"] = row.service;
  if (!row.backend.empty()) json["backend"] = row.backend;
  if (*row.from != '\0') json["from"] = row.from;
  if (row.again) json["again"] = true;
  json["before"] = SideObject(row.before, frames);
  json["after"] = SideObject(row.after, frames);
  return json.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
}

TraceStream::TraceStream(const control::Controller* controller,
                         std::shared_ptr<datapath::PacketTrace> trace,
                         bool frames)
    : controller_(controller),
      trace_(std::move(trace)),
      frames_(frames),
      boot_(WallTime(0)) {}

std::optional<std::string> TraceStream::Next() {
  if (!trace_->open()) return std::nullopt;
  std::string lines;
  const int64_t now_ns = MonotonicNs();
  if (!told_ns_.has_value() || now_ns - *told_ns_ >= kTellLostNs) {
    told_ns_ = now_ns;
    lines = absl::StrCat("{\"lost\":", trace_->lost(), "}\n");
  }
  trace_->Read(kBatch, [&](const hg_trace_event& event) {
    const control::TraceRow row = controller_->DescribePacket(event);
    lines += TraceJson(row, boot_ + absl::Nanoseconds(row.time_ns), frames_);
  });
  return lines;
}

}  // namespace headgate::admin
