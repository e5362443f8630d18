#include "admin/lists.h"

#include <algorithm>
#include <iterator>

#include "admin/json.h"

namespace headgate::admin {
namespace {

using control::ConnectionRow;
using control::FlowRow;

constexpr uint32_t kPart = 512;  // Rows, or flow numbers: some ms.

// Those from `first` on, which moves behind them; nothing: that was all.
std::optional<datapath::FlowNumbers> NextPart(
    const control::Controller& controller, uint32_t& first) {
  if (first >= controller.max_flows()) return std::nullopt;
  const datapath::FlowNumbers part{first, first + kPart};
  first = part.end;
  return part;
}

}  // namespace

ListText ListConnections(const control::Controller* controller,
                         const control::ConnectionFilter& filter,
                         uint64_t limit) {
  auto source =
      [controller, filter, carried = controller->Connections(filter),
       at = size_t{0},
       first = 0U]() mutable -> std::optional<std::vector<ConnectionRow>> {
    if (at < carried.size()) {
      const auto begin = carried.begin() + static_cast<ptrdiff_t>(at);
      at = std::min<size_t>(at + kPart, carried.size());
      const auto end = carried.begin() + static_cast<ptrdiff_t>(at);
      return std::vector<ConnectionRow>(std::move_iterator(begin),
                                        std::move_iterator(end));
    }
    const auto part = NextPart(*controller, first);
    if (!part.has_value()) return std::nullopt;
    return controller->PacketConnections(filter, *part);
  };
  ListStream<ConnectionRow> list("connections", limit, std::move(source),
                                 ConnectionJson);
  return [list = std::move(list)]() mutable { return list.Next(); };
}

ListText ListFlows(const control::Controller* controller,
                   const control::ConnectionFilter& filter, uint64_t limit) {
  auto source = [controller, filter,
                 first = 0U]() mutable -> std::optional<std::vector<FlowRow>> {
    const auto part = NextPart(*controller, first);
    if (!part.has_value()) return std::nullopt;
    return controller->Flows(filter, *part);
  };
  ListStream<FlowRow> list("flows", limit, std::move(source), FlowJson);
  return [list = std::move(list)]() mutable { return list.Next(); };
}

}  // namespace headgate::admin
