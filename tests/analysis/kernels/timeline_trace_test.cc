#include "analysis/kernels/timeline_trace.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "tests/analysis/kernels/fixtures.h"

namespace foretoken::analysis::kernels {
namespace {

using Json = nlohmann::json;

TEST(TimelineTrace, IsJsonWhoseBarsDoNotOverlapWithinARow) {
  const KernelTiming t =
      time_kernel(design("hopper_gemm_bf16"), GemmShape{.m = 200, .n = 1536, .k = 7168},
                  chip("h200_sxm"), {.simulate = true, .spans = true});
  const Json trace = Json::parse(timeline_json(t, "a \"quoted\" title"));
  EXPECT_EQ(trace["otherData"]["title"], "a \"quoted\" title");
  std::map<std::pair<int, int>, std::vector<std::pair<double, double>>> rows;
  std::set<std::pair<int, int>> named;
  double end = 0.0;
  for (const Json& e : trace["traceEvents"]) {
    const std::pair<int, int> row{e["pid"], e["tid"]};
    if (e["ph"] == "M") {
      if (e["name"] == "thread_name") named.insert(row);
      continue;
    }
    ASSERT_EQ(e["ph"], "X");
    EXPECT_FALSE(e["name"].get<std::string>().empty());
    EXPECT_GE(e["dur"], 0.0);
    rows[row].emplace_back(e["ts"], e["ts"].get<double>() + e["dur"].get<double>());
    end = std::max(end, rows[row].back().second);
  }
  EXPECT_GT(rows.size(), 3u);
  for (auto& [row, bars] : rows) {
    EXPECT_TRUE(named.contains(row));
    std::sort(bars.begin(), bars.end());
    for (std::size_t i = 1; i < bars.size(); ++i) {
      EXPECT_GE(bars[i].first, bars[i - 1].second - 1e-6);
    }
  }
  EXPECT_NEAR(end, t.seconds * 1e6, 1e-3);  // the simulated time, in microseconds
}

}  // namespace
}  // namespace foretoken::analysis::kernels
