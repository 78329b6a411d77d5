// Expert choice: its values against the reference, mistakes that must be caught, and its time.
#include "hwmodels/kernels/route.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <map>
#include <string>

#include "hwmodels/tile/evaluate.h"
#include "hwmodels/tile/recorder.h"
#include "hwmodels/value/verify_route.h"
#include "sim/base/error.h"
#include "tests/hwmodels/fixtures.h"

namespace foretoken::hwmodels::kernels {
namespace {

using reference::RouterShape;
using reference::Scoring;
using tile::CoreRates;
using value::Comparison;
using value::RouteCase;

const CoreRates& chip(const std::string& system) {
  static std::map<std::string, CoreRates> chips;
  const auto found = chips.find(system);
  if (found != chips.end()) return found->second;
  return chips.emplace(system, test_support::core_rates_of(system)).first->second;
}

constexpr std::array<const char*, 4> kSystems = {"hgx_h200", "hgx_b200", "atlas_950_1024",
                                                 "cloudmatrix384"};
constexpr RouterShape kFlash{.experts = 256, .topk = 6, .scale = 1.5};
constexpr RouterShape kPro{.experts = 384, .topk = 6, .scale = 2.5};
constexpr RouterShape kV32{.experts = 256,
                           .topk = 8,
                           .scoring = Scoring::kSigmoid,
                           .scale = 2.5,
                           .groups = 8,
                           .kept_groups = 4};

double seconds(const RouteProblem& p, const RouteDesign& d, const CoreRates& c) {
  tile::Recorder recorder(c);
  recorder.record(RouteKernel(p, d, c));
  return tile::Evaluator().evaluate(recorder).seconds;
}

std::string described(const Comparison& c) {
  return "recall " + std::to_string(c.recall) + " rms " + std::to_string(c.rms_relative) + " " +
         c.hazard;
}

TEST(Route, EqualsTheReferenceForEveryModelAndFamily) {
  for (const char* system : kSystems) {
    for (const RouterShape& router :
         {kFlash, kPro, kV32,
          RouterShape{
              .experts = 64, .topk = 4, .scoring = Scoring::kSoftmax, .normalise = false}}) {
      for (const bool bias : {true, false}) {
        for (const std::int64_t tokens : {1, 150, 701}) {
          const RouteCase test{.tokens = tokens, .router = router, .bias = bias};
          const Comparison got =
              verify_route({.rows = 2, .stages = tokens % 3 + 1}, chip(system), test);
          EXPECT_TRUE(within(got, value::route_tolerance()))
              << system << ' ' << router.experts << ' ' << tokens << ' ' << described(got);
        }
      }
    }
  }
}

TEST(Route, HashLayersTakeTheTablesExperts) {
  const RouteCase test{.tokens = 100, .router = kPro, .vocab = 50};
  const Comparison got = verify_route({}, chip("hgx_b200"), test);
  EXPECT_TRUE(within(got, value::route_tolerance())) << described(got);
}

TEST(Route, MistakesAreCaught) {
  const CoreRates& c = chip("atlas_950_1024");
  const auto fails = [&](const RouterShape& router, RouteFault fault) {
    const RouteCase test{.tokens = 64, .router = router};
    EXPECT_TRUE(within(verify_route({}, c, test), value::route_tolerance()));
    const Comparison got = verify_route({}, c, test, fault);
    EXPECT_TRUE(got.hazard.empty());
    return !within(got, value::route_tolerance());
  };
  EXPECT_TRUE(fails(kPro, RouteFault::kBiasInWeights));
  EXPECT_TRUE(fails(kPro, RouteFault::kNotNormalised));
  EXPECT_TRUE(fails(kV32, RouteFault::kGroupMaximum));
}

TEST(Route, WhatCannotRunIsRefused) {
  const CoreRates& c = chip("hgx_b200");
  EXPECT_THROW(seconds({.tokens = 8, .router = {.experts = 10, .topk = 2, .groups = 4}}, {}, c),
               base::UnsupportedError);
  EXPECT_THROW(seconds({.tokens = 1 << 20, .router = kPro}, {.rows = 1024}, c),
               base::UnsupportedError);
}

TEST(Route, TakesLongerForMoreTokensButNotBeforeCoresAreFull) {
  for (const char* system : kSystems) {
    const CoreRates& c = chip(system);
    const double one = seconds({.tokens = 1, .router = kPro}, {}, c);
    EXPECT_GT(one, c.launch);
    EXPECT_LT(one, c.launch + 12e-6) << system;
    EXPECT_NEAR(seconds({.tokens = static_cast<std::int64_t>(c.cores), .router = kPro}, {}, c), one,
                0.05 * one);
    const double many = seconds({.tokens = 65536, .router = kPro}, {}, c);
    EXPECT_GT(many, 4.0 * one);
    EXPECT_GE(many, 65536.0 * 384 * 4 / c.cache);
    // A table needs no selection and scores of few experts.
    EXPECT_LT(seconds({.tokens = 65536, .router = kPro, .vocab = 129280}, {}, c), 0.8 * many);
    EXPECT_GE(seconds({.tokens = 65536, .router = kPro}, {.stages = 1}, c), many * (1.0 - 1e-9));
    EXPECT_GT(seconds({.tokens = 65536, .router = kV32}, {}, c),
              seconds({.tokens = 65536, .router = kFlash}, {}, c));
  }
}

TEST(Route, RealShapesArePricedInMicroseconds) {
  const CoreRates& c = chip("hgx_b200");
  tile::Recorder recorder(c);
  tile::Evaluator evaluator;
  const RouteDesign design;
  double best = 1.0;
  for (int i = 0; i < 20; ++i) {
    const auto start = std::chrono::steady_clock::now();
    recorder.record(RouteKernel({.tokens = 8192, .router = kPro}, design, c));
    EXPECT_GT(evaluator.evaluate(recorder).seconds, 0.0);
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    best = std::min(best, took.count());
  }
  EXPECT_LT(best, 200e-6);
}

}  // namespace
}  // namespace foretoken::hwmodels::kernels
