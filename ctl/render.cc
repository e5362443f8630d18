#include "ctl/render.h"

#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <iostream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace headgate::ctl {
namespace {

const char* Code(Tint tint) {
  switch (tint) {
    case Tint::kNone:
      return "";
    case Tint::kGood:
      return "\033[32m";
    case Tint::kBad:
      return "\033[31m";
    case Tint::kWarning:
      return "\033[33m";
  }
  return "";
}

// Characters, not bytes: details of checks may hold UTF-8.
size_t Width(absl::string_view text) {
  return static_cast<size_t>(std::count_if(
      text.begin(), text.end(),
      [](char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; }));
}

void PrintRow(const std::vector<Cell>& cells, std::span<const Column> columns,
              const std::vector<size_t>& widths, bool color,
              std::ostream& out) {
  std::string line;
  for (size_t i = 0; i < cells.size(); ++i) {
    const std::string padding(widths[i] - Width(cells[i].text), ' ');
    const bool last = i + 1 == cells.size();
    if (i > 0) line += "  ";
    if (columns[i].align == Align::kRight) line += padding;
    line += Paint(cells[i], color);
    if (columns[i].align == Align::kLeft && !last) line += padding;
  }
  out << line << "\n";
}

std::string FormatSeconds(double seconds) {
  if (seconds > 0 && seconds < 0.01) {
    return absl::StrFormat("%.1fms", seconds * 1e3);
  }
  if (seconds > 0 && seconds < 1) {
    return absl::StrCat(static_cast<int>(seconds * 1e3), "ms");
  }
  const auto s = static_cast<int64_t>(seconds);
  if (s < 60) return absl::StrCat(s, "s");
  if (s < 3600) return absl::StrCat(s / 60, "m", s % 60, "s");
  if (s < 86400) return absl::StrCat(s / 3600, "h", s % 3600 / 60, "m");
  return absl::StrCat(s / 86400, "d", s % 86400 / 3600, "h");
}

}  // namespace

Cell AsText(const Json& value) { return {value.Text()}; }

Cell AsBytes(const Json& value) {
  const std::optional<double> number = value.Number();
  if (!number || *number < 1024) {
    return {absl::StrCat(value.Text(), number ? " B" : "")};
  }
  static constexpr const char* kUnits[] = {"KiB", "MiB", "GiB",
                                           "TiB", "PiB", "EiB"};
  double scaled = *number / 1024;
  size_t unit = 0;
  while (scaled >= 1023.95 && unit + 1 < std::size(kUnits)) {
    scaled /= 1024;
    ++unit;
  }
  return {absl::StrFormat("%.1f %s", scaled, kUnits[unit])};
}

Cell AsSeconds(const Json& value) {
  const std::optional<double> number = value.Number();
  // Beyond 1e15 s it is not a time, and would not fit an integer.
  if (!number || *number < 0 || *number > 1e15) return AsText(value);
  return {FormatSeconds(*number)};
}

Cell AsState(const Json& value) {
  std::string state = value.Text();
  Tint tint = Tint::kNone;
  if (state == "up") tint = Tint::kGood;
  if (state == "down") tint = Tint::kBad;
  if (state == "drain" || state == "maint") tint = Tint::kWarning;
  return {std::move(state), tint};
}

void PrintTable(const std::vector<Json>& rows, std::span<const Column> columns,
                bool color, std::ostream& out) {
  std::vector<std::vector<Cell>> lines(1);
  for (const Column& column : columns) lines[0].push_back({column.header});
  for (const Json& row : rows) {
    std::vector<Cell>& line = lines.emplace_back();
    for (const Column& column : columns) {
      line.push_back(
          column.format(column.key == nullptr ? row : row[column.key]));
    }
  }
  std::vector<size_t> widths(columns.size());
  for (const std::vector<Cell>& line : lines) {
    for (size_t i = 0; i < line.size(); ++i) {
      widths[i] = std::max(widths[i], Width(line[i].text));
    }
  }
  for (const std::vector<Cell>& line : lines) {
    PrintRow(line, columns, widths, color, out);
  }
}

std::string Paint(const Cell& cell, bool color) {
  if (!color || cell.tint == Tint::kNone) return cell.text;
  return absl::StrCat(Code(cell.tint), cell.text, "\033[0m");
}

bool IsTerminal(const std::ostream& stream) {
  return (&stream == &std::cout && ::isatty(STDOUT_FILENO) != 0) ||
         (&stream == &std::cerr && ::isatty(STDERR_FILENO) != 0);
}

bool WantColor(Color color, const std::ostream& stream) {
  if (color != Color::kAuto) return color == Color::kAlways;
  const char* no_color = std::getenv("NO_COLOR");  // https://no-color.org
  return IsTerminal(stream) && (no_color == nullptr || *no_color == '\0');
}

Progress::Progress(std::ostream& stream)
    : stream_(stream), in_place_(IsTerminal(stream)) {}

Progress::~Progress() {
  if (in_place_ && !shown_.empty()) stream_ << "\r\033[K" << std::flush;
}

void Progress::Show(const std::string& text) {
  if (text == shown_) return;
  shown_ = text;
  if (in_place_) {
    stream_ << "\r\033[K" << text << std::flush;
  } else {
    stream_ << text << "\n" << std::flush;
  }
}

}  // namespace headgate::ctl
