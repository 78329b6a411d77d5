#include "workloads/dtype.h"

#include <gtest/gtest.h>

namespace foretoken::workloads {
namespace {

TEST(Dtype, EveryNameReadsBackAsItsFormat) {
  for (int i = 0; i < kDtypeCount; ++i) {
    const auto d = static_cast<Dtype>(i);
    EXPECT_EQ(parse_dtype(to_string(d)), d);
  }
  EXPECT_FALSE(parse_dtype("fp16").has_value());
  EXPECT_FALSE(parse_dtype("").has_value());
  EXPECT_FALSE(parse_dtype("FP8").has_value());
}

TEST(Dtype, ElementsOccupyTheirBitsRoundedUpToWholeBytes) {
  EXPECT_EQ(element_bytes(Dtype::kFp4, 32), 16);
  EXPECT_EQ(element_bytes(Dtype::kFp4, 33), 17);
  EXPECT_EQ(element_bytes(Dtype::kInt4, 1), 1);
  EXPECT_EQ(element_bytes(Dtype::kFp8, 7), 7);
  EXPECT_EQ(element_bytes(Dtype::kInt8, 7), 7);
  EXPECT_EQ(element_bytes(Dtype::kBf16, 7), 14);
  EXPECT_EQ(element_bytes(Dtype::kTf32, 7), 28);
  EXPECT_EQ(element_bytes(Dtype::kHf32, 7), 28);
  EXPECT_EQ(element_bytes(Dtype::kFp32, 7), 28);
  EXPECT_EQ(element_bytes(Dtype::kInt32, 7), 28);
  EXPECT_EQ(element_bytes(Dtype::kInt64, 7), 56);
  EXPECT_EQ(element_bytes(Dtype::kBf16, 0), 0);
}

}  // namespace
}  // namespace foretoken::workloads
