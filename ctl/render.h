// What people see: tables that never wrap, units for humans, colour. Cells come
// from Json::Text(), so that no reply can drive the terminal.
#pragma once

#include <iosfwd>
#include <span>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "ctl/args.h"
#include "ctl/json.h"

namespace headgate::ctl {

enum class Tint { kNone, kGood, kBad, kWarning };
enum class Align { kLeft, kRight };

struct Cell {
  std::string text;
  Tint tint = Tint::kNone;
};

Cell AsText(const Json& value);
Cell AsBytes(const Json& value);    // "1.2 GiB"
Cell AsSeconds(const Json& value);  // "850ms", "12s", "3m20s", "2h5m", "3d4h"
Cell AsState(const Json& value);    // Of a backend, coloured.

struct Column {
  const char* header;
  const char* key;  // Of the row's object; nullptr: the whole row.
  Cell (*format)(const Json& value) = AsText;
  Align align = Align::kLeft;
};

void PrintTable(const std::vector<Json>& rows, std::span<const Column> columns,
                bool color, std::ostream& out);

std::string Paint(const Cell& cell, bool color);

bool IsTerminal(const std::ostream& stream);  // std::cout and std::cerr only.
bool WantColor(Color color, const std::ostream& stream);

// A line about work under way: rewritten in place on a terminal and gone at the
// end; elsewhere a line whenever the text changes.
class Progress {
 public:
  explicit Progress(std::ostream& stream);
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  ~Progress();
  void Show(const std::string& text);

 private:
  std::ostream& stream_;
  const bool in_place_;
  std::string shown_;
};

}  // namespace headgate::ctl
