#include "analysis/kernels/kernel_verify.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "tests/analysis/kernels/fixtures.h"
#include "tests/sim/base/test_support.h"

namespace foretoken::analysis::kernels {
namespace {

using testing::HasSubstr;

TEST(KernelVerify, OneDesignOfEachFamilyComputesTheRightThing) {
  const auto hopper = design("hopper_gemm_fp8_block");
  const auto ascend = design("ascend_3510_gemm");
  const KernelChip h200 = chip("h200_sxm");
  const KernelChip pr = chip("ascend_950pr_32c");
  const std::vector<Subject> subjects = {{&hopper, &h200}, {&ascend, &pr}};
  const std::vector<VerifyRow> rows = verify(subjects);
  ASSERT_GT(rows.size(), 10u);
  for (const VerifyRow& r : rows) {
    EXPECT_TRUE(r.passed()) << r.design << " " << r.name << " " << r.reason();
    EXPECT_GT(r.result.elements, 0);
  }
}

TEST(KernelVerify, ADesignEqualsItselfBitByBitAndItsRivalNearly) {
  const auto hopper = design("hopper_gemm_fp8_block");
  const auto ascend = design("ascend_3510_gemm");
  const KernelChip h200 = chip("h200_sxm");
  const KernelChip pr = chip("ascend_950pr_32c");
  for (const PairRow& r : compare_pair({&hopper, &h200}, {&hopper, &h200})) {
    EXPECT_TRUE(r.bit_equal()) << r.name;
  }
  bool differs = false;
  for (const PairRow& r : compare_pair({&hopper, &h200}, {&ascend, &pr})) {
    EXPECT_TRUE(r.first.passed() && r.second.passed());
    differs = differs || !r.bit_equal();
    EXPECT_LT(r.largest_relative, 0.2) << r.name;
  }
  EXPECT_TRUE(differs);
}

TEST(KernelVerify, PairsNeedOneKernelAndACaseInCommon) {
  const auto gemm = design("hopper_gemm_bf16");
  const auto eight = design("hopper_gemm_fp8");
  const auto rows = design("row");
  const KernelChip h200 = chip("h200_sxm");
  EXPECT_THAT(base::thrown<base::UsageError>([&] {
                (void)compare_pair({&gemm, &h200}, {&rows, &h200});
              }),
              HasSubstr("hopper_gemm_bf16 is a design of gemm, row of row"));
  EXPECT_THAT(base::thrown<base::UnsupportedError>([&] {
                (void)compare_pair({&gemm, &h200}, {&eight, &h200});
              }),
              HasSubstr("no case in common"));
}

TEST(KernelVerify, ASubjectWithoutACaseDoesNotPass) {
  const auto four = design("blackwell_gemm_fp4");
  const KernelChip h200 = chip("h200_sxm");
  const Subject subject{&four, &h200};
  const std::vector<VerifyRow> rows = verify({&subject, 1});
  ASSERT_EQ(rows.size(), 1u);
  EXPECT_FALSE(rows[0].passed());
  EXPECT_THAT(rows[0].reason(), HasSubstr("blackwell_gemm_fp4 can run none of its cases"));
}

TEST(KernelVerify, DistancesCountTheNumbersOfAFormat) {
  const float inf = std::numeric_limits<float>::infinity();
  const float nan = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(distance(1.0F, std::nextafter(1.0F, 2.0F), OutputGrid::kFp32), 1.0);
  EXPECT_EQ(distance(1.0F, 1.0F + 0x1p-7F, OutputGrid::kBf16), 1.0);
  EXPECT_EQ(distance(1.0F, 1.125F, OutputGrid::kFp8), 1.0);
  EXPECT_EQ(distance(-0.0F, 0.0F, OutputGrid::kFp32), 0.0);
  EXPECT_EQ(distance(-std::numeric_limits<float>::denorm_min(),
                     std::numeric_limits<float>::denorm_min(), OutputGrid::kFp32),
            2.0);
  EXPECT_EQ(distance(nan, nan, OutputGrid::kFp32), 0.0);
  EXPECT_EQ(distance(nan, 1.0F, OutputGrid::kFp32), inf);
}

}  // namespace
}  // namespace foretoken::analysis::kernels
