// A step on all devices as reports show it.
#include "analysis/cluster_run.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <nlohmann/json.hpp>
#include <numeric>
#include <string>

#include "tests/analysis/fixtures.h"

namespace foretoken::analysis {
namespace {

using Json = nlohmann::json;
using test_support::decode;
using test_support::prefill;
using test_support::Served;

TEST(ClusterRun, AnswersAsTheDeviceThatStandsForAll) {
  const Served s("deepseek-v4-pro", "atlas_950_cabinet", "ascend-950");
  const Deployment d = s.deployment("dp=64,overlap=waves");
  const workloads::Batch batch = decode(2048, 8192);
  StepEvaluator one(d);
  const StepResult expected = one.simulate(batch);
  const ClusterRun all(d, {}, batch);
  EXPECT_NEAR(all.result().time.value(), expected.time.value(), 1e-6 * expected.time.value());
  for (std::size_t u = 0; u < expected.utilisation.size(); ++u) {
    EXPECT_NEAR(all.result().utilisation[u], expected.utilisation[u], 1e-4) << u;
  }
  EXPECT_NEAR(std::accumulate(all.result().shares.begin(), all.result().shares.end(), 0.0), 1.0,
              1e-9);
}

TEST(ClusterRun, TheTraceHasBlocksOfAllLayersAndTheDevicesAskedFor) {
  const Served s("deepseek-v4-flash", "hgx_b200", "release");
  const ClusterRun run(s.deployment("dp=8,overlap=waves"), {}, decode(512, 8192));
  const Json trace = Json::parse(cluster_trace_json(run, "title", 2));
  std::map<std::string, int> threads;
  double blocks = 0.0;
  double busiest = 0.0;
  int count = 0;
  for (const Json& e : trace["traceEvents"]) {
    if (e["ph"] == "X") {
      ASSERT_LE(e["pid"].get<int>(), 2);
      ASSERT_GE(e["dur"].get<double>(), 0.0);
      if (e["pid"] == 0) {
        blocks += e["dur"].get<double>();
        ++count;
      }
    } else if (e["ph"] == "C") {
      const double busy = e["args"]["busy"].get<double>();
      ASSERT_GE(busy, 0.0);
      ASSERT_LE(busy, 1.0 + 1e-6);
      busiest = std::max(busiest, busy);
    } else if (e["name"] == "thread_name") {
      ++threads[e["args"]["name"].get<std::string>()];
    }
  }
  // Blocks follow each other and fill the step.
  EXPECT_NEAR(blocks, run.timeline().total.value() * 1e6, 1e-3);
  EXPECT_EQ(count, static_cast<int>(run.step().ops().order.size()));
  EXPECT_GT(busiest, 0.1);
  EXPECT_THAT(threads, testing::UnorderedElementsAre(
                           testing::Pair("blocks", 1), testing::Pair("compute", 2),
                           testing::Pair("arriving", 2), testing::Pair("returning", 2)));
}

TEST(ClusterRun, PopularExpertsTakeAboutAsLongAsTheSlowestRankThatStandsForThem) {
  const Served s("deepseek-v4-pro", "atlas_950_cabinet", "ascend-950");
  const workloads::Batch batch = decode(8192, 8192);
  const Deployment skewed = s.deployment("dp=64,overlap=waves,routing=power_law:1.0");
  StepEvaluator one(skewed);
  const double slowest = one.simulate(batch).time.value();
  const double all = ClusterRun(skewed, {}, batch).result().time.value();
  const double even =
      ClusterRun(s.deployment("dp=64,overlap=waves"), {}, batch).result().time.value();
  EXPECT_GT(all, 1.02 * even);
  EXPECT_NEAR(all, slowest, 0.15 * slowest);
  // Copies of popular experts take some of it away.
  const double replicated =
      ClusterRun(s.deployment("dp=64,overlap=waves,routing=power_law:1.0,replicas=64"), {}, batch)
          .result()
          .time.value();
  EXPECT_LT(replicated, all);
}

TEST(ClusterRun, ThePromptsCacheCrossesToTheDecodePool) {
  const Served s("deepseek-v4-flash", "atlas_950_cabinet", "ascend-950");
  const Deployment d = s.deployment("dp=8,overlap=shared");
  const workloads::Batch batch = prefill(8, 4096);
  const ClusterRun alone(d, {}, batch);
  const ClusterRun with(d, {.cache_to = 8}, batch);
  // Bytes over the links between boards: the cache of eight prompts.
  const auto& fabric = with.step().fabric();
  double crossed = 0.0;
  for (hwmodels::LinkId l = 0; l < fabric.link_count(); ++l) {
    if (fabric.dimension(l) != 1) continue;
    crossed += with.timeline().busy[with.step().resources().link(l)].value() * fabric.rate(l);
  }
  const double cache =
      8.0 * static_cast<double>(workloads::count_kv(*d.model, d.precision, 4096).total);
  EXPECT_NEAR(crossed, cache, 1e-6 * cache);
  EXPECT_GE(with.result().time.value(), alone.result().time.value());
}

}  // namespace
}  // namespace foretoken::analysis
