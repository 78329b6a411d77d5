// Quantised activations times FP8 and FP4 weights, the way the operators put the pieces together,
// against golden values of the released kernels.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "reference/formats/block_formats.h"
#include "reference/formats/float_formats.h"
#include "reference/kernels/matmul.h"
#include "tests/reference/formats/golden_data.h"
#include "tests/reference/ops/operator_cases.h"

namespace foretoken::reference {
namespace {

constexpr std::int64_t kTokens = 9;
constexpr std::int64_t kInputs = 256;
constexpr std::int64_t kOutputs = 160;

struct Golden {
  golden::Tensors tensors{"components/components.safetensors"};
  std::vector<std::uint8_t> fp8 = tensors.bytes("gemm.w_fp8.codes");
  std::vector<std::uint8_t> fp8_scales = tensors.bytes("gemm.w_fp8.scale_e8m0");
  std::vector<std::uint8_t> fp4 = tensors.bytes("gemm.w_fp4.packed");
  std::vector<std::uint8_t> fp4_scales = tensors.bytes("gemm.w_fp4.scale_e8m0");

  [[nodiscard]] WeightView fp8_view() const {
    WeightView view;
    view.format = WeightView::Format::kFp8;
    view.data = fp8.data();
    view.rows = kOutputs;
    view.columns = kInputs;
    view.scale = WeightView::Scale::kE8M0;
    view.scales = fp8_scales.data();
    view.scale_rows = 128;
    view.scale_columns = 128;
    return view;
  }
  [[nodiscard]] WeightView fp4_view() const {
    WeightView view = fp8_view();
    view.format = WeightView::Format::kFp4;
    view.data = fp4.data();
    view.scales = fp4_scales.data();
    view.scale_rows = 1;
    view.scale_columns = 32;
    return view;
  }
  // Activations as the kernels see them.
  template <class T>
  [[nodiscard]] std::vector<T> inputs() const {
    const auto x = tensors.floats("gemm.x");
    std::vector<T> rounded(x.begin(), x.end());
    for (std::int64_t t = 0; t < kTokens; ++t) {
      fake_quantise_e4m3(std::span(rounded).subspan(t * kInputs, kInputs), 128, kFp8Activation);
    }
    return rounded;
  }
};

template <class T, class Acc>
std::vector<Acc> product(const std::vector<T>& x, const WeightView& view, std::int64_t block) {
  const auto tokens = static_cast<std::int64_t>(x.size()) / view.columns;
  std::vector<Acc> y(static_cast<std::size_t>(tokens * view.rows));
  matmul<T, Acc>(x.data(), tokens, view.columns, view, y.data(), view.rows, block);
  return y;
}

// In the order of additions of the released kernels, and exactly. Golden sums of 256 products are
// float and about 10 in magnitude.
void expect_golden(const Golden& data, const WeightView& view, const std::string& name,
                   std::int64_t block) {
  const auto expected = data.tensors.floats(name);
  EXPECT_LE(distance(product<double, double>(data.inputs<double>(), view, 0), expected), 2e-6);
  EXPECT_LE(distance(product<float, double>(data.inputs<float>(), view, 0), expected), 2e-6);
  EXPECT_LE(distance(product<float, float>(data.inputs<float>(), view, block), expected), 3e-6);
  EXPECT_LE(distance(product<float, float>(data.inputs<float>(), view, 0), expected), 1e-5);
}

TEST(QuantisedProduct, ActivationsAreTheReleasedCodes) {
  const Golden data;
  const auto codes = data.tensors.bytes("gemm.x.codes");
  const auto scales = data.tensors.bytes("gemm.x.scale_e8m0");
  const auto rounded = data.inputs<float>();
  for (std::size_t i = 0; i < rounded.size(); ++i) {
    ASSERT_EQ(rounded[i], decode_e4m3(codes[i]) * decode_e8m0(scales[i / 128])) << i;
  }
}

TEST(QuantisedProduct, OfFp8WeightsIsTheReleasedOne) {
  const Golden data;
  expect_golden(data, data.fp8_view(), "gemm.y_fp8", 128);
}

TEST(QuantisedProduct, OfFp4WeightsIsTheReleasedOne) {
  const Golden data;
  expect_golden(data, data.fp4_view(), "gemm.y_fp4", 32);
}

template <class T, class Acc>
void check_tokens_alone(const Golden& data, const WeightView& view, std::int64_t block) {
  const auto x = data.inputs<T>();
  const auto all = product<T, Acc>(x, view, block);
  for (std::int64_t t = 0; t < kTokens; ++t) {
    EXPECT_EQ((product<T, Acc>(slice(x, t * kInputs, kInputs), view, block)),
              slice(all, t * kOutputs, kOutputs))
        << t;
    EXPECT_EQ((product<T, Acc>(slice(x, 0, (t + 1) * kInputs), view, block)),
              slice(all, 0, (t + 1) * kOutputs))
        << t;
  }
}

TEST(QuantisedProduct, OfATokenDoesNotDependOnTheOthers) {
  const Golden data;
  for (const WeightView& view : {data.fp8_view(), data.fp4_view()}) {
    check_tokens_alone<double, double>(data, view, 0);
    check_tokens_alone<float, double>(data, view, 0);
    for (const std::int64_t block : {0, 32, 128}) {
      check_tokens_alone<float, float>(data, view, block);
    }
  }
}

// Enough rows and outputs for threads to share the work.
TEST(QuantisedProduct, OfManyTokensIsThatOfEachAlone) {
  const Golden data;
  const auto few = data.inputs<float>();
  const WeightView view = data.fp8_view();
  Random random(29);
  std::vector<float> many;
  for (int i = 0; i < 700; ++i) {
    const auto token = slice(few, random.between(0, kTokens - 1) * kInputs, kInputs);
    many.insert(many.end(), token.begin(), token.end());
  }
  const auto all = product<float, float>(many, view, 128);
  for (std::int64_t t = 0; t < 700; t += 23) {
    EXPECT_EQ((product<float, float>(slice(many, t * kInputs, kInputs), view, 128)),
              slice(all, t * kOutputs, kOutputs));
  }
}

}  // namespace
}  // namespace foretoken::reference
