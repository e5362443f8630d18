// headgatectl as a function: finds the command, runs it, and turns its status
// into one line on `err` and an exit code:
//
//   0 done                      4 no such object
//   1 failed, negative answer   5 permission denied
//   2 usage                     6 timed out
//   3 daemon not reachable      7 conflict
#pragma once

#include <iosfwd>
#include <string>
#include <vector>

namespace headgate::ctl {

// `args` without the program's name. One call at a time.
int Run(const std::vector<std::string>& args, std::ostream& out,
        std::ostream& err);

}  // namespace headgate::ctl
