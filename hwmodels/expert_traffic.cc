#include "hwmodels/expert_traffic.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "hwmodels/collectives.h"
#include "sim/base/error.h"

namespace foretoken::hwmodels {

using workloads::Dtype;

namespace {

// Cores that the normal form's kernels take unless told otherwise.
constexpr std::int64_t kNormalCores = 24;
// Where a group's ranks lie.
struct Reach {
  std::int64_t nodes = 1;   // scale-up domains the group has a part in
  std::int64_t inside = 1;  // ranks of one of them
};

Reach reach_of(const Hardware& h, std::int64_t ranks) {
  Reach r;
  const std::int64_t domain = h.system.scale_up_domain();
  r.inside = std::min(ranks, domain);
  r.nodes = (ranks + domain - 1) / domain;
  return r;
}

}  // namespace

double TrafficTime::seconds() const {
  return links.latency + std::max({links.scale_up, links.scale_out, cores});
}

double traffic_row_bytes(Dtype element, std::int64_t hidden) {
  const double width = static_cast<double>(hidden);
  const double values = width * workloads::element_bits(element) / 8.0;
  if (element == Dtype::kFp8) return values + 4.0 * std::ceil(width / 128.0);
  if (element == Dtype::kFp4) return values + std::ceil(width / 32.0);
  if (element == Dtype::kInt8) return values + 4.0;
  return values;
}

double distinct_groups(std::int64_t groups, double topk, std::int64_t experts) {
  if (groups <= 1) return 1.0;
  const double n = static_cast<double>(groups);
  if (experts <= 0) return n * (1.0 - std::pow(1.0 - 1.0 / n, topk));
  // A group is missed if all choices fall among the experts of the others. A choice beyond a whole
  // number counts in part.
  const double all = static_cast<double>(experts);
  const double others = all - all / n;
  double missed = 1.0;
  double left = std::min(topk, all);
  for (double i = 0.0; left > 0.0; i += 1.0, left -= 1.0) {
    const double one = std::max(0.0, (others - i) / (all - i));
    missed *= left >= 1.0 ? one : std::pow(one, left);
  }
  return n * (1.0 - missed);
}

TrafficTime expert_traffic(const Hardware& h, const Rates& rates, const TrafficShape& s,
                           const TrafficDesign& d) {
  const CommunicationRates& c = rates.communication;
  const bool engine = d.engine == CopyEngine::kCollectiveEngine;
  if (engine && c.engine_rate <= 0.0) {
    throw base::UnsupportedError(fmt::format("{} has no collective engine", h.chip.name));
  }
  const bool normal = d.form == TrafficForm::kNormal;
  const Reach reach = reach_of(h, s.ranks);
  const double n = static_cast<double>(s.ranks);
  const double tokens = static_cast<double>(s.tokens);
  TrafficTime t;
  t.form = d.form;
  t.row_bytes = traffic_row_bytes(s.element, s.hidden);
  t.rows = tokens * s.topk;
  t.rank_rows = tokens * distinct_groups(s.ranks, s.topk, s.experts);
  t.node_rows = tokens * distinct_groups(reach.nodes, s.topk, s.experts);
  if (s.ranks <= 1) return t;
  if (!engine) {
    const std::int64_t cores = d.cores > 0 ? d.cores : (normal ? kNormalCores : h.chip.cores);
    t.cores_taken = static_cast<double>(std::min(cores, h.chip.cores));
  }

  const double away = (n - 1.0) / n;
  const double inside = static_cast<double>(reach.inside);
  const double outside = 1.0 - 1.0 / static_cast<double>(reach.nodes);
  // A header on a dispatched row only: a combined row's place says whose it is.
  const double row = t.row_bytes + (normal || s.combine ? 0.0 : kTrafficRowHeader);
  double messages = 0.0;  // of one NIC
  if (normal) {
    const double from_links = t.rank_rows * row;
    if (reach.nodes <= 1) {
      t.links = exchange(h, rates, from_links * away, s.ranks, c.bulk, c.nic);
    } else {
      // One row for each node goes out; there it is forwarded to the ranks that want it.
      t.links = exchange(h, rates, t.node_rows * row * away, s.ranks, c.bulk, c.nic);
      const LinkTime forwarded =
          exchange(h, rates, from_links * (inside - 1.0) / inside, reach.inside, c.bulk, c.nic);
      t.links.scale_up = forwarded.scale_up;
    }
    // A row is staged for each rank and copied out of the stage, and staged once for each node.
    const double copies = 2.0 * t.rank_rows + (reach.nodes > 1 ? t.node_rows : 0.0);
    const double core = d.bulk_copies ? rates.core_memory : c.core_copy;
    if (!engine) t.cores = copies * row / (core * t.cores_taken);
    messages = t.node_rows * outside;
  } else {
    t.links = exchange(h, rates, t.rows * row * away, s.ranks, c.rows, c.nic);
    if (!engine) t.cores = t.rows * c.row_time / t.cores_taken;
    messages = t.rows * outside;
  }
  if (reach.nodes > 1) t.links.scale_out = std::max(t.links.scale_out, messages * c.nic_message);
  if (engine) t.links.scale_up = std::max(t.links.scale_up, t.rows * row * away / c.engine_rate);

  const double flight = t.links.latency;
  t.links.latency += engine ? c.engine_start : c.expert_start;
  if (d.transport == TrafficTransport::kPull) {
    t.links.latency += flight;  // of the request
  } else if (reach.nodes > 1) {
    // Each expert elsewhere is told how many rows it got.
    const double experts = s.experts > 0 ? static_cast<double>(s.experts) : std::max(256.0, n);
    t.links.latency += experts * outside * c.nic_message;
  }
  return t;
}

TrafficTime fastest_traffic(const Hardware& h, const Rates& rates, const TrafficShape& shape) {
  const TrafficTime row = expert_traffic(h, rates, shape, {});
  const TrafficTime bulk = expert_traffic(h, rates, shape, {.form = TrafficForm::kNormal});
  return bulk.seconds() < row.seconds() ? bulk : row;
}

}  // namespace foretoken::hwmodels
