// One engine step simulated on all its devices: what StepEvaluator answers for one of them.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "analysis/step.h"
#include "hwmodels/cluster_step.h"
#include "sim/task/timeline.h"

namespace foretoken::analysis {

struct ClusterPlacement {
  std::int64_t instances = 1;  // copies of the plan, each with the batch
  bool strided = false;
  // Prefill: first device of a decode pool as large, which takes over the prompts' cache.
  std::optional<std::int64_t> cache_to = std::nullopt;
  // Of sharing (engine::SimulateOptions).
  double tolerance = 0.0;
};

// Routes are those of the deployment's system. Where the plan's tokens choose unevenly and experts
// are over all ranks of a stage, every rank has the pairs of one draw: the draw that is typical for
// its slowest rank, copies of the plan those that follow it.
class ClusterRun {
 public:
  ClusterRun(const Deployment& deployment, const ClusterPlacement& placement,
             const workloads::Batch& batch);

  // Bounds and labels of the critical path over all ranks; utilisation is the mean over devices, of
  // links that of the most used dimension of a kind.
  [[nodiscard]] const StepResult& result() const { return result_; }
  [[nodiscard]] const std::vector<hwmodels::LinkUse>& links() const { return links_; }
  [[nodiscard]] const hwmodels::ClusterStep& step() const { return step_; }
  [[nodiscard]] const task::Timeline& timeline() const { return timeline_; }

 private:
  hwmodels::Rates rates_;
  hwmodels::ClusterStep step_;
  task::Timeline timeline_;
  StepResult result_;
  std::vector<hwmodels::LinkUse> links_;
};

// Of a task's label: a role, or what the cluster adds to them.
std::string_view label_name(task::LabelId label);

// The step as Chrome trace events, which Perfetto opens: blocks in the order they run; a process
// per device, of the first `devices`, with threads for computing, arriving and returning; counters
// of how busy each dimension's links are over all devices.
std::string cluster_trace_json(const ClusterRun& run, const std::string& title,
                               std::int64_t devices);

}  // namespace foretoken::analysis
