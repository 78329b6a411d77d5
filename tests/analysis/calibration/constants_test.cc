#include "analysis/calibration/constants.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/analysis/calibration/fixtures.h"

namespace foretoken::analysis::calibration {
namespace {

const Constant& find(const std::vector<Constant>& all, const std::string& name) {
  const auto found =
      std::find_if(all.begin(), all.end(), [&](const Constant& c) { return c.name == name; });
  EXPECT_NE(found, all.end()) << name;
  return *found;
}

TEST(Constants, AreNamedAfterTheKeysOfTheFile) {
  const auto all = constants_of(constants(0.9, 0.8, 2e-6));
  EXPECT_DOUBLE_EQ(find(all, "efficiency.memory").value.value, 0.9);
  EXPECT_DOUBLE_EQ(find(all, "efficiency.matrix.bf16").value.value, 0.8);
  EXPECT_DOUBLE_EQ(find(all, "efficiency.matrix.fp8").value.value, 0.0);
  EXPECT_DOUBLE_EQ(find(all, "latency.launch").value.value, 2e-6);
  EXPECT_FALSE(find(all, "power.memory_pj").has_range);
}

TEST(Constants, BoundsArePhysicalAndNoWiderThanTheFileAllows) {
  for (const Constant& c : constants_of({})) {
    EXPECT_GT(c.least, 0.0) << c.name;
    EXPECT_LT(c.least, c.most) << c.name;
  }
  const auto all = constants_of({});
  EXPECT_DOUBLE_EQ(find(all, "efficiency.matrix.fp8").most, 1.0);
  EXPECT_DOUBLE_EQ(find(all, "power.static").most, 1.0);
}

TEST(Constants, AreSetByNameWhereTheCalibrationHasThem) {
  hwmodels::Calibration c = constants(0.9, 0.8, 2e-6);
  set_constants(
      c, std::map<std::string, double>{
             {"efficiency.memory", 0.5}, {"efficiency.matrix.fp4", 0.5}, {"latency.launch", 3e-6}});
  EXPECT_DOUBLE_EQ(c.memory_efficiency.value, 0.5);
  EXPECT_DOUBLE_EQ(c.memory_efficiency.high, 0.5);
  EXPECT_DOUBLE_EQ(c.launch_latency.value, 3e-6);
  EXPECT_DOUBLE_EQ(c.matrix_efficiency[static_cast<std::size_t>(workloads::Dtype::kFp4)].value,
                   0.0);
}

TEST(Constants, EnergiesKeepTheirUnit) {
  hwmodels::Calibration c;
  c.memory_energy = 110e-12;
  EXPECT_NEAR(find(constants_of(c), "power.memory_pj").value.value, 110.0, 1e-9);
  set_constants(c, std::map<std::string, double>{{"power.memory_pj", 55.0}});
  EXPECT_NEAR(c.memory_energy, 55e-12, 1e-20);
}

TEST(Constants, AreWrittenWithTheirUnit) {
  const auto all = constants_of({});
  EXPECT_EQ(to_text(find(all, "latency.launch"), 1.23456e-6), "1.235 us");
  EXPECT_EQ(to_text(find(all, "efficiency.memory"), 0.91), "0.91");
}

}  // namespace
}  // namespace foretoken::analysis::calibration
