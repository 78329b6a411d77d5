// What one operator asks of a chip: limits by hand, and the physics of random shapes.
#include "hwmodels/op_cost.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "tests/hwmodels/fixtures.h"
#include "tests/sim/base/test_support.h"

namespace foretoken::hwmodels {
namespace {

namespace w = workloads;
using test_support::hardware;
using test_support::largest;
using test_support::round_rates;
using w::Dtype;

w::Gemm gemm(std::int64_t m, std::int64_t n, std::int64_t k, Dtype weight = Dtype::kFp8,
             Dtype compute = Dtype::kFp8) {
  return {m, n, k, 1, compute, weight, compute, Dtype::kBf16, 128};
}

Cost on_round_chip(const w::Op& op, const Rates& r = round_rates()) {
  Hardware h;
  h.chip.name = "round";
  return cost(op, h, r);
}

TEST(OpCost, ALargeGemmIsBoundByTheMatrixUnitAtItsRate) {
  const Cost c = on_round_chip(gemm(1280, 1280, 1280));
  // 100 tiles of 128 x 128 on 10 cores: ten full waves.
  EXPECT_NEAR(c[Unit::kMatrix], 2.0 * 1280 * 1280 * 1280 / 10e12, 1e-15);
  EXPECT_EQ(largest(c), c[Unit::kMatrix]);
  EXPECT_FALSE(c.communication);
}

TEST(OpCost, AGemmOfFewTokensIsBoundByReadingItsWeights) {
  Rates r = round_rates();
  r.memory = 0.1e12;
  const Cost c = on_round_chip(gemm(16, 12800, 1280), r);
  const double weights = static_cast<double>(w::weight_bytes(Dtype::kFp8, 1, 12800, 1280, 128));
  EXPECT_GE(weights, 12800.0 * 1280.0);
  EXPECT_DOUBLE_EQ(c[Unit::kMemory], weights / 0.1e12);
  EXPECT_EQ(largest(c), c[Unit::kMemory]);
}

TEST(OpCost, ATinyGemmPaysForOneWholeTile) {
  const Cost c = on_round_chip(gemm(1, 1, 64));
  EXPECT_DOUBLE_EQ(c[Unit::kMatrix], 2.0 * 16 * 16 * 64 / 1e12);
}

TEST(OpCost, AnEmptyOperatorCostsNothing) {
  for (const w::Op& op :
       {w::Op{gemm(0, 128, 128)},
        w::Op{w::GroupedGemm{0, 8, 0, 128, 128, Dtype::kFp8, Dtype::kFp4, Dtype::kFp8, Dtype::kBf16,
                             128}},
        w::Op{w::Attention{0, 8, 128, 128, 0, 0, 0, Dtype::kBf16, Dtype::kBf16}},
        w::Op{w::IndexLogits{1, 8, 128, 0, 0, Dtype::kFp8}}, w::Op{w::TopK{1, 0, 8}}}) {
    EXPECT_EQ(largest(on_round_chip(op)), 0.0);
  }
}

TEST(OpCost, OneTileMoreThanCoresCostsASecondWave) {
  const Cost full = on_round_chip(gemm(64, 1280, 1280));  // 10 tiles on 10 cores
  const Cost over = on_round_chip(gemm(64, 1281, 1280));  // 11
  EXPECT_DOUBLE_EQ(over[Unit::kMatrix], 2.0 * full[Unit::kMatrix]);
}

TEST(OpCost, TooFewTilesAreSplitAlongTheDepth) {
  const Cost deep = on_round_chip(gemm(16, 128, 5120));  // 1 tile: ten parts of 512
  EXPECT_DOUBLE_EQ(deep[Unit::kMatrix], 2.0 * 128 * 16 * 512 / 1e12);
  const Cost shallow = on_round_chip(gemm(16, 128, 1024));  // two parts of 512
  EXPECT_DOUBLE_EQ(shallow[Unit::kMatrix], 2.0 * 128 * 16 * 512 / 1e12);
  const Cost none = on_round_chip(gemm(16, 128, 1023));  // no part below 512
  EXPECT_DOUBLE_EQ(none[Unit::kMatrix], 2.0 * 128 * 16 * 1023 / 1e12);
}

TEST(OpCost, Fp4WeightsRunAtTheFp8RateUnlessTheChipSaysOtherwise) {
  const Cost eight = on_round_chip(gemm(256, 1280, 1280));
  const Cost mixed = on_round_chip(gemm(256, 1280, 1280, Dtype::kFp4));
  EXPECT_DOUBLE_EQ(mixed[Unit::kMatrix], eight[Unit::kMatrix]);
  EXPECT_LT(mixed[Unit::kMemory], 0.55 * eight[Unit::kMemory]);
  Rates faster = round_rates();
  faster.fp4_fp8_rate = 4.0 / 3.0;
  EXPECT_DOUBLE_EQ(on_round_chip(gemm(256, 1280, 1280, Dtype::kFp4), faster)[Unit::kMatrix],
                   0.75 * eight[Unit::kMatrix]);
  EXPECT_DOUBLE_EQ(on_round_chip(gemm(256, 1280, 1280), faster)[Unit::kMatrix],
                   eight[Unit::kMatrix]);
}

TEST(OpCost, WideningIsChargedOnlyWhereTheMatrixUnitTakesNoSuchPair) {
  Rates native = round_rates();
  native.widen_on_vector = false;
  const auto vector = [](const w::Gemm& g, const Rates& r) {
    return on_round_chip(g, r)[Unit::kVector];
  };
  const Rates own = round_rates();
  // Two operations for every weight, once for each tile of tokens.
  EXPECT_DOUBLE_EQ(vector(gemm(16, 1280, 1280, Dtype::kFp4), own), 2.0 * 1280 * 1280 / 2e12);
  EXPECT_EQ(vector(gemm(16, 1280, 1280, Dtype::kFp4), native), 0.0);
  EXPECT_EQ(vector(gemm(16, 1280, 1280, Dtype::kFp8), own), 0.0);
  // FP4 operands on both sides need no widening; BF16 ones do, on every chip.
  EXPECT_EQ(vector(gemm(16, 1280, 1280, Dtype::kFp4, Dtype::kFp4), own), 0.0);
  EXPECT_GT(vector(gemm(16, 1280, 1280, Dtype::kFp4, Dtype::kBf16), native), 0.0);
  EXPECT_GT(vector(gemm(16, 1280, 1280, Dtype::kInt4, Dtype::kInt8), native), 0.0);
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

struct RandomOps {
  std::mt19937_64 engine{20261122};
  std::int64_t between(std::int64_t low, std::int64_t high) {
    // Log-uniform: as many small shapes as large ones.
    std::uniform_real_distribution<double> u(std::log(static_cast<double>(low)),
                                             std::log(static_cast<double>(high) + 1.0));
    return std::clamp(static_cast<std::int64_t>(std::exp(u(engine))), low, high);
  }
  w::Op next() {
    switch (between(1, 5)) {
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
        const std::int64_t queries = between(1, 5000);
        const std::int64_t entries = queries * between(1, 200000);
        return w::IndexLogits{queries,    64, 128, entries, entries * 68 / between(1, queries),
                              Dtype::kFp8};
      }
      default: {
        const std::int64_t queries = between(1, 5000);
        return w::TopK{queries, queries * between(1, 200000), 512};
      }
    }
  }
};

double peak_of(const Rates& r) {
  return r.cores * r.core_flops[static_cast<std::size_t>(Dtype::kFp8)];
}

TEST(OpCost, NoTimeIsBelowTheRooflineAtTheAchievedRates) {
  RandomOps random;
  for (const char* system : {"hgx_h200", "gb300_nvl72", "atlas_950_cabinet"}) {
    const Hardware h = hardware(system);
    const Rates r = derive_rates(h);
    for (int i = 0; i < 1000; ++i) {
      const w::Op op = random.next();
      const w::WorkCount n = w::count_op(op);
      const Cost c = cost(op, h, r);
      for (const double busy : c.busy) {
        ASSERT_TRUE(std::isfinite(busy) && busy >= 0.0) << system << " " << w::op_kind(op);
      }
      const bool bf16 = std::holds_alternative<w::Attention>(op);
      const double peak =
          bf16 ? r.cores * r.core_flops[static_cast<std::size_t>(Dtype::kBf16)] : peak_of(r);
      EXPECT_GE(c[Unit::kMatrix] * (1.0 + 1e-12), static_cast<double>(n.total_flops()) / peak)
          << system << " " << w::op_kind(op);
      if (!std::holds_alternative<w::Attention>(op)) {
        EXPECT_GE(c[Unit::kMemory] * (1.0 + 1e-12),
                  static_cast<double>(bf16 ? 0 : n.weight_bytes) / r.memory);
      }
      EXPECT_GE(c[Unit::kVector] * (1.0 + 1e-12),
                static_cast<double>(n.vector_ops) / r.vector_fp32 +
                    static_cast<double>(n.special_ops) / r.special);
    }
  }
}

TEST(OpCost, OneKernelIsNeverSlowerWithMoreOfAnyRate) {
  RandomOps random;
  const Hardware h = hardware("atlas_950_cabinet");
  const Rates r = derive_rates(h);
  for (int i = 0; i < 2000; ++i) {
    const w::Op op = random.next();
    const double before = largest(cost(op, h, r));
    for (const auto member : {&Rates::memory, &Rates::core_memory, &Rates::vector_fp32,
                              &Rates::vector_fp16, &Rates::special}) {
      Rates more = r;
      more.*member *= 1.37;
      EXPECT_LE(largest(cost(op, h, more)), before * (1.0 + 1e-12)) << w::op_kind(op);
    }
    Rates faster = r;
    for (double& f : faster.core_flops) f *= 1.37;
    // A faster core may prefer other tiles, but not a slower kernel.
    EXPECT_LE(largest(cost(op, h, faster)), before * (1.0 + 1e-12)) << w::op_kind(op);
  }
}

// Tiles are chosen for matrix and cache time alone, so a faster cache may pick tiles that leave
// cores idle, and then the weights arrive more slowly.
TEST(OpCost, OneKernelIsNeverSlowerWithAFasterCache) {
  RandomOps random;
  const Hardware h = hardware("atlas_950_cabinet");
  const Rates r = derive_rates(h);
  Rates more = r;
  more.cache *= 1.37;
  for (int i = 0; i < 2000; ++i) {
    const w::Op op = random.next();
    EXPECT_LE(largest(cost(op, h, more)), largest(cost(op, h, r)) * (1.0 + 1e-12));
  }
}

TEST(OpCost, MoreTokensNeverTakeLess) {
  const Hardware h = hardware("hgx_h200");
  const Rates r = derive_rates(h);
  double last = 0.0;
  for (std::int64_t m = 1; m <= 4096; m += (m < 64 ? 1 : 61)) {
    const Cost c = cost(gemm(m, 4096, 4096), h, r);
    // A wider tile choice may save a little; never more than a wave.
    EXPECT_GE(largest(c), 0.75 * last) << m;
    last = std::max(last, largest(c));
  }
}

TEST(OpCost, AttentionReadsFromMemoryWhatTheCacheCannotHold) {
  w::Attention a{64,         64,           512,          512,   64 * 2048, 64 * 2048 * 512,
                 2048 * 512, Dtype::kBf16, Dtype::kBf16, false, false};
  Rates r = round_rates();
  r.cache_capacity = 1e12;
  EXPECT_DOUBLE_EQ(on_round_chip(a, r)[Unit::kMemory], 2048.0 * 512.0 / r.memory);
  r.cache_capacity = 1.0;  // nothing is found again
  const double queries_and_outputs =
      static_cast<double>(w::count(a).input_bytes + w::count(a).output_bytes);
  EXPECT_NEAR(on_round_chip(a, r)[Unit::kMemory],
              (64.0 * 2048.0 * 512.0 + queries_and_outputs) / r.memory, 1e-9);
}

TEST(OpCost, GatheredEntriesWasteTheRestOfTheirLastSector) {
  w::Attention a{64,           64,           512,  512, 64 * 2048, 64 * 2048 * 584, 64 * 2048 * 584,
                 Dtype::kBf16, Dtype::kBf16, true, true};
  const double gathered = on_round_chip(a)[Unit::kCache];
  a.sparse = false;
  const double streamed = on_round_chip(a)[Unit::kCache];
  EXPECT_GT(gathered, streamed);  // 584 B take five sectors of 128 B
  EXPECT_LT(gathered, 640.0 / 584.0 * streamed * (1.0 + 1e-12));
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
  EXPECT_GE(dispatch.latency, r.collective);
  EXPECT_GT(dispatch[Unit::kScaleUp], 0.0);
  EXPECT_EQ(dispatch[Unit::kScaleOut], 0.0);
  // 448 rows of 4096 B and a scale byte for 32 elements, at the achieved link rate.
  EXPECT_NEAR(dispatch[Unit::kScaleUp], 448.0 * (4096.0 + 128.0) / (450e9 * r.link_efficiency),
              1e-12);
  const Cost combine = cost(w::Combine{64, 512, 448, 4096, 8, Dtype::kBf16}, h, r);
  EXPECT_NEAR(combine[Unit::kScaleUp], 448.0 * 8192.0 / (450e9 * r.link_efficiency), 1e-12);
}

}  // namespace
}  // namespace foretoken::hwmodels
