#include "ctl/list.h"

#include <ostream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status.h"

namespace headgate::ctl {
namespace {

constexpr uint64_t kTableRows = 10'000;

std::string LimitedPath(const std::string& path, const Options& options,
                        const std::optional<uint64_t>& limit) {
  if (!limit) return FilteredPath(path, options, {});
  return FilteredPath(path, options, {absl::StrCat("limit=", *limit)});
}

absl::StatusOr<int> PassOn(Session& session, const std::string& path) {
  const auto print = [&session](const std::string& line) {
    session.out() << line << "\n";
    return session.out().good();
  };
  RETURN_IF_ERROR(session.Stream({"GET", path, ""}, print));
  return 0;
}

}  // namespace

std::string FilteredPath(const std::string& path, const Options& options,
                         const std::vector<std::string>& more) {
  std::vector<std::string> query;
  if (options.service) {
    query.push_back(absl::StrCat("service=", UrlEscape(*options.service)));
  }
  if (options.client) {
    query.push_back(absl::StrCat("client=", UrlEscape(*options.client)));
  }
  query.insert(query.end(), more.begin(), more.end());
  return absl::StrCat(path, query.empty() ? "" : "?",
                      absl::StrJoin(query, "&"));
}

absl::StatusOr<int> ListConnections(Session& session, const std::string& path,
                                    const std::string& name,
                                    std::span<const Column> columns) {
  const Options& options = session.options();
  if (session.json_output()) {
    return PassOn(session, LimitedPath(path, options, options.limit));
  }
  const uint64_t limit = options.limit.value_or(kTableRows);
  ASSIGN_OR_RETURN(
      Reply reply,
      session.Call({"GET", LimitedPath(path, options, limit), ""}));
  const std::vector<Json> rows = reply.json[name].Items();
  PrintTable(rows, columns, session.color(), session.out());
  const Json total = reply.json["total"];
  if (total.Number().value_or(0) > static_cast<double>(rows.size())) {
    session.err() << rows.size() << " of " << total.Text()
                  << "; --service and --client make them fewer, --limit=N and "
                     "-o json list more"
                  << std::endl;
  }
  return 0;
}

}  // namespace headgate::ctl
