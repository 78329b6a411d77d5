#include "hwmodels/kernels/attention.h"

#include <gtest/gtest.h>

#include "hwmodels/tile/evaluate.h"
#include "hwmodels/tile/recorder.h"
#include "hwmodels/value/verify_attention.h"
#include "tests/hwmodels/fixtures.h"

namespace foretoken::hwmodels::kernels {
namespace {

using tile::CoreRates;
using value::AttentionCase;
using value::SelectionPattern;
using value::verify_attention;
using workloads::Dtype;

AttentionDesign small(AttentionDesign d) {
  d.heads = 8;
  d.block_keys = 8;
  d.value_columns = 24;
  return d;
}

TEST(Attention, Try) {
  const CoreRates chip = test_support::core_rates_of("hgx_h200");
  for (auto base : {hopper_attention(), blackwell_attention(), ascend_3510_attention(),
                    ascend_2201_attention()}) {
    const AttentionDesign d = small(base);
    for (auto pattern :
         {SelectionPattern::kRandom, SelectionPattern::kSequential, SelectionPattern::kStrided,
          SelectionPattern::kPadded, SelectionPattern::kRepeated}) {
      AttentionCase c;
      c.pattern = pattern;
      auto r = verify_attention(d, chip, c);
      std::printf("%s csa %d: max %.5f rms %.5f %s\n", d.name.c_str(), (int)pattern, r.max_relative,
                  r.rms_relative, r.hazard.c_str());
    }
    AttentionCase c;
    c.rule = {.window = 24, .ratio = 4, .selected = 0};
    c.contexts = {300, 5, 77};
    c.tokens = 2;
    auto r = verify_attention(d, chip, c);
    std::printf("hca decode: max %.5f rms %.5f %s\n", r.max_relative, r.rms_relative,
                r.hazard.c_str());
    c.prefill = true;
    c.contexts = {70, 41};
    c.tokens = 37;
    for (std::int64_t rows : {8, 32}) {
      AttentionDesign e = d;
      e.heads = rows;
      e.queries = 4;
      r = verify_attention(e, chip, c);
      std::printf("hca prefill: max %.5f rms %.5f %s\n", r.max_relative, r.rms_relative,
                  r.hazard.c_str());
    }
    c.rule.selected = 11;
    r = verify_attention(d, chip, c);
    std::printf("csa prefill: max %.5f rms %.5f %s\n", r.max_relative, r.rms_relative,
                r.hazard.c_str());
  }
}

}  // namespace
}  // namespace foretoken::hwmodels::kernels
