// Expert layers over ranks: what overlap is worth, which waves are made, and what the times rest
// on.
#include "hwmodels/expert_waves.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "hwmodels/fabric.h"
#include "sim/base/error.h"
#include "tests/hwmodels/fixtures.h"

namespace foretoken::hwmodels {
namespace {

using test_support::configs;
using test_support::hardware;
using Schedule = ExpertSchedule;
using workloads::Dtype;

ExpertLayer pro(std::int64_t tokens, std::int64_t ranks = 8) {
  ExpertLayer l;
  l.tokens = tokens;
  l.hidden = 7168;
  l.inner = 3072;
  l.experts = 384;
  l.topk = 6;
  l.ranks = ranks;
  return l;
}

ExpertLayer flash(std::int64_t tokens, std::int64_t ranks = 8) {
  ExpertLayer l = pro(tokens, ranks);
  l.hidden = 4096;
  l.inner = 2048;
  l.experts = 256;
  return l;
}

// A system with everything that prices a layer.
struct Priced {
  explicit Priced(const std::string& system)
      : hw(hardware(system)), rates(derive_rates(hw)), design(hw.kernels.expert_layer) {}
  ExpertTime time(const ExpertLayer& layer, ExpertPlan plan = {}) {
    pricing.use(hw, rates, design);
    return pricing.time(layer, plan);
  }
  Hardware hw;
  Rates rates;
  ExpertLayerDesign design;
  ExpertPricing pricing;
};

TEST(ExpertRule, IsTheOneOfTheChipsKernel) {
  Priced p("hgx_b200");
  // 16 tokens an expert: 32 to a tile, and 48 tiles each. Less than one token: all at once.
  for (const auto& [tokens, each, tile] :
       std::vector<std::array<std::int64_t, 3>>{{4, 48, 16}, {128, 9, 32}, {32768, 2, 192}}) {
    const ExpertTime t = p.time(pro(tokens));
    EXPECT_EQ(t.experts_per_wave, each);
    EXPECT_EQ(t.tile_tokens, tile);
  }
  kernels::ExpertWavesDesign& schedule = p.hw.kernels.expert_waves;
  schedule.wave_experts = 5;
  EXPECT_EQ(p.time(pro(128)).experts_per_wave, 5);
  EXPECT_EQ(p.time(pro(128)).waves, 10);
  // Small tiles read the weights of many tokens once for each of them.
  const double large = p.time(pro(32768)).seconds;
  schedule.product.tiles = {{.weights = 128, .tokens = 16}};
  EXPECT_EQ(p.time(pro(32768)).tile_tokens, 16);
  EXPECT_GT(p.time(pro(32768)).seconds, 2.0 * large);
}

TEST(Overlap, OfOneWaveIsNone) {
  const std::vector<WaveStages> one = {{1.0, 2.0, 0.5, 3.0, 0.25}};
  EXPECT_DOUBLE_EQ(serial_time(one), 6.75);
  // Results leave while the second product goes on.
  EXPECT_DOUBLE_EQ(waves_time(one), 6.5);
  EXPECT_DOUBLE_EQ(pairwise_time(one), 6.5);
}

TEST(Overlap, IsNeverBelowItsBoundsNorAboveSerialTime) {
  std::mt19937 random(7);
  std::uniform_real_distribution<double> time(0.0, 2.0);
  for (int trial = 0; trial < 300; ++trial) {
    std::vector<WaveStages> waves(1 + random() % 12);
    double compute = 0.0;
    double link = 0.0;
    for (WaveStages& s : waves) {
      s = {time(random), time(random), time(random), time(random), time(random)};
      compute += s.first + s.between + s.second;
      link += s.arrive + s.leave;
    }
    const double serial = serial_time(waves);
    const double in_waves = waves_time(waves);
    EXPECT_GE(in_waves, std::max(compute, link) * (1.0 - 1e-12));
    EXPECT_LE(in_waves, serial * (1.0 + 1e-12));
    EXPECT_GE(pairwise_time(waves), compute * (1.0 - 1e-12));
    EXPECT_LE(pairwise_time(waves), serial * (1.0 + 1e-12));
  }
}

TEST(Overlap, GrowsWithEveryStage) {
  std::mt19937 random(11);
  std::uniform_real_distribution<double> time(0.0, 2.0);
  for (int trial = 0; trial < 100; ++trial) {
    std::vector<WaveStages> waves(1 + random() % 6);
    for (WaveStages& s : waves) {
      s = {time(random), time(random), time(random), time(random), time(random)};
    }
    std::vector<WaveStages> slower = waves;
    slower[random() % slower.size()].leave += 0.3;
    EXPECT_GE(waves_time(slower), waves_time(waves));
    slower[random() % slower.size()].arrive += 0.3;
    EXPECT_GE(pairwise_time(slower), pairwise_time(waves));
  }
}

TEST(ExpertLayerTime, HasPartsThatAddUp) {
  Priced p("gb200_nvl72");
  for (const std::int64_t tokens : {1, 64, 1024, 16384}) {
    for (const Schedule schedule :
         {Schedule::kSerial, Schedule::kTwoBatch, Schedule::kPairwise, Schedule::kWaves}) {
      const ExpertTime t = p.time(pro(tokens), {.schedule = schedule});
      EXPECT_NEAR(t.seconds,
                  t.launch + t.prepare + t.handshake + t.host + t.order + t.compute + t.traffic +
                      t.tiles + t.reduce,
                  1e-12);
      for (const double part :
           {t.launch, t.prepare, t.handshake, t.order, t.compute, t.traffic, t.tiles, t.reduce}) {
        EXPECT_GE(part, 0.0) << tokens;
      }
      EXPECT_GE(t.seconds, t.link);
    }
  }
}

TEST(ExpertLayerTime, IsNotBelowWhatWeightsAndProductsTake) {
  Priced p("hgx_b200");
  for (const std::int64_t tokens : {1, 16, 256, 4096, 32768}) {
    const double pairs = static_cast<double>(tokens) * 6.0;
    const double experts = std::min(48.0, pairs);
    const double weights = experts * 3.0 * 7168 * 3072 * 0.53125 / p.rates.memory;
    const double products = pairs * 6.0 * 7168 * 3072 / p.hw.chip.peak(Dtype::kFp8).value();
    EXPECT_GT(p.time(pro(tokens)).seconds, std::max(weights, products)) << tokens;
  }
}

TEST(ExpertLayerTime, OfWavesIsBelowThatOfSeparateKernels) {
  for (const char* system : {"hgx_b200", "gb300_nvl72", "atlas_950_cabinet"}) {
    Priced p(system);
    for (const std::int64_t tokens : {1, 128, 2048, 32768}) {
      const double waves = p.time(flash(tokens)).seconds;
      EXPECT_LT(waves, p.time(flash(tokens), {.schedule = Schedule::kSerial}).seconds)
          << system << tokens;
      EXPECT_LE(waves, p.time(flash(tokens), {.schedule = Schedule::kPairwise}).seconds)
          << system << tokens;
    }
  }
}

TEST(ExpertLayerTime, NeverFallsWhenTheLinkSlows) {
  for (const Schedule schedule :
       {Schedule::kSerial, Schedule::kTwoBatch, Schedule::kPairwise, Schedule::kWaves}) {
    double last = 0.0;
    for (const double share : {1.0, 0.5, 0.2, 0.05, 0.01}) {
      Priced p("hgx_h200");
      p.rates.link_efficiency *= share;
      ExpertLayer l = flash(2048);
      l.weight = Dtype::kFp8;
      const double t = p.time(l, {.schedule = schedule}).seconds;
      EXPECT_GE(t, last);
      last = t;
    }
  }
}

TEST(ExpertLayerTime, IsTheLinksWhenTheyAreSlow) {
  Priced p("gb200_nvl72");
  p.rates.link_efficiency *= 0.02;
  const ExpertTime t = p.time(flash(8192));
  EXPECT_EQ(t.bound, "link");
  EXPECT_NEAR(t.seconds, t.link, 0.1 * t.link);
}

TEST(ExpertLayerTime, FollowsTheExpertsThatAreTouchedWhileTokensAreFew) {
  Priced p("gb200_nvl72");
  const double some = p.time(pro(2)).seconds;  // 12 experts of a rank
  const double more = p.time(pro(4)).seconds;  // 24
  const double most = p.time(pro(8)).seconds;  // 48: all
  EXPECT_NEAR(more - some, 0.5 * (most - more), 0.02 * most);
  EXPECT_NEAR(p.time(pro(16)).seconds, most, 0.02 * most);
}

TEST(ExpertLayerTime, IsTheSlowestRanks) {
  Priced p("gb200_nvl72");
  ExpertLayer skewed = pro(4096);
  const std::vector<std::int64_t> even(48, 512);
  std::vector<std::int64_t> hot(48, 512);
  hot[0] = 20480;
  skewed.rows = {even, hot};
  const double slowest = p.time(skewed).seconds;
  skewed.rows = {hot};
  EXPECT_DOUBLE_EQ(slowest, p.time(skewed).seconds);
  skewed.rows = {even};
  EXPECT_GT(slowest, 1.3 * p.time(skewed).seconds);
  EXPECT_DOUBLE_EQ(p.time(skewed).seconds, p.time(pro(4096)).seconds);
}

TEST(ExpertLayerTime, CountsOnlyWavesWithTokens) {
  Priced p("gb200_nvl72");
  ExpertLayer l = pro(256);
  l.rows = {std::vector<std::int64_t>(48, 0)};
  l.rows[0][3] = 100;
  l.rows[0][40] = 1;
  EXPECT_EQ(p.time(l).waves, 2);
  l.rows[0].assign(48, 0);
  const ExpertTime idle = p.time(l);
  EXPECT_EQ(idle.waves, 0);
  EXPECT_EQ(idle.compute, 0.0);
  EXPECT_GT(idle.seconds, idle.handshake);
}

TEST(ExpertLayerTime, TakesLongerWithFewerCores) {
  Priced p("hgx_b200");
  const double all = p.time(pro(8192)).seconds;
  p.design.communication_cores = 100;
  EXPECT_GT(p.time(pro(8192)).seconds, 1.5 * all);
  p.design.communication_cores = 148;
  EXPECT_THROW(p.time(pro(1)), base::UnsupportedError);
}

TEST(ExpertLayerTime, ReadsShortRowsOfWeightsMoreSlowly) {
  Priced p("gb200_nvl72");
  const double fitted = p.time(pro(16)).seconds;
  p.design.short_row.value = 1.0;
  const double whole = p.time(pro(16)).seconds;
  EXPECT_LT(whole, fitted);
  // FP8 rows of 128 fill a line.
  ExpertLayer l = pro(16);
  l.weight = Dtype::kFp8;
  const double wide = p.time(l).seconds;
  p.design.short_row.value = 0.5;
  EXPECT_DOUBLE_EQ(p.time(l).seconds, wide);
}

TEST(ExpertLayerTime, OfSeparateKernelsPaysForTheHostOnlyWhereItWaits) {
  Priced p("hgx_h200");
  ExpertLayer l = flash(64);
  l.weight = Dtype::kFp8;
  const ExpertTime on_device = p.time(l, {.schedule = Schedule::kSerial});
  const ExpertTime with_host = p.time(l, {.schedule = Schedule::kSerial, .host_waits = true});
  EXPECT_EQ(on_device.host, 0.0);
  EXPECT_NEAR(with_host.seconds - on_device.seconds, with_host.host, 1e-12);
  const ExpertTime low =
      p.time(l, {.schedule = Schedule::kSerial, .form = SeparateForm::kLowLatency});
  EXPECT_EQ(low.order, 0.0);
  EXPECT_LT(low.seconds, on_device.seconds);
}

TEST(ExpertLayerTime, RefusesWhatCannotBe) {
  Priced p("hgx_b200");
  ExpertLayer l = pro(1);
  l.topk = 385;
  EXPECT_THROW(p.time(l), base::UnsupportedError);
  l = pro(std::int64_t{1} << 50);
  EXPECT_THROW(p.time(l), base::UnsupportedError);
  EXPECT_THROW(p.time(pro(64, 64)), base::UnsupportedError);  // eight devices
  Priced a100("hgx_a100");
  EXPECT_THROW(a100.time(pro(64)), base::UnsupportedError);  // no FP8
}

TEST(ExpertLayerDesign, RefusesWhatItCannotMean) {
  const auto read = [](const std::string& text) {
    return base::read_config<ExpertLayerDesign>(base::parse_yaml("d.yaml", text));
  };
  EXPECT_NO_THROW(read("name: d\ntitle: t\nsource: assumed\nhandshake: 1 us\n"));
  const auto message = [&](const std::string& text) -> std::string {
    try {
      read(text);
    } catch (const base::ConfigError& error) {
      return error.what();
    }
    return "";
  };
  EXPECT_THAT(message("name: d\ntitle: t\nsource: assumed\nhandshake: -1 us\n"),
              testing::StartsWith("d.yaml:4:12: error: "));
  EXPECT_THAT(message("name: d\ntitle: t\nsource: assumed\nhandshake: 1 us\ninterference: 0.5\n"),
              testing::StartsWith("d.yaml:5:15: error: "));
  // Tiles and waves are said once, by the kernel's design.
  EXPECT_THAT(message("name: d\ntitle: t\nsource: assumed\nhandshake: 1 us\nproducts: {}\n"),
              testing::StartsWith("d.yaml:5:1: error: unknown key 'products'"));
}

}  // namespace
}  // namespace foretoken::hwmodels
