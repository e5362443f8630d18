// Lists of connections, which may be long.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "ctl/render.h"
#include "ctl/session.h"

namespace headgate::ctl {

// `path` for those that --service and --client mean, with `more` of the query.
std::string FilteredPath(const std::string& path, const Options& options,
                         const std::vector<std::string>& more);

// What `path` gives as `name`: a table of as many as --limit says, else of ten
// thousand, and how many there are besides. Under -o json all of them, by and
// by, unless --limit says less.
absl::StatusOr<int> ListConnections(Session& session, const std::string& path,
                                    const std::string& name,
                                    std::span<const Column> columns);

}  // namespace headgate::ctl
