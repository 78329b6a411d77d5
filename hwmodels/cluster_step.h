// A whole step on all its devices: every rank's lowered step side by side in one task graph, with
// the fabric's links in the place of each rank's share of them.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "hwmodels/cluster.h"
#include "hwmodels/hardware.h"
#include "hwmodels/lower.h"
#include "hwmodels/stack.h"
#include "sim/task/task_graph.h"
#include "workloads/model_spec.h"
#include "workloads/op_graph.h"
#include "workloads/plan.h"
#include "workloads/precision.h"
#include "workloads/routing_load.h"

namespace foretoken::hwmodels {

// Token-expert pairs between the ranks of an expert-parallel group: what makes ranks unlike.
struct PairMatrix {
  std::int64_t ranks = 0;
  std::vector<double> pairs;          // [source][destination], the own rank included
  std::vector<std::int64_t> touched;  // experts of each rank that get any

  [[nodiscard]] double at(std::int64_t source, std::int64_t destination) const {
    return pairs[static_cast<std::size_t>(source * ranks + destination)];
  }
  [[nodiscard]] double sent_by(std::int64_t source) const;
  [[nodiscard]] double held_by(std::int64_t destination) const;
};
PairMatrix pair_matrix(const workloads::ExpertLoad& load);

struct ClusterOptions {
  // Copies of the plan side by side, each with a batch of its own.
  std::int64_t instances = 1;
  // Where copies stand: one after another, or dealt out, so that neighbouring devices belong to
  // different ones.
  bool strided = false;
  FabricRouting routing = FabricRouting::kTwoPath;
  // First device of the pool that takes over the prompts' cache (prefill): layer by layer, a rank
  // sends what its attention wrote while the layer's experts run.
  std::optional<std::int64_t> cache_to = std::nullopt;
  double cache_bytes = 0.0;  // a rank's, per layer
  // Of all blocks only this one, once.
  std::string only_block = {};
};

// Ranks are numbered as in the plan, tensor-parallel ones innermost, then context, then data; the
// experts' groups are runs of ranks, pipeline stages outermost. Traffic of a rank is one flow: what
// it pulls from the others of its group (dispatch, collectives) or pushes to them (combine). It
// starts when all of them have it ready. How many bytes: as many as keep links busy, on the closed
// form, as long as the lowered kernel says; with a PairMatrix they are divided as it says.
class ClusterStep {
 public:
  // Borrows everything but the options. Throws UnsupportedError when the system has too few
  // devices.
  ClusterStep(const workloads::ModelSpec& model, const workloads::Precision& precision,
              const workloads::ParallelPlan& plan, const Hardware& hardware, const Rates& rates,
              const Stack& stack, ClusterOptions options);

  // Replaces graph(). Copy i takes matrix i modulo their number; none: what the plan says of each
  // rank, and even traffic. Under a plan whose routing is by hash the matrices are for hash layers
  // alone. A matrix needs experts over all ranks of a stage.
  void build(const workloads::Batch& batch, std::span<const PairMatrix> loads = {});

  [[nodiscard]] const task::TaskGraph& graph() const { return *graph_; }
  [[nodiscard]] const FabricGraph& fabric() const { return fabric_; }
  [[nodiscard]] const ClusterResources& resources() const { return resources_; }
  [[nodiscard]] const workloads::OpGraph& ops() const { return classes_.front().ops; }
  [[nodiscard]] std::int64_t devices() const { return devices_; }
  [[nodiscard]] std::int64_t device(std::int64_t instance, std::int64_t stage,
                                    std::int64_t rank) const;

  // Where a task ran: kNowhere for joins.
  static constexpr std::uint32_t kNowhere = 0xffffffffu;
  struct Place {
    std::uint32_t device = kNowhere;
    bool communication = false;
  };
  // Of each task of graph().
  [[nodiscard]] std::span<const Place> places() const { return places_; }
  // Label of joins and cache transfers, above all roles.
  static constexpr task::LabelId kJoin = workloads::kRoles;
  static constexpr task::LabelId kCacheTransfer = workloads::kRoles + 1;
  // Of each segment of graph().
  struct Part {
    std::uint32_t block = 0;
    std::int64_t stage = 0;
  };
  [[nodiscard]] std::span<const Part> parts() const { return parts_; }
  // Kinds of ranks that were priced.
  [[nodiscard]] std::size_t class_count() const { return classes_.size(); }

 private:
  struct Class {
    workloads::OpGraph ops;
    task::TaskGraph graph;
  };
  enum class Group : std::uint8_t { kTensor, kContext, kContextRing, kExpert, kStage };
  // Ranks of a stage that exchange something, and how long one byte to each of the others keeps the
  // busiest link busy on the closed form.
  struct Exchange {
    Group group = Group::kExpert;
    std::int64_t members = 1;
    std::int64_t step = 1;  // from one member to the next
    double unit = 0.0;      // s; 0: nothing moves
  };

  struct Emitter;

  void find_classes(const workloads::Batch& batch, std::span<const PairMatrix> loads);
  void emit_segment(std::size_t segment, std::int64_t stage, std::span<const PairMatrix> loads);
  void emit_cache_transfer(std::int64_t stage);
  [[nodiscard]] Exchange exchange_of(workloads::Role role, const workloads::OpGraph& ops,
                                     const workloads::Block& block) const;
  [[nodiscard]] bool takes_load(const workloads::Block& block) const;
  [[nodiscard]] std::int64_t leader(const Exchange& e, std::int64_t rank) const;
  task::TaskId add(task::LabelId label, task::QueueId queue, base::Seconds latency,
                   std::span<const task::Demand> demands, std::span<const task::TaskId> after,
                   Place place, base::Seconds own = {});
  [[nodiscard]] const Class& class_of(std::int64_t instance, std::int64_t rank) const {
    return classes_[class_index_[static_cast<std::size_t>(
        (instance % patterns_) * plan_.stage_ranks() + rank)]];
  }

  const workloads::ModelSpec& model_;
  const workloads::Precision& precision_;
  const workloads::ParallelPlan& plan_;
  Hardware hardware_;  // with the routing in use
  const Rates& rates_;
  const Stack& stack_;
  ClusterOptions options_;
  std::int64_t devices_;
  FabricGraph fabric_;
  ClusterResources resources_;
  std::unique_ptr<task::TaskGraph> graph_;
  std::vector<Place> places_;
  std::vector<Part> parts_;
  Lowering lowering_;
  std::vector<Class> classes_;
  std::vector<std::uint32_t> class_index_;  // [pattern][rank]
  std::int64_t patterns_ = 1;               // instances with loads of their own
  Traffic traffic_;
};

// Links of one dimension over a step.
struct LinkUse {
  std::string name;
  double mean = 0.0;     // of the time, over the links of devices in use
  double busiest = 0.0;  // the busiest of them
};
std::vector<LinkUse> link_use(const ClusterStep& step, std::span<const base::Seconds> busy,
                              base::Seconds total);

}  // namespace foretoken::hwmodels
