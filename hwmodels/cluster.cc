#include "hwmodels/cluster.h"

#include <fmt/format.h>

#include <algorithm>
#include <cassert>

namespace foretoken::hwmodels {

std::vector<std::string> resource_names(const ClusterResources& resources,
                                        const FabricGraph& fabric,
                                        std::span<const std::string_view> more) {
  assert(resources.units == kRankUnits + more.size());
  std::vector<std::string> names;
  names.reserve(resources.count());
  for (std::uint32_t rank = 0; rank < resources.ranks; ++rank) {
    for (const std::string_view unit : kRankUnitNames) {
      names.push_back(fmt::format("{} {}", rank, unit));
    }
    for (const std::string_view unit : more) names.push_back(fmt::format("{} {}", rank, unit));
  }
  for (LinkId link = 0; link < resources.links; ++link) names.push_back(fabric.name(link));
  return names;
}

void Traffic::add(std::int64_t source, std::int64_t destination, double bytes) {
  assert(bytes >= 0.0);
  if (source == destination) return;
  fabric_->route(source, destination, route_);
  latency_ = std::max(latency_, route_.latency());
  const double padded = route_.padded(bytes);
  for (const LinkShare& part : route_.links()) {
    add_link(part.link, padded * part.share);
  }
}

void Traffic::add_link(LinkId link, double bytes) {
  demands_.push_back({resources_.link(link), base::Seconds{bytes / fabric_->rate(link)}});
}

task::TaskId add_transfer(task::TaskGraph& graph, task::LabelId label, const Traffic& traffic,
                          std::span<const task::TaskId> dependencies, base::Seconds start) {
  return graph.add(label, task::kNoQueue, start + traffic.latency(), traffic.demands(),
                   dependencies);
}

}  // namespace foretoken::hwmodels
