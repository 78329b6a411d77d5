#include "analysis/step.h"

#include <algorithm>
#include <cmath>

#include "sim/engine/simulate.h"
#include "sim/task/estimate.h"
#include "workloads/count.h"

namespace foretoken::analysis {

namespace w = workloads;

std::string_view bound_name(int bound) {
  return bound < hwmodels::kUnits ? hwmodels::kUnitNames[static_cast<std::size_t>(bound)]
                                  : "latency";
}

int StepResult::bound() const {
  return static_cast<int>(std::max_element(shares.begin(), shares.end()) - shares.begin());
}

StepEvaluator::StepEvaluator(const Deployment& deployment, const hwmodels::Tuning& tuning)
    : deployment_(deployment), rates_(hwmodels::derive_rates(*deployment.hardware, tuning)) {
  w::require_possible(deployment.plan, *deployment.model);
}

void StepEvaluator::build(const w::Batch& batch) {
  const std::int64_t rank = deployment_.plan.stage_ranks() - 1;
  w::build_graph(*deployment_.model, deployment_.precision, deployment_.plan, batch, rank, ops_);
  lowering_.lower(ops_, deployment_.plan, *deployment_.hardware, rates_, *deployment_.stack);
}

StepResult StepEvaluator::estimate(const w::Batch& batch) {
  build(batch);
  task::estimate(lowering_.graph(), timeline_);
  return summarize(batch.phase);
}

StepResult StepEvaluator::simulate(const w::Batch& batch) {
  build(batch);
  engine::simulate(lowering_.graph(), timeline_);
  return summarize(batch.phase);
}

StepTime step_time(const Deployment& deployment, const hwmodels::Rates& rates,
                   base::Seconds kernels, w::Phase phase) {
  // Barriers between cores stretch what runs between them; host work waits for nobody.
  const double waiting = phase == w::Phase::kDecode ? deployment.stack->waiting.value : 0.0;
  const w::ParallelPlan& plan = deployment.plan;
  const double stages =
      plan.pp > 1 ? static_cast<double>(plan.pp) * deployment.stack->stage_host.value : 0.0;
  return {base::Seconds{kernels.value() / (1.0 - waiting)}, base::Seconds{rates.step + stages}};
}

StepResult StepEvaluator::summarize(w::Phase phase) const {
  StepResult r;
  const StepTime time = step_time(deployment_, rates_, timeline_.total, phase);
  const double step = time.total().value();
  r.time = base::Seconds{step};
  for (std::size_t i = 0; i < r.shares.size(); ++i) {
    r.shares[i] = timeline_.critical[i].value() / step;
  }
  r.shares.back() += (step - timeline_.total.value()) / step;
  for (std::size_t i = 0; i < r.utilisation.size(); ++i) {
    r.utilisation[i] = timeline_.busy[i].value() / step;
  }
  return r;
}

MemoryUse memory_use(const Deployment& d, std::int64_t context, double usable_share) {
  const w::ModelSpec& m = *d.model;
  const w::ParallelPlan& plan = d.plan;
  const w::WeightBytes b = w::count_weight_bytes(m, d.precision);
  const auto real = [](std::int64_t v) { return static_cast<double>(v); };
  // Expert slots: the fullest rank's.
  const double slots = real(w::share(m.experts + plan.replicas, plan.ep, plan.ep - 1)) /
                       real(m.experts) / (real(plan.stage_ranks()) / real(plan.ep));
  double weights = real(b.routed) * slots + real(b.split) / real(plan.tp) + real(b.replicated);
  if (d.draft) {
    const double draft_slots = m.draft_experts == 0
                                   ? 0.0
                                   : real(w::share(m.draft_experts, plan.ep, plan.ep - 1)) /
                                         real(m.draft_experts) /
                                         (real(plan.stage_ranks()) / real(plan.ep));
    weights += real(b.draft_routed) * draft_slots + real(b.draft_split) / real(plan.tp) +
               real(b.draft_replicated);
  }
  MemoryUse use;
  use.weights = weights / real(plan.pp);
  double sequence = real(w::count_kv(m, d.precision, context).total);
  // A draft layer keeps a window (V3.2: the full latent) of its own.
  if (d.draft) {
    for (const w::LayerSpec& l : m.draft_layers) {
      sequence +=
          l.attention == w::AttentionKind::kMlaDsa
              ? real(context) * real(d.precision.main_entry_bytes + d.precision.index_entry_bytes)
              : real(std::min(context, m.window) * d.precision.window_entry_bytes);
    }
  }
  use.per_sequence = sequence / real(plan.pp);
  use.capacity = d.hardware->chip.hbm().capacity.value() * usable_share;
  return use;
}

std::optional<std::int64_t> sequences_that_fit(const MemoryUse& use) {
  const double room = use.capacity - use.weights;
  if (room < use.per_sequence) return std::nullopt;
  return static_cast<std::int64_t>(std::floor(room / use.per_sequence));
}

}  // namespace foretoken::analysis
