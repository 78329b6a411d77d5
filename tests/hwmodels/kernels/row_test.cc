// Chains over rows, the likeliest token and the rows of expert layers as tile programs: their
// values against the functional reference, faults made on purpose, and what their time does when a
// design or a chip changes.
#include "hwmodels/kernels/row.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <string>
#include <vector>

#include "hwmodels/tile/evaluate.h"
#include "hwmodels/tile/recorder.h"
#include "hwmodels/value/verify_row.h"
#include "sim/base/error.h"
#include "tests/hwmodels/fixtures.h"

namespace foretoken::hwmodels::kernels {
namespace {

using tile::CoreRates;
using value::Comparison;
using workloads::Dtype;

constexpr const char* kSystems[] = {"hgx_h200", "hgx_b200", "atlas_950_1024", "cloudmatrix384"};

struct Chain {
  std::string name;
  RowProblem problem;
};

// Every chain of V4's layers, with `rows` tokens and small dimensions.
std::vector<Chain> small_chains(std::int64_t rows) {
  RowProblem rounded = norm_chain(rows, 384, Dtype::kFp8);
  rounded.stages = {};
  rounded.stage_count = 0;
  rounded.then({.step = RowStep::kNorm, .weight = true})
      .then({.step = RowStep::kRound})
      .then({.step = RowStep::kQuantise, .block = 128});
  RowProblem weighted = swiglu_chain(rows, 256, 10.0, Dtype::kBf16);
  weighted.stages[0].weight = true;
  RowProblem wide = norm_chain(rows, 256, Dtype::kFp32);
  RowProblem narrow_cache = entry_chain(rows, 512, 999, 2 * rows);
  narrow_cache.output = Dtype::kBf16;
  narrow_cache.plain = 512;
  narrow_cache.entry_padding = narrow_cache.scale_bytes = 0.0;
  narrow_cache.stage_count = 2;
  return {{"norm", norm_chain(rows, 384, Dtype::kBf16)},
          {"norm to FP8", norm_chain(rows, 384, Dtype::kFp8)},
          {"norm, rounded, to FP8", rounded},
          {"norm to FP32", wide},
          {"residual and norm", residual_norm_chain(rows, 384)},
          {"quantisation", quantise_chain(rows, 1024)},
          {"queries", query_chain(rows, 16, 128, 999)},
          {"attention outputs", output_chain(rows, 16, 128, 999)},
          {"cache entries", entry_chain(rows, 512, 999, 2 * rows)},
          {"BF16 cache entries", narrow_cache},
          {"index queries", index_query_chain(rows, 64, 128, 999)},
          {"index keys", index_key_chain(rows, 128, 999, 2 * rows)},
          {"swiglu", swiglu_chain(rows, 256, 10.0)},
          {"weighted swiglu", weighted},
          {"embedding", embedding_chain(rows, 256, 100, 4)}};
}

std::vector<RowDesign> designs() {
  return {{},
          {.rows = 3, .columns = 128, .slots = 3, .iterations = 2},
          {.rows = 24, .columns = 256, .slots = 1, .iterations = 1}};
}

double seconds(const tile::Kernel& kernel, const CoreRates& chip) {
  tile::Recorder recorder(chip);
  recorder.record(kernel);
  return tile::Evaluator().evaluate(recorder).seconds;
}

TEST(RowKernel, ChainsEqualTheReferenceInEveryDesignAndFamily) {
  for (const char* system : kSystems) {
    const CoreRates chip = test_support::core_rates_of(system);
    for (const RowDesign& design : designs()) {
      for (const auto& [name, problem] : small_chains(19)) {
        const Comparison c = value::verify_row(design, chip, {problem});
        EXPECT_TRUE(within(c, value::row_tolerance(problem.output)))
            << system << ", " << name << ", " << design.rows << " rows: " << c.max_relative << " "
            << c.rms_relative << " " << c.recall << " " << c.hazard;
        EXPECT_GT(c.elements, 0);
      }
    }
  }
}

TEST(RowKernel, HeadsOfOneTokenAreSharedByCores) {
  const CoreRates chip = test_support::core_rates_of("hgx_h200");
  const RowProblem problem = output_chain(2, 128, 512, 99);  // 65,536 columns
  EXPECT_GT(RowKernel(problem, RowDesign{}, chip).launch().items, 100);
  EXPECT_TRUE(within(value::verify_row({}, chip, {problem}), value::row_tolerance(Dtype::kFp8)));
}

TEST(RowKernel, FewRowsAreCutWhereTheChainAllows) {
  const CoreRates chip = test_support::core_rates_of("hgx_h200");
  const RowDesign design;
  EXPECT_EQ(RowKernel(swiglu_chain(1, 3072, 10.0), design, chip).launch().items, 24);
  EXPECT_EQ(RowKernel(norm_chain(1, 7168, Dtype::kFp8), design, chip).launch().items, 1);
  EXPECT_TRUE(within(value::verify_row(design, chip, {swiglu_chain(1, 3072, 10.0)}),
                     value::row_tolerance(Dtype::kFp8)));
}

TEST(RowKernel, RowsLongerThanAMemoryAreCut) {
  const CoreRates chip = test_support::core_rates_of("hgx_h200");
  const RowDesign design{.columns = 1 << 20};
  EXPECT_GT(seconds(RowKernel(quantise_chain(999, 65536), design, chip), chip), 0.0);
  EXPECT_THROW(seconds(RowKernel(norm_chain(999, 65536, Dtype::kBf16), design, chip), chip),
               base::UnsupportedError);
}

TEST(RowKernel, FaultsAreCaught) {
  const std::vector<std::pair<RowFault, RowProblem>> faults = {
      {RowFault::kScaleFloor, quantise_chain(40, 1024)},
      {RowFault::kScaleFloor, norm_chain(40, 384, Dtype::kFp8)},
      {RowFault::kScaleFloor, entry_chain(40, 512, 999, 64)},
      {RowFault::kScaleFloor, index_query_chain(10, 64, 128, 999)},
      {RowFault::kRotateForward, output_chain(40, 16, 128, 999)},
      {RowFault::kEarlyLoad, norm_chain(600, 384, Dtype::kBf16)},
      {RowFault::kEarlyLoad, swiglu_chain(600, 256, 10.0)},
      {RowFault::kWideNorm, query_chain(40, 16, 128, 999)},
      {RowFault::kSwapHalves, swiglu_chain(40, 256, 10.0)}};
  for (const char* system : kSystems) {
    const CoreRates chip = test_support::core_rates_of(system);
    // Work items of more blocks than slots.
    const RowDesign design{.rows = 2, .slots = 2};
    for (const auto& [fault, problem] : faults) {
      const value::Tolerance tolerance = value::row_tolerance(problem.output);
      EXPECT_TRUE(within(value::verify_row(design, chip, {problem}), tolerance));
      const Comparison c = value::verify_row(design, chip, {problem}, fault);
      EXPECT_FALSE(within(c, tolerance)) << system << " fault " << static_cast<int>(fault);
      EXPECT_EQ(fault == RowFault::kEarlyLoad, !c.hazard.empty()) << c.hazard;
    }
  }
}

TEST(RowKernel, RefusesChainsAndStepsThatCannotBe) {
  const CoreRates chip = test_support::core_rates_of("hgx_h200");
  const RowDesign design;
  RowProblem late = norm_chain(1, 256, Dtype::kFp8);
  late.then({.step = RowStep::kNorm});
  EXPECT_THROW(RowKernel(late, design, chip), base::UnsupportedError);
  RowProblem second = norm_chain(1, 256, Dtype::kBf16);
  second.then({.step = RowStep::kSwiglu});
  EXPECT_THROW(RowKernel(second, design, chip), base::UnsupportedError);
  RowProblem heads = entry_chain(1, 512, 9, 9);
  heads.heads = 2;
  EXPECT_THROW(RowKernel(heads, design, chip), base::UnsupportedError);
  const RowDesign cutting{.columns = 192};
  try {
    const RowKernel kernel(quantise_chain(1, 1024), cutting, chip);
    FAIL() << kernel.launch().items;
  } catch (const base::UnsupportedError& e) {
    EXPECT_NE(std::string(e.what()).find("steps of 192 columns cut blocks of 128"),
              std::string::npos)
        << e.what();
  }
}

TEST(RowKernel, EveryRowIsReadAndWrittenOnce) {
  for (const char* system : kSystems) {
    const CoreRates chip = test_support::core_rates_of(system);
    for (const RowDesign& design : designs()) {
      for (const std::int64_t rows : {1, 7, 131, 1000}) {
        const RowKernel kernel(norm_chain(rows, 512, Dtype::kBf16), design, chip);
        tile::Recorder recorder(chip);
        recorder.record(kernel);
        std::int64_t items = 0;
        for (const tile::TileProgram& p : recorder.programs()) items += p.items;
        EXPECT_EQ(items, kernel.launch().items);
        const double bytes = static_cast<double>(rows) * 1024.0;
        EXPECT_DOUBLE_EQ(recorder.tensors().front().loaded, bytes) << system << " " << rows;
        EXPECT_DOUBLE_EQ(recorder.tensors().back().stored, bytes) << system << " " << rows;
      }
    }
  }
}

// Chains of V4-Pro at full size.
std::vector<Chain> full_chains(std::int64_t rows) {
  return {{"norm", norm_chain(rows, 7168, Dtype::kFp8)},
          {"residual", residual_norm_chain(rows, 7168)},
          {"queries", query_chain(rows, 128, 512, 1 << 20)},
          {"queries of a rank", query_chain(rows, 8, 512, 1 << 20)},
          {"outputs", output_chain(rows, 128, 512, 1 << 20)},
          {"entries", entry_chain(rows, 512, 1 << 20, 1 << 22)},
          {"index", index_query_chain(rows, 64, 128, 1 << 20)},
          {"swiglu", swiglu_chain(rows, 3072, 10.0)},
          {"dense swiglu", swiglu_chain(rows, 18432, 0.0)},
          {"embedding", embedding_chain(rows, 7168, 129280, 4)}};
}

TEST(RowKernel, TakesNoLessThanTheRoofline) {
  for (const char* system : kSystems) {
    const CoreRates chip = test_support::core_rates_of(system);
    for (const std::int64_t rows : {1, 64, 2048, 8192}) {
      for (auto [name, p] : full_chains(rows)) {
        p.input_in_cache = false;
        const RowDesign design;
        const double t = seconds(RowKernel(p, design, chip), chip);
        const double elements = static_cast<double>(p.rows * p.heads * p.width);
        EXPECT_GE(t, chip.launch + chip.start) << system << ", " << name;
        EXPECT_GE(t, 2.0 * elements / chip.memory) << system << ", " << name;
        // At least the conversions in and out.
        if (p.copies == 1) {
          EXPECT_GE(t, elements / (chip.lanes32 * chip.cores)) << system << ", " << name;
        }
      }
    }
  }
}

TEST(RowKernel, ManyRowsAreBoundByMemory) {
  const CoreRates chip = test_support::core_rates_of("hgx_h200");
  const RowDesign design;
  RowProblem p = residual_norm_chain(65536, 7168);
  p.input_in_cache = false;
  const double bytes = 4.0 * 2.0 * 65536 * 7168;
  EXPECT_LT(seconds(RowKernel(p, design, chip), chip), 1.1 * bytes / chip.memory);
}

TEST(RowKernel, OneSlotWaitsForEveryLoad) {
  for (const char* system : kSystems) {
    const CoreRates chip = test_support::core_rates_of(system);
    // Small rows: latency is what there is to hide.
    const RowProblem p = entry_chain(4096, 512, 1 << 20, 1 << 20);
    const RowDesign one{.rows = 4, .slots = 1};
    const RowDesign two{.rows = 4, .slots = 2};
    const RowDesign four{.rows = 4, .slots = 4};
    const double slow = seconds(RowKernel(p, one, chip), chip);
    const double fast = seconds(RowKernel(p, two, chip), chip);
    EXPECT_GT(slow, 1.2 * fast) << system;
    EXPECT_GE(1.001 * fast, seconds(RowKernel(p, four, chip), chip)) << system;
  }
}

TEST(ArgmaxKernel, FindsTheLikeliestToken) {
  for (const char* system : kSystems) {
    const CoreRates chip = test_support::core_rates_of(system);
    for (const value::ArgmaxCase& c :
         {value::ArgmaxCase{.rows = 3, .vocabulary = 5000},
          value::ArgmaxCase{.rows = 300, .vocabulary = 700},
          // Ties go to the lower token.
          value::ArgmaxCase{.rows = 40, .vocabulary = 4097, .input = Dtype::kBf16}}) {
      for (const RowDesign& design : designs()) {
        const Comparison got = value::verify_argmax(design, chip, c);
        EXPECT_EQ(got.recall, 1.0) << system;
        EXPECT_EQ(got.hazard, "") << system;
      }
    }
  }
}

TEST(ArgmaxKernel, ReadsTheLogitsOnce) {
  const CoreRates chip = test_support::core_rates_of("hgx_h200");
  const RowDesign design;
  const double bytes = 4.0 * 512 * 129280;
  const double t = seconds(ArgmaxKernel(512, 129280, Dtype::kFp32, design, chip), chip);
  EXPECT_GE(t, bytes / chip.memory);
  EXPECT_LT(t, 1.2 * bytes / chip.memory);
}

std::vector<value::MoeRowsCase> expert_cases() {
  return {{.problem = {.tokens = 5, .choices = 3, .experts = 8, .hidden = 256}},
          {.problem = {.tokens = 150,
                       .choices = 6,
                       .first_expert = 5,
                       .experts = 24,
                       .hidden = 384,
                       .weighted = true}},
          {.problem = {.tokens = 40,
                       .choices = 2,
                       .experts = 3,
                       .hidden = 256,
                       .moved = Dtype::kBf16,
                       .shared = true}}};
}

TEST(MoeRows, OrderMoveAndSumEqualTheReference) {
  const value::Tolerance tolerance = value::row_tolerance(Dtype::kBf16);
  for (const char* system : kSystems) {
    const CoreRates chip = test_support::core_rates_of(system);
    for (const value::MoeRowsCase& c : expert_cases()) {
      for (const MoeRowsDesign& design :
           {MoeRowsDesign{}, MoeRowsDesign{.pairs = 16, .single_pairs = 0, .rows = {.rows = 3}},
            MoeRowsDesign{.single_pairs = 4096, .rows = {.slots = 1}}}) {
        const Comparison got = value::verify_moe_rows(design, chip, c);
        EXPECT_TRUE(within(got, tolerance))
            << system << " " << got.max_relative << " " << got.rms_relative << " " << got.recall
            << " " << got.hazard;
      }
    }
  }
}

TEST(MoeRows, FaultsAreCaught) {
  const CoreRates chip = test_support::core_rates_of("hgx_h200");
  const value::MoeRowsCase c{
      .problem = {.tokens = 400, .choices = 4, .experts = 12, .hidden = 256}};
  const value::Tolerance tolerance = value::row_tolerance(Dtype::kBf16);
  const MoeRowsDesign design{.rows = {.rows = 1}};
  EXPECT_TRUE(within(value::verify_moe_rows(design, chip, c), tolerance));
  for (const MoeRowsFault fault : {MoeRowsFault::kInclusiveOffsets, MoeRowsFault::kScaleFloor,
                                   MoeRowsFault::kEarlyLoad, MoeRowsFault::kDropChoice}) {
    EXPECT_FALSE(within(value::verify_moe_rows(design, chip, c, fault), tolerance))
        << static_cast<int>(fault);
  }
}

TEST(MoeRows, MovesCostWhatTheyMove) {
  for (const char* system : kSystems) {
    const CoreRates chip = test_support::core_rates_of(system);
    const MoeRowsDesign design;
    const MoeRowsProblem p{.tokens = 8192, .choices = 6, .experts = 384, .hidden = 7168};
    const double rows = 8192.0 * 7168.0;
    const double there = rows * (2.0 + 6.0 * (1.0 + 4.0 / 128.0));
    const double back = rows * (2.0 + 6.0 * 2.0);
    const double permute = seconds(PermuteKernel(p, design, chip), chip);
    const double finalise = seconds(FinaliseKernel(p, design, chip), chip);
    EXPECT_GE(permute, 0.99 * there / chip.memory) << system;
    EXPECT_LT(permute, 1.5 * there / chip.memory) << system;
    EXPECT_GE(finalise, 0.99 * back / chip.memory) << system;
    EXPECT_LT(finalise, 1.5 * back / chip.memory) << system;
  }
}

TEST(MoeRows, OneCoreIsQuickerForFewPairsAndSlowerForMany) {
  const CoreRates chip = test_support::core_rates_of("hgx_h200");
  const auto order = [&](std::int64_t tokens, std::int64_t single) {
    const MoeRowsDesign design{.single_pairs = single};
    const MoeRowsProblem p{.tokens = tokens, .choices = 6, .experts = 384, .hidden = 7168};
    const ExpertOrderKernel place(p, design, chip, ExpertOrderKernel::Pass::kPlace);
    double t = seconds(place, chip);
    if (place.counters() > 1) {
      t += seconds(ExpertOrderKernel(p, design, chip, ExpertOrderKernel::Pass::kCount), chip);
    }
    return t;
  };
  EXPECT_LT(order(16, 4096), order(16, 0));
  EXPECT_GT(order(512, 4096), order(512, 0));
}

// Median of several runs: the machine may be busy with other things.
double host_seconds(const tile::Kernel& kernel, const CoreRates& chip) {
  tile::Recorder recorder(chip);
  tile::Evaluator evaluator;
  std::vector<double> runs;
  for (int i = 0; i < 15; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    recorder.record(kernel);
    evaluator.evaluate(recorder);
    runs.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
  }
  std::nth_element(runs.begin(), runs.begin() + 7, runs.end());
  return runs[7];
}

TEST(RowKernel, PricingTakesMicroseconds) {
  for (const char* system : kSystems) {
    const CoreRates chip = test_support::core_rates_of(system);
    for (const std::int64_t rows : {1, 2048, 1 << 20}) {
      for (const auto& [name, p] : full_chains(rows)) {
        const RowDesign design;
        EXPECT_LT(host_seconds(RowKernel(p, design, chip), chip), 200e-6) << system << ", " << name;
      }
    }
  }
}

}  // namespace
}  // namespace foretoken::hwmodels::kernels
