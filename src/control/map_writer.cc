#include "control/map_writer.h"

#include "absl/strings/str_cat.h"

namespace headgate::control {
namespace {

constexpr absl::Duration kAgain = absl::Seconds(1);

}  // namespace

MapWriter::MapWriter(EventLoop* loop, OnProblem on_problem)
    : on_problem_(std::move(on_problem)), timer_(loop, [this] { Again(); }) {}

void MapWriter::Do(Element element, Write write) {
  const absl::Status written = write();
  if (written.ok()) {
    if (failed_.erase(element) > 0 && failed_.empty()) Tell();
    return;
  }
  failed_[element] = std::move(write);
  last_ = written;
  Tell();
}

void MapWriter::Again() {
  std::erase_if(failed_, [this](const auto& entry) {
    const absl::Status written = entry.second();
    if (!written.ok()) last_ = written;
    return written.ok();
  });
  Tell();
}

void MapWriter::Tell() {
  if (failed_.empty()) {
    timer_.Cancel();
    on_problem_("");
    return;
  }
  if (!timer_.armed()) timer_.Set(kAgain);
  on_problem_(absl::StrCat(last_.message(),
                           "; the kernel goes on with what it had, and it is "
                           "tried again every second"));
}

}  // namespace headgate::control
