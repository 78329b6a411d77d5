// From operators to tasks: what fusion, queues and waves change, and what they must not.
#include "hwmodels/lower.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <set>
#include <variant>

#include "hwmodels/designs.h"
#include "sim/base/error.h"
#include "sim/task/estimate.h"
#include "tests/hwmodels/fixtures.h"
#include "tests/sim/base/test_support.h"

namespace foretoken::hwmodels {
namespace {

namespace w = workloads;
using test_support::configs;
using w::Overlap;
using w::Role;

struct Case {
  std::string model, system, precision, plan;
  w::Phase phase;
};

const std::vector<Case>& cases() {
  static const std::vector<Case> all = {
      {"deepseek-v4-pro", "gb300_nvl72", "release", "dp=64", w::Phase::kDecode},
      {"deepseek-v4-pro", "atlas_950_cabinet", "ascend-950", "tp=2,dp=32", w::Phase::kPrefill},
      {"deepseek-v4-flash", "hgx_h200", "fp8-index", "dp=8", w::Phase::kDecode},
      {"deepseek-v4-flash", "hgx_h200", "fp8-index", "tp=8", w::Phase::kDecode},
      {"deepseek-v4.1-flash", "cloudmatrix384", "int8", "dp=16", w::Phase::kDecode},
      {"deepseek-v3.2", "hgx_b200", "release", "dp=8", w::Phase::kDecode},
      {"deepseek-v3.2", "hgx_b200", "release", "dp=8", w::Phase::kPrefill},
      {"deepseek-v3.2", "hgx_h200_x4", "fp8-index", "tp=8,pp=4", w::Phase::kDecode},
  };
  return all;
}

struct Lowered {
  w::ModelSpec model;
  Hardware hardware;
  Rates rates;
  w::ParallelPlan plan;
  w::OpGraph ops;
  Lowering lowering;

