// What must not change the numbers: how a prompt is cut into steps, what comes after a token, which
// instructions the machine has, how many threads it runs on.
#include <gtest/gtest.h>

#include <random>

#include "reference/kernels/matmul.h"
#include "reference/kernels/parallel.h"
#include "tests/reference/model/test_support.h"

namespace foretoken::reference::testing {
namespace {

struct Mode {
  std::string model;
  Carrier carrier;
  Arithmetic arithmetic;
};

std::vector<Mode> modes() {
  std::vector<Mode> out;
  for (const char* model : {"fp32_mixed", "quant_fp8_fp4_f32carrier"}) {
    out.push_back({model, Carrier::kF64, Arithmetic::kExact});
    out.push_back({model, Carrier::kF32, Arithmetic::kExact});
    out.push_back({model, Carrier::kBf16, Arithmetic::kExact});
    out.push_back({model, Carrier::kF32, Arithmetic::kHardware});
    out.push_back({model, Carrier::kBf16, Arithmetic::kHardware});
  }
  return out;
}

std::string mode_name(const ::testing::TestParamInfo<Mode>& info) {
  const Mode& m = info.param;
  return m.model.substr(0, m.model.find('_')) +
         (m.carrier == Carrier::kF64   ? "F64"
          : m.carrier == Carrier::kF32 ? "F32"
                                       : "Bf16") +
         (m.arithmetic == Arithmetic::kExact ? "Exact" : "Hardware");
}

class Invariance : public ::testing::TestWithParam<Mode> {
 protected:
  Invariance()
      : loaded_(load_checkpoint(golden_folder(GetParam().model))),
        tokens_(read_tokens(golden_folder(GetParam().model) / "tokens.json", loaded_.model.vocab)) {
    options_.carrier = GetParam().carrier;
    options_.arithmetic = GetParam().arithmetic;
    tokens_.resize(std::min<std::size_t>(tokens_.size(), 275));
  }

  // All tensors of a run in the given steps.
  std::unique_ptr<MemorySink> run(const std::vector<std::int32_t>& tokens,
                                  const std::vector<std::int64_t>& steps) {
    const auto model = make_model(loaded_, options_, true);
    auto sink = std::make_unique<MemorySink>();
    run_steps(*model, tokens, steps, sink.get());
    return sink;
  }

  static void expect_equal(const std::unique_ptr<MemorySink>& left,
                           const std::unique_ptr<MemorySink>& right, const std::string& what) {
    const MemorySink& a = *left;
    const MemorySink& b = *right;
    ASSERT_EQ(a.tensors.size(), b.tensors.size()) << what;
    for (const auto& [name, tensor] : a.tensors) {
      ASSERT_EQ(tensor.shape, b.tensors.at(name).shape) << what << " " << name;
      ASSERT_TRUE(tensor.data == b.tensors.at(name).data) << what << " " << name;
    }
    for (const auto& [name, rows] : a.ragged) {
      ASSERT_TRUE(rows == b.ragged.at(name)) << what << " " << name;
    }
  }

  LoadedCheckpoint loaded_;
  std::vector<std::int32_t> tokens_;
  ReferenceOptions options_;
};

TEST_P(Invariance, EverySplitGivesTheSameBits) {
  const auto whole = run(tokens_, {1'000});
  for (const std::int64_t prefill : {1, 3, 4, 5, 7, 8, 9, 127, 128, 129, 255, 256, 257}) {
    // Decode token by token for a while, then larger pieces.
    expect_equal(whole, run(tokens_, {prefill, 1, 1, 1, 1, 1, 1, 1, 1, 1, 13, 50}),
                 "prefill " + std::to_string(prefill));
  }
  std::mt19937 random(7);
  for (int round = 0; round < 3; ++round) {
    std::vector<std::int64_t> steps(40);
    for (std::int64_t& step : steps) {
      step = std::uniform_int_distribution<std::int64_t>(1, 40)(random);
    }
    expect_equal(whole, run(tokens_, steps), "random steps " + std::to_string(round));
  }
}

TEST_P(Invariance, TokenByTokenFromTheStart) {
  tokens_.resize(140);
  expect_equal(run(tokens_, {1'000}), run(tokens_, {1}), "decode only");
}

TEST_P(Invariance, LaterTokensChangeNothingBefore) {
  tokens_.resize(150);
  const auto before = run(tokens_, {1'000});
  for (const std::size_t changed :
       {std::size_t{0}, std::size_t{5}, std::size_t{127}, std::size_t{128}, std::size_t{149}}) {
    std::vector<std::int32_t> other = tokens_;
    other[changed] = (other[changed] + 1) % static_cast<std::int32_t>(loaded_.model.vocab);
    const auto after = run(other, {1'000});
    const Values& a = before->tensors.at("logits");
    const Values& b = after->tensors.at("logits");
    const auto same = static_cast<std::ptrdiff_t>(changed * a.width());
    EXPECT_TRUE(std::equal(a.data.begin(), a.data.begin() + same, b.data.begin())) << changed;
    EXPECT_FALSE(std::equal(a.data.begin() + same,
                            a.data.begin() + same + static_cast<std::ptrdiff_t>(a.width()),
                            b.data.begin() + same))
        << changed;
  }
}

TEST_P(Invariance, InstructionSetsAndThreadsGiveTheSameBits) {
  tokens_.resize(140);
  const auto whole = run(tokens_, {1'000});
  const Simd best = best_simd();
  for (const Simd simd_level : {Simd::kAvx2, Simd::kPortable}) {
    if (static_cast<int>(simd_level) >= static_cast<int>(best)) continue;
    set_simd(simd_level);
    const auto other = run(tokens_, {1'000});
    set_simd(best);
    expect_equal(whole, other, std::string(to_string(simd_level)));
  }
  const int before = threads();
  set_threads(before == 1 ? 3 : 1);
  const auto other = run(tokens_, {1'000});
  set_threads(before);
  expect_equal(whole, other, "threads");
}

INSTANTIATE_TEST_SUITE_P(Modes, Invariance, ::testing::ValuesIn(modes()), mode_name);

}  // namespace
}  // namespace foretoken::reference::testing
