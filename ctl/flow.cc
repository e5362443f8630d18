#include <fstream>
#include <ostream>

#include "absl/functional/function_ref.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/status.h"
#include "ctl/command.h"
#include "ctl/list.h"
#include "ctl/pcapng.h"
#include "ctl/render.h"

namespace headgate::ctl {
namespace {

constexpr Column kColumns[] = {
    {"ID", "id"},           {"CLIENT", "client"},
    {"LISTEN", "listen"},   {"SOURCE", "source"},
    {"BACKEND", "backend"}, {"STATE", "state"},
    {"HEADER", "header"},   {"IDLE", "idle_seconds", AsSeconds, Align::kRight},
};

absl::StatusOr<int> List(Session& session, const Words& /*args*/) {
  return ListConnections(session, "/v1/flows", "flows", kColumns);
}

// ---- packets as they come --------------------------------------------------

std::string TracePath(const Options& options, bool frames) {
  return FilteredPath("/v1/trace", options,
                      frames ? Words{"frames=true"} : Words{});
}

// Once the daemon traces, calls `begin`; then hands each packet to `take`, with
// the line that it came as, until there have been --count of them, or `take`
// can take no more. Says on the error stream when it begins, and what got lost.
absl::StatusOr<int> Follow(
    Session& session, bool frames, absl::FunctionRef<absl::Status()> begin,
    absl::FunctionRef<bool(const Json& packet, const std::string& line)> take) {
  absl::Status begun;
  std::optional<double> lost;
  uint64_t left = session.options().count.value_or(UINT64_MAX);
  bool written = true;
  const auto on_line = [&](const std::string& line) {
    const Json json = Json::Parse(line);
    if (const std::optional<double> now = json["lost"].Number()) {
      if (!lost) {
        begun = begin();
        if (!begun.ok()) return false;
        session.err() << "tracing; Ctrl-C ends it" << std::endl;
      }
      if (*now > lost.value_or(0)) {
        session.err() << *now << " packets lost so far: too many to follow; "
                      << "--client or --service make them fewer" << std::endl;
      }
      lost = now;
      return true;
    }
    written = take(json, line);
    return written && --left > 0;
  };
  RETURN_IF_ERROR(session.Stream(
      {"GET", TracePath(session.options(), frames), ""}, on_line));
  RETURN_IF_ERROR(begun);
  if (!written) return absl::InternalError("write output: failed");
  if (left == 0) return 0;
  return absl::FailedPreconditionError("the daemon closed the packet path");
}

// "forwarded", "header", "header_acked", "dropped: ttl"
Cell Verdict(const Json& packet) {
  const std::string verdict = packet["verdict"].Text();
  const std::string reason = packet["reason"].Text();
  if (verdict == "forwarded" || verdict == "consumed") {
    const bool header = absl::StartsWith(reason, "header");
    return {reason, header ? Tint::kGood : Tint::kNone};
  }
  return {absl::StrCat(verdict, ": ", reason),
          verdict == "dropped" ? Tint::kBad : Tint::kWarning};
}

std::string SideText(const Json& side) {
  std::string text =
      absl::StrCat(side["source"].Text(), " > ", side["destination"].Text());
  if (const std::optional<std::string> flags = side["flags"].String()) {
    absl::StrAppend(&text, " [", Json::Clean(*flags), "] seq ",
                    side["seq"].Text());
    if (absl::StrContains(*flags, ".")) {
      absl::StrAppend(&text, " ack ", side["ack"].Text());
    }
    absl::StrAppend(&text, " len ", side["payload_bytes"].Text());
  }
  if (side["icmp_type"].Number()) {
    absl::StrAppend(&text, " icmp ", side["icmp_type"].Text(), "/",
                    side["icmp_code"].Text());
  }
  return text;
}

absl::Time TimeOf(const Json& packet) {
  absl::Time time;
  absl::ParseTime(absl::RFC3339_full, packet["time"].Text(), &time, nullptr);
  return time;
}

void PrintPacket(Session& session, const Json& packet) {
  const Json before = packet["before"], after = packet["after"];
  Cell verdict = Verdict(packet);
  verdict.text = absl::StrFormat("%-10s", verdict.text);
  session.out() << absl::FormatTime("%H:%M:%E6S", TimeOf(packet),
                                    absl::LocalTimeZone())
                << " " << before["interface"].Text() << ">"
                << after["interface"].Text() << " "
                << Paint(verdict, session.color()) << " " << SideText(before);
  if (after.is_object()) session.out() << " => " << SideText(after);
  session.out() << std::endl;
}

absl::StatusOr<int> Trace(Session& session, const Words& /*args*/) {
  const auto begin = [] { return absl::OkStatus(); };
  const auto print = [&](const Json& packet, const auto& line) {
    if (session.json_output()) {
      session.out() << line << std::endl;
    } else {
      PrintPacket(session, packet);
    }
    return session.out().good();
  };
  return Follow(session, false, begin, print);
}

Pcapng::Packet CapturedSide(const Json& packet, const char* which) {
  const Json side = packet[which];
  Pcapng::Packet captured;
  captured.interface = side["interface"].Text();
  captured.time = TimeOf(packet);
  captured.outbound = absl::string_view(which) == "after";
  captured.size =
      static_cast<uint32_t>(side["frame_bytes"].Number().value_or(0));
  captured.bytes = absl::HexStringToBytes(side["frame"].Text());
  captured.comment = Verdict(packet).text;
  return captured;
}

// Each frame goes out whole, and at once: Ctrl-C leaves a file that is good.
absl::StatusOr<int> Capture(Session& session, const Words& args) {
  std::ofstream file;
  std::ostream& out = args[0] == "-" ? session.out() : file;
  Pcapng pcapng;
  // The file may hold another capture: a refusal leaves it alone.
  const auto begin = [&]() -> absl::Status {
    if (args[0] != "-") {
      file.open(args[0], std::ios::binary | std::ios::trunc);
      if (!file) return ErrnoStatus(errno, absl::StrCat("write ", args[0]));
    }
    out << Pcapng::Start() << std::flush;
    return absl::OkStatus();
  };
  const auto write = [&](const Json& packet, const auto& /*line*/) {
    std::string blocks;
    // Data that waited behind their header came with it.
    if (!packet["again"].Bool().value_or(false)) {
      blocks += pcapng.Add(CapturedSide(packet, "before"));
    }
    if (packet["after"].is_object()) {
      blocks += pcapng.Add(CapturedSide(packet, "after"));
    }
    out << blocks << std::flush;
    return out.good();
  };
  return Follow(session, true, begin, write);
}

constexpr Command kCommands[] = {
    {"flow", "list", "", Flags::kList,
     "what the packet path translates, and to what", List},
    {"flow", "trace", "", Flags::kTrace,
     "what it does to each packet, as it comes", Trace},
    {"flow", "capture", "FILE", Flags::kTrace,
     "likewise, as pcapng: the frames before and after; -: standard output",
     Capture},
};

}  // namespace

std::span<const Command> FlowCommands() { return kCommands; }

}  // namespace headgate::ctl
