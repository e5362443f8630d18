#include "config/describe.h"

#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "config/fields.h"

namespace headgate::config {
namespace {

// One field a line; what has a dot goes into a map of its own.
void AppendBlock(const Fields& fields, absl::string_view indent,
                 std::string& out) {
  std::string section;
  for (const Field& field : fields) {
    if (field.text.empty()) continue;
    const std::vector<std::string> parts =
        absl::StrSplit(field.name, absl::MaxSplits('.', 1));
    if (parts.size() == 2 && parts[0] != section) {
      section = parts[0];
      absl::StrAppend(&out, indent, section, ":\n");
    }
    absl::StrAppend(&out, indent, parts.size() == 2 ? "  " : "", parts.back(),
                    ": ", field.text, "\n");
  }
}

void AppendBackend(const Backend& backend, std::string& out) {
  absl::StrAppend(&out, "      - {name: ", YamlName(backend.name));
  for (const Field& field : FieldsOf(backend)) {
    absl::StrAppend(&out, ", ", field.name, ": ", field.text);
  }
  absl::StrAppend(&out, "}\n");
}

}  // namespace

std::string ToYaml(const Config& config) {
  std::string out;
  AppendBlock(GlobalFields(config), "", out);
  absl::StrAppend(&out, "pools:\n");
  for (const auto& [name, pool] : config.pools) {
    absl::StrAppend(&out, "  ", YamlName(name), ":\n");
    AppendBlock(FieldsOf(pool), "    ", out);
    absl::StrAppend(&out, "    backends:\n");
    for (const Backend& backend : pool.backends) AppendBackend(backend, out);
  }
  absl::StrAppend(&out, "services:\n");
  for (const auto& [name, service] : config.services) {
    absl::StrAppend(&out, "  ", YamlName(name), ":\n");
    AppendBlock(FieldsOf(service), "    ", out);
  }
  return out;
}

}  // namespace headgate::config
