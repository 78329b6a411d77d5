// Steps on all devices against one device by symmetry.
#include "hwmodels/cluster_step.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <span>
#include <string>
#include <vector>

#include "hwmodels/lower.h"
#include "sim/engine/simulate.h"
#include "tests/hwmodels/fixtures.h"
#include "tests/sim/base/test_support.h"

namespace foretoken::hwmodels {
namespace {

namespace w = workloads;

struct Case {
  const char* system;
  const char* model;
  const char* plan;
  w::Batch batch;
  FabricRouting routing = FabricRouting::kTwoPath;
};

// What each family serves.
const char* recipe(const ChipSpec& chip) {
  if (!chip.supports(w::Dtype::kFp8)) return "int8";
  if (!chip.supports(w::Dtype::kFp4)) return "fp8-index";
  return chip.family == "ascend_3510" ? "ascend-950" : "release";
}

struct Stage {
  Hardware hardware;
  Rates rates;
  w::ModelSpec model;
  w::Precision precision;
  w::ParallelPlan plan;
  Stack stack;

  explicit Stage(const Case& c)
      : hardware(test_support::hardware(c.system)),
        rates(derive_rates(hardware)),
        model(test_support::model(c.model)),
        precision(test_support::precision(recipe(hardware.chip), model)),
        plan(w::parse_plan(c.plan)),
        stack(load_stack("serving", test_support::configs())) {}
};

double one_device(const Stage& s, const w::Batch& batch, FabricRouting routing) {
  w::OpGraph ops;
  w::build_graph(s.model, s.precision, s.plan, batch, s.plan.stage_ranks() - 1, ops);
  Hardware hardware = s.hardware;
  hardware.system.routing = routing;
  Lowering lowering;
  lowering.lower(ops, s.plan, hardware, s.rates, s.stack);
  task::Timeline t;
  engine::simulate(lowering.graph(), t);
  return t.total.value();
}

double all_devices(const Stage& s, const w::Batch& batch, const ClusterOptions& options) {
  ClusterStep step(s.model, s.precision, s.plan, s.hardware, s.rates, s.stack, options);
  step.build(batch);
  task::Timeline t;
  engine::simulate(step.graph(), t);
  for (const base::Seconds busy : t.busy) EXPECT_LE(busy.value(), t.total.value() * (1 + 1e-9));
  return t.total.value();
}

w::Batch decode(std::int64_t sequences, std::int64_t context) {
  w::Batch b;
  b.sequences = sequences;
  b.context = context;
  return b;
}

w::Batch prefill(std::int64_t sequences, std::int64_t tokens) {
  w::Batch b;
  b.phase = w::Phase::kPrefill;
  b.sequences = sequences;
  b.context = tokens;
  b.new_tokens = tokens;
  return b;
}

// Ranks all alike, in whole groups of the fabric: one of them stands for all.
TEST(ClusterStep, OneDeviceStandsForAllWhereRanksAreAlike) {
  const Case cases[] = {
      {"hgx_b200", "deepseek-v4-flash", "dp=8,ep=8,overlap=none", decode(512, 8192)},
      {"hgx_b200", "deepseek-v4-flash", "dp=8,ep=8,overlap=waves,waves=4", decode(512, 8192)},
      {"hgx_b200", "deepseek-v4-flash", "tp=8,ep=8", decode(16, 8192)},
      {"hgx_b200", "deepseek-v4-flash", "tp=4,pp=2", decode(16, 8192)},
      {"hgx_h200_x4", "deepseek-v4-pro", "dp=32,ep=32,overlap=waves,waves=3", decode(2048, 8192)},
      {"hgx_h200_x4", "deepseek-v4-pro", "dp=16,ep=16,pp=2", decode(512, 8192)},
      {"gb200_nvl72", "deepseek-v4-pro", "dp=8,ep=8,overlap=shared", decode(256, 4096)},
      {"atlas_950_cabinet", "deepseek-v4-pro", "dp=64,ep=64,overlap=waves", decode(1024, 8192)},
      {"atlas_950_cabinet", "deepseek-v4-flash", "dp=8,ep=8,overlap=shared", prefill(8, 4096)},
      {"atlas_950_cabinet", "deepseek-v4-pro", "dp=64,ep=64,overlap=waves", decode(1024, 8192),
       FabricRouting::kAllPath},
      {"cloudmatrix384", "deepseek-v4-flash", "dp=32,ep=32,overlap=waves", decode(512, 8192)},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(std::string(c.system) + " " + c.model + " " + c.plan);
    const Stage s(c);
    const double one = one_device(s, c.batch, c.routing);
    const double all = all_devices(s, c.batch, {.routing = c.routing});
    EXPECT_NEAR(all, one, 1e-6 * one);
  }
}

TEST(ClusterStep, CopiesOfAPlanInCabinetsOfTheirOwnDoNotMeet) {
  const Case c{"atlas_950_1024", "deepseek-v4-pro", "dp=64,ep=64,overlap=waves",
               decode(1024, 8192)};
  const Stage s(c);
  const double one = all_devices(s, c.batch, {});
  EXPECT_NEAR(all_devices(s, c.batch, {.instances = 4}), one, 1e-9 * one);
}

// Context-parallel ranks have unlike pieces of a prompt; the slowest of each block decides.
TEST(ClusterStep, UnlikeRanksTakeAtLeastAsLongAsTheOneThatStandsForThem) {
  const Case c{"gb200_nvl72", "deepseek-v4-flash", "cp=4,ep=4", prefill(1, 16384)};
  const Stage s(c);
  const double one = one_device(s, c.batch, c.routing);
  const double all = all_devices(s, c.batch, {});
  EXPECT_GE(all, one);
  EXPECT_LE(all, 1.05 * one);
}

TEST(ClusterStep, ARankWithOneSequenceMoreStandsForItsPeersNearly) {
  const Case c{"hgx_b200", "deepseek-v4-flash", "dp=8,ep=8,overlap=none", decode(513, 8192)};
  const Stage s(c);
  const double one = one_device(s, c.batch, c.routing);
  const double all = all_devices(s, c.batch, {});
  EXPECT_NEAR(all, one, 0.005 * one);
}

PairMatrix even_pairs(std::int64_t ranks, double pairs, std::int64_t experts) {
  PairMatrix m{
      .ranks = ranks,
      .pairs = std::vector<double>(static_cast<std::size_t>(ranks * ranks),
                                   pairs / static_cast<double>(ranks)),
      .touched = std::vector<std::int64_t>(static_cast<std::size_t>(ranks), experts / ranks)};
  return m;
}

struct Outcome {
  double seconds = 0.0;
  double moved = 0.0;      // bytes over the ports of a switch
  std::vector<double> in;  // bytes into each device
};

Outcome moe_layer(const Stage& s, const w::Batch& batch, std::span<const PairMatrix> loads) {
  ClusterStep step(s.model, s.precision, s.plan, s.hardware, s.rates, s.stack,
                   {.only_block = "moe"});
  step.build(batch, loads);
  task::Timeline t;
  engine::simulate(step.graph(), t);
  Outcome out;
  out.seconds = t.total.value();
  const FabricGraph& fabric = step.fabric();
  for (LinkId link = 0; link < fabric.link_count(); ++link) {
    const double bytes = t.busy[step.resources().link(link)].value() * fabric.rate(link);
    out.moved += bytes;
    if (fabric.name(link).ends_with(" in")) out.in.push_back(bytes);
  }
  return out;
}

TEST(ClusterStep, AnEvenMatrixIsTheSameAsNone) {
  const Case c{"hgx_b200", "deepseek-v4-flash", "dp=8,ep=8,overlap=waves,routing=balanced",
               decode(2048, 8192)};
  const Stage s(c);
  const std::vector<PairMatrix> even = {
      even_pairs(8, 256.0 * static_cast<double>(s.model.experts_per_token), s.model.experts)};
  const Outcome with = moe_layer(s, c.batch, even);
  const Outcome without = moe_layer(s, c.batch, {});
  EXPECT_NEAR(with.seconds, without.seconds, 1e-9 * without.seconds);
  EXPECT_NEAR(with.moved, without.moved, 1e-9 * without.moved);
}

TEST(ClusterStep, APopularRankSlowsTheLayerAndGetsMoreBytes) {
  const Case c{"hgx_b200", "deepseek-v4-flash", "dp=8,ep=8,overlap=waves,routing=balanced",
               decode(32768, 8192)};
  const Stage s(c);
  const double pairs = 4096.0 * static_cast<double>(s.model.experts_per_token);
  PairMatrix skewed = even_pairs(8, pairs, s.model.experts);
  // Rank 3 holds twice the mean, the others give up the difference.
  for (std::size_t i = 0; i < 64; ++i) {
    skewed.pairs[i] = i % 8 == 3 ? pairs / 4.0 : pairs * 0.75 / 7.0;
  }
  const std::vector<PairMatrix> loads = {skewed};
  const Outcome even = moe_layer(s, c.batch, {});
  const Outcome popular = moe_layer(s, c.batch, loads);
  EXPECT_GT(popular.seconds, 1.1 * even.seconds);
  EXPECT_GT(popular.in[3], popular.in[0]);
}

TEST(ClusterStep, ToleranceOfSharingMovesASkewedLayerByItsShare) {
  // In waves traffic would hide.
  const Case c{"atlas_950_cabinet", "deepseek-v4-pro", "dp=64,ep=64,overlap=shared",
               decode(2048, 8192)};
  const Stage s(c);
  PairMatrix skewed = even_pairs(64, 192.0, s.model.experts);
  for (std::size_t i = 0; i < skewed.pairs.size(); ++i) {
    skewed.pairs[i] *= 0.5 + static_cast<double>(i * 37 % 64) / 64.0;
  }
  ClusterStep step(s.model, s.precision, s.plan, s.hardware, s.rates, s.stack,
                   {.only_block = "moe"});
  const std::vector<PairMatrix> loads = {skewed};
  step.build(c.batch, loads);
  task::Timeline exact;
  task::Timeline rough;
  engine::simulate(step.graph(), exact);
  engine::simulate(step.graph(), rough, {.tolerance = 1e-3});
  EXPECT_NE(rough.total.value(), exact.total.value());
  EXPECT_NEAR(rough.total.value(), exact.total.value(), 5e-3 * exact.total.value());
}

TEST(ClusterStep, UnlikeExpertsNeedThemOverAllRanksOfAStage) {
  const Case c{"hgx_b200", "deepseek-v4-flash", "dp=8,ep=4", decode(64, 1024)};
  const Stage s(c);
  const std::vector<PairMatrix> loads = {even_pairs(8, 8.0, s.model.experts)};
  EXPECT_EQ(base::thrown<base::UnsupportedError>([&] { moe_layer(s, c.batch, loads); }),
            "unlike experts need experts over all 8 ranks of a stage; the plan has EP4");
}

TEST(ClusterStep, CopiesDealtOutOverCabinetsMeetInAnOversubscribedClos) {
  const Case c{"atlas_950_1024", "deepseek-v4-pro", "dp=16,ep=16,overlap=waves",
               decode(4096, 8192)};
  Stage s(c);
  const ClusterOptions dealt{.instances = 64, .strided = true, .only_block = "moe"};
  const double free = all_devices(s, c.batch, dealt);
  s.hardware.system.fabric[2].oversubscription = {8.0, 8.0, 8.0};
  EXPECT_GT(all_devices(s, c.batch, dealt), 2.0 * free);
}

TEST(ClusterStep, PromptsCacheTravelsToTheDecodePoolBesideTheExperts) {
  const Case c{"atlas_950_cabinet", "deepseek-v4-flash", "dp=8,ep=8,overlap=shared",
               prefill(8, 4096)};
  const Stage s(c);
  const double alone = all_devices(s, c.batch, {});
  const double little = all_devices(s, c.batch, {.cache_to = 8, .cache_bytes = 1e4});
  const double much = all_devices(s, c.batch, {.cache_to = 8, .cache_bytes = 1e9});
  EXPECT_NEAR(little, alone, 1e-3 * alone);
  // A gigabyte per layer over one port of the next board.
  const double layers = static_cast<double>(s.model.layers.size());
  EXPECT_GT(much, layers * 1e9 / 56e9);
}

TEST(ClusterStep, MoreDevicesThanTheSystemHasIsAnError) {
  const Case c{"hgx_b200", "deepseek-v4-flash", "dp=8,ep=8", decode(64, 1024)};
  const Stage s(c);
  EXPECT_EQ(
      base::thrown<base::UnsupportedError>([&] { all_devices(s, c.batch, {.instances = 2}); }),
      "hgx_b200 has 8 devices; 16 are needed");
}

TEST(ClusterStep, LinkUseIsBusyTimeOverTheStep) {
  const Case c{"atlas_950_cabinet", "deepseek-v4-flash", "dp=64,ep=64,overlap=none",
               decode(1024, 8192)};
  const Stage s(c);
  ClusterStep step(s.model, s.precision, s.plan, s.hardware, s.rates, s.stack, {});
  step.build(c.batch);
  task::Timeline t;
  engine::simulate(step.graph(), t);
  const std::vector<LinkUse> use = link_use(step, t.busy, t.total);
  ASSERT_EQ(use.size(), 3U);
  EXPECT_EQ(use[0].name, "board_mesh");
  EXPECT_EQ(use[2].name, "host");
  EXPECT_NEAR(use[0].mean, use[0].busiest, 1e-9);  // uniform traffic
  EXPECT_GT(use[0].mean, 0.01);
  EXPECT_LT(use[0].mean, 1.0);
  EXPECT_EQ(use[2].mean, 0.0);
}

}  // namespace
}  // namespace foretoken::hwmodels
