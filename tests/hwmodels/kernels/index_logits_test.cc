// The lightning indexer's scores: their values against the reference, mistakes that must be caught,
// and what their time does when a design or a chip changes.
#include "hwmodels/kernels/index_logits.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "hwmodels/tile/evaluate.h"
#include "hwmodels/tile/recorder.h"
#include "hwmodels/value/verify_index_logits.h"
#include "sim/base/error.h"
#include "tests/hwmodels/fixtures.h"

namespace foretoken::hwmodels::kernels {
namespace {

using tile::CoreRates;
using value::Comparison;
using value::IndexLogitsCase;
using workloads::Dtype;

const CoreRates& chip(const std::string& system) {
  static std::map<std::string, CoreRates> chips;
  const auto found = chips.find(system);
  if (found != chips.end()) return found->second;
  return chips.emplace(system, test_support::core_rates_of(system)).first->second;
}

constexpr std::array<const char*, 4> kSystems = {"hgx_h200", "hgx_b200", "atlas_950_1024",
                                                 "cloudmatrix384"};

tile::KernelTime time_of(const IndexLogitsProblem& p, const IndexLogitsDesign& d,
                         const CoreRates& c) {
  const IndexLogitsKernel kernel(p, d, c);
  tile::Recorder recorder(c);
  recorder.record(kernel);
  return tile::Evaluator().evaluate(recorder);
}

std::string described(const Comparison& c) {
  return "max " + std::to_string(c.max_relative) + " rms " + std::to_string(c.rms_relative) + " " +
         c.hazard;
}

// Keys as each chip can multiply them.
std::pair<Dtype, Dtype> served(const CoreRates& c) {
  if (c.matrix[static_cast<std::size_t>(Dtype::kFp4)] > 0.0) return {Dtype::kFp4, Dtype::kFp4};
  if (c.matrix[static_cast<std::size_t>(Dtype::kFp8)] > 0.0) return {Dtype::kFp8, Dtype::kFp8};
  return {Dtype::kBf16, Dtype::kBf16};
}

IndexLogitsDesign small_design(const CoreRates& c) {
  IndexLogitsDesign d = default_index_logits_design(c);
  d.tile_entries = 128;
  return d;
}

TEST(IndexLogits, EqualsTheReferenceInEveryFormatAndFamily) {
  for (const char* system : kSystems) {
    const CoreRates& c = chip(system);
    for (const auto& [key, compute] :
         std::vector<std::pair<Dtype, Dtype>>{{Dtype::kFp4, Dtype::kFp4},
                                              {Dtype::kFp8, Dtype::kFp8},
                                              {Dtype::kBf16, Dtype::kBf16},
                                              {Dtype::kFp4, Dtype::kBf16}}) {
      if (c.matrix[static_cast<std::size_t>(compute)] <= 0.0) continue;
      for (const Dtype score : {Dtype::kBf16, Dtype::kFp32}) {
        const IndexLogitsCase test{.key = key, .compute = compute, .score = score};
        const Comparison got = verify_index_logits(small_design(c), c, test);
        EXPECT_TRUE(within(got, value::index_logits_tolerance(score)))
            << system << ' ' << to_string(key) << ' ' << described(got);
        EXPECT_EQ(got.elements, 2 * (250 + 250));
      }
    }
  }
}

TEST(IndexLogits, EqualsTheReferenceInDecodeAndPrefillUnderAnyDesign) {
  const CoreRates& c = chip("hgx_b200");
  const std::vector<std::vector<SequenceGroup>> batches = {
      {{.count = 3, .history = 2047, .queries = 1}},                     // decode
      {{.count = 2, .history = 510, .queries = 4}, {.history = 3}},      // speculative, uneven
      {{.history = 0, .queries = 70}},                                   // prefill
      {{.history = 333, .queries = 41}, {.history = 0, .queries = 17}},  // chunked
      {{.history = 1}, {.history = 900, .queries = 2}, {.queries = 0}},  // nothing to see
  };
  for (const auto& batch : batches) {
    for (const std::int64_t ratio : {1, 2, 4}) {
      for (const IndexLogitsDesign& d :
           {IndexLogitsDesign{.block_queries = 1, .tile_entries = 128, .stages = 2, .split = 1},
            IndexLogitsDesign{.block_queries = 2, .tile_entries = 128, .accumulators = 2},
            IndexLogitsDesign{.block_queries = 3,
            .tile_entries = 64,
            .stages = 4,
            .score_slots = 3,
            .split = 5,
            .keys_are_rows = false,
            .persistent = true},
            IndexLogitsDesign{.block_queries = 8, .tile_entries = 256, .stages = 1}}) {
        const IndexLogitsCase test{.sequences = batch, .heads = 4, .width = 32, .ratio = ratio};
        const Comparison got = verify_index_logits(d, c, test);
        EXPECT_TRUE(within(got, value::index_logits_tolerance(Dtype::kFp32)))
            << batch[0].history << ' ' << ratio << ' ' << described(got);
      }
    }
  }
}

TEST(IndexLogits, RealHeadsAndWidthGiveTheReferencesScores) {
  const CoreRates& c = chip("atlas_950_1024");
  const IndexLogitsCase test{.sequences = {{.history = 700}},
                             .heads = 64,
                             .width = 128,
                             .page = 64,
                             .key = Dtype::kFp4,
                             .compute = Dtype::kFp4,
                             .score = Dtype::kBf16};
  const Comparison got = verify_index_logits(default_index_logits_design(c), c, test);
  EXPECT_TRUE(within(got, value::index_logits_tolerance(Dtype::kBf16))) << described(got);
}

TEST(IndexLogits, MistakesAreCaught) {
  for (const char* system : kSystems) {
    const CoreRates& c = chip(system);
    const auto [key, compute] = served(c);
    IndexLogitsCase test{.sequences = {{.history = 2200, .queries = 30}},
                         .heads = 4,
                         .width = 32,
                         .key = key,
                         .compute = compute};
    const IndexLogitsDesign d = small_design(c);
    const auto tolerance = value::index_logits_tolerance(test.score);
    EXPECT_TRUE(within(verify_index_logits(d, c, test), tolerance));
    const Comparison relu = verify_index_logits(d, c, test, IndexLogitsFault::kNoRelu);
    EXPECT_FALSE(within(relu, tolerance));
    EXPECT_TRUE(relu.hazard.empty());
    const Comparison bound = verify_index_logits(d, c, test, IndexLogitsFault::kCausalBound);
    EXPECT_FALSE(within(bound, tolerance));
    IndexLogitsDesign one_part = d;
    one_part.split = 1;
    const Comparison reuse = verify_index_logits(one_part, c, test, IndexLogitsFault::kEarlyReuse);
    EXPECT_NE(reuse.hazard.find("key_tile"), std::string::npos) << system << reuse.hazard;
  }
}

TEST(IndexLogits, WhatCannotRunIsRefused) {
  const CoreRates& c = chip("hgx_b200");
  const std::vector<SequenceGroup> one = {{.history = 1 << 20}};
  const IndexLogitsProblem p{.sequences = one};
  IndexLogitsDesign d;
  d.tile_entries = 96;
  EXPECT_THROW(time_of(p, d, c), base::UnsupportedError);  // no whole pages
  d.tile_entries = 64;
  EXPECT_THROW(time_of(p, d, c), base::UnsupportedError);  // half an instruction
  d.tile_entries = 4096;
  EXPECT_THROW(time_of(p, d, c), base::UnsupportedError);  // does not fit
  EXPECT_THROW(time_of(p, default_index_logits_design(chip("hgx_h200")), chip("hgx_h200")),
               base::UnsupportedError);  // no FP4
}

TEST(IndexLogits, TakesNoLessThanTheRoofline) {
  for (const char* system : kSystems) {
    const CoreRates& c = chip(system);
    const auto [key, compute] = served(c);
    for (const std::int64_t context : {1000, 128 << 10, 1 << 20}) {
      for (const auto& [count, queries] :
           std::vector<std::pair<std::int64_t, std::int64_t>>{{1, 1}, {1, 4}, {64, 1}, {1, 8192}}) {
        const std::vector<SequenceGroup> batch = {
            {.count = count, .history = context, .queries = queries}};
        const IndexLogitsProblem p{.sequences = batch, .key = key, .compute = compute};
        const tile::KernelTime t = time_of(p, default_index_logits_design(c, queries > 8), c);
        const double entries = static_cast<double>(visible_entries(context, 4));
        const double pairs = entries * static_cast<double>(count * queries) * 64;
        EXPECT_GE(t.seconds, c.launch);
        EXPECT_GE(t.seconds,
                  2.0 * 128 * pairs / (c.matrix[static_cast<std::size_t>(compute)] * c.cores))
            << system << ' ' << context;
        EXPECT_GE(t.seconds, 2.0 * pairs / (c.lanes32 * c.cores)) << system << ' ' << context;
        EXPECT_GE(t.seconds, entries * static_cast<double>(count) * 64 / c.memory);
        double sum = 0.0;
        for (const double part : t.parts) sum += part;
        EXPECT_NEAR(sum, t.seconds, 1e-9 * t.seconds);
      }
    }
  }
}

TEST(IndexLogits, SplittingHelpsFewLongSequences) {
  for (const char* system : kSystems) {
    const CoreRates& c = chip(system);
    const auto [key, compute] = served(c);
    const std::vector<SequenceGroup> one = {{.history = 1 << 20}};
    const IndexLogitsProblem p{.sequences = one, .key = key, .compute = compute};
    IndexLogitsDesign d = default_index_logits_design(c);
    d.split = 1;
    const double whole = time_of(p, d, c).seconds;
    d.split = 8;
    const double eight = time_of(p, d, c).seconds;
    d.split = 1024;
    const double many = time_of(p, d, c).seconds;
    EXPECT_LT(eight, 0.3 * whole) << system;
    EXPECT_LT(many, 0.7 * eight) << system;
  }
}

TEST(IndexLogits, FewerStagesAreSlowerWhereKeysAreWaitedFor) {
  for (const char* system : {"hgx_h200", "hgx_b200", "atlas_950_1024"}) {
    const CoreRates& c = chip(system);
    const auto [key, compute] = served(c);
    const std::vector<SequenceGroup> one = {{.history = 1 << 20}};
    const IndexLogitsProblem p{.sequences = one, .key = key, .compute = compute};
    IndexLogitsDesign d = default_index_logits_design(c);
    d.split = 8;
    d.stages = 1;
    const double single = time_of(p, d, c).seconds;
    d.stages = 4;
    EXPECT_GT(single, 1.2 * time_of(p, d, c).seconds) << system;
  }
}

TEST(IndexLogits, MoreSlotsLetMatrixAndVectorUnitsOverlap) {
  const CoreRates& c = chip("atlas_950_1024");
  const std::vector<SequenceGroup> one = {{.history = 128 << 10, .queries = 4096}};
  const IndexLogitsProblem p{.sequences = one};
  IndexLogitsDesign d = default_index_logits_design(c);
  d.accumulators = 2;
  d.score_slots = 2;
  const tile::KernelTime both = time_of(p, d, c);
  d.accumulators = 1;
  d.score_slots = 1;
  const tile::KernelTime one_slot = time_of(p, d, c);
  EXPECT_GT(one_slot.seconds, 1.1 * both.seconds);
  // Vector work on each product is the bound: the vector units are mostly busy.
  EXPECT_GT(both.vector, 0.8 * both.seconds);
}

TEST(IndexLogits, QueriesThatShareKeysReadThemOnce) {
  const CoreRates& c = chip("hgx_b200");
  const std::vector<SequenceGroup> one = {{.history = 1 << 20, .queries = 4}};
  const IndexLogitsProblem p{.sequences = one, .key = Dtype::kFp8, .compute = Dtype::kFp8};
  IndexLogitsDesign d = default_index_logits_design(c);
  d.tile_entries = 128;
  d.block_queries = 1;
  const tile::KernelTime apart = time_of(p, d, c);
  d.block_queries = 4;
  d.accumulators = 1;
  d.score_slots = 1;
  const tile::KernelTime together = time_of(p, d, c);
  EXPECT_NEAR(apart.cache_bytes / together.cache_bytes, 4.0, 0.5);
}

TEST(IndexLogits, RealShapesArePricedInMicroseconds) {
  const CoreRates& c = chip("hgx_b200");
  tile::Recorder recorder(c);
  tile::Evaluator evaluator;
  for (const SequenceGroup& g : {SequenceGroup{.count = 2048, .history = 8192},
                                 SequenceGroup{.count = 1, .history = 1 << 20},
                                 SequenceGroup{.count = 64, .history = 131072, .queries = 2},
                                 SequenceGroup{.history = 0, .queries = 8192},
                                 SequenceGroup{.history = 1 << 20, .queries = 8192}}) {
    const std::vector<SequenceGroup> batch = {g};
    const IndexLogitsDesign d = default_index_logits_design(c, g.queries > 8);
    double best = 1.0;
    for (int i = 0; i < 20; ++i) {
      const auto start = std::chrono::steady_clock::now();
      recorder.record(IndexLogitsKernel({.sequences = batch}, d, c));
      EXPECT_GT(evaluator.evaluate(recorder).seconds, 0.0);
      const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
      best = std::min(best, took.count());
    }
    // A few tens of microseconds on a quiet machine.
    EXPECT_LT(best, 500e-6) << g.history << ' ' << g.queries;
  }
}

}  // namespace
}  // namespace foretoken::hwmodels::kernels
