#include "config/yaml.h"

#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/parser.h>

#include <algorithm>
#include <sstream>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"

namespace headgate::config {
namespace {

Position ToPosition(const YAML::Mark& mark) {
  return {std::max(mark.line, 0) + 1, std::max(mark.column, 0) + 1};
}

bool IsControl(char c) {
  return absl::ascii_iscntrl(static_cast<unsigned char>(c));
}

// yaml-cpp takes byte 4 for the end of the file and would drop the rest of it
// without a word; nothing else of this kind belongs in a text file either.
std::optional<Position> FindControlCharacter(absl::string_view text) {
  Position at;
  for (char c : text) {
    if (IsControl(c) && c != '\n' && c != '\t' && c != '\r') return at;
    ++at.column;
    if (c == '\n') at = {at.line + 1, 1};
  }
  return std::nullopt;
}

// The brackets of `listen: [2001:db8::1]:25` begin a list; what yaml-cpp says
// about the colon after it helps nobody.
absl::string_view Hint(absl::string_view text, Position at) {
  for (; at.line > 1; --at.line) text.remove_prefix(text.find('\n') + 1);
  const absl::string_view line = text.substr(0, text.find('\n'));
  if (line.substr(0, line.find_first_not_of(" \t")).find('\t') !=
      absl::string_view::npos) {
    return "; YAML is indented with spaces, not with tabs";
  }
  const auto colon = static_cast<size_t>(at.column - 1);
  const bool brackets =
      colon > 0 && colon < text.size() && text.substr(colon - 1, 2) == "]:";
  return brackets ? "; an IPv6 address needs quotes: \"[2001:db8::1]:25\"" : "";
}

class TreeBuilder final : public YAML::EventHandler {
 public:
  explicit TreeBuilder(Errors& errors) : errors_(errors) {}

  bool refused() const { return refused_; }
  Node TakeRoot() { return std::move(root_); }

  void OnDocumentStart(const YAML::Mark& mark) override {
    if (++documents_ == 2) {
      Refuse(mark, "the YAML document ends before this; only one is allowed");
    };
  }
  void OnDocumentEnd() override {}

  void OnAnchor(const YAML::Mark& mark, const std::string&) override {
    errors_.Add(ToPosition(mark), "anchors are not supported");
  }
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t) override {
    errors_.Add(ToPosition(mark),
                "aliases are not supported; write the value out");
    Attach(MakeNode(Node::Kind::kBroken, mark));
  }
  void OnNull(const YAML::Mark& mark, YAML::anchor_t) override {
    Attach(MakeNode(Node::Kind::kNull, mark));
  }
  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t,
                const std::string& value) override {
    CheckTag(mark, tag);
    Node node = MakeNode(Node::Kind::kScalar, mark);
    node.text = value;
    // Escapes such as "\0" bring them past the check of the file.
    if (std::any_of(value.begin(), value.end(), IsControl)) {
      errors_.Add(node.at, "control character in a value");
      node.kind = Node::Kind::kBroken;
    }
    Attach(std::move(node));
  }

  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag,
                       YAML::anchor_t, YAML::EmitterStyle::value) override {
    Open(Node::Kind::kList, mark, tag);
  }
  void OnSequenceEnd() override { Close(); }
  void OnMapStart(const YAML::Mark& mark, const std::string& tag,
                  YAML::anchor_t, YAML::EmitterStyle::value) override {
    Open(Node::Kind::kMap, mark, tag);
  }
  void OnMapEnd() override { Close(); }

 private:
  struct Frame {
    Node node;
    std::optional<Node> key;  // In a map: read, its value still to come.
    bool broken = false;      // Holds a key that cannot be told.
  };

  static Node MakeNode(Node::Kind kind, const YAML::Mark& mark) {
    Node node;
    node.kind = kind;
    node.at = ToPosition(mark);
    node.key_at = node.at;
    return node;
  }

  void Refuse(const YAML::Mark& mark, absl::string_view why) {
    if (!refused_) errors_.Add(ToPosition(mark), why);
    refused_ = true;
  }

  void CheckTag(const YAML::Mark& mark, const std::string& tag) {
    // "?" and "!" are what the parser gives to plain and to quoted nodes.
    if (tag.empty() || tag == "?" || tag == "!") return;
    errors_.Add(ToPosition(mark), "tags are not supported");
  }

  void Open(Node::Kind kind, const YAML::Mark& mark, const std::string& tag) {
    CheckTag(mark, tag);
    if (open_.size() == kMaxDepth) {
      Refuse(mark, absl::StrCat("more than ", kMaxDepth, " levels"));
    }
    open_.push_back({MakeNode(kind, mark), std::nullopt, false});
  }

  void Close() {
    Node node = std::move(open_.back().node);
    if (open_.back().broken) node.kind = Node::Kind::kBroken;
    open_.pop_back();
    Attach(std::move(node));
  }

  void Attach(Node node) {
    if (open_.empty()) {
      root_ = std::move(node);
      return;
    }
    Frame& parent = open_.back();
    if (parent.node.kind == Node::Kind::kMap) {
      AttachToMap(parent, std::move(node));
    } else {
      parent.node.children.push_back(std::move(node));
    }
  }

  void AttachToMap(Frame& parent, Node node) {
    if (!parent.key.has_value()) {
      parent.key = std::move(node);
      return;
    }
    const Node key = *std::exchange(parent.key, std::nullopt);
    if (key.kind == Node::Kind::kScalar) {
      node.key = key.text;
      node.key_at = key.at;
      parent.node.children.push_back(std::move(node));
      return;
    }
    parent.broken = true;
    if (key.kind == Node::Kind::kBroken) return;
    errors_.Add(key.at,
                "a key must be a single word (an IPv6 address needs quotes)");
  }

  Errors& errors_;
  std::vector<Frame> open_;
  Node root_;
  int documents_ = 0;
  bool refused_ = false;
};

}  // namespace

std::optional<Node> ReadYaml(absl::string_view text, Errors& errors) {
  if (text.size() > kMaxFileBytes) {
    errors.Add({}, absl::StrCat("more than ", kMaxFileBytes, " bytes"));
    return std::nullopt;
  }
  if (const auto at = FindControlCharacter(text); at.has_value()) {
    errors.Add(*at, "control character; is this a text file in UTF-8?");
    return std::nullopt;
  }
  TreeBuilder builder(errors);
  try {
    std::istringstream stream{std::string(text)};
    YAML::Parser parser(stream);
    // Stopping at the second document matters: what no document can begin
    // with, such as a comma, makes yaml-cpp find empty ones forever.
    while (!builder.refused() && parser.HandleNextDocument(builder)) {
    }
  } catch (const YAML::Exception& e) {
    if (!builder.refused()) {
      const Position at = ToPosition(e.mark);
      errors.Add(at, absl::StrCat("YAML: ", e.msg, Hint(text, at)));
    }
    return std::nullopt;
  }
  if (builder.refused()) return std::nullopt;
  return builder.TakeRoot();
}

}  // namespace headgate::config
