// What one operator asks of a chip: limits by hand, and the physics of random shapes.
#include "hwmodels/op_cost.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <random>

#include "hwmodels/expert_traffic.h"
#include "tests/hwmodels/fixtures.h"
#include "tests/sim/base/test_support.h"

namespace foretoken::hwmodels {
namespace {

namespace w = workloads;
using test_support::elapsed;
using test_support::hardware;
using test_support::largest;
using test_support::round_hardware;
using test_support::round_rates;
using w::Dtype;

w::Gemm gemm(std::int64_t m, std::int64_t n, std::int64_t k, Dtype weight = Dtype::kFp8,
             Dtype compute = Dtype::kFp8) {
  return {m, n, k, 1, compute, weight, compute, Dtype::kBf16, 128};
}

Cost on_round_chip(const w::Op& op, const Rates& r = round_rates()) {
  return cost(op, round_hardware(), r);
}

TEST(OpCost, ALargeGemmIsBoundByTheMatrixUnitAtItsRate) {
  const Cost c = on_round_chip(gemm(1280, 1280, 1280));
  // 100 tiles of 128 x 128 on 10 cores: ten full waves.
  const double matrix = 2.0 * 1280 * 1280 * 1280 / 10e12;
  EXPECT_NEAR(c[Unit::kMatrix], matrix, 1e-9 * matrix);
  EXPECT_EQ(largest(c), c[Unit::kMatrix]);
  // Beyond it, each wave fills its pipeline and drains its results.
  EXPECT_GT(elapsed(c), matrix);
  EXPECT_LT(elapsed(c), 1.1 * matrix);
  EXPECT_FALSE(c.communication);
}

TEST(OpCost, AGemmOfFewTokensIsBoundByReadingItsWeights) {
  Rates r = round_rates();
  r.core.memory = 0.1e12;
  Hardware h = round_hardware();
  h.kernels.gemm_fp8_block.tiles.front().tokens = 16;
  const Cost c = cost(gemm(16, 12800, 1280), h, r);
  const double weights = static_cast<double>(w::weight_bytes(Dtype::kFp8, 1, 12800, 1280, 128));
  EXPECT_GE(weights, 12800.0 * 1280.0);
  EXPECT_NEAR(c[Unit::kMemory], weights / 0.1e12, 1e-3 * weights / 0.1e12);
  EXPECT_EQ(largest(c), c[Unit::kMemory]);
  EXPECT_LT(elapsed(c), 1.1 * c[Unit::kMemory]);
}

TEST(OpCost, ATinyGemmPaysForOneWholeInstruction) {
  // A token in a tile of 16 on one of ten cores.
  Hardware h = round_hardware();
  h.kernels.gemm_fp8_block.tiles.front().tokens = 16;
  const Cost c = cost(gemm(1, 1, 64), h, round_rates());
  EXPECT_NEAR(c[Unit::kMatrix], 2.0 * 16 * 16 * 64 / 10e12, 1e-20);
  EXPECT_GE(elapsed(c), 2.0 * 16 * 16 * 64 / 1e12);
}

TEST(OpCost, AnEmptyOperatorTakesNoResourceAndAtMostALookAtWhatThereIsToDo) {
  const Hardware h = hardware("hgx_h200");
  const Rates r = derive_rates(h);
  for (const w::Op& op :
       {w::Op{gemm(0, 128, 128)},
        w::Op{w::GroupedGemm{0, 8, 0, 128, 128, Dtype::kFp8, Dtype::kFp4, Dtype::kFp8, Dtype::kBf16,
                             128}},
        w::Op{w::Attention{0, 8, 128, 128, 0, 0, 0, Dtype::kBf16, Dtype::kBf16}},
        w::Op{w::Attention{1, 8, 128, 128, 0, 0, 0, Dtype::kBf16, Dtype::kBf16}},
        w::Op{w::IndexLogits{0, 8, 128, 0, 0, Dtype::kFp8}}, w::Op{w::TopK{0, 0, 8}},
        w::Op{w::Compress{0, 0, 8, 512, 1024, 584, 0}},
        w::Op{w::HyperConnection{w::HyperPhase::kPre, 0, 4, 128, 24, 20, Dtype::kTf32}},
        w::Op{w::VectorOp{w::VectorKind::kNorm, 0, 128, Dtype::kBf16, Dtype::kBf16}},
        w::Op{w::Route{0, 256, 8, false}}}) {
    const Cost c = cost(op, h, r);
    EXPECT_EQ(elapsed(c), 0.0) << w::op_kind(op);
  }
  // Too short a context for a single entry: the kernel starts, reads that, and ends.
  for (const w::Op& op :
       {w::Op{w::IndexLogits{1, 8, 128, 0, 0, Dtype::kFp8}}, w::Op{w::TopK{1, 0, 8}}}) {
    const Cost c = cost(op, h, r);
    EXPECT_EQ(largest(c), 0.0);
    EXPECT_DOUBLE_EQ(c.latency, r.core.start + r.core.memory_latency + r.core.cache_latency);
  }
}

TEST(OpCost, OneTileMoreThanCoresCostsASecondWave) {
  const Cost full = on_round_chip(gemm(128, 1280, 12800));  // 10 tiles on 10 cores
  const Cost over = on_round_chip(gemm(128, 1281, 12800));  // 11
  EXPECT_NEAR(elapsed(over), 2.0 * elapsed(full), 0.02 * elapsed(full));
}

TEST(OpCost, TooFewTilesAreSplitAlongTheDepthWhereTheDesignSplits) {
  const auto time = [](std::int64_t splits, double launch) {
    Hardware h = round_hardware();
    h.kernels.gemm_fp8_block.split_k = splits;
    Rates r = round_rates();
    // A chip with launches: dividing pays when it saves more than another one takes.
    r.launch = r.core.launch = launch;
    return cost(gemm(16, 128, 51200), h, r);
  };
  const Cost whole = time(1, 0.0);
  const Cost split = time(8, 0.0);
  EXPECT_LT(elapsed(split), 0.2 * elapsed(whole));
  EXPECT_GT(elapsed(split), 0.125 * elapsed(whole));
  // The same products, plus partial sums out and in again, and a launch that adds them.
  EXPECT_NEAR(split[Unit::kMatrix], whole[Unit::kMatrix], 0.02 * whole[Unit::kMatrix]);
  EXPECT_GT(split[Unit::kCache], whole[Unit::kCache]);
  EXPECT_NEAR(elapsed(time(8, 1e-7)) - elapsed(split), 1e-7, 1e-12);
  EXPECT_NEAR(elapsed(time(1, 1e-7)), elapsed(whole), 1e-12);
}

TEST(OpCost, Fp4WeightsRunAtTheFp8RateUnlessTheChipSaysOtherwise) {
  Rates native = round_rates();
  native.core.widen_on_vector = false;
  const Cost eight = on_round_chip(gemm(256, 1280, 1280), native);
  const Cost mixed = on_round_chip(gemm(256, 1280, 1280, Dtype::kFp4), native);
  EXPECT_DOUBLE_EQ(mixed[Unit::kMatrix], eight[Unit::kMatrix]);
  EXPECT_LT(mixed[Unit::kMemory], 0.55 * eight[Unit::kMemory]);
  Rates faster = native;
  faster.core.fp4_fp8_rate = 4.0 / 3.0;
  EXPECT_NEAR(on_round_chip(gemm(256, 1280, 1280, Dtype::kFp4), faster)[Unit::kMatrix],
              0.75 * eight[Unit::kMatrix], 1e-9 * eight[Unit::kMatrix]);
  EXPECT_DOUBLE_EQ(on_round_chip(gemm(256, 1280, 1280), faster)[Unit::kMatrix],
                   eight[Unit::kMatrix]);
}

TEST(OpCost, WideningIsChargedOnlyWhereTheMatrixUnitTakesNoSuchPair) {
  Rates native = round_rates();
  native.core.widen_on_vector = false;
  const auto vector = [](const w::Gemm& g, const Rates& r) {
    return on_round_chip(g, r)[Unit::kVector];
  };
  const Rates own = round_rates();
  // Two operations for every weight at the 16-bit rate of ten cores, once for each tile of tokens.
  const double widening = 2.0 * 1280 * 1280 / 2e12;
  const auto fp4 = [](std::int64_t m, Dtype compute) {
    return gemm(m, 1280, 1280, Dtype::kFp4, compute);
  };
  EXPECT_NEAR(vector(fp4(16, Dtype::kFp8), own) - vector(fp4(16, Dtype::kFp8), native), widening,
              1e-9 * widening);
  EXPECT_NEAR(vector(fp4(256, Dtype::kFp8), own) - vector(fp4(256, Dtype::kFp8), native),
              2.0 * widening, 1e-9 * widening);
  const Rates& any = own;
  EXPECT_EQ(vector(gemm(16, 1280, 1280, Dtype::kFp8), any),
            vector(gemm(16, 1280, 1280, Dtype::kFp8), native));
  // FP4 operands on both sides need no widening; BF16 ones do, on every chip.
  EXPECT_EQ(vector(fp4(16, Dtype::kFp4), own), vector(fp4(16, Dtype::kFp4), native));
  EXPECT_EQ(vector(fp4(16, Dtype::kBf16), own), vector(fp4(16, Dtype::kBf16), native));
  EXPECT_GT(vector(fp4(16, Dtype::kBf16), native), widening);
}

TEST(OpCost, EachFormatIsMultipliedByTheDesignForIt) {
  const auto designs = [](KernelSet& s) {
    return std::array{&s.gemm_bf16,    &s.gemm_fp8,    &s.gemm_fp8_block, &s.gemm_fp4,
                      &s.gemm_fp4_fp8, &s.grouped_fp8, &s.grouped_fp4,    &s.grouped_fp4_fp8};
  };
  const auto grouped = [](Dtype weight, Dtype compute) {
    return w::Op{w::GroupedGemm{64, 8, 8, 1280, 1280, compute, weight, compute, Dtype::kBf16, 128}};
  };
  w::Gemm per_tensor = gemm(64, 1280, 1280);
  per_tensor.fp8_block = 0;
  // One operator for each, in the order of `designs`.
  const std::array<w::Op, 8> ops = {w::Op{gemm(64, 1280, 1280, Dtype::kBf16, Dtype::kBf16)},
                                    w::Op{per_tensor},
                                    w::Op{gemm(64, 1280, 1280)},
                                    w::Op{gemm(64, 1280, 1280, Dtype::kFp4, Dtype::kFp4)},
                                    w::Op{gemm(64, 1280, 1280, Dtype::kFp4)},
                                    grouped(Dtype::kFp8, Dtype::kFp8),
                                    grouped(Dtype::kFp4, Dtype::kFp4),
                                    grouped(Dtype::kFp4, Dtype::kFp8)};
  for (std::size_t i = 0; i < ops.size(); ++i) {
    const double before = elapsed(on_round_chip(ops[i]));
    for (std::size_t d = 0; d < ops.size(); ++d) {
      Hardware h = round_hardware();
      // One slot: nothing is loaded ahead.
      designs(h.kernels)[d]->stages = 1;
      const double after = elapsed(cost(ops[i], h, round_rates()));
      EXPECT_EQ(after > before, d == i) << w::op_kind(ops[i]) << " " << i << " with design " << d;
    }
  }
}

TEST(OpCost, ADtypeTheChipLacksIsAnErrorNamingBoth) {
  const Hardware h = hardware("hgx_h100");
  const Rates r = derive_rates(h);
  const auto error = [&](const w::Op& op) {
    return base::thrown<base::UnsupportedError>([&] { cost(op, h, r); });
  };
  EXPECT_THAT(error(gemm(1, 128, 128, Dtype::kFp4, Dtype::kFp4)),
              testing::StartsWith("h100_sxm has no fp4 peak"));
  EXPECT_THAT(error(w::IndexLogits{1, 64, 128, 1000, 1000, Dtype::kFp4}),
              testing::StartsWith("h100_sxm has no fp4 peak"));
  EXPECT_THAT(error(w::HyperConnection{w::HyperPhase::kPre, 1, 4, 128, 24, 20, Dtype::kHf32}),
              testing::StartsWith("h100_sxm has no hf32 peak"));
}

TEST(OpCost, AProgramThatDoesNotFitACoreIsAnErrorNamingItAndTheMemory) {
  Rates r = round_rates();
  r.core.capacity.fill(1024.0);
  EXPECT_THAT(base::thrown<base::UnsupportedError>([&] { on_round_chip(gemm(64, 1280, 1280), r); }),
              testing::AllOf(testing::StartsWith("gemm does not fit round: "),
                             testing::HasSubstr("B of operand memory asked (weight_tile "),
                             testing::EndsWith("1024 B there")));
}

struct RandomOps {
  std::mt19937_64 engine{20261122};
  std::int64_t between(std::int64_t low, std::int64_t high) {
    // Log-uniform: as many small shapes as large ones.
    std::uniform_real_distribution<double> u(std::log(static_cast<double>(low)),
                                             std::log(static_cast<double>(high) + 1.0));
    return std::clamp(static_cast<std::int64_t>(std::exp(u(engine))), low, high);
  }
  w::Op next() {
    switch (between(1, 8)) {
      case 1:
        return gemm(between(1, 20000), between(1, 20000), between(16, 20000));
      case 2: {
        const std::int64_t active = between(1, 64);
        return w::GroupedGemm{active * between(1, 500),
                              64,
                              active,
                              between(16, 8192),
                              between(16, 8192),
                              Dtype::kFp8,
                              Dtype::kFp4,
                              Dtype::kFp8,
                              Dtype::kBf16,
                              128};
      }
      case 3: {
        const std::int64_t queries = between(1, 5000);
        const std::int64_t keys = queries * between(1, 4000);
        const std::int64_t bytes = keys * 584;
        return w::Attention{queries,
                            between(1, 128),
                            512,
                            512,
                            keys,
                            bytes,
                            bytes / between(1, queries) + 1,
                            Dtype::kBf16,
                            Dtype::kBf16,
                            between(1, 2) == 1,
                            between(1, 2) == 1};
      }
      case 4: {
        const std::int64_t sequences = between(1, 100);
        const std::int64_t queries = sequences * between(1, 50);
        const std::int64_t entries = queries * between(queries / sequences / 4 + 1, 200000);
        return w::IndexLogits{
            queries,     64,        128, entries, entries * 132 / (queries / sequences),
            Dtype::kFp8, sequences, 4};
      }
      case 5: {
        const std::int64_t sequences = between(1, 100);
        const std::int64_t queries = sequences * between(1, 50);
        return w::TopK{queries, queries * between(queries / sequences / 4 + 1, 200000), 512,
                       sequences, 4};
      }
      case 6:
        return w::VectorOp{static_cast<w::VectorKind>(between(1, 6) - 1), between(1, 20000), 4096,
                           Dtype::kBf16, Dtype::kBf16};
      case 7:
        return w::Route{between(1, 20000), 256, 8, between(1, 2) == 1};
      default:
        return w::HyperConnection{static_cast<w::HyperPhase>(between(1, 3) - 1),
                                  between(1, 20000),
                                  4,
                                  4096,
                                  24,
                                  20,
                                  Dtype::kBf16};
    }
  }
};

const char* const kSystems[] = {"hgx_a100",     "hgx_h200",          "hgx_h20",
                                "gb300_nvl72",  "vr_nvl72",          "cloudmatrix384",
                                "atlas_350_x4", "atlas_950_cabinet", "mlu690_x8"};

// Whether the chip multiplies what the operator does.
bool runs_on(const w::Op& op, const Hardware& h) {
  const auto supports = [&](const auto& o) {
    if constexpr (requires { o.compute; }) return h.chip.supports(o.compute);
    return true;
  };
  return std::visit(supports, op);
}

TEST(OpCost, NoTimeIsBelowTheRooflineAtTheAchievedRates) {
  RandomOps random;
  int priced = 0;
  for (const char* system : kSystems) {
    const Hardware h = hardware(system);
    const Rates r = derive_rates(h);
    for (int i = 0; i < 1000; ++i) {
      const w::Op op = random.next();
      if (!runs_on(op, h)) continue;
      SCOPED_TRACE(testing::Message() << system << " operator " << i << " " << w::op_kind(op));
      const w::WorkCount n = w::count_op(op);
      Cost c;
      try {
        c = cost(op, h, r);
      } catch (const base::UnsupportedError&) {
        continue;  // no room in a core: attention on Ampere
      }
      ++priced;
      for (const double busy : c.busy) ASSERT_TRUE(std::isfinite(busy) && busy >= 0.0);
      ASSERT_TRUE(std::isfinite(c.latency) && c.latency >= 0.0);
      const auto compute = std::visit(
          [](const auto& o) {
            if constexpr (requires { o.compute; }) return o.compute;
            return Dtype::kBf16;
          },
          op);
      const double peak = r.cores * r.core.matrix[static_cast<std::size_t>(compute)];
      const double flops = static_cast<double>(n.total_flops());
      EXPECT_GE(elapsed(c) * (1.0 + 1e-9), flops / peak);
      EXPECT_GE(elapsed(c) * (1.0 + 1e-9), static_cast<double>(n.weight_bytes) / r.memory);
      // Products are padded to whole instructions, never cut.
      if (std::holds_alternative<w::Gemm>(op) || std::holds_alternative<w::GroupedGemm>(op)) {
        EXPECT_GE(c[Unit::kMatrix] * (1.0 + 1e-9), flops / peak);
        // Scales of blocks that are cut off are counted whole there.
        EXPECT_GE(c[Unit::kMemory] * 1.2, static_cast<double>(n.weight_bytes) / r.memory);
      }
    }
  }
  EXPECT_GT(priced, 6000);
}

TEST(OpCost, OneKernelIsNeverSlowerWithMoreOfAnyBandwidth) {
  RandomOps random;
  for (const char* system : {"hgx_h200", "gb300_nvl72", "atlas_950_cabinet"}) {
    const Hardware h = hardware(system);
    Rates r = derive_rates(h);
    r.core.power_limit = 0.0;  // faster may mean hotter
    for (int i = 0; i < 300; ++i) {
      const w::Op op = random.next();
      if (!runs_on(op, h)) continue;
      const double before = elapsed(cost(op, h, r));
      for (const auto member :
           {&tile::CoreRates::memory, &tile::CoreRates::lanes16, &tile::CoreRates::special}) {
        Rates more = r;
        more.core.*member *= 1.37;
        // Items may be dealt otherwise, which costs next to nothing.
        EXPECT_LE(elapsed(cost(op, h, more)), 1.005 * before)
            << system << " operator " << i << " " << w::op_kind(op);
      }
    }
  }
}

TEST(OpCost, MoreTokensNeverTakeMuchLess) {
  const Hardware h = hardware("hgx_h200");
  const Rates r = derive_rates(h);
  double last = 0.0;
  for (std::int64_t m = 1; m <= 4096; m += (m < 64 ? 1 : 61)) {
    const double t = elapsed(cost(gemm(m, 4096, 4096), h, r));
    // Another tile may save a little; never more than a wave.
    EXPECT_GE(t, 0.75 * last) << m;
    last = std::max(last, t);
  }
}

TEST(OpCost, AttentionReadsFromMemoryWhatTheCacheCannotHold) {
  w::Attention a{64,         64,           512,          512,   64 * 2048, 64 * 2048 * 512,
                 2048 * 512, Dtype::kBf16, Dtype::kBf16, false, false};
  Rates r = round_rates();
  r.core.cache_capacity = 1e12;
  const double distinct = 2048.0 * 512.0 / r.memory;
  EXPECT_NEAR(on_round_chip(a, r)[Unit::kMemory], distinct, 0.02 * distinct);
  r.core.cache_capacity = 1.0;  // nothing is found again
  const double asked = 64.0 * 2048.0 * 512.0 / r.memory;
  EXPECT_GT(on_round_chip(a, r)[Unit::kMemory], 0.95 * asked);
}

TEST(OpCost, GatheredEntriesWasteTheRestOfTheirLastSector) {
  Rates r = round_rates();
  r.core.sector = 128.0;
  w::Attention a{64,           64,           512,  512, 64 * 2048, 64 * 2048 * 584, 64 * 2048 * 584,
                 Dtype::kBf16, Dtype::kBf16, true, true};
  const double gathered = on_round_chip(a, r)[Unit::kCache];
  a.sparse = false;
  const double streamed = on_round_chip(a, r)[Unit::kCache];
  EXPECT_GT(gathered, streamed);  // 584 B take five sectors of 128 B
  EXPECT_LT(gathered, 640.0 / 584.0 * streamed * (1.0 + 1e-12));
}

TEST(OpCost, IndexerKeysAreReadOncePerSequence) {
  const Hardware h = hardware("hgx_h200");
  Rates r = derive_rates(h);
  // 64 queries that see 50,000 entries each, of one sequence or of as many.
  const auto memory = [&](std::int64_t sequences) {
    const std::int64_t entries = std::int64_t{64} * 50'000;
    return cost(
        w::IndexLogits{64, 64, 128, entries, 50'000 * 132 * sequences, Dtype::kFp8, sequences, 4},
        h, r)[Unit::kMemory];
  };
  const double once = 50'000.0 * 132.0 / r.memory;
  EXPECT_GT(memory(1), once);
  EXPECT_LT(memory(1), 2.0 * once);
  EXPECT_GT(memory(64), 50.0 * memory(1));
  EXPECT_LT(memory(64), 66.0 * once);
}

TEST(OpCost, SelectionLooksAtWhatEachQuerySees) {
  const Hardware h = hardware("hgx_h200");
  const Rates r = derive_rates(h);
  // A prompt's queries see half of what as many decoding ones at its end see.
  const auto time = [&](std::int64_t sequences, std::int64_t entries) {
    return elapsed(cost(w::TopK{4096, 4096 * entries, 512, sequences, 4}, h, r));
  };
  EXPECT_LT(time(1, 20'000), time(1, 40'000));
  EXPECT_LT(time(4096, 20'000), time(4096, 40'000));
}

TEST(OpCost, ExpertsFromATableTakeNoSelection) {
  const Cost learned = on_round_chip(w::Route{4096, 256, 8, false});
  const Cost given = on_round_chip(w::Route{4096, 256, 8, true});
  EXPECT_LT(given[Unit::kVector], 0.7 * learned[Unit::kVector]);
  EXPECT_GT(given[Unit::kMemory], learned[Unit::kMemory]);
}

TEST(OpCost, HostTablesComeOverTheHostLink) {
  const Cost host = on_round_chip(w::Lookup{10, 4, 256, Dtype::kFp8, 8, true});
  EXPECT_DOUBLE_EQ(host[Unit::kHost], 10.0 * 4.0 * (256.0 + 8.0) / 0.1e12);
  EXPECT_EQ(host[Unit::kMemory], 0.0);
  const Cost device = on_round_chip(w::Lookup{10, 4, 256, Dtype::kFp8, 8, false});
  EXPECT_EQ(device[Unit::kHost], 0.0);
  EXPECT_DOUBLE_EQ(device[Unit::kMemory], 10.0 * 4.0 * (256.0 + 8.0) / 1e12);
}

TEST(OpCost, CommunicationIsMarkedAndPaysTheCollectiveFloor) {
  const Hardware h = hardware("hgx_h200");
  const Rates r = derive_rates(h);
  const Cost dispatch = cost(w::Dispatch{64, 512, 448, 4096, 8, Dtype::kFp8}, h, r);
  EXPECT_TRUE(dispatch.communication);
  // The library's start and a flight, less the launch that every kernel pays.
  EXPECT_NEAR(dispatch.latency, r.communication.expert_start + 1e-6 - r.launch, 1e-12);
  EXPECT_GT(dispatch[Unit::kScaleUp], 0.0);
  EXPECT_EQ(dispatch[Unit::kScaleOut], 0.0);
  // 448 rows of 4096 B, a scale byte for 32 elements and 16 B, at the rate of single rows.
  const double rate = 450e9 * r.communication.rows;
  EXPECT_NEAR(dispatch[Unit::kScaleUp], 448.0 * (4096.0 + 128.0 + 16.0) / rate, 1e-12);
  const Cost combine = cost(w::Combine{64, 512, 448, 4096, 8, Dtype::kBf16}, h, r);
  EXPECT_NEAR(combine[Unit::kScaleUp], 448.0 * 8192.0 / rate, 1e-12);
}

TEST(OpCost, NormalTrafficTakesItsCoresFromCompute) {
  const Hardware h = hardware("hgx_h200_x4");
  const Rates r = derive_rates(h);
  const Cost c = cost(w::Dispatch{8192, 65536, 63488, 7168, 32, Dtype::kFp8}, h, r);
  TrafficShape shape;
  shape.tokens = 8192;
  shape.topk = 8.0;
  shape.hidden = 7168;
  shape.ranks = 32;
  const TrafficTime t = fastest_traffic(h, r, shape);
  ASSERT_EQ(t.form, TrafficForm::kNormal);
  EXPECT_DOUBLE_EQ(c[Unit::kScaleOut], t.links.scale_out);
  EXPECT_NEAR(c[Unit::kMatrix], c[Unit::kScaleOut] * 24.0 / 132.0, 1e-12);
}

}  // namespace
}  // namespace foretoken::hwmodels
