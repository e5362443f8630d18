// /metrics: the Prometheus text format, made from the maps at each scrape.
#pragma once

#include <string>

#include "control/controller.h"

namespace headgate::admin {

std::string MetricsText(const control::Controller& controller);

}  // namespace headgate::admin
