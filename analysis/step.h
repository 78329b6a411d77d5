// One engine step of a model on a system: its time, where the time goes, and what fits in memory.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>

#include "hwmodels/hardware.h"
#include "hwmodels/lower.h"
#include "sim/task/timeline.h"
#include "workloads/op_graph.h"
#include "workloads/precision.h"

namespace foretoken::analysis {

// What runs where. Everything here is fixed while batch and context vary.
struct Deployment {
  const workloads::ModelSpec* model = nullptr;
  const hwmodels::Hardware* hardware = nullptr;
  const hwmodels::Stack* stack = nullptr;
  workloads::Precision precision;
  workloads::ParallelPlan plan;
  bool draft = false;  // the draft module is loaded
};

// Bounds a step can have: the units of a device, then latency.
inline constexpr int kBounds = hwmodels::kUnits + 1;
std::string_view bound_name(int bound);

struct StepResult {
  base::Seconds time;  // host work between steps included
  // Share of the time each bound accounts for on the critical path; sums to 1.
  std::array<double, kBounds> shares{};
  std::array<double, hwmodels::kUnits> utilisation{};  // busy time over step time
  [[nodiscard]] int bound() const;                     // the largest share
};

// What a step takes whose kernels end after `kernels`, by what the deployment's stack loses:
// waiting between kernels, and host work.
struct StepTime {
  base::Seconds running;
  base::Seconds host;
  [[nodiscard]] base::Seconds total() const { return running + host; }
};
StepTime step_time(const Deployment& deployment, const hwmodels::Rates& rates,
                   base::Seconds kernels, workloads::Phase phase);

// Evaluates steps of one deployment again and again without touching the heap. The rank evaluated
// is the one with the largest share of everything that does not divide evenly.
class StepEvaluator {
 public:
  explicit StepEvaluator(const Deployment& deployment, const hwmodels::Tuning& tuning = {});

  // Closed form.
  StepResult estimate(const workloads::Batch& batch);
  // The same task graph on SystemC, with sharing and queueing.
  StepResult simulate(const workloads::Batch& batch);

  [[nodiscard]] const workloads::OpGraph& ops() const { return ops_; }
  [[nodiscard]] const task::TaskGraph& tasks() const { return lowering_.graph(); }
  [[nodiscard]] const task::Timeline& timeline() const { return timeline_; }
  [[nodiscard]] const Deployment& deployment() const { return deployment_; }

 private:
  void build(const workloads::Batch& batch);
  StepResult summarize(workloads::Phase phase) const;

  Deployment deployment_;
  hwmodels::Rates rates_;
  workloads::OpGraph ops_;
  hwmodels::Lowering lowering_;
  task::Timeline timeline_;
};

// Memory of one device under a deployment.
struct MemoryUse {
  double weights = 0.0;       // B
  double per_sequence = 0.0;  // B of KV cache for one sequence on the rank that holds it
  double capacity = 0.0;      // B usable: capacity times the share given to weights and cache
};
MemoryUse memory_use(const Deployment& deployment, std::int64_t context, double usable_share);

// Sequences per data-parallel rank that fit beside the weights; nullopt when the weights alone do
// not.
std::optional<std::int64_t> sequences_that_fit(const MemoryUse& use);

}  // namespace foretoken::analysis
