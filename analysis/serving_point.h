// The best operating point of a model on a system: which plan, which batch, and how sure that is.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "analysis/cost.h"
#include "analysis/step.h"

namespace foretoken::analysis {

// Speculative decoding: `draft_tokens` proposed and verified a step; a step then yields
// `acceptance_length` tokens on average, the verified one included.
struct Speculation {
  std::int64_t draft_tokens = 0;
  double acceptance_length = 1.0;
  double low_factor =
      1.0;  // range of the acceptance length, where it was measured on another model
  double high_factor = 1.0;
};

struct ServingRules {
  base::Seconds tpot_limit{0.05};
  double memory_share = 0.9;         // of device memory for weights and cache
  std::int64_t chunk_tokens = 8192;  // prefill tokens per rank and step
  workloads::Overlap overlap = workloads::Overlap::kWaves;
  std::int64_t waves = 4;
  workloads::Routing routing = workloads::Routing::kUniform;
  std::vector<workloads::ParallelPlan> plans;  // empty: search
  // Measured over modelled step time of whole engines: what is lost between and around kernels.
  base::Ranged serving_overhead{1.0, 1.0, 1.0};
};

// What is being deployed; the plan is found.
struct Subject {
  const workloads::ModelSpec* model = nullptr;
  const hwmodels::Hardware* hardware = nullptr;
  const hwmodels::Stack* stack = nullptr;
  workloads::Precision precision;
};

// A decode step in which `sequences` sequences verify one token and its drafts, ending at
// `context`.
workloads::Batch decode_batch(std::int64_t sequences, std::int64_t context,
                              const Speculation& speculation);

enum class PointStatus : std::uint8_t { kOk, kMissesTpot, kDoesNotFit, kUnsupported };
std::string_view to_string(PointStatus status);

struct DecodePoint {
  PointStatus status = PointStatus::kOk;
  std::string reason;
  workloads::ParallelPlan plan;
  std::int64_t max_batch = 0;  // sequences that fit, over all devices of the plan
  std::int64_t batch = 0;      // sequences at the chosen point
  MemoryUse memory;
  StepResult step;  // as modelled; step_time has the serving overhead
  base::Seconds step_time;
  Spread step_spread;
  base::Seconds tpot;  // time per emitted token of one sequence
  Spread tpot_spread;

  [[nodiscard]] double tokens_per_second() const {
    return static_cast<double>(batch) / tpot.value();
  }
  [[nodiscard]] double tokens_per_second_per_device() const {
    return tokens_per_second() / static_cast<double>(plan.devices());
  }
};

// The plan and batch with the highest throughput per device whose TPOT meets the limit; where none
// does, the plan with the lowest TPOT (kMissesTpot).
DecodePoint best_decode(const Subject& subject, std::int64_t context,
                        const Speculation& speculation, const ServingRules& rules);

struct PrefillPoint {
  PointStatus status = PointStatus::kOk;
  std::string reason;
  workloads::ParallelPlan plan;
  std::int64_t prompts = 0;  // computed together
  base::Seconds time;        // of these prompts
  Spread time_spread;
  StepResult step;  // a chunk in the middle of the prompt
  double tokens_per_second_per_device = 0.0;
};

// The plan with the highest prefill throughput per device for prompts of `context` tokens.
PrefillPoint best_prefill(const Subject& subject, std::int64_t context, const ServingRules& rules);

// Plans tried when none are given: attention data-parallel over 1, 2, 4, ... devices and the whole
// scale-up domain, with tensor parallelism 1, 2, 4 and 8 inside, experts over all of them.
std::vector<workloads::ParallelPlan> candidate_plans(const workloads::ModelSpec& model,
                                                     const hwmodels::SystemSpec& system,
                                                     const ServingRules& rules);

// Time to compute `prompts` prompts of `context` tokens in chunks; exact up to eight chunks, beyond
// that by the trapezoid rule over nine of them (a chunk's time is close to linear in what precedes
// it).
base::Seconds prefill_time(StepEvaluator& evaluator, std::int64_t prompts, std::int64_t context,
                           std::int64_t chunk);

}  // namespace foretoken::analysis
