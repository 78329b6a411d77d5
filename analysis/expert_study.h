// What overlapping an expert layer's traffic with its products is worth: in theory over the ratio
// of both, and in the model on given systems beside published figures. Scenario kind
// `expert_waves`.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "hwmodels/expert_waves.h"
#include "sim/base/config.h"
#include "sim/base/evidence.h"

namespace foretoken::analysis {

// Perfect overlap without launches. Times are in units of both products.
struct OverlapCase {
  double ratio = 1.0;       // traffic over products
  double activation = 0.0;  // between them, hidden by nothing of its own rank
  std::int64_t waves = 0;   // also chunks of pairwise overlap; 0: infinitely many
};
struct OverlapTimes {
  double serial = 0.0;
  double pairwise = 0.0;
  double waves = 0.0;
  [[nodiscard]] double pairwise_speedup() const { return serial / pairwise; }
  [[nodiscard]] double waves_speedup() const { return serial / waves; }
};
// Dispatch is a third of the traffic and the first product two thirds of the products.
OverlapTimes overlap_times(const OverlapCase& c);

// FLOP per byte at which traffic takes `ratio` times as long as products of this inner width:
// 6 h d FLOPs against 3 h bytes of a pair.
double flops_per_byte(double ratio, std::int64_t inner);

// Ratios at which both speed-ups hold, and what has to be assumed for it.
struct OverlapSolution {
  OverlapCase at;
  double flops_per_byte = 0.0;  // of the study's theory model; filled by run_expert_study
  double pairwise_speedup = 1.0;
  double waves_speedup = 1.0;
};
// The smallest ratio at which waves give `speedup`, for this activation and number of waves; false
// where none does.
bool ratio_for_waves(double speedup, double activation, std::int64_t waves, double& ratio);
// Activation times for which pairwise overlap gives `pairwise` at that ratio; false where none
// does.
bool activation_for_both(double waves_speedup, double pairwise_speedup, std::int64_t waves,
                         OverlapSolution& solution);

struct ExpertStudySystem {
  std::string name;
  std::vector<std::int64_t> ranks;
};

struct PublishedSpeedup {
  std::string model;
  std::string system;
  std::int64_t ranks = 8;
  std::int64_t tokens = 1;
  double speedup = 1.0;
};

struct ExpertStudy {
  std::string name;
  std::string title;
  std::string theory_model;
  std::vector<double> ratios;
  std::vector<std::int64_t> waves;
  std::vector<double> activations;
  double waves_target = 1.92;
  double pairwise_target = 1.42;
  std::vector<std::string> models;
  std::vector<std::int64_t> tokens;
  std::vector<ExpertStudySystem> systems;
  std::vector<PublishedSpeedup> published;
  std::string source;
};
void describe(base::ConfigVisitor& v, ExpertStudy& study);

// Whether a scenario's file is of this kind.
bool is_expert_study(const std::string& name_or_path, const std::filesystem::path& configs);
ExpertStudy load_expert_study(const std::string& name_or_path, const std::filesystem::path& configs,
                              const std::vector<std::string>& overrides);

struct OverlapPoint {
  OverlapCase at;
  OverlapTimes times;
};

// A chip's peak over its links, beside the ratio that traffic then has to the products at peak.
struct HardwareRatio {
  std::string system;
  double flops_per_byte = 0.0;
  double ratio = 0.0;
  OverlapTimes times;  // infinitely many waves, no activation
};

struct SpeedupPoint {
  std::string model;
  std::string system;
  std::int64_t ranks = 8;
  std::int64_t tokens = 1;
  hwmodels::ExpertTime fused;
  hwmodels::ExpertTime normal;       // separate kernels, dispatch for throughput
  hwmodels::ExpertTime low_latency;  // separate kernels, low-latency dispatch
  hwmodels::ExpertTime two_batch;
  hwmodels::ExpertTime pairwise;
  base::Interval speedup;  // of fused over normal
  base::Interval fused_seconds;
  double published = 0.0;  // 0: none
  base::Basis basis = base::Basis::kAssumed;
};

struct ExpertStudyResult {
  ExpertStudy study;
  std::vector<OverlapPoint> theory;
  std::vector<OverlapSolution> solutions;
  std::vector<HardwareRatio> hardware;
  std::vector<SpeedupPoint> practice;
  std::string command;
};
ExpertStudyResult run_expert_study(const ExpertStudy& study, const std::filesystem::path& configs);

}  // namespace foretoken::analysis
