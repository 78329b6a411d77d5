#include "workloads/count.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "tests/workloads/test_support.h"

namespace foretoken::workloads {
namespace {

using ::testing::HasSubstr;

constexpr double kGiga = 1e9;
constexpr double kGiB = 1073741824.0;
constexpr std::int64_t kMillion = 1'000'000;
constexpr std::int64_t kMebi = 1'048'576;
constexpr PrecisionWeights kUnweighted = {1.0, 1.0, 1.0, 1.0};

// `value` as printed with a last digit of `unit`; where the source rounded twice (13.448 -> 13.45
// -> 13.5), `slack` gives the half unit that allows it.
::testing::AssertionResult prints_as(double value, double printed, double unit,
                                     double slack = 0.5000001) {
  if (std::abs(value - printed) <= unit * slack) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << value << " does not print as " << printed;
}

double fp8_equivalent(const ModelSpec& m, std::int64_t context) {
  return weighted(count_decode(m, context), kFp8Equivalent);
}

// ---- parameters (facts, section 8) ----

TEST(CountParameters, ReproducesTheExactTotalsAndActives) {
  const ModelParameters p = count_parameters(pro());
  EXPECT_EQ(p.total, 1'572'997'201'763);
  EXPECT_EQ(p.active, 48'852'402'019);
  const ModelParameters f = count_parameters(flash());
  EXPECT_EQ(f.total, 284'332'240'471);
  EXPECT_EQ(f.active, 13'270'101'591);
  const ModelParameters v = count_parameters(v32());
  // The published integers leave out the final norm, which V3.2 has like the others: 7,168 weights.
  EXPECT_EQ(v.total, 671'877'936'896 + 7'168);
  EXPECT_EQ(v.active, 37'477'136'128 + 7'168);
}

TEST(CountParameters, RoundsToTheAdvertisedSizes) {
  EXPECT_TRUE(prints_as(count_parameters(pro()).total / 1e12, 1.6, 0.1));
  EXPECT_TRUE(prints_as(count_parameters(pro()).active / 1e9, 49, 1));
  EXPECT_TRUE(prints_as(count_parameters(flash()).total / 1e9, 284, 1));
  EXPECT_TRUE(prints_as(count_parameters(flash()).active / 1e9, 13, 1));
}

TEST(CountParameters, AddsTheMtpBlockToTheMainModel) {
  const ModelParameters p = count_parameters(pro());
  EXPECT_TRUE(prints_as((p.total + p.draft) / 1e6, 1'598'837.3, 0.1));
  const ModelParameters f = count_parameters(flash());
  EXPECT_TRUE(prints_as((f.total + f.draft) / 1e6, 290'942.3, 0.1));
}

TEST(CountParameters, SplitsIntoThePublishedParts) {
  const ModelParameters p = count_parameters(pro());
  EXPECT_TRUE(prints_as(p.routed_total / 1e6, 1'547'396.2, 0.1));
  EXPECT_TRUE(prints_as(p.routed_active / 1e6, 24'178.1, 0.1));
  EXPECT_TRUE(prints_as(p.embedding / 1e6, 926.7, 0.1));
  EXPECT_EQ(p.head, p.embedding);
  EXPECT_TRUE(prints_as((p.active + p.embedding) / 1e6, 49'779, 1));
  EXPECT_TRUE(prints_as((p.active - p.head) / 1e6, 47'926, 1));
  const ModelParameters f = count_parameters(flash());
  EXPECT_TRUE(prints_as(f.routed_total / 1e6, 277'025.4, 0.1));
  EXPECT_TRUE(prints_as(f.routed_active / 1e6, 6'492.8, 0.1));
  EXPECT_TRUE(prints_as((f.active + f.embedding) / 1e6, 13'800, 1));
  EXPECT_TRUE(prints_as((f.active - f.head) / 1e6, 12'741, 1));
  const ModelParameters v = count_parameters(v32());
  EXPECT_TRUE(prints_as(v.routed_total / 1e6, 653'908.8, 0.1));
  EXPECT_TRUE(prints_as(v.routed_active / 1e6, 20'434.7, 0.1, 0.51));
  EXPECT_TRUE(prints_as((v.active + v.embedding) / 1e6, 38'404, 1));
  EXPECT_TRUE(prints_as((v.active - v.head) / 1e6, 36'550, 1));
}

TEST(CountParameters, ReproducesV41FlashWithAndWithoutEngramProjections) {
  const ModelParameters with = count_parameters(v41());
  const ModelParameters without =
      count_parameters(edited_model("deepseek-v4.1-flash", {{"engram_layer_ids", "[]"}}));
  EXPECT_TRUE(prints_as(with.total / 1e9, 551.9, 0.1));
  EXPECT_TRUE(prints_as(with.active / 1e9, 16.1, 0.1));
  EXPECT_TRUE(prints_as(without.active / 1e9, 15.8, 0.1));
  // Two layers of 24 rows x 256 -> 5 x 5120.
  EXPECT_EQ(with.total - without.total, 2 * 24 * 256 * 5 * 5120);
  EXPECT_EQ(with.engram_tables, std::int64_t{768'022'850} * 256);
  EXPECT_EQ(without.engram_tables, 0);
}

TEST(CountParameters, FollowsTheFormulaOfOneLayerOfEachKind) {
  const std::int64_t d = 4096, q = 1024, h = 64, g = 8, r = 1024, e = 256, i = 2048;
  const std::int64_t shared_parts = d * q + q + q * h * 512 + 512 * d + 512 + 512 * h * r +
                                    g * r * d + h + e * 3 * d * i + 3 * d * i + e * d + e +
                                    2 * (24 * 4 * d + 27) + 2 * d;
  const std::int64_t globals = 2 * 129'280 * d + d + 16 * d + 5;
  const auto total = [&](std::string_view ratios, std::string_view hash = "0") {
    return count_parameters(edited_model("deepseek-v4-flash", {{"num_hidden_layers", "1"},
                                                               {"num_hash_layers", hash},
                                                               {"compress_ratios", ratios}}))
               .total -
           globals;
  };
  EXPECT_EQ(total("[0, 0]"), shared_parts);
  EXPECT_EQ(total("[0, 0]", "1"), shared_parts - e);
  EXPECT_EQ(total("[128, 0]"), shared_parts + 2 * d * 512 + 128 * 512 + 512);
  EXPECT_EQ(total("[4, 0]"), shared_parts + 2 * d * 2 * 512 + 4 * 2 * 512 + 512 + q * 64 * 128 +
                                 64 * d + 2 * d * 256 + 4 * 256 + 128);
}

// ---- weight bytes (facts, section 8) ----

TEST(CountWeightBytes, ReproducesTheCheckpointSizes) {
  const WeightBytes p = count_weight_bytes(pro(), release_precision(pro()));
  EXPECT_TRUE(prints_as(p.checkpoint() / kGiga, 864.7, 0.1));
  EXPECT_TRUE(prints_as((p.routed + p.draft_routed) / kGiga, 835.5, 0.1));
  const WeightBytes f = count_weight_bytes(flash(), release_precision(flash()));
  EXPECT_TRUE(prints_as(f.checkpoint() / kGiga, 159.6, 0.1));
  EXPECT_TRUE(prints_as((f.routed + f.draft_routed) / kGiga, 150.6, 0.1));
}

TEST(CountWeightBytes, StoresOneExpertAtFourAndAQuarterBits) {
  const WeightBytes p = count_weight_bytes(pro(), release_precision(pro()));
  EXPECT_EQ(p.one_expert, 66'060'288 * 17 / 32);
  EXPECT_TRUE(prints_as(p.one_expert / 1e6, 35.09, 0.01));
  const WeightBytes f = count_weight_bytes(flash(), release_precision(flash()));
  EXPECT_EQ(f.one_expert, 25'165'824 * 17 / 32);
  EXPECT_TRUE(prints_as(f.one_expert / 1e6, 13.37, 0.01));
  EXPECT_EQ(p.routed, 61 * 384 * p.one_expert);
  EXPECT_EQ(p.draft_routed, 384 * p.one_expert);
}

TEST(CountWeightBytes, KeepsEngramTablesOnTheHostInFp8WithOneScalePer32) {
  const WeightBytes w = count_weight_bytes(v41(), release_precision(v41()));
  EXPECT_EQ(w.host, std::int64_t{768'022'850} * (256 + 8));
  EXPECT_EQ(count_weight_bytes(pro(), release_precision(pro())).host, 0);
}

TEST(CountWeightBytes, AgreesWithParametersWhenEverythingIsBf16) {
  PrecisionRecipe bf16;
  bf16.linear = bf16.expert_weight = bf16.expert_compute = FormatChoice::kBf16;
  for (const ModelSpec* m : all_models()) {
    const WeightBytes w = count_weight_bytes(*m, resolve(bf16, *m));
    const ModelParameters p = count_parameters(*m);
    const std::int64_t bytes =
        w.routed + w.split + w.replicated + w.draft_routed + w.draft_split + w.draft_replicated;
    // FP32 tensors take two more bytes; they are a small part.
    EXPECT_GE(bytes, 2 * (p.total + p.draft)) << m->name;
    EXPECT_LE(bytes, 2 * (p.total + p.draft) + 4 * (p.total / 1000)) << m->name;
    EXPECT_EQ(w.routed, 2 * p.routed_total) << m->name;
  }
}

// ---- decode FLOPs (facts, sections 9.2 and 9.3) ----

TEST(CountDecode, ReproducesEveryComponentAtOneMillionTokens) {
  struct Row {
    Component component;
    double v32, pro, flash;
  };
  for (const Row& row : std::vector<Row>{{Component::kAttentionProjections, 20.780, 28.400, 6.312},
                                         {Component::kOutputLowRank, 2.047, 8.187, 2.886},
                                         {Component::kIndexerProjections, 1.703, 0.783, 0.363},
                                         {Component::kIndexScores, 999.424, 122.880, 86.016},
                                         {Component::kCompressors, 0.0, 1.556, 0.608},
                                         {Component::kCoreAttention, 34.796, 73.584, 22.609},
                                         {Component::kRoutedExperts, 40.869, 48.356, 12.986},
                                         {Component::kSharedExperts, 7.487, 8.059, 2.164},
                                         {Component::kRouter, 0.213, 0.336, 0.090},
                                         {Component::kHyperConnections, 0.0, 0.168, 0.068},
                                         {Component::kEngram, 0.0, 0.0, 0.0},
                                         {Component::kLmHead, 1.853, 1.853, 1.059},
                                         {Component::kDraft, 0.0, 0.0, 0.0},
                                         {Component::kOther, 0.0, 0.0, 0.0}}) {
    const std::string name(kComponentNames[static_cast<std::size_t>(row.component)]);
    const auto value = [&](const ModelSpec& m) {
      return count_decode(m, kMillion).component(row.component) / kGiga;
    };
    EXPECT_TRUE(prints_as(value(v32()), row.v32, 0.001)) << name;
    EXPECT_TRUE(prints_as(value(pro()), row.pro, 0.001, 0.501)) << name;
    EXPECT_TRUE(prints_as(value(flash()), row.flash, 0.001)) << name;
  }
  EXPECT_TRUE(prints_as(count_decode(v32(), kMillion).total() / kGiga, 1109.17, 0.01));
  EXPECT_TRUE(prints_as(count_decode(pro(), kMillion).total() / kGiga, 294.16, 0.01));
  EXPECT_TRUE(prints_as(count_decode(flash(), kMillion).total() / kGiga, 135.16, 0.01));
}

TEST(CountDecode, ReproducesThePublishedRatiosAtOneMillionTokens) {
  const double base = fp8_equivalent(v32(), kMillion);
  const double p = fp8_equivalent(pro(), kMillion);
  const double f = fp8_equivalent(flash(), kMillion);
  EXPECT_TRUE(prints_as(100 * p / base, 27, 1));
  EXPECT_TRUE(prints_as(100 * f / base, 10, 1));
  EXPECT_TRUE(prints_as(base / p, 3.7, 0.1));
  EXPECT_TRUE(prints_as(base / f, 9.8, 0.1));
}

TEST(CountDecode, ReproducesTheWholeCurveWeightedAndUnweighted) {
  struct Row {
    std::int64_t n;
    double v32, v32_plain, pro, pro_plain, flash, flash_plain, pro_percent, flash_percent;
  };
  for (const Row& row : std::vector<Row>{
           {1'000, 112.05, 92.94, 109.84, 101.89, 31.27, 28.05, 98.0, 27.9},
           {4'000, 150.66, 113.75, 122.21, 108.35, 32.97, 29.09, 81.1, 21.9},
           {8'000, 154.66, 117.74, 123.34, 109.28, 33.30, 29.52, 79.7, 21.5},
           {16'000, 162.66, 125.74, 124.85, 110.78, 33.98, 30.37, 76.8, 20.9},
           {32'000, 178.65, 141.73, 127.87, 113.76, 35.32, 32.07, 71.6, 19.8},
           {64'000, 210.63, 173.71, 133.90, 119.73, 38.01, 35.48, 63.6, 18.0},
           {128'000, 274.59, 237.67, 145.96, 131.65, 43.38, 42.30, 53.2, 15.8},
           {256'000, 402.52, 365.60, 170.07, 155.51, 54.13, 55.93, 42.3, 13.5},
           {512'000, 658.37, 621.45, 218.31, 203.22, 75.63, 83.19, 33.2, 11.5},
           {1'000'000, 1146.09, 1109.17, 310.25, 294.16, 116.60, 135.16, 27.1, 10.2}}) {
    const auto check = [&](const ModelSpec& m, double printed, double plain) {
      EXPECT_TRUE(prints_as(fp8_equivalent(m, row.n) / kGiga, printed, 0.01)) << m.name << row.n;
      EXPECT_TRUE(prints_as(count_decode(m, row.n).total() / kGiga, plain, 0.01))
          << m.name << row.n;
    };
    check(v32(), row.v32, row.v32_plain);
    check(pro(), row.pro, row.pro_plain);
    check(flash(), row.flash, row.flash_plain);
    const double base = fp8_equivalent(v32(), row.n);
    EXPECT_TRUE(prints_as(100 * fp8_equivalent(pro(), row.n) / base, row.pro_percent, 0.1));
    EXPECT_TRUE(
        prints_as(100 * fp8_equivalent(flash(), row.n) / base, row.flash_percent, 0.1, 0.53));
  }
}

TEST(CountDecode, ReproducesTheTableOfWeightingConventions) {
  struct Row {
    std::string convention;
    std::int64_t n;
    PrecisionWeights weights;
    bool extra_low_rank, without_head, only_core_heavy;
    double v32, pro, flash, pro_percent, flash_percent;
  };
  const PrecisionWeights rec = kFp8Equivalent;
  const std::vector<Row> rows = {
      {"recommended", kMillion, rec, false, false, false, 1.1461, 0.3102, 0.1166, 27.07, 10.17},
      {"recommended", kMebi, rec, false, false, false, 1.1946, 0.3194, 0.1207, 26.74, 10.10},
      {"core at 2",
       kMillion,
       {1, 1, 1, 0.5},
       false,
       false,
       true,
       1.1440,
       0.3063,
       0.1148,
       26.78,
       10.03},
      {"low rank at 2", kMillion, rec, true, false, false, 1.1481, 0.3184, 0.1195, 27.73, 10.41},
      {"low rank at 2", kMebi, rec, true, false, false, 1.1967, 0.3276, 0.1236, 27.38, 10.33},
      {"without head", kMillion, rec, false, true, false, 1.1424, 0.3065, 0.1145, 26.83, 10.02},
      {"experts 2/3",
       kMillion,
       {2, 1, 2.0 / 3, 0.5},
       false,
       false,
       false,
       1.1461,
       0.2941,
       0.1123,
       25.66,
       9.80},
      {"unweighted", kMillion, kUnweighted, false, false, false, 1.1092, 0.2942, 0.1352, 26.52,
       12.19},
      {"core as FP8",
       kMillion,
       {1, 1, 1, 0.5},
       false,
       false,
       false,
       1.1092,
       0.2327,
       0.0922,
       20.98,
       8.31},
      {"index at 1", kMillion, kUnweighted, false, false, true, 1.1440, 0.3677, 0.1578, 32.15,
       13.79},
  };
  for (const Row& row : rows) {
    const auto value = [&](const ModelSpec& m) {
      const FlopCount f = count_decode(m, row.n);
      double sum = weighted(f, row.weights);
      if (row.extra_low_rank) sum += static_cast<double>(f.component(Component::kOutputLowRank));
      if (row.without_head) sum -= 2.0 * static_cast<double>(f.component(Component::kLmHead));
      if (row.only_core_heavy) sum += static_cast<double>(f.component(Component::kCoreAttention));
      return sum / 1e12;
    };
    const double base = value(v32());
    EXPECT_TRUE(prints_as(base, row.v32, 0.0001)) << row.convention << row.n;
    EXPECT_TRUE(prints_as(value(pro()), row.pro, 0.0001)) << row.convention << row.n;
    EXPECT_TRUE(prints_as(value(flash()), row.flash, 0.0001)) << row.convention << row.n;
    EXPECT_TRUE(prints_as(100 * value(pro()) / base, row.pro_percent, 0.01)) << row.convention;
    EXPECT_TRUE(prints_as(100 * value(flash()) / base, row.flash_percent, 0.01)) << row.convention;
  }
}

TEST(CountDecode, GrowsByThePublishedClosedFormsFrom8192On) {
  struct Form {
    const ModelSpec& model;
    std::int64_t slope;
    double constant, weighted_slope, weighted_constant;
  };
  for (const Form& form : {Form{v32(), 999'424, 109.748, 999'424, 146.666},
                           Form{pro(), 186'368, 107.798, 188'416, 121.839},
                           Form{flash(), 106'496, 28.667, 83'968, 32.634}}) {
    const std::int64_t exact = count_decode(form.model, 8192).total() - form.slope * 8192;
    EXPECT_TRUE(prints_as(exact / kGiga, form.constant, 0.001)) << form.model.name;
    for (std::int64_t n = 8192; n <= 2 * kMebi; n += 128 * 331) {
      ASSERT_EQ(count_decode(form.model, n).total(), exact + form.slope * n) << n;
      ASSERT_TRUE(prints_as((fp8_equivalent(form.model, n) - form.weighted_slope * n) / kGiga,
                            form.weighted_constant, 0.001))
          << form.model.name << n;
    }
    // Below the selection's size the form is not valid.
    EXPECT_LT(count_decode(form.model, 1024).total(), exact + form.slope * 1024);
  }
}

TEST(CountDecode, GrowsOnlyWhereAnEntryIsCompleted) {
  EXPECT_EQ(count_decode(pro(), 8193).total(), count_decode(pro(), 8192).total());
  EXPECT_EQ(count_decode(pro(), 8195).total(), count_decode(pro(), 8192).total());
  EXPECT_EQ(count_decode(pro(), 8196).total() - count_decode(pro(), 8195).total(), 30 * 16'384);
  EXPECT_EQ(count_decode(pro(), 8320).total() - count_decode(pro(), 8319).total(),
            30 * 16'384 + 31 * 4 * 128 * 512);
}

TEST(CountDecode, CostsOfSingleLayersAreTheGoldenValues) {
  const auto layer = [](const std::string& name, std::string_view ratios, Component component) {
    return count_decode(
               edited_model(name, {{"num_hidden_layers", "1"}, {"compress_ratios", ratios}}), kMebi)
        .component(component);
  };
  const std::string p = "deepseek-v4-pro", f = "deepseek-v4-flash";
  EXPECT_EQ(layer(p, "[4, 0]", Component::kIndexScores), 4'294'967'296);
  EXPECT_EQ(layer(f, "[4, 0]", Component::kIndexScores), 4'294'967'296);
  EXPECT_EQ(layer(p, "[4, 0]", Component::kCoreAttention), 301'989'888);
  EXPECT_EQ(layer(p, "[128, 0]", Component::kCoreAttention), 2'181'038'080);
  EXPECT_EQ(layer(f, "[4, 0]", Component::kCoreAttention), 83'886'080);
  EXPECT_EQ(layer(f, "[128, 0]", Component::kCoreAttention), 1'090'519'040);
  EXPECT_EQ(layer(f, "[0, 0]", Component::kCoreAttention), 16'777'216);
  EXPECT_EQ(layer(f, "[0, 0]", Component::kIndexScores), 0);
  EXPECT_EQ(layer(f, "[0, 0]", Component::kCompressors), 0);
}

TEST(CountDecode, PutsEachComponentInItsPrecisionClass) {
  const FlopCount f = count_decode(pro(), 100'000);
  const auto only = [&](Component c, PrecisionClass p) {
    const auto& row = f.by[static_cast<std::size_t>(c)];
    EXPECT_EQ(row[static_cast<std::size_t>(p)], f.component(c))
        << kComponentNames[static_cast<std::size_t>(c)];
    EXPECT_GT(f.component(c), 0);
  };
  only(Component::kAttentionProjections, PrecisionClass::kFp8);
  only(Component::kOutputLowRank, PrecisionClass::kFp8);
  only(Component::kIndexScores, PrecisionClass::kFp4);
  only(Component::kCompressors, PrecisionClass::kBf16);
  only(Component::kCoreAttention, PrecisionClass::kBf16);
  only(Component::kRoutedExperts, PrecisionClass::kFp4Fp8);
  only(Component::kSharedExperts, PrecisionClass::kFp8);
  only(Component::kRouter, PrecisionClass::kBf16);
  only(Component::kHyperConnections, PrecisionClass::kBf16);
  only(Component::kLmHead, PrecisionClass::kBf16);
  const auto& indexer = f.by[static_cast<std::size_t>(Component::kIndexerProjections)];
  EXPECT_EQ(indexer[static_cast<std::size_t>(PrecisionClass::kFp8)], 30 * 2 * 1536 * 8192LL);
  EXPECT_EQ(indexer[static_cast<std::size_t>(PrecisionClass::kBf16)], 30 * 128 * 7168LL);
  const FlopCount v = count_decode(v32(), 100'000);
  EXPECT_EQ(v.component(Component::kIndexScores),
            v.by[static_cast<std::size_t>(Component::kIndexScores)]
                [static_cast<std::size_t>(PrecisionClass::kFp8)]);
  std::int64_t sum = 0;
  for (int p = 0; p < kPrecisionClasses; ++p) sum += f.precision(static_cast<PrecisionClass>(p));
  EXPECT_EQ(sum, f.total());
}

TEST(CountDecode, GrowsByAQuarterFrom4KTo1MOnV41Flash) {
  constexpr PrecisionWeights kReported = {1.0, 0.5, 0.5, 0.25};
  const double short_context = weighted(count_decode(v41(), 4'000), kReported);
  const double long_context = weighted(count_decode(v41(), kMillion), kReported);
  EXPECT_TRUE(prints_as(short_context / kGiga, 20.2, 0.1));
  EXPECT_TRUE(prints_as(long_context / kGiga, 25.4, 0.1));
  EXPECT_TRUE(prints_as(long_context / short_context, 1.257, 0.001));
  constexpr PrecisionWeights kExpertsQuarter = {1.0, 0.5, 0.25, 0.25};
  EXPECT_TRUE(prints_as(weighted(count_decode(v41(), kMillion), kExpertsQuarter) /
                            weighted(count_decode(v41(), 4'000), kExpertsQuarter),
                        1.33, 0.01));
}

TEST(CountDecode, ScoresOnlyTheCandidatesInV41Reindexing) {
  // Layers 2, 8, 14 score n / 2 entries, layer 20 scores n, four more at most 16,384.
  for (const std::int64_t n : {1'000, 16'384, 16'385, 500'000}) {
    EXPECT_EQ(count_decode(v41(), n).component(Component::kIndexScores),
              2 * 32 * 128 * (3 * (n / 2) + n + 4 * std::min<std::int64_t>(n, 16'384)))
        << n;
  }
}

// ---- prefill (facts, section 9.4) ----

TEST(CountPrefill, EqualsTheSumOfItsTokensWithTheHeadOnce) {
  for (const ModelSpec* m : {&v32(), &pro(), &flash()}) {
    const std::int64_t head = count_decode(*m, 1).component(Component::kLmHead);
    FlopCount sum;
    std::int64_t done = 0;
    for (const std::int64_t length : {1, 2, 3, 4, 5, 127, 128, 129, 1000, 4100, 9000}) {
      for (; done < length; ++done) {
        const FlopCount one = count_decode(*m, done + 1);
        for (std::size_t c = 0; c < sum.by.size(); ++c) {
          for (std::size_t p = 0; p < sum.by[c].size(); ++p) sum.by[c][p] += one.by[c][p];
        }
      }
      const FlopCount whole = count_prefill(*m, length);
      for (int c = 0; c < kComponents; ++c) {
        const auto component = static_cast<Component>(c);
        const std::int64_t extra = component == Component::kLmHead ? (length - 1) * head : 0;
        ASSERT_EQ(whole.component(component), sum.component(component) - extra)
            << m->name << length << kComponentNames[static_cast<std::size_t>(c)];
      }
    }
  }
}

TEST(CountPrefill, RunsV41DecoderLayersForTheTailOfThePromptOnly) {
  const std::int64_t tail = 20 * 128;
  EXPECT_EQ(v41().decoder_tail(), tail);
  const auto slope = [](Component c) {
    return count_prefill(v41(), 20'000).component(c) - count_prefill(v41(), 19'999).component(c);
  };
  const FlopCount one = count_decode(v41(), 20'000);
  EXPECT_EQ(slope(Component::kRoutedExperts) * 2, one.component(Component::kRoutedExperts));
  EXPECT_EQ(slope(Component::kAttentionProjections) * 2,
            one.component(Component::kAttentionProjections));
  // Layer 20's cache is written for every token.
  EXPECT_EQ(count_prefill(v41(), 20'000).component(Component::kCompressors) -
                count_prefill(v41(), 19'998).component(Component::kCompressors),
            count_decode(v41(), 20'000).component(Component::kCompressors) +
                count_decode(v41(), 19'999).component(Component::kCompressors));
  // Up to the tail's length nothing is skipped.
  std::int64_t sum = 0;
  for (std::int64_t t = 1; t <= tail; ++t) {
    sum += count_decode(v41(), t).total() - (t < tail ? 2 * 129'280LL * 5120 : 0);
  }
  EXPECT_EQ(count_prefill(v41(), tail).total(), sum);
}

TEST(CountFlops, SplitsOverBatchesAndChunksWithoutLoss) {
  std::mt19937_64 random(3);
  const auto draw = [&](std::int64_t low, std::int64_t high) {
    return std::uniform_int_distribution<std::int64_t>(low, high)(random);
  };
  for (int trial = 0; trial < 60; ++trial) {
    const ModelSpec& m =
        *std::vector{&v32(), &pro(), &flash()}[static_cast<std::size_t>(trial % 3)];
    const std::int64_t a = draw(1, 9), b = draw(1, 9), first = draw(0, 9000);
    const std::int64_t head = draw(1, 700), rest = draw(1, 700);
    const std::int64_t whole = count_flops(m, {{Span{a + b, first, head + rest}}}, 5).total();
    EXPECT_EQ(whole, count_flops(m, {{Span{a, first, head + rest}}}, 2).total() +
                         count_flops(m, {{Span{b, first, head + rest}}}, 3).total());
    EXPECT_EQ(whole, count_flops(m, {{Span{a + b, first, head}}}, 0).total() +
                         count_flops(m, {{Span{a + b, first + head, rest}}}, 5).total());
    EXPECT_EQ(
        whole,
        count_flops(m, {{Span{a + b, first + head, rest}, Span{a + b, first, head}}}, 5).total());
  }
}

// ---- draft ----

TEST(CountDraft, PricesTheMtpBlockByHand) {
  // Window-only block at 1,000 visible positions: projections, 128 keys, MoE, mHC, e_proj, h_proj.
  const std::int64_t d = 4096, q = 1024, h = 64, i = 2048;
  const std::int64_t block = 2 * (d * q + q * h * 512 + d * 512 + 8 * 1024 * d) +
                             2 * 512 * h * 1024 + 4 * h * 512 * 128 + 6 * d * i * 7 + 2 * 256 * d +
                             2 * 2 * 24 * 4 * d;
  const std::int64_t expected = block + 2 * 5 * d * d + 2 * 129'280 * d;
  const FlopCount f = count_draft(flash(), {{Span{1, 999, 1}}}, 1);
  EXPECT_EQ(f.total(), expected);
  EXPECT_EQ(f.component(Component::kDraft), expected);
}

TEST(CountDraft, IsNothingButItsHeadForAModelWithoutDraftLayers) {
  const ModelSpec m = edited_model("deepseek-v3.2", {{"num_nextn_predict_layers", "0"}});
  EXPECT_EQ(count_parameters(m).draft, 0);
  EXPECT_TRUE(m.draft_layers.empty());
}

// ---- KV cache (facts, section 7) ----

TEST(KvBytesPerToken, ReproducesThePublishedGrowth) {
  const auto bytes = [](const ModelSpec& m) { return kv_bytes_per_token(m, release_precision(m)); };
  EXPECT_DOUBLE_EQ(bytes(v32()), 48'068.0);
  EXPECT_DOUBLE_EQ(bytes(flash()), 3'514.25);
  EXPECT_DOUBLE_EQ(bytes(pro()), 5'031.4375);
  EXPECT_DOUBLE_EQ(bytes(v41()), 890.0);
}

TEST(CountKv, ReproducesTheTotalsAtOneMillionTokens) {
  struct Row {
    const ModelSpec& m;
    std::int64_t n;
    double global_gb, window_gb, tail_gb;
  };
  for (const Row& row :
       {Row{pro(), kMillion, 5.031, 5.036, 5.055}, Row{pro(), kMebi, 5.276, 5.280, 5.299},
        Row{flash(), kMillion, 3.514, 3.517, 3.530}, Row{flash(), kMebi, 3.685, 3.688, 3.700}}) {
    const KvBytes kv = count_kv(row.m, release_precision(row.m), row.n);
    EXPECT_TRUE(prints_as(kv.global / kGiga, row.global_gb, 0.001)) << row.m.name << row.n;
    EXPECT_TRUE(prints_as((kv.global + kv.window) / kGiga, row.window_gb, 0.001)) << row.m.name;
    EXPECT_TRUE(prints_as(kv.total / kGiga, row.tail_gb, 0.001)) << row.m.name;
    EXPECT_EQ(kv.total, kv.global + kv.window + kv.tail);
    EXPECT_EQ(kv.window, static_cast<std::int64_t>(row.m.layers.size()) * 74'752);
  }
  const Precision p = release_precision(v32());
  EXPECT_EQ(count_kv(v32(), p, kMillion).total, 48'068 * kMillion);
  EXPECT_TRUE(prints_as(count_kv(v32(), p, kMillion).global / kGiB, 44.77, 0.01));
  EXPECT_TRUE(prints_as(count_kv(v32(), p, kMebi).global / kGiga, 50.40, 0.01));
  EXPECT_TRUE(prints_as(count_kv(v32(), p, kMebi).global / kGiB, 46.94, 0.01));
  const auto gib = [](const ModelSpec& m, std::int64_t n) {
    return count_kv(m, release_precision(m), n).global / kGiB;
  };
  EXPECT_TRUE(prints_as(gib(pro(), kMillion), 4.686, 0.001));
  EXPECT_TRUE(prints_as(gib(pro(), kMebi), 4.914, 0.001));
  EXPECT_TRUE(prints_as(gib(flash(), kMillion), 3.273, 0.001));
  EXPECT_TRUE(prints_as(gib(flash(), kMebi), 3.432, 0.001));
}

TEST(CountKv, ReproducesThePublishedRatiosToV32) {
  const double base = count_kv(v32(), release_precision(v32()), kMillion).global;
  const KvBytes p = count_kv(pro(), release_precision(pro()), kMillion);
  const KvBytes f = count_kv(flash(), release_precision(flash()), kMillion);
  EXPECT_TRUE(prints_as(base / p.global, 9.554, 0.001));
  EXPECT_TRUE(prints_as(base / f.global, 13.678, 0.001));
  EXPECT_TRUE(prints_as(base / (p.global + p.window), 9.545, 0.001));
  EXPECT_TRUE(prints_as(base / (f.global + f.window), 13.666, 0.001));
  EXPECT_TRUE(prints_as(base / p.total, 9.510, 0.001));
  EXPECT_TRUE(prints_as(base / f.total, 13.618, 0.001));
}

TEST(CountKv, ReproducesTheAllBf16FiguresOfThePublicServingStack) {
  PrecisionRecipe bf16;
  bf16.cache = bf16.index = FormatChoice::kBf16;
  const double p = count_kv(pro(), resolve(bf16, pro()), kMebi).global;
  const double v = count_kv(v32(), resolve(bf16, v32()), kMebi).global;
  EXPECT_TRUE(prints_as(p / kGiB, 9.617, 0.001));
  EXPECT_TRUE(prints_as(v / kGiB, 83.875, 0.001));
  EXPECT_TRUE(prints_as(v / p, 8.72, 0.01));
}

TEST(CountKv, KeepsTheCompressorsTailsInFp32) {
  EXPECT_EQ(count_kv(pro(), release_precision(pro()), 5'000).tail, 18'710'528);
  EXPECT_EQ(count_kv(flash(), release_precision(flash()), 5'000).tail, 12'206'080);
  EXPECT_EQ(count_kv(v32(), release_precision(v32()), 5'000).tail, 0);
}

TEST(CountKv, ReadsThePublishedBytesPerDecodedToken) {
  struct Row {
    std::int64_t n;
    double pro_mb, flash_mb, v32_mb, unit;
  };
  for (const Row& row : {Row{8'192, 27.8, 13.2, 147.9, 0.1}, Row{131'072, 107.9, 68.2, 1137, 1},
                         Row{kMebi, 705.6, 479.5, 8525, 1}}) {
    const auto mb = [&](const ModelSpec& m) {
      return count_kv(m, release_precision(m), row.n).read_per_token / 1e6;
    };
    EXPECT_TRUE(prints_as(mb(pro()), row.pro_mb, 0.1)) << row.n;
    EXPECT_TRUE(prints_as(mb(flash()), row.flash_mb, 0.1)) << row.n;
    EXPECT_TRUE(prints_as(mb(v32()), row.v32_mb, row.unit)) << row.n;
  }
}

TEST(CountKv, CompletesEntriesOnlyAtTheEndOfABlock) {
  const Precision p = release_precision(flash());
  EXPECT_EQ(count_kv(flash(), p, 3).global, 0);
  EXPECT_EQ(count_kv(flash(), p, 4).global, 21 * 652);
  EXPECT_EQ(count_kv(flash(), p, 127).global, 21 * 31 * 652);
  EXPECT_EQ(count_kv(flash(), p, 128).global, 21 * 32 * 652 + 20 * 584);
  EXPECT_EQ(count_kv(flash(), p, 1).window, 43 * 584);
  EXPECT_EQ(count_kv(flash(), p, 129).window, 43 * 128 * 584);
}

TEST(CountKv, SharesV41CachesAcrossLayers) {
  const KvBytes kv = count_kv(v41(), release_precision(v41()), kMillion);
  EXPECT_EQ(kv.global, 890 * kMillion);
  EXPECT_EQ(kv.window, 40 * 128 * 528);
  EXPECT_EQ(kv.read_per_token,
            40 * 128 * 528 + 38 * 512 * 288 + 68 * (3 * kMillion / 2 + kMillion + 4 * 16'384));
}

// ---- limits ----

// A count either is exact or is refused; it never wraps around.
TEST(CountFlops, RefusesWhatA63BitCountCannotHold) {
  const auto refusal = [](const auto& call) { return thrown<base::UnsupportedError>(call); };
  EXPECT_THAT(refusal([] { (void)count_prefill(pro(), 1'000'000'000'000); }),
              HasSubstr("deepseek-v4-pro"));
  EXPECT_THAT(refusal([] {
                (void)count_flops(pro(), {{Span{1'000'000'000, 100'000, 1000}}}, 1);
              }),
              HasSubstr("63-bit"));
  EXPECT_THAT(refusal([] {
                (void)count_draft(v32(), {{Span{1, 0, 1'000'000'000'000}}}, 1);
              }),
              HasSubstr("63-bit"));
  // Real requests are far inside: 1M prompts, and 16 prompts of 128K.
  for (const ModelSpec* m : all_models()) {
    EXPECT_EQ(refusal([&] { (void)count_prefill(*m, kMebi); }), "");
    EXPECT_EQ(refusal([&] { (void)count_flops(*m, {{Span{16, 0, 131'072}}}, 16); }), "");
    EXPECT_EQ(refusal([&] { (void)count_flops(*m, {{Span{65'536, kMebi - 1, 1}}}, 65'536); }), "");
  }
}

TEST(CountDecode, IsExactOrRefusedAtAbsurdContexts) {
  for (const ModelSpec* m : {&v32(), &pro(), &flash()}) {
    const std::int64_t slope = m == &v32() ? 999'424 : m == &pro() ? 186'368 : 106'496;
    const std::int64_t constant = count_decode(*m, 8192).total() - slope * 8192;
    for (std::int64_t n = std::int64_t{1} << 20; n > 0 && n < (std::int64_t{1} << 60); n *= 4) {
      try {
        const std::int64_t total = count_decode(*m, n).total();
        EXPECT_EQ(total, constant + slope * n) << m->name << " " << n;
      } catch (const base::UnsupportedError&) {
        EXPECT_GT(n, 1 << 30) << m->name;
      }
    }
  }
}

TEST(CountKv, IsExactOrRefusedAtAbsurdContexts) {
  for (std::int64_t n = std::int64_t{1} << 20; n > 0 && n < (std::int64_t{1} << 61); n *= 4) {
    try {
      ASSERT_EQ(static_cast<double>(count_kv(v32(), release_precision(v32()), n).global),
                48'068.0 * static_cast<double>(n));
    } catch (const base::UnsupportedError&) {
      EXPECT_GT(n, 1 << 30);
    }
  }
}

}  // namespace
}  // namespace foretoken::workloads
