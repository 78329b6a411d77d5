// From the operators of a step to tasks on a device's resources.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "hwmodels/expert_waves.h"
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
  // pipeline fill; communication on its own queue, overlapped as the plan says. In waves
  // and pairwise, experts and their traffic are fused and priced as expert_waves.h does; throws
  // UnsupportedError where the chip's kernels have no design of it. Replaces graph().
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
  void emit_block(const Rates& rates);
  void emit_arrivals(std::size_t kernel);
  void emit_products(std::size_t kernel);
  void emit_returns(std::size_t kernel);
  // `own`: what the task takes when nothing is shared, where that is more than its largest demand.
  task::TaskId emit(const Kernel& kernel, const Cost& cost, double latency, double own,
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

  // Experts and their traffic as one kernel. What it is made of, then what it costs.
  struct FusedLayer {
    workloads::Dispatch dispatch{};
    workloads::GroupedGemm first{};
    std::int64_t waves = 0;  // as the plan has them
    bool quantises = false;  // no operator before it does
    bool pairwise = false;   // two kernels: all first products before any second one
    bool operator==(const FusedLayer&) const = default;
  };
  struct FusedWave {
    Cost arrive, leave;  // its part of the links
    std::array<Cost, 2> product;
    std::array<double, 2> seconds{};  // of each, alone
  };
  struct FusedCost {
    FusedLayer layer;
    bool valid = false;
    double start = 0.0;   // to the first token's arrival
    double tile = 0.0;    // the first one
    double second = 0.0;  // launch of the second kernel
    double finish = 0.0;  // from the last product's end, the sum over a token's experts apart
    Cost sum;
    std::vector<FusedWave> waves;
  };
  static constexpr std::size_t kFusedPlaces = 32;

  bool find_fused_layer(const workloads::OpGraph& ops, const workloads::Block& block,
                        const workloads::ParallelPlan& plan);
  const FusedCost& remembered_fused_cost();
  void price(const FusedLayer& layer, FusedCost& out);

  task::TaskGraph graph_;
  std::vector<Kernel> kernels_;
  std::vector<std::uint32_t> kernel_of_;  // node in block -> kernel
  std::array<std::uint32_t, workloads::kRoles> kernel_by_role_{};
  std::array<std::vector<Remembered>, workloads::kRoles> remembered_{};  // empty or kPlaces
  KernelCosts costs_;
  Rates remembered_rates_;
  const Hardware* remembered_hardware_ = nullptr;
  bool separate_queues_ = true;
  // Of the block in hand: its experts if they are fused with their traffic, tasks after which waves
  // are there, tasks after which their results leave, and the latest product.
  bool fused_ = false;
  FusedLayer fused_layer_;
  const FusedCost* fused_cost_ = nullptr;
  task::TaskId computed_ = 0;
  std::vector<task::TaskId> arrivals_;
  std::vector<task::TaskId> results_;

  std::vector<FusedCost> fused_costs_;  // empty or kFusedPlaces
  std::size_t fused_waves_ = 0;         // that each has room for
  ExpertPricing pricing_;
  std::vector<std::int64_t> fused_rows_;
  std::vector<ExpertWave> expert_waves_;
};

}  // namespace foretoken::hwmodels