  Lowered(const Case& c, Overlap overlap, const std::string& stack)
      : model(test_support::model(c.model)),
        hardware(test_support::hardware(c.system)),
        rates(derive_rates(hardware)),
        plan(w::parse_plan(c.plan)) {
    plan.overlap = overlap;
    w::Batch batch;
    batch.phase = c.phase;
    batch.sequences = plan.dp * 4;
    batch.context = 8192;
    batch.new_tokens = c.phase == w::Phase::kDecode ? 2 : 4096;
    batch.draft_tokens = c.phase == w::Phase::kDecode ? 1 : 0;
    w::build_graph(model, test_support::precision(c.precision, model), plan, batch,
                   plan.stage_ranks() - 1, ops);
    lowering.lower(ops, plan, hardware, rates, load_stack(stack, configs()));
  }
  [[nodiscard]] const task::TaskGraph& graph() const { return lowering.graph(); }
};

std::string describe(const Case& c, Overlap overlap, const std::string& stack) {
  return c.model + " on " + c.system + " " + c.plan +
         (c.phase == w::Phase::kDecode ? " decode" : " prefill") + " overlap " +
         std::to_string(static_cast<int>(overlap)) + " " + stack;
}

template <class F>
void for_each_case(F&& f) {
  for (const Case& c : cases()) {
    for (const Overlap overlap : {Overlap::kNone, Overlap::kShared, Overlap::kWaves}) {
      for (const std::string stack : {"unfused", "serving"}) {
        SCOPED_TRACE(describe(c, overlap, stack));
        const Lowered l(c, overlap, stack);
        f(c, overlap, stack, l);
      }
    }
  }
}

TEST(Lower, EveryDemandOfEveryOperatorIsConserved) {
  for_each_case([](const Case&, Overlap overlap, const std::string&, const Lowered& l) {
    // Experts and their traffic in one kernel add demands of their own.
    const bool waves = overlap == Overlap::kWaves && l.plan.ep > 1 && l.plan.dp > 1;
    const auto in_waves = [&](Role role) {
      return waves &&
             (role == Role::kDispatch || role == Role::kExpertGateUp ||
              role == Role::kExpertSwiglu || role == Role::kExpertDown || role == Role::kCombine);
    };
    std::array<double, kUnits> asked{};
    for (const w::Block& b : l.ops.blocks) {
      for (const w::OpNode& node : l.ops.ops(b)) {
        if (in_waves(node.role)) continue;
        const Cost c = cost(node.op, l.hardware, l.rates);
        for (std::size_t u = 0; u < asked.size(); ++u) asked[u] += c.busy[u] * b.repeat;
      }
    }
    std::array<double, kUnits> lowered{};
    for (std::size_t s = 0; s < l.graph().segments().size(); ++s) {
      const auto demand = l.graph().segment_demand(s);
      for (std::size_t u = 0; u < lowered.size(); ++u) {
        lowered[u] += demand[u].value() * l.graph().segments()[s].repeat;
      }
    }
    for (std::size_t u = 0; u < asked.size(); ++u) {
      if (waves) {
        EXPECT_GE(lowered[u], asked[u] * (1.0 - 1e-9)) << kUnitNames[u];
      } else {
        EXPECT_NEAR(lowered[u], asked[u], 1e-9 * asked[u]) << kUnitNames[u];
      }
    }
  });
}

TEST(Lower, TheUnfusedStackLaunchesOneKernelPerOperatorAndTheServingStackFewer) {
  for (const Case& c : cases()) {
    const Lowered unfused(c, Overlap::kShared, "unfused");
    const Lowered serving(c, Overlap::kShared, "serving");
    SCOPED_TRACE(describe(c, Overlap::kShared, ""));
    EXPECT_EQ(unfused.graph().tasks().size(), unfused.ops.nodes.size());
    EXPECT_LT(serving.graph().tasks().size(), 0.8 * unfused.graph().tasks().size());
    const double start = unfused.rates.launch;
    for (const task::Task& t : unfused.graph().tasks()) EXPECT_GE(t.latency.value(), start);
    for (const task::Task& t : serving.graph().tasks()) EXPECT_GE(t.latency.value(), start);
  }
}

TEST(Lower, FusionNeverMakesAStepSlower) {
  for (const Case& c : cases()) {
    task::Timeline unfused;
    task::Timeline serving;
    task::estimate(Lowered(c, Overlap::kNone, "unfused").graph(), unfused);
    task::estimate(Lowered(c, Overlap::kNone, "serving").graph(), serving);
    EXPECT_LT(serving.total, unfused.total) << describe(c, Overlap::kNone, "");
  }
}

TEST(Lower, WithoutOverlapEverythingRunsInOneQueue) {
  for_each_case([](const Case&, Overlap overlap, const std::string&, const Lowered& l) {
    bool communicates = false;
    for (const task::Task& t : l.graph().tasks()) {
      communicates = communicates || t.queue == kCommunicationQueue;
    }
    bool traffic = false;
    for (const w::OpNode& node : l.ops.nodes) {
      traffic = traffic || cost(node.op, l.hardware, l.rates).communication;
    }
    EXPECT_TRUE(traffic);
    EXPECT_EQ(communicates, overlap != Overlap::kNone);
  });
}

TEST(Lower, LabelsAreRolesOfTheBlockTheySitIn) {
  for_each_case([](const Case&, Overlap overlap, const std::string& stack, const Lowered& l) {
    const Stack fused = load_stack(stack, configs());
    ASSERT_EQ(l.graph().segments().size(), l.ops.blocks.size());
    for (std::size_t s = 0; s < l.ops.blocks.size(); ++s) {
      std::set<task::LabelId> possible;
      for (const w::OpNode& node : l.ops.ops(l.ops.blocks[s])) {
        possible.insert(static_cast<task::LabelId>(node.role));
        possible.insert(static_cast<task::LabelId>(fused.host[w::index_of(node.role)]));
      }
      const task::Segment& segment = l.graph().segments()[s];
      EXPECT_EQ(segment.label, s);
      EXPECT_EQ(segment.repeat, l.ops.blocks[s].repeat);
      std::map<task::LabelId, int> tasks;
      for (task::TaskId id = segment.first; id < segment.first + segment.count; ++id) {
        const task::Task& t = l.graph().tasks()[id];
        EXPECT_TRUE(possible.contains(t.label)) << w::kRoleNames[t.label];
        ++tasks[t.label];
        // What is called dispatch or combine is traffic.
        const auto role = static_cast<Role>(t.label);
        if (overlap != Overlap::kNone && (role == Role::kDispatch || role == Role::kCombine)) {
          EXPECT_EQ(t.queue, kCommunicationQueue) << w::kRoleNames[t.label];
        }
      }
      for (const auto& [label, n] : tasks) {
        // An operator listed to join a kernel behind an all-reduce starts one of that name early.
        const bool split = l.plan.tp > 1 && static_cast<Role>(label) == Role::kHcFfnPost;
        if (overlap != Overlap::kWaves) {
          EXPECT_LE(n, split ? 2 : 1) << w::kRoleNames[label] << " in " << l.ops.blocks[s].name;
        } else {
          // Results of every wave, then their sum.
          const bool returns = static_cast<Role>(label) == Role::kCombine;
          EXPECT_TRUE(n == 1 || n == l.plan.waves + (returns ? 1 : 0) || (split && n == 2))
              << w::kRoleNames[label];
        }
      }
    }
  });
}

TEST(Lower, OnlyExpertKernelsAndTheirTrafficRunInWaves) {
  const Lowered l(cases()[5], Overlap::kWaves, "serving");  // V3.2: residual after the combine
  std::set<Role> repeated;
  for (std::size_t s = 0; s < l.ops.blocks.size(); ++s) {
    std::map<task::LabelId, int> tasks;
    const task::Segment& segment = l.graph().segments()[s];
    for (task::TaskId id = segment.first; id < segment.first + segment.count; ++id) {
      ++tasks[l.graph().tasks()[id].label];
    }
    for (const auto& [label, n] : tasks) {
      if (n == 1) continue;
      repeated.insert(static_cast<Role>(label));
      const bool returns = static_cast<Role>(label) == Role::kCombine;
      EXPECT_EQ(n, l.plan.waves + (returns ? 1 : 0)) << w::kRoleNames[label];
    }
  }
  EXPECT_THAT(repeated, testing::UnorderedElementsAre(Role::kDispatch, Role::kExpertGateUp,
                                                      Role::kExpertDown, Role::kCombine));
}

// Busy time of all units at an operator, in the first block that has it.
double busy_at(const task::TaskGraph& graph, Role role) {
  for (const task::Task& t : graph.tasks()) {
    if (static_cast<Role>(t.label) != role) continue;
    double sum = 0.0;
    for (const task::Demand& d : graph.demands(t)) sum += d.busy.value();
    return sum;
  }
  return 0.0;
}

TEST(Lower, ExpertsWithFp4WeightsAreSlowerInsideAnEngineUnlessFusedWithTheirTraffic) {
  const auto ratio = [](const Case& c, Overlap overlap, Role role) {
    const Lowered alone(c, overlap, "serving");
    Lowered inside(c, overlap, "serving");
    Stack stack = load_stack("serving", configs());
    stack.fp4_expert_rate = {0.5, 0.5, 0.5};
    inside.lowering.lower(inside.ops, inside.plan, inside.hardware, inside.rates, stack);
    return busy_at(inside.graph(), role) / busy_at(alone.graph(), role);
  };
  const Case& fp4 = cases()[0];
  EXPECT_NEAR(ratio(fp4, Overlap::kNone, Role::kExpertDown), 2.0, 1e-9);
  EXPECT_NEAR(ratio(fp4, Overlap::kShared, Role::kExpertDown), 2.0, 1e-9);
  EXPECT_NEAR(ratio(fp4, Overlap::kWaves, Role::kExpertGateUp), 1.0, 1e-9);
  EXPECT_NEAR(ratio(fp4, Overlap::kNone, Role::kSharedDown), 1.0, 1e-9);
  // V3.2's experts have FP8 weights.
  EXPECT_NEAR(ratio(cases()[5], Overlap::kNone, Role::kExpertDown), 1.0, 1e-9);
}

TEST(Lower, TasksWaitForWhatTheyNeed) {
  // The latest kernel of each queue that an operator depends on ends before its own starts.
  for (const Case& c : cases()) {
    const Lowered l(c, Overlap::kShared, "unfused");
    SCOPED_TRACE(describe(c, Overlap::kShared, "unfused"));
    task::Timeline t;
    task::estimate(l.graph(), t);
    for (std::size_t i = 0; i < l.ops.nodes.size(); ++i) {
      const w::OpNode& node = l.ops.nodes[i];
      for (std::uint8_t d = 0; d < node.dependency_count; ++d) {
        EXPECT_GE(t.tasks[i].start.value() * (1.0 + 1e-12),
                  t.tasks[node.dependencies[d]].end.value());
      }
    }
  }
}

// Dispatch, experts, combine on a fabric and a chip whose rates make them take as long as wanted.
struct WaveSketch {
  Hardware hardware = test_support::round_hardware();
  Rates rates = test_support::round_rates();
  w::OpGraph ops;
  Stack stack = load_stack("unfused", configs());

