// What physics says of a schedule: which way a kernel's time and traffic go when one field of its
// design changes.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>

#include "hwmodels/kernels/attention.h"
#include "hwmodels/kernels/gemm.h"
#include "hwmodels/kernels/index_logits.h"
#include "hwmodels/kernels/top_k.h"
#include "hwmodels/tile/evaluate.h"
#include "hwmodels/tile/recorder.h"
#include "tests/hwmodels/fixtures.h"

namespace foretoken::hwmodels::kernels {
namespace {

using test_support::core_rates_of;
using tile::CoreRates;
using tile::KernelTime;
using tile::Part;

// Launches one after another; bytes and times add up.
KernelTime& operator+=(KernelTime& a, const KernelTime& b) {
  a.seconds += b.seconds;
  for (std::size_t i = 0; i < a.parts.size(); ++i) a.parts[i] += b.parts[i];
  a.matrix += b.matrix;
  a.cache_bytes += b.cache_bytes;
  a.memory_bytes += b.memory_bytes;
  a.items += b.items;
  a.waves += b.waves;
  return a;
}

KernelTime time_of(const tile::Kernel& kernel, const CoreRates& chip) {
  tile::Recorder recorder(chip);
  recorder.record(kernel);
  return tile::Evaluator().evaluate(recorder);
}

KernelTime gemm(const GemmDesign& design, const CoreRates& chip, std::int64_t m, std::int64_t n,
                std::int64_t k, GemmFormat format = GemmFormat::kBf16) {
  const GroupRun group{m, 1};
  GemmProblem p = problem_of(format);
  p.groups = {&group, 1};
  p.n = n;
  p.k = k;
  const GemmKernel kernel(p, design, chip);
  KernelTime t = time_of(kernel, chip);
  if (kernel.splits() > 1)
    t += time_of(SplitReduceKernel(kernel.splits(), m, n, p.output, chip), chip);
  return t;
}

const GemmDesign kPlain{.tiles = {{.weights = 128, .tokens = 64}}, .tile_k = 128, .stages = 4};

const std::array kSystems = {"hgx_h200", "hgx_b200", "cloudmatrix384", "atlas_950_cabinet"};

TEST(GemmDesigns, FewerStagesAreSlowerWhereLatencyCountsAndTheSameWhereItDoesNot) {
  for (const char* system : kSystems) {
    CoreRates chip = core_rates_of(system);
    chip.power_limit = 0.0;
    const auto time = [&](std::int64_t stages) {
      GemmDesign d = kPlain;
      d.stages = stages;
      return gemm(d, chip, 16, 4096, 7168).seconds;
    };
    EXPECT_GT(time(1), 1.2 * time(2)) << system;
    EXPECT_GT(time(2), 1.05 * time(4)) << system;
    chip.memory_latency = chip.cache_latency = 0.0;
    EXPECT_NEAR(time(8) / time(4), 1.0, 0.02) << system;
  }
}

TEST(GemmDesigns, ABiggerTileLoadsLessAndLeavesALongerTail) {
  for (const char* system : kSystems) {
    const CoreRates chip = core_rates_of(system);
    const auto time = [&](std::int64_t weights, std::int64_t tokens) {
      GemmDesign d = kPlain;
      d.tiles = {{.weights = weights, .tokens = tokens}};
      d.stages = 2;
      return gemm(d, chip, 4096, 7168, 2048);
    };
    const KernelTime small = time(64, 64);
    const KernelTime large = time(128, 128);
    EXPECT_NEAR(large.cache_bytes / small.cache_bytes, 0.5, 0.1) << system;
    EXPECT_EQ(small.items, 4.0 * large.items) << system;
    // Cores beyond the last whole wave wait for one tile, whatever its size.
    const auto tail_in_tiles = [&](const KernelTime& t) {
      return t.parts[static_cast<std::size_t>(Part::kTail)] / (t.seconds / t.waves);
    };
    EXPECT_LE(tail_in_tiles(small), 1.0) << system;
    EXPECT_LE(tail_in_tiles(large), 1.0) << system;
  }
  // 11 large tiles on 10 cores leave 9 idle for a whole one; 44 quarters 6 for a quarter.
  const CoreRates round = test_support::round_rates().core;
  const auto tail = [&](std::int64_t side) {
    GemmDesign d = kPlain;
    d.tiles = {{.weights = side, .tokens = side}};
    d.tile_k = 64;
    d.stages = 2;
    return gemm(d, round, 128, 11 * 128, 2048).parts[static_cast<std::size_t>(Part::kTail)];
  };
  EXPECT_GT(tail(128), 2.0 * tail(64));
}

TEST(GemmDesigns, PersistentIsNotSlowerWithSeveralWavesAndTheSameWithOne) {
  for (const char* system : kSystems) {
    const CoreRates chip = core_rates_of(system);
    for (const std::int64_t accumulators : {1, 2}) {
      const auto time = [&](bool persistent, std::int64_t m) {
        GemmDesign d = kPlain;
        d.persistent = persistent;
        d.accumulators = accumulators;
        return gemm(d, chip, m, 4096, 2048);
      };
      EXPECT_GT(time(false, 4096).waves, 4.0) << system;
      EXPECT_LT(time(true, 4096).seconds, time(false, 4096).seconds) << system;
      EXPECT_LE(time(false, 16).waves, 2.0) << system;
    }
  }
  // One wave: nothing to overlap with.
  const CoreRates h200 = core_rates_of("hgx_h200");
  GemmDesign d = kPlain;
  const double once = gemm(d, h200, 64, 4096, 2048).seconds;
  d.persistent = true;
  EXPECT_DOUBLE_EQ(gemm(d, h200, 64, 4096, 2048).seconds, once);
}

TEST(GemmDesigns, MulticastTakesTrafficOffTheCache) {
  for (const char* system : kSystems) {
    const CoreRates chip = core_rates_of(system);
    const auto bytes = [&](std::int64_t tokens, std::int64_t weights) {
      GemmDesign d = kPlain;
      d.tiles.front().share_tokens = tokens;
      d.tiles.front().share_weights = weights;
      return gemm(d, chip, 2048, 4096, 2048);
    };
    const double none = bytes(1, 1).cache_bytes;
    const double of_tokens = bytes(2, 1).cache_bytes;
    const double of_weights = bytes(1, 2).cache_bytes;
    EXPECT_LT(of_tokens, none) << system;
    EXPECT_LT(of_weights, of_tokens) << system;  // twice as many weight rows as tokens in a tile
    // Each saves what it halves.
    EXPECT_NEAR(bytes(2, 2).cache_bytes, of_tokens + of_weights - none, 1e-6 * none) << system;
    EXPECT_LE(bytes(2, 2).seconds, bytes(1, 1).seconds * (1.0 + 1e-9)) << system;
    EXPECT_DOUBLE_EQ(bytes(2, 2).memory_bytes, bytes(1, 1).memory_bytes) << system;
  }
}

TEST(GemmDesigns, APairOfCoresFeedsHalfOfTheColumnsAndFillsTheInstructionsRows) {
  CoreRates chip = core_rates_of("hgx_b200");
  chip.power_limit = 0.0;
  const auto time = [&](bool pair) {
    GemmDesign d = kPlain;
    d.tiles = {{.weights = 64, .tokens = 128, .pair = pair}};
    return gemm(d, chip, 4096, 4096, 4096);
  };
  // An instruction has 128 rows; 64 alone leave half of it empty.
  ASSERT_EQ(chip.tile_rows, 128.0);
  EXPECT_LT(time(true).matrix, 0.55 * time(false).matrix);
  EXPECT_LT(time(true).seconds, time(false).seconds);
  // And takes half of the room of a token tile, so that more stages fit.
  const auto stages = [&](bool pair) {
    const GroupRun group{4096, 1};
    GemmProblem p = problem_of(GemmFormat::kBf16);
    p.groups = {&group, 1};
    p.n = p.k = 4096;
    const GemmDesign d{.tiles = {{.weights = 64, .tokens = 256, .pair = pair}}, .stages = 64};
    return GemmKernel(p, d, chip).stages();
  };
  EXPECT_GT(stages(true), stages(false));
}

TEST(GemmDesigns, SplittingADeepProductOfFewTilesPaysAndOfManyDoesNot) {
  for (const char* system : kSystems) {
    const CoreRates chip = core_rates_of(system);
    const auto time = [&](std::int64_t splits, std::int64_t n) {
      GemmDesign d = kPlain;
      d.split_k = splits;
      d.split_depth = 512;
      return gemm(d, chip, 16, n, 16384);
    };
    EXPECT_LT(time(16, 512).seconds, 0.6 * time(1, 512).seconds) << system;
    EXPECT_GT(time(16, 512).items, time(1, 512).items) << system;
    EXPECT_DOUBLE_EQ(time(16, 65536).seconds, time(1, 65536).seconds) << system;
  }
}

TEST(GemmDesigns, ReadingTheTileWholeAndVectorScalesCost) {
  const CoreRates h200 = core_rates_of("hgx_h200");
  GemmDesign d = kPlain;
  const KernelTime exact = gemm(d, h200, 16, 4096, 7168);
  d.scales = ScalePath::kVector;
  d.tiles.front().rows = Side::kTokens;
  GemmDesign unit = d;
  unit.scales = ScalePath::kUnit;
  EXPECT_GT(gemm(d, h200, 4096, 4096, 7168, GemmFormat::kFp8Block).seconds,
            gemm(unit, h200, 4096, 4096, 7168, GemmFormat::kFp8Block).seconds);
  // Scales per tensor need no promotion.
  EXPECT_DOUBLE_EQ(gemm(d, h200, 4096, 4096, 7168, GemmFormat::kFp8).seconds,
                   gemm(unit, h200, 4096, 4096, 7168, GemmFormat::kFp8).seconds);
  EXPECT_GT(exact.seconds, 0.0);
}

TEST(GemmDesigns, OfSeveralTilesTheOneOfLeastTimeIsTaken) {
  const CoreRates chip = core_rates_of("hgx_h200");
  const auto time = [&](const std::vector<GemmTile>& tiles, std::int64_t m) {
    GemmDesign d = kPlain;
    d.tiles = tiles;
    d.stages = 2;
    return gemm(d, chip, m, 4096, 4096).seconds;
  };
  const GemmTile few{.weights = 64, .tokens = 16};
  const GemmTile many{.weights = 128, .tokens = 128};
  for (const std::int64_t m : {1, 16, 64, 512, 8192}) {
    // The choice is by a reckoning like a library's, which may be a little off.
    EXPECT_LE(time({few, many}, m), 1.1 * std::min(time({few}, m), time({many}, m))) << m;
  }
}

// 64 queries of 128 heads over a window and 1,024 selected entries.
KernelTime attention(const AttentionDesign& design, const CoreRates& chip,
                     std::int64_t queries = 16, std::int64_t keys = 1024) {
  const QueryClass q{.queries = queries, .window = 128, .compressed = keys};
  AttentionProblem p;
  p.classes = {&q, 1};
  p.heads = 128;
  p.scale = 1.0;
  p.selected = true;
  p.window_rows = 65536;
  p.compressed_rows = 65536;
  const AttentionLaunches launches(p, design, chip);
  KernelTime sum;
  launches.for_each([&](const tile::Kernel& kernel) { sum += time_of(kernel, chip); });
  return sum;
}

AttentionDesign shipped_attention(const char* system) {
  return test_support::hardware(system).kernels.decode_attention;
}

TEST(AttentionDesigns, FewerSlotsOfKeysAreSlower) {
  for (const char* system : {"hgx_h200", "hgx_b200"}) {
    const CoreRates chip = core_rates_of(system);
    const auto time = [&](std::int64_t slots) {
      AttentionDesign d = shipped_attention(system);
      d.kv_slots = slots;
      d.raw_slots = std::min(slots, d.raw_slots);
      d.max_splits = 1;
      return attention(d, chip).seconds;
    };
    EXPECT_GT(time(1), 1.02 * time(2)) << system;
  }
}

TEST(AttentionDesigns, SplittingTheKeysOfFewQueriesFillsTheCores) {
  for (const char* system : {"hgx_h200", "hgx_b200", "atlas_950_cabinet"}) {
    const CoreRates chip = core_rates_of(system);
    const auto time = [&](std::int64_t splits, std::int64_t queries) {
      AttentionDesign d = shipped_attention(system);
      d.max_splits = splits;
      d.min_split_blocks = 1;
      return attention(d, chip, queries, 8192);
    };
    EXPECT_LT(time(64, 1).seconds, 0.6 * time(1, 1).seconds) << system;
    EXPECT_GT(time(64, 1).items, time(1, 1).items) << system;
    // With as many queries as cores there is nothing to fill.
    EXPECT_NEAR(time(64, 4096).seconds / time(1, 4096).seconds, 1.0, 0.05) << system;
  }
}

TEST(AttentionDesigns, SharingFetchesEntriesOnceForSeveralBlocksOfHeads) {
  const CoreRates chip = core_rates_of("hgx_h200");
  const auto time = [&](std::int64_t sharing) {
    AttentionDesign d = shipped_attention("hgx_h200");
    d.sharing = sharing;
    d.max_splits = 1;
    return attention(d, chip, 128);
  };
  EXPECT_LT(time(2).cache_bytes, 0.7 * time(1).cache_bytes);
  EXPECT_LT(time(2).seconds, time(1).seconds);
}

TEST(AttentionDesigns, APairFillsTheInstructionsRows) {
  CoreRates chip = core_rates_of("hgx_b200");
  const auto time = [&](bool pair) {
    AttentionDesign d = shipped_attention("hgx_b200");
    d.pair = pair;
    return attention(d, chip, 128);
  };
  EXPECT_LT(time(true).matrix, 0.7 * time(false).matrix);
}

TEST(AttentionDesigns, ScoresOfTheNextBlockRunDuringTheSoftmaxOfThisOne) {
  const CoreRates chip = core_rates_of("hgx_b200");
  const auto time = [&](std::int64_t slots) {
    AttentionDesign d = shipped_attention("hgx_b200");
    d.score_slots = slots;
    return attention(d, chip, 128).seconds;
  };
  EXPECT_LE(time(2), time(1));
}

TEST(IndexDesigns, StagesTilesAndSplitsGoTheWayOfTheirTraffic) {
  for (const char* system : {"hgx_h200", "hgx_b200", "atlas_950_cabinet"}) {
    const CoreRates chip = core_rates_of(system);
    const auto time = [&](auto&& change, std::int64_t sequences) {
      IndexLogitsDesign d = test_support::hardware(system).kernels.decode_index;
      change(d);
      const SequenceGroup g{.count = sequences, .history = 262143, .queries = 1};
      IndexLogitsProblem p;
      p.sequences = {&g, 1};
      p.key = p.compute = workloads::Dtype::kFp8;
      return time_of(IndexLogitsKernel(p, d, chip), chip);
    };
    const auto stages = [](std::int64_t n) { return [n](IndexLogitsDesign& d) { d.stages = n; }; };
    EXPECT_GT(time(stages(1), 64).seconds, 1.02 * time(stages(2), 64).seconds) << system;
    const auto split = [](std::int64_t n) { return [n](IndexLogitsDesign& d) { d.split = n; }; };
    EXPECT_GT(time(split(1), 1).seconds, 4.0 * time(split(64), 1).seconds) << system;
    EXPECT_GT(time(split(64), 1).items, time(split(1), 1).items) << system;
    // However they are cut, keys are read once.
    EXPECT_NEAR(time(split(1), 4).memory_bytes / time(split(64), 4).memory_bytes, 1.0, 0.02)
        << system;
  }
}

TEST(TopKDesigns, PartsOfALongRowFillTheCoresAndAreMerged) {
  for (const char* system : {"hgx_h200", "hgx_b200"}) {
    const CoreRates chip = core_rates_of(system);
    const auto time = [&](std::int64_t parts, std::int64_t sequences) {
      TopKDesign d = test_support::hardware(system).kernels.decode_top_k;
      d.parts = parts;
      d.min_part = 4096;
      const SequenceGroup g{.count = sequences, .history = 1'048'575, .queries = 1};
      TopKProblem p;
      p.sequences = {&g, 1};
      KernelTime sum;
      const TopKKernel kernel(p, d, chip);
      for_each_launch(kernel, [&](const tile::Kernel& k) { sum += time_of(k, chip); });
      return sum;
    };
    EXPECT_LT(time(16, 1).seconds, 0.6 * time(1, 1).seconds) << system;
    EXPECT_GT(time(16, 1).items, time(1, 1).items) << system;
  }
}

}  // namespace
}  // namespace foretoken::hwmodels::kernels
