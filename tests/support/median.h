// The middle one of figures, which what else runs on the machine moves least.
#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

namespace headgate::testing {

// Of an even number, the upper one of the two; there must be one.
inline double Median(std::vector<double> values) {
  const auto middle =
      values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

}  // namespace headgate::testing
