// The main job: counts, throughput, cost and energy of models on systems against context length.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "analysis/scenario.h"
#include "analysis/serving_point.h"
#include "sim/base/evidence.h"

namespace foretoken::base {
class Progress;
}

namespace foretoken::analysis {

// FLOPs and KV bytes of one model at one context; no hardware.
struct CurvePoint {
  std::size_t model = 0;  // index into SweepResult::models
  std::int64_t context = 0;
  std::int64_t flops = 0;
  double fp8_equivalent = 0.0;
  workloads::KvBytes kv;
};

struct TokenCosts {
  base::Interval input;  // per million tokens
  base::Interval cached_input;
  base::Interval output;
};

struct SweepPoint {
  std::size_t model = 0;
  std::size_t system = 0;
  std::int64_t context = 0;
  CurvePoint counts;
  Speculation speculation;
  DecodePoint decode;
  PrefillPoint prefill;
  // Only where decode.status is ok or misses_tpot; the prefill fields where prefill.status is ok.
  base::Interval usd_per_device_hour;
  TokenCosts usd;
  // Of the output cost, without what moves every system alike (utilisation, acceptance,
  // electricity, depreciation): for comparing systems.
  Spread own_output_spread;
  TokenCosts cny;
  base::Interval joules_per_output_token;
  base::Interval joules_per_input_token;
  double arithmetic_intensity = 0.0;  // FP8-equivalent FLOPs over bytes read from memory, decode
  double achieved_flops = 0.0;        // FP8-equivalent FLOP/s per device, decode
  std::optional<double> list_input_usd;
  std::optional<double> list_output_usd;
  // Hourly price of a device at which the list price of output tokens just pays for it.
  std::optional<double> break_even_hour_usd;
  // Share of sold hours at which it pays at the modelled hourly cost; above 1 it never does.
  std::optional<double> break_even_utilisation;
  base::Basis basis = base::Basis::kAssumed;
  std::string price_problem;  // why there is no cost

  [[nodiscard]] bool runs() const {
    return decode.status == PointStatus::kOk || decode.status == PointStatus::kMissesTpot;
  }
  [[nodiscard]] bool priced() const { return runs() && price_problem.empty(); }
};

struct Answer {
  std::size_t model = 0;
  std::int64_t context = 0;
  std::size_t best = 0;  // index into points: cheapest output tokens within the limit
  std::optional<std::size_t> runner_up;  // absent when no other system can
  std::string certainty;                 // "clear", "likely", "open", "only"
};

struct SweepResult {
  Scenario scenario;
  std::vector<workloads::ModelSpec> models;
  std::vector<workloads::ModelParameters> parameters;
  std::vector<hwmodels::Hardware> hardware;   // one per scenario system
  std::vector<std::string> precision_titles;  // one per scenario system
  std::vector<CurvePoint> curves;
  std::vector<SweepPoint> points;
  std::vector<Answer> answers;
  std::string paragraph;
  ListPrices list;
  std::vector<std::string> assumptions;
  std::vector<std::string> source_ids;
  std::string config_hash;  // of everything resolved: scenario, models, systems, prices
  std::string command;
};

SweepResult run_context_sweep(const Scenario& scenario, const std::filesystem::path& configs);

}  // namespace foretoken::analysis
