#include "analysis/kernels/kernel_cases.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "tests/analysis/kernels/fixtures.h"
#include "tests/sim/base/test_support.h"

namespace foretoken::analysis::kernels {
namespace {

using testing::HasSubstr;

TEST(KernelCases, EveryShippedDesignHasShapesAndSmallCasesOnAChipOfItsFamilies) {
  const auto chips = load_kernel_chips(test_support::configs());
  for (const std::string& name : hwmodels::list_configs(test_support::configs(), "designs")) {
    const hwmodels::DesignFile d = design(name);
    for (const KernelChip& c : chips) {
      if (!is_for(d, c)) continue;
      EXPECT_FALSE(timing_cases(d, c.rates).empty()) << name << " " << c.name;
      EXPECT_FALSE(verify_cases(d, c.rates).empty()) << name << " " << c.name;
      std::set<std::string> names;
      for (const VerifyCase& v : verify_cases(d, c.rates)) {
        EXPECT_TRUE(names.insert(v.name).second) << v.name;
      }
    }
  }
}

TEST(KernelCases, AShapeIsChangedByItsKeysAndPrintedWithAllOfThem) {
  const Shape shape = GemmShape{.m = 64, .n = 7168, .k = 16384};
  const std::vector<std::string> settings = {"m=8K", "format=fp8_block"};
  EXPECT_EQ(to_string(with_settings(shape, settings)),
            "format=fp8_block m=8192 n=7168 k=16384 groups=1 swiglu=false");
}

TEST(KernelCases, SettingsThatMakeNoSenseAreUsageErrors) {
  const auto refused = [](const Shape& shape, const std::vector<std::string>& settings) {
    return base::thrown<base::UsageError>([&] { (void)with_settings(shape, settings); });
  };
  EXPECT_THAT(refused(GemmShape{}, {"mm=1"}), HasSubstr("--shape: unknown key 'mm'"));
  EXPECT_THAT(refused(GemmShape{}, {"m=0"}), HasSubstr("out of range"));
  EXPECT_THAT(refused(GemmShape{}, {"m=8 us"}), HasSubstr("is not a count"));
  EXPECT_THAT(refused(GemmShape{}, {"m"}), HasSubstr("'m' is not key=value"));
  EXPECT_THAT(refused(GemmShape{}, {""}), HasSubstr("'' is not key=value"));
  EXPECT_THAT(refused(GemmShape{}, {"format=fp7"}), HasSubstr("fp8"));
  EXPECT_THAT(refused(GemmShape{}, {"m=16M", "n=1M", "k=1M"}), HasSubstr("too large"));
  EXPECT_THAT(refused(GemmShape{}, {"n=3", "swiglu=true"}), HasSubstr("even n"));
  EXPECT_THAT(refused(AttentionShape{}, {"queries=2"}), HasSubstr("more new tokens"));
}

TEST(KernelCases, FormatsThatADesignDoesNotOfferAreRefused) {
  const auto d = design("hopper_gemm_bf16");
  EXPECT_THAT(base::thrown<base::UnsupportedError>([&] {
                (void)time_kernel(d, GemmShape{.format = hwmodels::kernels::GemmFormat::kFp8},
                                  chip("h200_sxm"));
              }),
              HasSubstr("hopper_gemm_bf16 offers bf16, not fp8"));
}

}  // namespace
}  // namespace foretoken::analysis::kernels