  explicit WaveSketch(double link_gigabytes) {
    FabricDimension d;
    d.size = 8;
    d.bandwidth = base::BytesPerSecond{link_gigabytes * 1e9};
    hardware.system.name = "sketch";
    hardware.system.fabric = {d};
    hardware.kernels.expert_layer.name = "sketch";
    hardware.kernels.expert_waves.product = hardware.kernels.grouped_fp8;
    hardware.kernels.expert_waves.product.persistent = true;
    hardware.kernels.expert_waves.product.accumulators = 2;
    // Nothing but matrix and link counts.
    for (double* rate : {&rates.cache, &rates.memory, &rates.vector_fp32, &rates.vector_fp16,
                         &rates.special, &rates.core.cache, &rates.core.memory, &rates.core.port,
                         &rates.core.lanes32, &rates.core.lanes16, &rates.core.special}) {
      *rate = 1e21;
    }
    const auto fp8 = w::Dtype::kFp8;
    const auto add = [&](Role role, const w::Op& op, const std::vector<std::uint32_t>& inputs) {
      w::OpNode& node = ops.nodes.emplace_back();
      node.op = op;
      node.role = role;
      for (const std::uint32_t i : inputs) node.dependencies[node.dependency_count++] = i;
    };
    add(Role::kDispatch, w::Dispatch{1280, 10240, 8960, 1280, 8, fp8}, {});
    add(Role::kExpertGateUp,
        w::GroupedGemm{10240, 10, 10, 2560, 1280, fp8, fp8, fp8, w::Dtype::kBf16, 128}, {0});
    add(Role::kExpertDown,
        w::GroupedGemm{10240, 10, 10, 1280, 1280, fp8, fp8, fp8, w::Dtype::kBf16, 128}, {1});
    add(Role::kCombine, w::Combine{1280, 10240, 8960, 1280, 8, w::Dtype::kBf16}, {2});
    ops.blocks.push_back({"moe", 0, 4, 1});
  }

