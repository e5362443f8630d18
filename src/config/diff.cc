#include "config/diff.h"

#include <algorithm>
#include <map>

#include "absl/strings/str_cat.h"
#include "config/fields.h"

namespace headgate::config {
namespace {

using Lines = std::vector<std::string>;

void DiffFields(absl::string_view prefix, const Fields& running,
                const Fields& next, Lines& out) {
  const auto text = [](const Field& field) {
    return field.text.empty() ? "unset" : field.text;
  };
  for (size_t i = 0; i < running.size(); ++i) {
    if (running[i].text == next[i].text) continue;
    out.push_back(absl::StrCat(prefix, running[i].name, ": ", text(running[i]),
                               " -> ", text(next[i])));
  }
}

// Calls `changed(prefix, running, next)` for what both have and differs.
template <typename T, typename Changed>
void DiffNamed(absl::string_view what, const std::map<std::string, T>& running,
               const std::map<std::string, T>& next, Lines& out,
               const Changed& changed) {
  const auto prefix = [what](const std::string& name) {
    return absl::StrCat(what, " ", name, ": ");
  };
  for (const auto& [name, value] : running) {
    const auto found = next.find(name);
    if (found == next.end()) {
      out.push_back(absl::StrCat(prefix(name), "removed"));
    } else if (!(value == found->second)) {
      changed(prefix(name), value, found->second);
    }
  }
  for (const auto& [name, value] : next) {
    if (running.count(name) == 0) {
      out.push_back(absl::StrCat(prefix(name), "added"));
    }
  }
}

// The names of `pool`'s backends that `other` has too, in order.
Lines CommonNames(const Pool& pool,
                  const std::map<std::string, Backend>& other) {
  Lines names;
  for (const Backend& backend : pool.backends) {
    if (other.count(backend.name) != 0) names.push_back(backend.name);
  }
  return names;
}

void DiffPool(const std::string& prefix, const Pool& running, const Pool& next,
              Lines& out) {
  const auto by_name = [](const Pool& pool) {
    std::map<std::string, Backend> result;
    for (const Backend& backend : pool.backends) {
      result.emplace(backend.name, backend);
    }
    return result;
  };
  DiffFields(prefix, FieldsOf(running), FieldsOf(next), out);
  const auto before = by_name(running);
  const auto after = by_name(next);
  DiffNamed(
      absl::StrCat(prefix, "backend"), before, after, out,
      [&](const std::string& backend, const Backend& a, const Backend& b) {
        DiffFields(backend, FieldsOf(a), FieldsOf(b), out);
      });
  if (CommonNames(running, after) != CommonNames(next, before)) {
    out.push_back(absl::StrCat(prefix, "backends in another order"));
  }
}

}  // namespace

std::vector<std::string> Diff(const Config& running, const Config& next) {
  Lines out;
  DiffFields("", GlobalFields(running), GlobalFields(next), out);
  DiffNamed("pool", running.pools, next.pools, out,
            [&](const std::string& prefix, const Pool& a, const Pool& b) {
              DiffPool(prefix, a, b, out);
            });
  DiffNamed("service", running.services, next.services, out,
            [&](const std::string& prefix, const Service& a, const Service& b) {
              DiffFields(prefix, FieldsOf(a), FieldsOf(b), out);
            });
  return out;
}

}  // namespace headgate::config
