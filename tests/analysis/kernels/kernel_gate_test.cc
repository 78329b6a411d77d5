#include "analysis/kernels/kernel_gate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/analysis/kernels/fixtures.h"
#include "tests/sim/base/test_support.h"

namespace foretoken::analysis::kernels {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

const std::vector<KernelChip>& all_chips() {
  static const auto chips = load_kernel_chips(test_support::configs());
  return chips;
}

const std::vector<hwmodels::DesignFile>& one_design() {
  static const std::vector<hwmodels::DesignFile> designs = {design("hopper_gemm_bf16")};
  return designs;
}

GateResult gate(const Baseline& baseline, double tolerance = 0.02) {
  return check(one_design(), all_chips(), baseline, {.chips = {"h200_sxm"}}, tolerance);
}

Baseline measured() { return updated({}, gate({})); }

TEST(KernelGate, WhatDidNotChangePasses) {
  const GateResult g = gate(measured());
  EXPECT_TRUE(g.ok());
  EXPECT_EQ(g.count(GateStatus::kSame), 3);
}

TEST(KernelGate, SlowerBeyondTheToleranceFailsAndNamesWhatMoved) {
  Baseline b = measured();
  b.entries[0].latency_us -= 1.0;
  b.entries[0].parts_us[static_cast<std::size_t>(hwmodels::tile::Part::kLatency)] -= 1.0;
  const GateResult g = gate(b, 0.01);
  EXPECT_FALSE(g.ok());
  ASSERT_EQ(g.count(GateStatus::kSlower), 1);
  EXPECT_EQ(g.rows[0].moved(), "latency +1 us");
  EXPECT_TRUE(gate(b, 0.5).ok());
}

TEST(KernelGate, FasterPasses) {
  Baseline b = measured();
  b.entries[0].latency_us *= 1.5;
  const GateResult g = gate(b);
  EXPECT_TRUE(g.ok());
  EXPECT_EQ(g.count(GateStatus::kFaster), 1);
}

TEST(KernelGate, MissingExtraAndReshapedEntriesAreReportedAndAnEmptyBaselineFails) {
  EXPECT_FALSE(gate({}).ok());
  Baseline b = measured();
  b.entries[0].name = "gone";
  b.entries[1].shape = "m=1";
  const GateResult g = gate(b);
  EXPECT_EQ(g.count(GateStatus::kGone), 1);
  EXPECT_EQ(g.count(GateStatus::kNew), 1);
  EXPECT_EQ(g.count(GateStatus::kReshaped), 1);
  EXPECT_EQ(g.compared(), 1);
  EXPECT_TRUE(g.ok());
}

TEST(KernelGate, ADesignForNoChipFailsItsVerification) {
  std::vector<hwmodels::DesignFile> designs = one_design();
  designs[0].families = {"hoper"};
  const GateResult g = check(designs, all_chips(), {}, {}, 0.02);
  EXPECT_FALSE(g.verified());
  EXPECT_THAT(g.verification[0].reason(), HasSubstr("no chip is of its families: hoper"));
}

TEST(KernelGate, UpdatesLeaveTheRestOfTheBaselineAlone) {
  Baseline b = measured();
  GateEntry other = b.entries[0];
  other.chip = "h100_sxm";
  b.entries.push_back(other);
  b.entries[0].latency_us = 1.0;
  const Baseline after = updated(b, gate(b));
  ASSERT_EQ(after.entries.size(), 4u);
  EXPECT_EQ(after.entries[0].chip, "h100_sxm");
  EXPECT_GT(after.entries[1].latency_us, 1.0);
}

TEST(KernelGate, ABaselineReadsBackAsWritten) {
  const base::ScratchFolder folder;
  const std::string text = baseline_text(measured());
  EXPECT_EQ(baseline_text(read_baseline(folder.write("b.json", text))), text);
}

TEST(KernelGate, BaselinesThatCannotBeReadSayWhere) {
  const base::ScratchFolder folder;
  const auto refused = [&](const std::string& text) {
    const auto path = folder.write("b.json", text);
    std::string message = base::config_error([&] { (void)read_baseline(path); });
    EXPECT_THAT(message, StartsWith(path.string()));
    return message.substr(std::min(path.string().size(), message.size()));
  };
  const std::string entry =
      R"({"design": "d", "chip": "c", "case": "x", "shape": "s", "latency_us": 1.5, "parts_us": {}})";
  const auto with = [&](const std::string& entries) {
    return "{\"version\": 1, \"entries\": [\n" + entries + "]}";
  };
  EXPECT_NE(refused(""), "");
  EXPECT_THAT(refused("{}"), HasSubstr("missing key 'version'"));
  EXPECT_THAT(refused("[1]"), HasSubstr(":1:1: error: "));
  EXPECT_THAT(refused("{\"version\": 2, \"entries\": []}"), StartsWith(":1:13: error: "));
  EXPECT_THAT(refused(with(entry + ",\n" + entry)), HasSubstr("is there twice"));
  const auto swapped = [&](const std::string& from, const std::string& to) {
    std::string text = entry;
    text.replace(text.find(from), from.size(), to);
    return refused(with(text));
  };
  for (const char* bad : {"\"1.5 ms\"", "\"1.5\"", "-1", "0", "1e999", "null", "[]", "NaN"}) {
    EXPECT_THAT(swapped("1.5", bad), StartsWith(":2:")) << bad;
  }
  EXPECT_THAT(swapped("{}", "{\"matrx\": 1}"), HasSubstr("did you mean 'matrix'?"));
  EXPECT_THAT(swapped("{}", "{\"matrix\": -1}"), StartsWith(":2:"));
  EXPECT_THAT(swapped("\"shape\": \"s\", ", ""), HasSubstr("missing key 'shape'"));
}

}  // namespace
}  // namespace foretoken::analysis::kernels
