#include "sim/base/units.h"

#include <gtest/gtest.h>

#include "sim/base/evidence.h"

namespace foretoken::base {
namespace {

using namespace literals;  // NOLINT(google-build-using-namespace)

TEST(Units, DivideBytesByBandwidthToSeconds) {
  EXPECT_DOUBLE_EQ((48_GB / 4.8_TBps).value(), 0.01);
  EXPECT_DOUBLE_EQ((4.8_TBps * 10_ms).value(), 48e9);
  EXPECT_DOUBLE_EQ((700_W * 2_s).value(), 1400.0);
}

TEST(Units, TellDecimalFromBinaryBytes) {
  EXPECT_EQ((1_GB).value(), 1e9);
  EXPECT_EQ((1_GiB).value(), 1073741824.0);
}

TEST(Evidence, KeepsTheWeakestBasis) {
  EXPECT_EQ(weakest(Basis::kMeasured, Basis::kAssumed), Basis::kAssumed);
  EXPECT_EQ(weakest(Basis::kBound, Basis::kCalibrated), Basis::kBound);
  EXPECT_EQ(to_string(Basis::kCalibrated), "calibrated");
}

}  // namespace
}  // namespace foretoken::base