  // As in models: by a kernel of its own.
  void quantised_before() {
    w::OpNode node;
    node.op = w::VectorOp{w::VectorKind::kQuantise, 1280, 1280, w::Dtype::kBf16, w::Dtype::kFp8};
    node.role = Role::kQuantFfn;
    ops.nodes.insert(ops.nodes.begin(), node);
    for (std::size_t i = 1; i < ops.nodes.size(); ++i) {
      ops.nodes[i].dependencies[0] = static_cast<std::uint32_t>(i - 1);
      ops.nodes[i].dependency_count = 1;
    }
    ops.blocks.front().count = 5;
  }

  double time(Overlap overlap, std::int64_t waves) {
    w::ParallelPlan plan;
    plan.dp = plan.ep = 8;
    plan.overlap = overlap;
    plan.waves = waves;
    Lowering l;
    l.lower(ops, plan, hardware, rates, stack);
    task::Timeline t;
    task::estimate(l.graph(), t);
    matrix = t.busy[static_cast<std::size_t>(Unit::kMatrix)].value();
    link = t.busy[static_cast<std::size_t>(Unit::kScaleUp)].value();
    return t.total.value();
  }
  double matrix = 0.0;
  double link = 0.0;
};

// Tiles of a wave's experts may fill the cores less than those of all, and the first and the last
// one are not hidden.
constexpr double kFill = 1.01;

TEST(Waves, ApproachTheLargerOfComputeAndTrafficButNeverPassIt) {
  for (const double link : {20.0, 50.0, 100.0, 400.0}) {
    WaveSketch s(link);
    const double apart = s.time(Overlap::kNone, 1);
    EXPECT_NEAR(apart, s.matrix + s.link, 1e-9 * apart);
    const double larger = std::max(s.matrix, s.link);
    double last = apart;
    for (const std::int64_t waves : {2, 4, 8, 16, 64}) {
      const double t = s.time(Overlap::kWaves, waves);
      EXPECT_GE(t, larger * (1.0 - 1e-12)) << link << " " << waves;
      EXPECT_LE(t, last * kFill) << link << " " << waves;
      last = t;
    }
    EXPECT_LT(last, 1.05 * larger) << link;
  }
}

TEST(Waves, GainNoLessThanOverlappingEachProductWithItsOwnTraffic) {
  for (const double link : {20.0, 50.0, 100.0, 400.0}) {
    WaveSketch s(link);
    const double apart = s.time(Overlap::kNone, 1);
    for (const std::int64_t parts : {2, 8, 64}) {
      const double pairwise = s.time(Overlap::kPairwise, parts);
      EXPECT_LE(s.time(Overlap::kWaves, parts), pairwise * kFill) << link << " " << parts;
      EXPECT_LT(pairwise, apart * kFill) << link << " " << parts;
      // Results are twice as wide as tokens, the second product is half of the first.
      if (parts == 64) {
        const double larger = std::max(2.0 / 3.0 * s.matrix, s.link / 3.0) +
                              std::max(s.matrix / 3.0, 2.0 / 3.0 * s.link);
        EXPECT_NEAR(pairwise, larger, 0.1 * larger) << link;
      }
    }
  }
}

TEST(Waves, AreAsManyAsTheKernelsRuleMakesWhereThePlanSaysNone) {
  WaveSketch s(50.0);
  s.hardware.chip.cores = 10;
  s.hardware.kernels.expert_waves = std::get<kernels::ExpertWavesDesign>(
      load_design("blackwell_expert_waves", test_support::configs()).design);
  // 1,024 tokens an expert are 6 token tiles of 20 weight tiles: one expert fills 10 cores twice.
  EXPECT_DOUBLE_EQ(s.time(Overlap::kWaves, 0), s.time(Overlap::kWaves, 10));
}

TEST(Waves, OfOneAlreadySaveLaunchesAndReturnResultsBesideTheSecondProduct) {
  WaveSketch s(50.0);
  EXPECT_LT(s.time(Overlap::kWaves, 1), s.time(Overlap::kShared, 4));
}

TEST(Waves, PayOneLaunchInsteadOfOnePerKernel) {
  WaveSketch s(50.0);
  s.quantised_before();
  const double free = s.time(Overlap::kWaves, 4);
  s.rates.launch = 1e-6;
  // And one of the quantisation before them.
  EXPECT_NEAR(s.time(Overlap::kWaves, 4), free + 2e-6, 1e-12);
  const double none = s.time(Overlap::kNone, 4);
  s.rates.launch = 0.0;
  EXPECT_NEAR(none, s.time(Overlap::kNone, 4) + 5e-6, 1e-12);
}

TEST(Waves, OnAChipWithoutSuchAKernelAreAnError) {
  WaveSketch s(50.0);
  s.hardware.kernels.expert_layer = {};
  EXPECT_EQ(base::thrown<base::UnsupportedError>([&] { s.time(Overlap::kWaves, 4); }),
            "round has no kernel design of an expert layer in waves");
}

// One rank's experts and traffic, on a system as it is.
struct FusedBlock {
  Hardware hardware;
  Rates rates;
  ExpertLayer layer;
  w::GroupedGemm first{}, second{};
  w::OpGraph ops;

