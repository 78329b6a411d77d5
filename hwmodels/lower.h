// From the operators of a step to tasks on a device's resources.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "hwmodels/hardware.h"
#include "hwmodels/op_cost.h"
#include "hwmodels/stack.h"
#include "sim/task/task_graph.h"
#include "workloads/op_graph.h"

namespace foretoken::hwmodels {

// Queues of the task graphs built here.
inline constexpr task::QueueId kComputeQueue = 0;
inline constexpr task::QueueId kCommunicationQueue = 1;

// Lowers operator graphs again and again without touching the heap. A task's label is the Role of
// the operator whose kernel it is; a segment's label is the block's index.
class Lowering {
 public:
  Lowering();

  // One task per kernel (operators fused as `stack` says), every kernel with its launch and
  // pipeline fill; communication on its own queue, overlapped as the plan says. Replaces graph().
  void lower(const workloads::OpGraph& ops, const workloads::ParallelPlan& plan,
             const Hardware& hardware, const Rates& rates, const Stack& stack);

  [[nodiscard]] const task::TaskGraph& graph() const { return graph_; }

 private:
  static constexpr std::uint32_t kNone = 0xffffffffu;

  struct Kernel {
    Cost cost;
    workloads::Role role = workloads::Role::kEmbed;
    // Latest kernel of each queue that this one waits for.
    std::array<std::uint32_t, 2> after = {kNone, kNone};
    task::TaskId task = 0;

    [[nodiscard]] std::size_t queue() const { return cost.communication ? 1 : 0; }
  };

  void gather_kernels(const workloads::OpGraph& ops, const workloads::Block& block,
                      const workloads::ParallelPlan& plan, const Stack& stack);
  static double flight_of(const Kernel& kernel, const Rates& rates);
  void emit_block(const workloads::ParallelPlan& plan, const Rates& rates);
  void emit_waves(std::size_t first_expert, std::int64_t waves, const Rates& rates);
  void emit_part(std::size_t kernel, std::int64_t parts, const Rates& rates);
  task::TaskId emit(const Kernel& kernel, const Cost& cost, double latency, double scale,
                    std::uint32_t extra_dependency);

  // Operators and their costs, by role: kinds of layers share most operators, from step to step
  // most stay as they were, and a search comes back to the same ones. A place holds the latest
  // operator that fell there.
  struct Remembered {
    workloads::Op op;
    Cost cost;
    bool valid = false;
  };
  static constexpr std::size_t kPlaces = 64;

  void add_remembered_cost(const workloads::OpNode& node, double loss, Cost& sum);
  [[nodiscard]] std::int64_t waves_by_rule(const workloads::Op& op) const;

  task::TaskGraph graph_;
  std::vector<Kernel> kernels_;
  std::vector<std::uint32_t> kernel_of_;  // node in block -> kernel
  std::array<std::uint32_t, workloads::kRoles> kernel_by_role_{};
  std::array<std::vector<Remembered>, workloads::kRoles> remembered_{};  // empty or kPlaces
  KernelCosts costs_;
  Rates remembered_rates_;
  const Hardware* remembered_hardware_ = nullptr;
  bool separate_queues_ = true;
  std::int64_t rule_waves_ = 1;  // of the block in hand
  // Tasks of the waves of the block in hand: dispatched, then computed.
  std::vector<task::TaskId> arrivals_;
  std::vector<task::TaskId> results_;
};

}  // namespace foretoken::hwmodels
