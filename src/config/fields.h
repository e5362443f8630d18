// The configuration as named fields of text, the one list of them that
// config show and config diff share. Names are keys of the file, one dot for
// one level; texts are YAML values. An absent optional field has no text.
#pragma once

#include <string>
#include <vector>

#include "config/types.h"

namespace headgate::config {

struct Field {
  std::string name;
  std::string text;
};
using Fields = std::vector<Field>;

Fields GlobalFields(const Config& config);  // All but pools and services.
// All but the name.
Fields FieldsOf(const Service& service);
Fields FieldsOf(const Pool& pool);  // Nor the backends.
Fields FieldsOf(const Backend& backend);

// `text` as a YAML scalar that every reader takes for a string.
std::string YamlName(const std::string& name);

}  // namespace headgate::config
