#include "analysis/serving_point.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "sim/base/error.h"
#include "sim/base/quantity.h"
#include "workloads/count.h"

namespace foretoken::analysis {

namespace w = workloads;

std::string_view to_string(PointStatus status) {
  switch (status) {
    case PointStatus::kOk:
      return "ok";
    case PointStatus::kMissesTpot:
      return "misses_tpot";
    case PointStatus::kDoesNotFit:
      return "does_not_fit";
    case PointStatus::kUnsupported:
      return "unsupported";
  }
  return "unsupported";
}

w::Batch decode_batch(std::int64_t sequences, std::int64_t context,
                      const Speculation& speculation) {
  w::Batch b;
  b.phase = w::Phase::kDecode;
  b.sequences = sequences;
  // The verified token and its drafts end at `context`; a context shorter than that has fewer
  // drafts.
  b.new_tokens = std::min(context, 1 + speculation.draft_tokens);
  b.context = context;
  b.draft_tokens = speculation.draft_tokens;
  return b;
}

namespace {

Deployment deploy(const Subject& s, const w::ParallelPlan& plan, bool draft) {
  return {s.model, s.hardware, s.stack, s.precision, plan, draft};
}

bool plan_possible(const w::ParallelPlan& plan, const Subject& s, std::string& reason) {
  const std::int64_t devices = s.hardware->system.devices();
  if (plan.devices() > devices) {
    reason = fmt::format("{} has {} devices; {} needs {}", s.hardware->system.name, devices,
                         w::to_string(plan), plan.devices());
    return false;
  }
  try {
    w::require_possible(plan, *s.model);
  } catch (const base::UnsupportedError& error) {
    reason = error.what();
    return false;
  }
  return true;
}

std::string short_of_memory(const Subject& s, const MemoryUse& use, const w::ParallelPlan& plan,
                            std::int64_t context) {
  return fmt::format(
      "{} on {} does not fit: {} a device needs {} of weights and {} for one sequence of {} "
      "tokens, "
      "{} are usable",
      s.model->name, s.hardware->system.name, w::to_string(plan),
      base::format_quantity(use.weights, base::UnitKind::kBytes),
      base::format_quantity(use.per_sequence, base::UnitKind::kBytes), base::format_count(context),
      base::format_quantity(use.capacity, base::UnitKind::kBytes));
}

// Every fitted constant moved to each end of its range, one at a time.
template <class F>
void for_each_tuning(F&& f) {
  for (int constant = 0; constant < hwmodels::kConstants; ++constant) {
    for (const int side : {-1, 1}) {
      hwmodels::Tuning tuning{};
      tuning[static_cast<std::size_t>(constant)] = side;
      f(tuning);
    }
  }
}

void add_overhead(Spread& spread, const ServingRules& rules) {
  const base::Ranged& overhead = rules.serving_overhead;
  spread.add_relative(overhead.low / overhead.value, overhead.high / overhead.value);
}

}  // namespace

std::vector<w::ParallelPlan> candidate_plans(const w::ModelSpec& model,
                                             const hwmodels::SystemSpec& system,
                                             const ServingRules& rules) {
  if (!rules.plans.empty()) return rules.plans;
  std::set<std::int64_t> sizes;
  for (std::int64_t n = 1; n <= std::min(system.devices(), model.experts); n *= 2) sizes.insert(n);
  for (const std::int64_t n : {system.scale_up_domain(), system.devices(), model.experts}) {
    if (n <= system.devices() && n <= model.experts) sizes.insert(n);
  }
  std::vector<w::ParallelPlan> plans;
  for (const std::int64_t n : sizes) {
    for (const std::int64_t tp : {1, 2, 4, 8}) {
      if (n % tp != 0) continue;
      w::ParallelPlan plan;
      plan.tp = tp;
      plan.dp = n / tp;
      plan.ep = n;
      plan.overlap = rules.overlap;
      plan.waves = rules.waves;
      plan.routing = rules.routing;
      plans.push_back(plan);
    }
  }
  return plans;
}

DecodePoint best_decode(const Subject& s, std::int64_t context, const Speculation& speculation,
                        const ServingRules& rules) {
  DecodePoint best;
  best.status = PointStatus::kDoesNotFit;
  bool found = false;  // a plan that meets the limit
  bool any_fits = false;
  double least_missing = 0.0;
  std::string impossible;
  const bool draft = speculation.draft_tokens > 0;
  for (const w::ParallelPlan& plan : candidate_plans(*s.model, s.hardware->system, rules)) {
    if (!plan_possible(plan, s, impossible)) continue;
    const Deployment deployment = deploy(s, plan, draft);
    const MemoryUse memory = memory_use(deployment, context, rules.memory_share);
    const auto fitting = sequences_that_fit(memory);
    if (!fitting || *fitting < plan.pp) {
      const double missing = memory.weights + memory.per_sequence - memory.capacity;
      if (!any_fits && (best.reason.empty() || missing < least_missing)) {
        least_missing = missing;
        best.reason = short_of_memory(s, memory, plan, context);
      }
      continue;
    }
    const std::int64_t per_rank = *fitting / plan.pp;  // of one microbatch
    StepEvaluator evaluator(deployment);
    const auto tpot_of = [&](std::int64_t b) {
      return evaluator.estimate(decode_batch(b * plan.dp, context, speculation)).time *
             rules.serving_overhead.value / speculation.acceptance_length;
    };
    // TPOT grows with the batch: the largest batch within the limit, by bisection.
    std::int64_t good = 0;
    std::int64_t bad = per_rank + 1;
    try {
      for (std::int64_t probe = 1; probe < bad; probe *= 2) {
        (tpot_of(probe) <= rules.tpot_limit ? good : bad) = probe;
      }
      while (bad - good > 1) {
        const std::int64_t probe = good + (bad - good) / 2;
        (tpot_of(probe) <= rules.tpot_limit ? good : bad) = probe;
      }
    } catch (const base::UnsupportedError& error) {
      best.status = PointStatus::kUnsupported;
      best.reason = error.what();
      return best;
    }
    DecodePoint point;
    point.status = good > 0 ? PointStatus::kOk : PointStatus::kMissesTpot;
    point.plan = plan;
    point.memory = memory;
    point.max_batch = per_rank * plan.dp * plan.pp;
    const std::int64_t b = std::max<std::int64_t>(good, 1);
    point.batch = b * plan.dp * plan.pp;
    point.step = evaluator.estimate(decode_batch(b * plan.dp, context, speculation));
    point.step_time = point.step.time * rules.serving_overhead.value;
    point.tpot = point.step_time / speculation.acceptance_length;
    const bool better =
        !any_fits || (point.status == PointStatus::kOk && !found) ||
        (point.status == PointStatus::kOk &&
         point.tokens_per_second_per_device() > best.tokens_per_second_per_device()) ||
        (point.status == PointStatus::kMissesTpot && !found && point.tpot < best.tpot);
    if (better) best = point;
    any_fits = true;
    found = found || point.status == PointStatus::kOk;
  }
  if (!any_fits) {
    if (best.reason.empty()) {
      best.status = PointStatus::kUnsupported;
      best.reason = impossible.empty() ? "no plan" : impossible;
    }
    return best;
  }
  if (best.status == PointStatus::kMissesTpot) {
    best.reason =
        fmt::format("one sequence per rank takes {} a token, above the limit of {}",
                    base::format_quantity(best.tpot.value(), base::UnitKind::kSeconds),
                    base::format_quantity(rules.tpot_limit.value(), base::UnitKind::kSeconds));
  }
  const w::Batch batch = decode_batch(best.batch / best.plan.pp, context, speculation);
  for_each_tuning([&](const hwmodels::Tuning& tuning) {
    StepEvaluator moved(deploy(s, best.plan, draft), tuning);
    best.step_spread.add(best.step.time.value(), moved.estimate(batch).time.value());
  });
  for (const int side : {-1, 1}) {
    hwmodels::Stack stack = *s.stack;
    hwmodels::move_losses(stack, side);
    Deployment deployment = deploy(s, best.plan, draft);
    deployment.stack = &stack;
    StepEvaluator moved(deployment);
    best.step_spread.add(best.step.time.value(), moved.estimate(batch).time.value());
  }
  add_overhead(best.step_spread, rules);
  best.tpot_spread = best.step_spread;
  best.tpot_spread.add_relative(1.0 / speculation.high_factor, 1.0 / speculation.low_factor);
  return best;
}

base::Seconds prefill_time(StepEvaluator& evaluator, std::int64_t prompts, std::int64_t context,
                           std::int64_t chunk) {
  const std::int64_t chunks = (context + chunk - 1) / chunk;
  const auto chunk_time = [&](std::int64_t index) {
    w::Batch b;
    b.phase = w::Phase::kPrefill;
    b.sequences = prompts;
    b.context = std::min(context, (index + 1) * chunk);
    b.new_tokens = b.context - index * chunk;
    b.last_chunk = index == chunks - 1;
    return evaluator.estimate(b).time;
  };
  base::Seconds total;
  constexpr std::int64_t kExactChunks = 8;
  if (chunks <= kExactChunks) {
    for (std::int64_t i = 0; i < chunks; ++i) total += chunk_time(i);
    return total;
  }
  // The last chunk differs (logits, decoder tail): counted by itself.
  const std::int64_t plain = chunks - 1;
  total = chunk_time(chunks - 1);
  std::int64_t from = 0;
  base::Seconds at_from = chunk_time(0);
  for (std::int64_t k = 1; k <= kExactChunks; ++k) {
    const std::int64_t to = (plain - 1) * k / kExactChunks;
    if (to == from) continue;
    const base::Seconds at_to = chunk_time(to);
    // Chunks from .. to - 1 of a straight line between the two ends.
    const double n = static_cast<double>(to - from);
    total += at_from * ((n + 1.0) / 2.0) + at_to * ((n - 1.0) / 2.0);
    from = to;
    at_from = at_to;
  }
  return total + at_from;
}

PrefillPoint best_prefill(const Subject& s, std::int64_t context, const ServingRules& rules) {
  PrefillPoint best;
  best.status = PointStatus::kDoesNotFit;
  bool found = false;
  std::string impossible;
  const std::int64_t chunk = std::min(context, rules.chunk_tokens);
  const auto prompts_per_rank = std::max<std::int64_t>(1, rules.chunk_tokens / context);
  for (const w::ParallelPlan& plan : candidate_plans(*s.model, s.hardware->system, rules)) {
    if (!plan_possible(plan, s, impossible)) continue;
    const Deployment deployment = deploy(s, plan, false);
    const MemoryUse memory = memory_use(deployment, context, rules.memory_share);
    const auto fitting = sequences_that_fit(memory);
    if (!fitting) {
      if (best.reason.empty()) best.reason = short_of_memory(s, memory, plan, context);
      continue;
    }
    PrefillPoint point;
    point.plan = plan;
    point.prompts = std::min(*fitting, prompts_per_rank) * plan.dp;
    try {
      StepEvaluator evaluator(deployment);
      point.time =
          prefill_time(evaluator, point.prompts, context, chunk) * rules.serving_overhead.value;
      w::Batch middle;
      middle.phase = w::Phase::kPrefill;
      middle.sequences = point.prompts;
      const std::int64_t chunks = (context + chunk - 1) / chunk;
      middle.context = std::min(context, (chunks / 2 + 1) * chunk);
      middle.new_tokens = std::min(chunk, middle.context);
      middle.last_chunk = chunks == 1;
      point.step = evaluator.estimate(middle);
    } catch (const base::UnsupportedError& error) {
      best.status = PointStatus::kUnsupported;
      best.reason = error.what();
      return best;
    }
    point.tokens_per_second_per_device = static_cast<double>(point.prompts) *
                                         static_cast<double>(context) / point.time.value() /
                                         static_cast<double>(plan.stage_ranks());
    if (!found || point.tokens_per_second_per_device > best.tokens_per_second_per_device) {
      best = point;
    }
    found = true;
  }
  if (!found) {
    if (best.reason.empty()) {
      best.status = PointStatus::kUnsupported;
      best.reason = impossible.empty() ? "no plan" : impossible;
    }
    return best;
  }
  for_each_tuning([&](const hwmodels::Tuning& tuning) {
    StepEvaluator moved(deploy(s, best.plan, false), tuning);
    best.time_spread.add(
        best.time.value(),
        prefill_time(moved, best.prompts, context, chunk).value() * rules.serving_overhead.value);
  });
  add_overhead(best.time_spread, rules);
  return best;
}

}  // namespace foretoken::analysis