  FusedBlock(const std::string& system, std::int64_t tokens, w::Dtype weight, w::Dtype input)
      : hardware(test_support::hardware(system)), rates(derive_rates(hardware)) {
    layer = {.tokens = tokens,
             .hidden = 7168,
             .inner = 3072,
             .experts = 384,
             .topk = 6,
             .ranks = 8,
             .activation = input,
             .weight = weight,
             .compute = input};
    const std::int64_t pairs = layer.pairs();
    const std::int64_t active = std::min<std::int64_t>(48, pairs);
    first = {pairs, 48, active, 6144, 7168, input, weight, input, w::Dtype::kBf16, 128};
    second = {pairs, 48, active, 7168, 3072, input, weight, input, w::Dtype::kBf16, 128};
    add(Role::kDispatch, w::Dispatch{tokens, pairs, pairs - pairs / 8, 7168, 8, input}, {});
    add(Role::kExpertGateUp, first, {0});
    add(Role::kExpertSwiglu,
        w::VectorOp{w::VectorKind::kSwiglu, pairs, 3072, w::Dtype::kBf16, input}, {1});
    add(Role::kExpertDown, second, {2});
    add(Role::kCombine, w::Combine{tokens, pairs, pairs - pairs / 8, 7168, 8, w::Dtype::kBf16},
        {3});
    ops.blocks.push_back({"moe", 0, static_cast<std::uint32_t>(ops.nodes.size()), 1});
  }
  void add(Role role, const w::Op& op, const std::vector<std::uint32_t>& inputs) {
    w::OpNode& node = ops.nodes.emplace_back();
    node.op = op;
    node.role = role;
    for (const std::uint32_t i : inputs) node.dependencies[node.dependency_count++] = i;
  }
  [[nodiscard]] std::vector<std::int64_t> rows() const {
    std::vector<std::int64_t> out;
    std::int64_t hit = 0;
    for (std::int64_t i = 1; i <= first.groups; ++i) {
      const std::int64_t with = i * first.active / first.groups;
      out.push_back(
          with == hit ? 0 : with * first.rows / first.active - hit * first.rows / first.active);
      hit = with;
    }
    return out;
  }
  // Closed form of the layer, and its lowered block alone.
  std::pair<double, double> times(std::int64_t waves, const std::string& stack, bool pairwise) {
    w::ParallelPlan plan;
    plan.dp = plan.ep = 8;
    plan.overlap = pairwise ? Overlap::kPairwise : Overlap::kWaves;
    plan.waves = waves;
    Lowering l;
    l.lower(ops, plan, hardware, rates, load_stack(stack, configs()));
    task::Timeline t;
    task::estimate(l.graph(), t);
    Hardware other = hardware;
    other.kernels.expert_waves.wave_experts = waves > 0 ? 48 / waves : 0;
    ExpertPricing pricing;
    pricing.use(other, rates);
    const ExpertPlan closed{.schedule =
                                pairwise ? ExpertSchedule::kPairwise : ExpertSchedule::kWaves};
    return {pricing.rank_time(layer, closed, rows()).seconds, t.total.value()};
  }
};

TEST(Waves, OfAStepTakeTheTimeOfTheFusedLayer) {
  using w::Dtype;
  const struct {
    const char* system;
    Dtype weight, input;
  } cases[] = {{"gb200_nvl72", Dtype::kFp4, Dtype::kFp8},
               {"hgx_b200", Dtype::kFp4, Dtype::kFp8},
               {"hgx_h200", Dtype::kFp8, Dtype::kFp8},
               {"atlas_950_cabinet", Dtype::kFp4, Dtype::kFp8},
               {"cloudmatrix384", Dtype::kInt8, Dtype::kInt8}};
  for (const auto& c : cases) {
    for (const std::int64_t tokens : {1, 16, 128, 1024, 8192}) {
      FusedBlock block(c.system, tokens, c.weight, c.input);
      for (const std::int64_t waves : {0, 1, 4, 12}) {
        for (const char* stack : {"unfused", "serving"}) {
          for (const bool pairwise : {false, true}) {
            const auto [closed, lowered] = block.times(waves, stack, pairwise);
            EXPECT_NEAR(lowered, closed, 0.01 * closed)
                << c.system << " " << tokens << " tokens, waves " << waves << " " << stack
                << (pairwise ? " pairwise" : "");
          }
        }
      }
    }
  }
}

// Stage sends are built between neighbouring ranks, whatever the size of a stage.
TEST(Lower, PipelineStagesOfWholeNodesSendOverTheNetwork) {
  const Lowered l({"deepseek-v3.2", "hgx_h200_x4", "fp8-index", "tp=8,pp=4", w::Phase::kDecode},
                  Overlap::kShared, "serving");
  double out = 0.0;
  for (std::size_t s = 0; s < l.graph().segments().size(); ++s) {
    out += l.graph().segment_demand(s)[static_cast<std::size_t>(Unit::kScaleOut)].value();
  }
  EXPECT_GT(out, 0.0);
}

}  // namespace
}  // namespace foretoken::hwmodels
