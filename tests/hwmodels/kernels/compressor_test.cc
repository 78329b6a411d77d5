// Compressors: their entries and state against the reference, mistakes that must be caught, and
// what their time does when a design changes.
#include "hwmodels/kernels/compressor.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <map>
#include <string>
#include <vector>

#include "hwmodels/tile/evaluate.h"
#include "hwmodels/tile/recorder.h"
#include "hwmodels/value/verify_compressor.h"
#include "sim/base/error.h"
#include "tests/hwmodels/fixtures.h"

namespace foretoken::hwmodels::kernels {
namespace {

using tile::CoreRates;
using value::Comparison;
using value::CompressorCase;

const CoreRates& chip(const std::string& system) {
  static std::map<std::string, CoreRates> chips;
  const auto found = chips.find(system);
  if (found != chips.end()) return found->second;
  return chips.emplace(system, test_support::core_rates_of(system)).first->second;
}

constexpr std::array<const char*, 4> kSystems = {"hgx_h200", "hgx_b200", "atlas_950_1024",
                                                 "cloudmatrix384"};

tile::KernelTime time_of(const CompressorProblem& p, const CompressorDesign& d,
                         const CoreRates& c) {
  tile::Recorder recorder(c);
  recorder.record(CompressorKernel(p, d, c));
  return tile::Evaluator().evaluate(recorder);
}

std::string described(const Comparison& c) {
  return "max " + std::to_string(c.max_relative) + " rms " + std::to_string(c.rms_relative) + " " +
         c.hazard;
}

constexpr std::array kFormats = {CompressedFormat::kBf16, CompressedFormat::kFp8Rope,
                                 CompressedFormat::kFp4, CompressedFormat::kFp8};

TEST(Compressor, EqualsTheReferenceInEveryFormatFromEveryPlaceInABlock) {
  const CoreRates& c = chip("hgx_b200");
  for (const CompressedFormat entry : kFormats) {
    for (const bool overlap : {true, false}) {
      for (const std::int64_t history : {0, 1, 3, 4, 6, 11, 40}) {
        for (const std::int64_t tokens : {1, 2, 5, 23}) {
          const CompressorCase test{
              .sequences = {{.count = 2, .history = history, .queries = tokens}},
              .overlap = overlap,
              .entry = entry};
          const Comparison got = verify_compressor({.blocks = 2, .channels = 64}, c, test);
          EXPECT_TRUE(within(got, value::compressor_tolerance(entry)))
              << static_cast<int>(entry) << ' ' << overlap << ' ' << history << ' ' << tokens << ' '
              << described(got);
        }
      }
    }
  }
}

TEST(Compressor, EqualsTheReferenceUnderAnyDesignAndFamily) {
  for (const char* system : kSystems) {
    for (const CompressorDesign& d :
         {CompressorDesign{}, CompressorDesign{.blocks = 1, .channels = 32, .stages = 1},
          CompressorDesign{.blocks = 3, .channels = 128, .stages = 5}}) {
      const CompressorCase test{.sequences = {{.history = 17, .queries = 60},
                                              {.history = 0, .queries = 3},
                                              {.count = 0},
                                              {.count = 3, .history = 7}}};
      const Comparison got = verify_compressor(d, chip(system), test);
      EXPECT_TRUE(within(got, value::compressor_tolerance(test.entry))) << system << described(got);
    }
  }
}

TEST(Compressor, ModelsShapesGiveTheReferencesEntries) {
  const CoreRates& c = chip("atlas_950_1024");
  for (const CompressorCase& test :
       {CompressorCase{.sequences = {{.history = 30, .queries = 2}}, .width = 512},
        CompressorCase{
            .sequences = {{.history = 127}}, .ratio = 128, .width = 512, .overlap = false},
        CompressorCase{.sequences = {{.history = 100, .queries = 300}},
        .ratio = 128,
        .width = 512,
        .overlap = false},
        CompressorCase{.sequences = {{.history = 128, .queries = 64}},
        .width = 128,
        .entry = CompressedFormat::kFp4}}) {
    const CompressorProblem p{.ratio = test.ratio, .width = test.width, .overlap = test.overlap};
    const Comparison got = verify_compressor(default_compressor_design(p), c, test);
    EXPECT_TRUE(within(got, value::compressor_tolerance(test.entry))) << described(got);
  }
}

TEST(Compressor, MistakesAreCaught) {
  const CoreRates& c = chip("hgx_b200");
  for (const CompressedFormat entry : kFormats) {
    const CompressorCase test{.sequences = {{.history = 6, .queries = 400}}, .entry = entry};
    const CompressorDesign d{.blocks = 4, .channels = 64};
    const auto tolerance = value::compressor_tolerance(entry);
    EXPECT_TRUE(within(verify_compressor(d, c, test), tolerance));
    for (const CompressorFault fault :
         {CompressorFault::kHalvesSwapped, CompressorFault::kLastPosition}) {
      const Comparison got = verify_compressor(d, c, test, fault);
      EXPECT_FALSE(within(got, tolerance)) << static_cast<int>(fault);
      EXPECT_GT(got.rms_relative, 3 * tolerance.rms_relative);
      EXPECT_TRUE(got.hazard.empty());
    }
    const Comparison reuse = verify_compressor(d, c, test, CompressorFault::kEarlyReuse);
    EXPECT_NE(reuse.hazard.find("_tile"), std::string::npos) << reuse.hazard;
    if (entry == CompressedFormat::kBf16) continue;
    const Comparison floor = verify_compressor(d, c, test, CompressorFault::kScaleFloor);
    EXPECT_FALSE(within(floor, tolerance)) << static_cast<int>(entry) << described(floor);
  }
}

TEST(Compressor, WhatCannotRunIsRefused) {
  const CoreRates& c = chip("hgx_h200");
  const std::vector<SequenceGroup> one = {{.queries = 8192}};
  EXPECT_THROW(time_of({.sequences = one}, {.channels = 96}, c), base::UnsupportedError);
  EXPECT_THROW(time_of({.sequences = one}, {.stages = 16}, c), base::UnsupportedError);
}

TEST(Compressor, TakesNoLessThanReadingTheProjections) {
  for (const char* system : kSystems) {
    const CoreRates& c = chip(system);
    for (const auto& [ratio, overlap] :
         std::vector<std::pair<std::int64_t, bool>>{{4, true}, {128, false}}) {
      double before = 0.0;
      for (const std::int64_t tokens : {1024, 8192, 65536}) {
        const std::vector<SequenceGroup> batch = {{.queries = tokens}};
        const CompressorProblem p{.sequences = batch, .ratio = ratio, .overlap = overlap};
        const tile::KernelTime t = time_of(p, default_compressor_design(p), c);
        const double bytes = 8.0 * static_cast<double>(tokens * p.projected());
        EXPECT_GE(t.seconds, bytes / c.cache) << system;
        EXPECT_GE(t.seconds, 7.0 * 0.125 * bytes / (c.lanes32 * c.cores)) << system;
        EXPECT_GE(t.seconds, before);
        before = t.seconds;
      }
    }
  }
}

TEST(Compressor, ADecodeStepIsBoundByItsFixedTimesAndByTheStateOfLongBlocks) {
  for (const char* system : kSystems) {
    const CoreRates& c = chip(system);
    // In the middle of a block a token is only noted; at its end the block is read back.
    const auto step = [&](std::int64_t ratio, bool overlap, std::int64_t place) {
      const std::vector<SequenceGroup> batch = {{.count = 64, .history = 1280 + place}};
      const CompressorProblem p{.sequences = batch, .ratio = ratio, .overlap = overlap};
      return time_of(p, default_compressor_design(p), c).seconds;
    };
    EXPECT_LT(step(4, true, 1), 12e-6) << system;
    EXPECT_GT(step(4, true, 3), step(4, true, 1));
    const double state = 64.0 * 2 * 127 * 512 * 4;
    EXPECT_GT(step(128, false, 127), step(128, false, 1) + 0.75 * state / c.memory) << system;
  }
}

TEST(Compressor, FewerStagesAreSlower) {
  for (const char* system : kSystems) {
    const CoreRates& c = chip(system);
    const std::vector<SequenceGroup> batch = {{.queries = 8192}};
    const CompressorProblem p{.sequences = batch};
    CompressorDesign d = default_compressor_design(p);
    const double three = time_of(p, d, c).seconds;
    d.stages = 1;
    EXPECT_GT(time_of(p, d, c).seconds, 1.2 * three) << system;
  }
}

TEST(Compressor, RealShapesArePricedInMicroseconds) {
  const CoreRates& c = chip("hgx_b200");
  tile::Recorder recorder(c);
  tile::Evaluator evaluator;
  for (const SequenceGroup& g :
       {SequenceGroup{.count = 2048, .history = 8195}, SequenceGroup{.queries = 8192},
        SequenceGroup{.count = 16, .history = 1 << 20, .queries = 65536}}) {
    for (const auto& [ratio, overlap] :
         std::vector<std::pair<std::int64_t, bool>>{{4, true}, {128, false}}) {
      const std::vector<SequenceGroup> batch = {g};
      const CompressorProblem p{.sequences = batch, .ratio = ratio, .overlap = overlap};
      const CompressorDesign d = default_compressor_design(p);
      double best = 1.0;
      for (int i = 0; i < 20; ++i) {
        const auto start = std::chrono::steady_clock::now();
        recorder.record(CompressorKernel(p, d, c));
        EXPECT_GT(evaluator.evaluate(recorder).seconds, 0.0);
        const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
        best = std::min(best, took.count());
      }
      EXPECT_LT(best, 500e-6);
    }
  }
}

}  // namespace
}  // namespace foretoken::hwmodels::kernels
