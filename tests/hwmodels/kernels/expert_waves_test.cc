// The fused expert layer on all ranks: values against the reference, hazards of programs that are
// wrong on purpose, what the links carry, and what its time follows from.
#include "hwmodels/kernels/expert_waves.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>
#include <vector>

#include "hwmodels/designs.h"
#include "hwmodels/tile/evaluate.h"
#include "hwmodels/tile/recorder.h"
#include "hwmodels/value/verify_expert_waves.h"
#include "tests/hwmodels/fixtures.h"

namespace foretoken::hwmodels::kernels {
namespace {

using testing::HasSubstr;
using tile::CoreRates;
using value::Comparison;
using value::ExpertWavesCase;
using value::ItemOrder;
using value::Popularity;

// Small parts, so that small layers have several of each.
ExpertWavesDesign small_design(DispatchForm dispatch = DispatchForm::kPull) {
  ExpertWavesDesign d;
  d.wave_experts = 2;
  d.dispatch = dispatch;
  d.dispatch_rows = 4;
  d.dispatch_block = 2;
  d.dispatch_slots = 2;
  d.pairs = 8;
  d.single_pairs = 8;
  d.publish_rows = 4;
  d.product.tiles = {{.weights = 128, .tokens = 16}};
  return d;
}

constexpr std::array kForms = {DispatchForm::kPull, DispatchForm::kPush};
constexpr std::array kOrders = {ItemOrder::kIssue, ItemOrder::kLatest, ItemOrder::kRandom};

CoreRates blackwell() { return test_support::core_rates_of("hgx_b200"); }

testing::AssertionResult verified(const ExpertWavesDesign& d, const CoreRates& chip,
                                  const ExpertWavesCase& c) {
  const Comparison result = value::verify_expert_waves(d, chip, c);
  if (within(result, value::expert_waves_tolerance()) && result.elements > 0) {
    return testing::AssertionSuccess();
  }
  return testing::AssertionFailure()
         << result.hazard << " max " << result.max_relative << " rms " << result.rms_relative;
}

TEST(ExpertWavesKernel, EqualsTheReferenceOnAnyNumberOfRanks) {
  const CoreRates chip = blackwell();
  for (const DispatchForm form : kForms) {
    for (const std::vector<std::int64_t>& tokens : std::vector<std::vector<std::int64_t>>{
             {23}, {0, 11}, {40, 3}, {7, 0, 5, 16}, {7, 3, 5, 6, 0, 1, 2, 9}}) {
      EXPECT_TRUE(verified(small_design(form), chip, {.tokens = tokens}))
          << tokens.size() << " ranks";
    }
  }
}

TEST(ExpertWavesKernel, EqualsTheReferenceInEveryFormatAndFamily) {
  struct Case {
    const char* system;
    GemmFormat format;
    ScalePath scales;
  };
  for (const Case& c : {Case{"hgx_b200", GemmFormat::kFp4Fp8, ScalePath::kUnit},
                        Case{"hgx_b200", GemmFormat::kFp8Block, ScalePath::kUnit},
                        Case{"hgx_h200", GemmFormat::kFp8Block, ScalePath::kVector},
                        // FP4 weights go through the vector units.
                        Case{"atlas_950_1024", GemmFormat::kFp4Fp8, ScalePath::kUnit},
                        Case{"cloudmatrix384", GemmFormat::kBf16, ScalePath::kUnit}}) {
    ExpertWavesDesign design = small_design();
    design.product.scales = c.scales;
    EXPECT_TRUE(verified(design, test_support::core_rates_of(c.system),
                         {.tokens = {21, 6}, .inner = 256, .format = c.format}))
        << c.system << " " << kGemmFormatNames[static_cast<std::size_t>(c.format)];
  }
}

TEST(ExpertWavesKernel, EqualsTheReferenceHoweverChoicesFall) {
  const CoreRates chip = blackwell();
  for (const DispatchForm form : kForms) {
    for (const Popularity popularity :
         {Popularity::kHot, Popularity::kUnloved, Popularity::kOneRank}) {
      EXPECT_TRUE(verified(small_design(form), chip,
                           {.tokens = {17, 9},
                            .popularity = popularity,
                            .schedule = {.order = ItemOrder::kLatest}}));
    }
    // Every token's two experts are on one rank.
    EXPECT_TRUE(
        verified(small_design(form), chip,
                 {.tokens = {8, 3, 6, 5}, .choices = 2, .popularity = Popularity::kOneRank}));
  }
}

TEST(ExpertWavesKernel, LayersFollowEachOtherWithoutABarrier) {
  const CoreRates chip = blackwell();
  for (const DispatchForm form : kForms) {
    for (const ItemOrder order : kOrders) {
      for (const unsigned seed : {1U, 2U}) {
        EXPECT_TRUE(verified(
            small_design(form), chip,
            {.tokens = {6, 0, 3, 5}, .layers = 3, .schedule = {.order = order, .seed = seed}}));
        if (order != ItemOrder::kRandom) break;
      }
    }
  }
}

// One core per rank, which holds each item until it is done.
TEST(ExpertWavesKernel, NoItemWaitsForALaterOneOfItsRank) {
  const CoreRates chip = blackwell();
  for (const DispatchForm form : kForms) {
    for (const std::int64_t ahead : {0, 1, 3}) {
      ExpertWavesDesign design = small_design(form);
      design.ahead = ahead;
      EXPECT_TRUE(
          verified(design, chip, {.tokens = {6, 0, 3, 5}, .layers = 2, .schedule = {.window = 1}}));
    }
  }
}

TEST(ExpertWavesKernel, ScheduleAndRanksDoNotChangeABit) {
  const CoreRates chip = blackwell();
  const std::vector<float> want =
      value::verify_expert_waves(small_design(), chip, {.tokens = {33}}).output;
  ASSERT_EQ(want.size(), 33U * 256U);
  struct Case {
    DispatchForm form;
    std::int64_t wave;
    std::int64_t tile;
    std::vector<std::int64_t> tokens;
    ItemOrder order;
  };
  for (const Case& c :
       {Case{DispatchForm::kPull, 8, 64, {33}, ItemOrder::kLatest},
        Case{DispatchForm::kPull, 1, 8, {20, 13}, ItemOrder::kIssue},
        Case{DispatchForm::kPull, 1, 16, {4, 7, 3, 5, 6, 0, 6, 2}, ItemOrder::kRandom},
        Case{DispatchForm::kPush, 8, 16, {33}, ItemOrder::kIssue},
        Case{DispatchForm::kPush, 3, 32, {20, 13}, ItemOrder::kRandom},
        Case{DispatchForm::kPush, 1, 8, {4, 7, 3, 5, 6, 0, 6, 2}, ItemOrder::kLatest}}) {
    ExpertWavesDesign design = small_design(c.form);
    design.wave_experts = c.wave;
    design.product.tiles.front().tokens = c.tile;
    const ExpertWavesCase test{.tokens = c.tokens, .schedule = {.order = c.order}};
    EXPECT_EQ(value::verify_expert_waves(design, chip, test).output, want)
        << c.wave << " experts a wave, " << c.tokens.size() << " ranks";
  }
}

TEST(ExpertWavesKernel, MistakesMadeOnPurposeAreFound) {
  using F = ExpertWavesFault;
  const CoreRates chip = blackwell();
  struct Case {
    F fault;
    const char* hazard;
    const char* where;
  };
  for (const DispatchForm form : kForms) {
    const bool pulls = form == DispatchForm::kPull;
    ASSERT_TRUE(verified(small_design(form), chip, {.tokens = {12, 9}, .layers = 3}));
    for (const Case& c :
         {Case{F::kWaveEarly, "is read", "first product of wave"},
          Case{F::kSecondEarly, "is read", "second product of wave"},
          Case{F::kSumEarly, "of returned is read", "sum"}, Case{F::kRowsOverlap, "", ""},
          Case{F::kWrongSource, "", ""}, Case{F::kWrongSlot, "", ""}, Case{F::kWeightTwice, "", ""},
          Case{F::kWeightLeftOut, "", ""},
          Case{F::kDropped, pulls ? "of returned is read" : "is read", ""},
          Case{F::kAnnouncedEarly, "of announced is read without waiting for", "dispatch of wave"},
          Case{F::kFlagsKept, "", ""}, Case{F::kReturnedEarly, "of returned is read", "sum"}}) {
      if (!pulls && c.fault == F::kWrongSource) continue;  // a rank pushes only its own
      for (const ItemOrder order : {ItemOrder::kIssue, ItemOrder::kLatest}) {
        // Flags of the first layer come up again in the third.
        const ExpertWavesCase test{.tokens = {12, 9},
                                   .layers = c.fault == F::kFlagsKept ? 3 : 1,
                                   .schedule = {.order = order}};
        const Comparison result =
            value::verify_expert_waves(small_design(form), chip, test, c.fault);
        EXPECT_FALSE(within(result, value::expert_waves_tolerance())) << static_cast<int>(c.fault);
        EXPECT_THAT(result.hazard, HasSubstr(c.hazard)) << static_cast<int>(c.fault);
        EXPECT_THAT(result.hazard, HasSubstr(c.where)) << static_cast<int>(c.fault);
      }
    }
  }
}

// Values alone show these: every row is written once and every wait is there.
TEST(ExpertWavesKernel, WrongSlotsAndWeightsShowInTheNumbers) {
  using F = ExpertWavesFault;
  for (const F fault : {F::kWrongSlot, F::kWeightTwice, F::kWeightLeftOut}) {
    const Comparison result =
        value::verify_expert_waves(small_design(), blackwell(), {.tokens = {12, 9}}, fault);
    EXPECT_EQ(result.hazard, "");
    EXPECT_GT(result.rms_relative, 50.0 * value::expert_waves_tolerance().rms_relative);
  }
}

TEST(ExpertWavesKernel, WavesFillTheCoresTwiceAndTheirLastRoundBest) {
  ExpertWavesDesign d = small_design();
  d.wave_experts = 0;
  const auto each = [&](std::int64_t local, double tokens) {
    return experts_per_wave(d, local, tokens, 3072, 148.0);
  };
  // 48 tiles an expert, 148 cores: 7 experts have 336 tiles, the first above 296. Of 7 to 14, 9
  // fill the last round best: 432 tiles are two rounds and 136.
  EXPECT_EQ(each(48, 8.0), 9);
  EXPECT_EQ(each(48, 0.75), 48);
  EXPECT_EQ(each(4, 8.0), 4);
  // One expert's tiles are enough: 7 of tokens, 336 in all, fill 168 cores twice.
  EXPECT_EQ(experts_per_wave(d, 48, 112.0, 3072, 168.0), 1);
  EXPECT_EQ(each(48, 0.0), 48);
  d.wave_experts = 5;
  EXPECT_EQ(each(48, 8.0), 5);
  EXPECT_EQ(each(4, 8.0), 4);
}

TEST(ExpertWavesKernel, TakesTheTileOfTheExpectedTokens) {
  const DesignFile file = load_design("blackwell_expert_waves", test_support::configs());
  const auto& d = std::get<ExpertWavesDesign>(file.design);
  const auto tokens = [&](double expected) { return wave_tile(d, expected).tokens; };
  EXPECT_EQ(tokens(0.1), 16);
  EXPECT_EQ(tokens(8.5), 16);
  EXPECT_EQ(tokens(8.51), 32);
  EXPECT_EQ(tokens(16.5), 32);
  EXPECT_EQ(tokens(32.5), 64);
  EXPECT_EQ(tokens(64.5), 96);
  EXPECT_EQ(tokens(96.5), 128);
  EXPECT_EQ(tokens(96.51), 192);
  EXPECT_EQ(tokens(1e6), 192);
  // Of both products, also of experts that more tokens chose: all 64 tokens choose the first two.
  std::vector<std::int64_t> counts(8);
  counts[0] = counts[1] = 64;
  const ExpertWavesProblem skewed{.tokens = 64,
                                  .capacity = 64,
                                  .choices = 2,
                                  .experts = 8,
                                  .hidden = 256,
                                  .inner = 256,
                                  .counts = counts};
  const ExpertWavesKernel kernel(skewed, d, blackwell());
  EXPECT_EQ(kernel.first().tile().tokens, 32);
  EXPECT_EQ(kernel.second().tile().tokens, 32);
}

TEST(ExpertWavesKernel, DesignsListTilesInTheirOrder) {
  const auto message = [](const std::string& tiles) {
    const std::string text =
        "wave_experts: 0\nahead: 1\ndispatch: pull\ndispatch_rows: 32\ndispatch_block: 4\n"
        "dispatch_slots: 4\npairs: 64\nsingle_pairs: 128\npublish_rows: 64\nsum_columns: 2048\n"
        "sum_slots: 3\nproduct:\n  tile_k: 128\n  stages: 8\n  tiles: " +
        tiles + "\n";
    try {
      base::read_config<ExpertWavesDesign>(base::parse_yaml("d.yaml", text));
    } catch (const base::ConfigError& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  EXPECT_EQ(message("[{ weights: 128, tokens: 16, max_tokens: 8 }, { weights: 128, tokens: 32 }]"),
            "");
  EXPECT_THAT(message("[{ weights: 128, tokens: 16 }, { weights: 128, tokens: 32 }]"),
              testing::StartsWith("d.yaml:15:3: error: "));
  EXPECT_THAT(message("[{ weights: 128, tokens: 16, min_tokens: 2 }]"),
              testing::StartsWith("d.yaml:15:3: error: "));
}

TEST(ExpertWavesKernel, BalancedCountsSpreadEveryPair) {
  const std::vector<std::int64_t> counts = balanced_counts(4, 32, 11, 6);
  for (std::size_t r = 0; r < 4; ++r) {
    EXPECT_EQ(
        std::accumulate(counts.begin() + static_cast<std::ptrdiff_t>(r) * 32,
                        counts.begin() + static_cast<std::ptrdiff_t>(r + 1) * 32, std::int64_t{0}),
        66);
  }
  for (std::size_t e = 0; e < 32; ++e) {
    std::int64_t sum = 0;
    for (std::size_t r = 0; r < 4; ++r) sum += counts[r * 32 + e];
    EXPECT_THAT(sum, testing::AnyOf(8, 9));
  }
}

TEST(ExpertWavesKernel, RefusesWhatItCannotDeal) {
  const CoreRates chip = blackwell();
  const ExpertWavesDesign design = small_design();
  const std::vector<std::int64_t> counts(3 * 8);
  const ExpertWavesProblem uneven{.ranks = 3,
                                  .capacity = 1,
                                  .choices = 2,
                                  .experts = 8,
                                  .hidden = 256,
                                  .inner = 128,
                                  .counts = counts};
  EXPECT_THROW(ExpertWavesKernel(uneven, design, chip), base::UnsupportedError);
  const std::vector<std::int64_t> many(8, 5);
  ExpertWavesProblem full{.capacity = 20,
                          .pool = 39,
                          .choices = 2,
                          .experts = 8,
                          .hidden = 256,
                          .inner = 128,
                          .counts = many};
  full.tokens = 20;
  EXPECT_THROW(ExpertWavesKernel(full, design, chip), base::UnsupportedError);
  full.pool = 40;
  EXPECT_NO_THROW(ExpertWavesKernel(full, design, chip));
}

// V4-Pro on eight ranks.
struct Layer {
  std::vector<std::int64_t> counts;
  ExpertWavesProblem problem;

  explicit Layer(std::int64_t tokens) : counts(balanced_counts(8, 384, tokens, 6)) {
    problem = {.rank = 3,
               .ranks = 8,
               .tokens = tokens,
               .capacity = tokens,
               .choices = 6,
               .experts = 384,
               .hidden = 7168,
               .inner = 3072,
               .counts = counts};
  }
};

tile::KernelTime time_of(const ExpertWavesKernel& kernel, const CoreRates& chip) {
  tile::Recorder recorder(chip);
  recorder.record(kernel);
  return tile::Evaluator().evaluate(recorder);
}

ExpertWavesDesign large_design(DispatchForm form = DispatchForm::kPull) {
  ExpertWavesDesign d;
  d.dispatch = form;
  d.product.tiles = {{.weights = 128, .tokens = 16, .max_tokens = 16},
                     {.weights = 128, .tokens = 64, .max_tokens = 64},
                     {.weights = 128, .tokens = 128}};
  d.product.accumulators = 2;
  d.product.persistent = true;
  return d;
}

TEST(ExpertWavesKernel, ClassesCoverEveryItemWithOneOfItsKind) {
  const CoreRates chip = blackwell();
  for (const DispatchForm form : kForms) {
    for (const std::int64_t tokens : {1, 100, 2048}) {
      const Layer layer(tokens);
      const ExpertWavesDesign design = large_design(form);
      const ExpertWavesKernel kernel(layer.problem, design, chip);
      std::int64_t items = 0;
      kernel.classes([&](const tile::WorkClass& c) {
        items += c.count;
        EXPECT_LT(c.first, kernel.launch().items);
      });
      EXPECT_EQ(items, kernel.launch().items);
    }
  }
}

TEST(ExpertWavesKernel, LinksCarryEveryRemotePairOnceThereAndOnceBack) {
  const CoreRates chip = blackwell();
  const Layer layer(512);
  std::int64_t received = 0;  // pairs of other ranks
  std::int64_t sent = 0;      // to them
  for (std::int64_t r = 0; r < 8; ++r) {
    for (std::int64_t e = 0; e < 384; ++e) {
      const std::int64_t n = layer.counts[static_cast<std::size_t>(r * 384 + e)];
      if (r != 3 && e / 48 == 3) received += n;
      if (r == 3 && e / 48 != 3) sent += n;
    }
  }
  const double token = 7168.0 * (1.0 + 1.0 / 32.0);
  const double row = 7168.0 * 2.0;
  const ExpertWavesDesign pull = large_design();
  const tile::KernelTime pulled = time_of(ExpertWavesKernel(layer.problem, pull, chip), chip);
  EXPECT_NEAR(pulled.peer_loaded / (static_cast<double>(received) * token), 1.0, 1e-9);
  // Lists and counts travel beside the rows.
  EXPECT_NEAR(pulled.peer_stored / (static_cast<double>(received) * row), 1.0, 0.005);
  const ExpertWavesDesign push = large_design(DispatchForm::kPush);
  const tile::KernelTime pushed = time_of(ExpertWavesKernel(layer.problem, push, chip), chip);
  EXPECT_EQ(pushed.peer_loaded, 0.0);
  EXPECT_NEAR(pushed.peer_stored /
                  (static_cast<double>(received) * row + static_cast<double>(sent) * token),
              1.0, 0.02);
}

TEST(ExpertWavesKernel, TakesNoLessThanItsLinksItsWeightsAndItsProducts) {
  for (const std::int64_t tokens : {16, 2048}) {
    const CoreRates chip = blackwell();
    const Layer layer(tokens);
    const ExpertWavesDesign design = large_design();
    const ExpertWavesKernel kernel(layer.problem, design, chip);
    const tile::KernelTime t = time_of(kernel, chip);
    const double pairs = static_cast<double>(tokens * 6);
    EXPECT_GE(t.seconds, t.peer_stored / chip.link);
    const double hit = std::min(48.0, pairs);
    EXPECT_GE(t.seconds, hit * 3.0 * 7168 * 3072 * 0.53 / chip.memory);
    const double rate = chip.cores * chip.matrix[static_cast<std::size_t>(workloads::Dtype::kFp8)];
    EXPECT_GE(t.seconds, 6.0 * pairs * 7168 * 3072 / rate);
    EXPECT_GE(t.flops, 6.0 * pairs * 7168 * 3072);
  }
}

TEST(ExpertWavesKernel, ASlowerLinkIsNeverFaster) {
  const Layer layer(1024);
  const ExpertWavesDesign design = large_design();
  double last = 0.0;
  for (const double factor : {4.0, 1.0, 0.3, 0.1, 0.03}) {
    CoreRates chip = blackwell();
    chip.link *= factor;
    chip.link_latency /= factor;
    const double t = time_of(ExpertWavesKernel(layer.problem, design, chip), chip).seconds;
    EXPECT_GE(t, last * (1.0 - 1e-9));
    last = t;
  }
}

TEST(ExpertWavesKernel, ItemsAreNamedByPhaseAndWave) {
  const CoreRates chip = blackwell();
  const Layer layer(64);
  const ExpertWavesDesign design = large_design();
  const ExpertWavesKernel kernel(layer.problem, design, chip);
  EXPECT_EQ(kernel.item_name(0), "clean");
  EXPECT_EQ(kernel.item_name(kernel.launch().items - 1), "finish");
  std::vector<std::int64_t> of_phase(kWavePhaseNames.size());
  for (std::int64_t i = 0; i < kernel.launch().items; ++i) {
    ++of_phase[static_cast<std::size_t>(kernel.role(i).phase)];
  }
  EXPECT_EQ(of_phase[static_cast<std::size_t>(WavePhase::kFirst)], kernel.first().launch().items);
  EXPECT_EQ(of_phase[static_cast<std::size_t>(WavePhase::kSecond)], kernel.second().launch().items);
}

}  // namespace
}  // namespace foretoken::hwmodels::kernels
