#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <optional>
#include <ostream>
#include <sstream>

#include "analysis/cli/commands.h"
#include "analysis/cluster_run.h"
#include "analysis/reports/table.h"
#include "analysis/step.h"
#include "sim/base/config.h"
#include "sim/base/output.h"
#include "sim/base/quantity.h"
#include "workloads/trace_writer.h"

namespace foretoken::analysis::cli {

namespace w = workloads;
using Json = nlohmann::ordered_json;

namespace {

w::Batch make_batch(const StepOptions& o) {
  w::Batch b;
  b.phase = o.phase;
  b.sequences = o.batch;
  b.context = o.context;
  if (o.phase == w::Phase::kPrefill) {
    if (o.cached >= o.context) {
      throw base::UsageError(fmt::format("--cached {} leaves nothing of --context {} to compute",
                                         o.cached, o.context));
    }
    b.new_tokens = o.context - o.cached;
  } else {
    b.new_tokens = std::min(o.context, 1 + o.draft_tokens);
    b.draft_tokens = o.draft_tokens;
  }
  return b;
}

w::Precision load_precision(const std::filesystem::path& configs, const std::string& name,
                            const w::ModelSpec& model) {
  return w::resolve(base::load_config<w::PrecisionRecipe>(configs / "precision" / (name + ".yaml")),
                    model);
}

// Attention data-parallel over the scale-up domain, experts over all of it; fewer ranks when there
// are fewer sequences or experts.
w::ParallelPlan default_plan(const w::ModelSpec& model, const hwmodels::Hardware& hardware,
                             std::int64_t batch) {
  w::ParallelPlan plan;
  const std::int64_t most = std::min(
      {hardware.system.scale_up_domain(), model.experts, std::max<std::int64_t>(batch, 1)});
  plan.dp = most;
  plan.ep = most;
  plan.overlap = w::Overlap::kWaves;
  return plan;
}

void require_fit(const StepOptions& o, const w::ParallelPlan& plan, const MemoryUse& memory,
                 const hwmodels::Hardware& hardware, const w::ModelSpec& model) {
  const std::int64_t sequences = (o.batch + plan.dp * plan.pp - 1) / (plan.dp * plan.pp);
  const double needed = memory.weights + memory.per_sequence * static_cast<double>(sequences) *
                                             static_cast<double>(plan.pp);
  if (needed <= memory.capacity) return;
  throw base::UnsupportedError(fmt::format(
      "{} as {} does not fit on {}: {} of weights and {} of cache for {} sequences of {} a device, "
      "{} are usable",
      model.name, w::to_string(plan), hardware.system.name,
      base::format_quantity(memory.weights, base::UnitKind::kBytes),
      base::format_quantity(needed - memory.weights, base::UnitKind::kBytes), sequences,
      base::format_count(o.context),
      base::format_quantity(memory.capacity, base::UnitKind::kBytes)));
}

struct RoleTime {
  task::LabelId label;
  double seconds;
};

std::vector<RoleTime> slowest_roles(const task::Timeline& timeline) {
  std::vector<RoleTime> roles;
  for (std::size_t i = 0; i < timeline.label_time.size(); ++i) {
    const double t = timeline.label_time[i].value();
    if (t > 0.0) roles.push_back({static_cast<task::LabelId>(i), t});
  }
  std::stable_sort(roles.begin(), roles.end(),
                   [](const RoleTime& a, const RoleTime& b) { return a.seconds > b.seconds; });
  return roles;
}

}  // namespace

base::ExitCode step(const Context& context, const StepOptions& o) {
  const w::ModelSpec model = w::load_model(o.model, context.configs);
  hwmodels::Hardware hardware = hwmodels::load_hardware(o.system, context.configs);
  if (o.routing) hardware.system.routing = *o.routing;
  const hwmodels::Stack stack = hwmodels::load_stack(o.stack, context.configs);
  const w::ParallelPlan plan =
      o.plan.empty() ? default_plan(model, hardware, o.batch) : w::parse_plan(o.plan);
  if (plan.devices() > hardware.system.devices()) {
    throw base::UnsupportedError(fmt::format("{} has {} devices; the plan needs {}",
                                             hardware.system.name, hardware.system.devices(),
                                             plan.devices()));
  }
  const Deployment deployment{&model, &hardware,
                              &stack, load_precision(context.configs, o.precision, model),
                              plan,   o.draft_tokens > 0};
  StepEvaluator evaluator(deployment);
  require_fit(o, plan, memory_use(deployment, o.context, o.memory_share), hardware, model);
  w::Batch batch = make_batch(o);
  // One pipeline stage works on one microbatch while the others are elsewhere.
  batch.sequences = (o.batch + plan.pp - 1) / plan.pp;
  std::optional<ClusterRun> all;
  if (o.all_devices) {
    all.emplace(deployment,
                ClusterPlacement{.instances = o.instances,
                                 .strided = o.strided,
                                 .cache_to = o.cache_to,
                                 .tolerance = o.tolerance},
                batch);
  }
  if (!o.timeline.empty()) {
    base::write_file(o.timeline,
                     cluster_trace_json(*all,
                                        fmt::format("{} on {}, {}", model.title,
                                                    hardware.system.title, w::to_string(plan)),
                                        o.timeline_devices));
    context.err << fmt::format("wrote {}\n", o.timeline);
  }
  const StepResult r = all          ? all->result()
                       : o.simulate ? evaluator.simulate(batch)
                                    : evaluator.estimate(batch);
  const double seconds = r.time.value();
  const double tokens =
      static_cast<double>(o.batch) *
      (o.phase == w::Phase::kPrefill ? static_cast<double>(batch.new_tokens) : 1.0);
  const auto roles = slowest_roles(all ? all->timeline() : evaluator.timeline());
  const MemoryUse memory = memory_use(deployment, o.context, o.memory_share);

  if (context.format == Format::kJson) {
    Json shares = Json::object();
    Json used = Json::object();
    for (int b = 0; b < kBounds; ++b) {
      shares[std::string(bound_name(b))] = r.shares[static_cast<std::size_t>(b)];
    }
    for (int u = 0; u < hwmodels::kUnits; ++u) {
      used[std::string(bound_name(u))] = r.utilisation[static_cast<std::size_t>(u)];
    }
    Json ops = Json::object();
    for (const RoleTime& t : roles) {
      ops[std::string(label_name(t.label))] = t.seconds * 1e6;
    }
    Json out{{"model", model.name},
             {"system", hardware.system.name},
             {"phase", o.phase == w::Phase::kDecode ? "decode" : "prefill"},
             {"plan", w::to_string(plan)},
             {"devices", plan.devices()},
             {"batch", o.batch},
             {"context", o.context},
             {"evaluator", o.simulate ? "simulate" : "estimate"},
             {"step_latency_us", seconds * 1e6},
             {"tokens_per_s", tokens / seconds},
             {"tput_per_gpu", tokens / seconds / static_cast<double>(plan.devices())},
             {"bound", bound_name(r.bound())},
             {"time_shares", shares},
             {"utilisation", used},
             {"latency_us_by_op", ops},
             {"weight_bytes_per_device", memory.weights},
             {"kv_bytes_per_sequence", memory.per_sequence},
             {"basis", base::to_string(hardware.basis())}};
    if (all) {
      Json links = Json::object();
      for (const hwmodels::LinkUse& use : all->links()) {
        links[use.name] = {{"mean", use.mean}, {"busiest", use.busiest}};
      }
      out["simulated_devices"] = all->step().devices();
      out["instances"] = o.instances;
      out["link_utilisation"] = links;
    }
    context.out << out.dump(2) << "\n";
    return base::ExitCode::kOk;
  }
  Table t;
  t.columns = {{"op"}, {"time_us", true}, {"share", true}};
  for (const RoleTime& role : roles) {
    t.rows.push_back({std::string(label_name(role.label)),
                      fmt::format("{:.2f}", role.seconds * 1e6),
                      fmt::format("{:.1f} %", 100.0 * role.seconds / seconds)});
  }
  if (context.format == Format::kCsv) {
    context.out << to_csv(t);
    return base::ExitCode::kOk;
  }
  context.out << fmt::format(
      "{} on {}, {} {}, batch {}, context {}\n"
      "step {}, {:.4g} tok/s, {:.4g} tok/s per device; bound by {}; basis {}\n\n",
      model.title, hardware.system.title, o.phase == w::Phase::kDecode ? "decode" : "prefill",
      w::to_string(plan), o.batch, base::format_count(o.context),
      base::format_quantity(seconds, base::UnitKind::kSeconds), tokens / seconds,
      tokens / seconds / static_cast<double>(plan.devices()), bound_name(r.bound()),
      base::to_string(hardware.basis()));
  Table bounds;
  bounds.columns = {{"bound"}, {"critical path", true}, {"busy", true}};
  for (int b = 0; b < kBounds; ++b) {
    const auto i = static_cast<std::size_t>(b);
    bounds.rows.push_back(
        {std::string(bound_name(b)), fmt::format("{:.1f} %", 100.0 * r.shares[i]),
         b < hwmodels::kUnits ? fmt::format("{:.1f} %", 100.0 * r.utilisation[i]) : "–"});
  }
  context.out << to_text(bounds) << "\n";
  if (all) {
    Table links;
    links.columns = {{"links"}, {"busy, mean", true}, {"busiest", true}};
    for (const hwmodels::LinkUse& use : all->links()) {
      links.rows.push_back({use.name, fmt::format("{:.1f} %", 100.0 * use.mean),
                            fmt::format("{:.1f} %", 100.0 * use.busiest)});
    }
    context.out << to_text(links) << "\n";
  }
  context.out << to_text(t);
  return base::ExitCode::kOk;
}

base::ExitCode trace(const Context& context, const TraceOptions& o) {
  const w::ModelSpec model = w::load_model(o.step.model, context.configs);
  const w::Precision precision = load_precision(context.configs, o.step.precision, model);
  const w::ParallelPlan plan = o.step.plan.empty() ? w::ParallelPlan{} : w::parse_plan(o.step.plan);
  w::require_possible(plan, model);
  const std::int64_t rank = o.rank < 0 ? plan.stage_ranks() - 1 : o.rank;
  if (rank >= plan.stage_ranks()) {
    throw base::UsageError(
        fmt::format("--rank {} of a plan with {} ranks a stage", rank, plan.stage_ranks()));
  }
  w::Batch batch = make_batch(o.step);
  batch.sequences = (o.step.batch + plan.pp - 1) / plan.pp;
  w::OpGraph graph;
  w::build_graph(model, precision, plan, batch, rank, graph);
  std::ostringstream text;
  w::write_trace({model.name, plan, batch, rank}, graph, text);
  if (o.file == "-") {
    context.out << text.str();
  } else {
    base::write_file(o.file, text.str());
    context.err << fmt::format("wrote {}\n", o.file);
  }
  return base::ExitCode::kOk;
}

}  // namespace foretoken::analysis::cli
