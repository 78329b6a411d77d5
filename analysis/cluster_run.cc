#include "analysis/cluster_run.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <iterator>
#include <map>
#include <utility>

#include "sim/base/text.h"
#include "sim/engine/simulate.h"
#include "workloads/count.h"
#include "workloads/routing_load.h"

namespace foretoken::analysis {

namespace w = workloads;
using hwmodels::ClusterStep;
using hwmodels::FabricGraph;
using hwmodels::Unit;

namespace {

// What a rank's attention writes to the cache per layer of experts.
double cache_bytes(const Deployment& d, const w::Batch& batch) {
  const w::ModelSpec& m = *d.model;
  std::int64_t layers = 0;
  for (const w::LayerSpec& l : m.layers) layers += l.ffn == w::FfnKind::kDense ? 0 : 1;
  if (layers == 0) return 0.0;
  const double sequence = static_cast<double>(w::count_kv(m, d.precision, batch.context).total) *
                          static_cast<double>(batch.new_tokens) /
                          static_cast<double>(batch.context);
  const double sequences =
      static_cast<double>(batch.sequences) / static_cast<double>(d.plan.dp * d.plan.tp * d.plan.cp);
  return sequence * sequences / static_cast<double>(layers);
}

hwmodels::ClusterOptions options(const Deployment& d, const ClusterPlacement& placement,
                                 const w::Batch& batch) {
  return {.instances = placement.instances,
          .strided = placement.strided,
          .routing = d.hardware->system.routing,
          .cache_to = placement.cache_to,
          .cache_bytes = placement.cache_to ? cache_bytes(d, batch) : 0.0};
}

// One draw of every copy's choices; none where ranks are alike.
std::vector<hwmodels::PairMatrix> loads_of(const Deployment& d, const ClusterPlacement& placement,
                                           const w::Batch& batch) {
  std::vector<hwmodels::PairMatrix> out;
  const w::ParallelPlan& plan = d.plan;
  const std::int64_t ranks = plan.stage_ranks();
  if (!w::is_skewed(plan.routing.kind) || plan.ep != ranks || plan.dp * plan.cp == 1) return out;
  const std::int64_t each = (batch.sequences * batch.new_tokens + ranks - 1) / ranks;
  const w::RoutingCase one{.routing = plan.routing,
                           .experts = d.model->experts,
                           .topk = d.model->experts_per_token,
                           .tokens = each * ranks};
  const w::RoutingGenerator generator(one);
  const std::uint64_t first = w::load_percentiles(one, ranks, plan.replicas).typical_draw;
  for (std::int64_t i = 0; i < placement.instances; ++i) {
    const std::uint64_t draw = first + static_cast<std::uint64_t>(i);
    const w::Placement experts =
        plan.replicas > 0
            ? w::replicated_placement(generator.popularity(draw), plan.replicas, ranks)
            : w::contiguous_placement(one.experts, ranks);
    out.push_back(hwmodels::pair_matrix(w::count_load(generator.choices(ranks, draw), experts)));
  }
  return out;
}

}  // namespace

ClusterRun::ClusterRun(const Deployment& d, const ClusterPlacement& placement,
                       const w::Batch& batch)
    : rates_(hwmodels::derive_rates(*d.hardware)),
      step_(*d.model, d.precision, d.plan, *d.hardware, rates_, *d.stack,
            options(d, placement, batch)) {
  w::require_possible(d.plan, *d.model);
  step_.build(batch, loads_of(d, placement, batch));
  engine::simulate(step_.graph(), timeline_, {.tolerance = placement.tolerance});
  const FabricGraph& fabric = step_.fabric();
  const hwmodels::ClusterResources& resources = step_.resources();
  const std::size_t dimensions = fabric.system().fabric.size();
  const auto unit_of = [&](task::ResourceId r) {
    if (!resources.is_link(r)) return static_cast<std::size_t>(r % resources.units);
    const std::size_t at = fabric.dimension(r - resources.link(0));
    if (at >= dimensions) return static_cast<std::size_t>(Unit::kHost);
    return static_cast<std::size_t>(fabric.system().fabric[at].scale_up ? Unit::kScaleUp
                                                                        : Unit::kScaleOut);
  };
  const double total = step_time(d, rates_, timeline_.total, batch.phase).total().value();
  result_.time = base::Seconds{total};
  for (task::ResourceId r = 0; r < resources.count(); ++r) {
    const std::size_t unit = unit_of(r);
    result_.shares[unit] += timeline_.critical[r].value() / total;
    if (!resources.is_link(r)) {
      result_.utilisation[unit] +=
          timeline_.busy[r].value() / total / static_cast<double>(resources.ranks);
    }
  }
  result_.shares.back() =
      (timeline_.critical.back().value() + total - timeline_.total.value()) / total;
  links_ = hwmodels::link_use(step_, timeline_.busy, result_.time);
  for (const hwmodels::LinkUse& use : links_) {
    Unit unit = Unit::kHost;
    for (const hwmodels::FabricDimension& d2 : fabric.system().fabric) {
      if (d2.name == use.name) unit = d2.scale_up ? Unit::kScaleUp : Unit::kScaleOut;
    }
    double& most = result_.utilisation[static_cast<std::size_t>(unit)];
    most = std::max(most, use.mean);
  }
}

std::string_view label_name(task::LabelId label) {
  if (label == ClusterStep::kJoin) return "join";
  if (label == ClusterStep::kCacheTransfer) return "cache_transfer";
  return w::kRoleNames[label];
}

namespace {

constexpr std::size_t kBins = 40;  // of a block's run, for link counters
enum Track : int { kCompute = 1, kArriving = 2, kReturning = 3 };

// Share of each dimension's links in use, by bin, of every segment.
std::vector<std::vector<std::array<double, kBins>>> busy_bins(const ClusterRun& run) {
  const ClusterStep& step = run.step();
  const FabricGraph& fabric = step.fabric();
  const std::size_t dimensions = fabric.system().fabric.size() + 1;
  std::vector<double> links(dimensions, 0.0);
  std::vector<std::uint8_t> dimension_of(fabric.link_count());
  for (hwmodels::LinkId l = 0; l < fabric.link_count(); ++l) {
    dimension_of[l] = static_cast<std::uint8_t>(std::min(fabric.dimension(l), dimensions - 1));
    links[dimension_of[l]] += 1.0;
  }
  const task::TaskGraph& graph = step.graph();
  std::vector<std::vector<std::array<double, kBins>>> out(
      graph.segments().size(), std::vector<std::array<double, kBins>>(dimensions));
  std::vector<double> moved(dimensions);
  for (std::size_t s = 0; s < graph.segments().size(); ++s) {
    const task::Segment& segment = graph.segments()[s];
    const double duration = run.timeline().segments[s].duration.value();
    if (duration <= 0.0) continue;
    const double bin = duration / kBins;
    for (task::TaskId id = segment.first; id < segment.first + segment.count; ++id) {
      if (!step.places()[id].communication) continue;
      const task::Task& task = graph.tasks()[id];
      std::fill(moved.begin(), moved.end(), 0.0);
      for (const task::Demand& d : graph.demands(task)) {
        if (!step.resources().is_link(d.resource)) continue;
        moved[dimension_of[d.resource - step.resources().link(0)]] += d.busy.value();
      }
      const task::TaskTimes& times = run.timeline().tasks[id];
      const double begin = (times.start + task.latency).value();
      const double end = times.end.value();
      if (end <= begin) continue;
      const auto first = static_cast<std::size_t>(std::clamp(begin / bin, 0.0, kBins - 1.0));
      const auto last = static_cast<std::size_t>(std::clamp(end / bin, 0.0, kBins - 1.0));
      for (std::size_t d = 0; d < dimensions; ++d) {
        if (moved[d] == 0.0) continue;
        const double rate = moved[d] / (end - begin) / links[d] / bin;
        for (std::size_t b = first; b <= last; ++b) {
          const double from = std::max(begin, bin * static_cast<double>(b));
          const double to = std::min(end, bin * static_cast<double>(b + 1));
          out[s][d][b] += std::max(0.0, to - from) * rate;
        }
      }
    }
  }
  return out;
}

}  // namespace

std::string cluster_trace_json(const ClusterRun& run, const std::string& title,
                               std::int64_t devices) {
  const ClusterStep& step = run.step();
  const task::TaskGraph& graph = step.graph();
  const FabricGraph& fabric = step.fabric();
  const auto shown = static_cast<std::uint32_t>(std::min(devices, step.devices()));
  std::string out;
  auto to = std::back_inserter(out);
  fmt::format_to(to,
                 "{{\"displayTimeUnit\":\"ns\",\"otherData\":{{\"title\":{}}},\"traceEvents\":[",
                 base::quote_json(title));
  const char* comma = "\n";
  const auto metadata = [&](std::string_view what, std::uint32_t pid, int tid,
                            const std::string& name) {
    fmt::format_to(
        to, "{}{{\"ph\":\"M\",\"name\":\"{}\",\"pid\":{},\"tid\":{},\"args\":{{\"name\":{}}}}}",
        comma, what, pid, tid, base::quote_json(name));
    comma = ",\n";
  };
  metadata("process_name", 0, 0, fmt::format("all {} devices", step.devices()));
  metadata("thread_name", 0, 1, "blocks");
  for (std::uint32_t device = 0; device < shown; ++device) {
    metadata("process_name", device + 1, 0, fmt::format("device {}", device));
    metadata("thread_name", device + 1, kCompute, "compute");
    metadata("thread_name", device + 1, kArriving, "arriving");
    metadata("thread_name", device + 1, kReturning, "returning");
  }
  const auto microseconds = [](double seconds) { return fmt::format("{:.6f}", seconds * 1e6); };
  const auto event = [&](std::string_view name, std::uint32_t pid, int tid, double start,
                         double end) {
    fmt::format_to(to, "{}{{\"ph\":\"X\",\"name\":{},\"pid\":{},\"tid\":{},\"ts\":{},\"dur\":{}}}",
                   comma, base::quote_json(name), pid, tid, microseconds(start),
                   microseconds(end - start));
    comma = ",\n";
  };
  const auto bins = busy_bins(run);
  std::map<std::pair<std::uint32_t, std::int64_t>, std::size_t> segment_of;
  for (std::size_t s = 0; s < step.parts().size(); ++s) {
    segment_of[{step.parts()[s].block, step.parts()[s].stage}] = s;
  }
  double origin = 0.0;
  std::int64_t stage = 0;
  for (const w::BlockRun& block_run : step.ops().order) {
    const w::Block& block = step.ops().blocks[block_run.block];
    const auto found = segment_of.find({block_run.block, stage});
    if (block.count > 0 && step.ops().ops(block).front().role == w::Role::kStageSend) ++stage;
    if (found == segment_of.end()) continue;
    const std::size_t s = found->second;
    const task::Segment& segment = graph.segments()[s];
    const double duration = run.timeline().segments[s].duration.value();
    event(block_run.layer < 0 ? std::string(block.name)
                              : fmt::format("{} {}", block.name, block_run.layer),
          0, 1, origin, origin + duration);
    for (task::TaskId id = segment.first; id < segment.first + segment.count; ++id) {
      const ClusterStep::Place& place = step.places()[id];
      if (place.device >= shown) continue;
      const task::Task& task = graph.tasks()[id];
      const task::TaskTimes& times = run.timeline().tasks[id];
      const bool returns =
          task.label == w::index_of(w::Role::kCombine) || task.label == ClusterStep::kCacheTransfer;
      const int track = !place.communication ? kCompute : returns ? kReturning : kArriving;
      event(label_name(task.label), place.device + 1, track, origin + times.start.value(),
            origin + times.end.value());
    }
    for (std::size_t b = 0; b < kBins; ++b) {
      const double at = origin + duration * static_cast<double>(b) / kBins;
      for (std::size_t d = 0; d < fabric.system().fabric.size(); ++d) {
        if (fabric.system().fabric[d].size == 1) continue;
        fmt::format_to(to,
                       "{}{{\"ph\":\"C\",\"name\":{},\"pid\":0,\"ts\":{},\"args\":{{\"busy\":"
                       "{:.4f}}}}}",
                       comma, base::quote_json(fabric.system().fabric[d].name), microseconds(at),
                       bins[s][d][b]);
      }
    }
    origin += duration;
  }
  out += "\n]}\n";
  return out;
}

}  // namespace foretoken::analysis
