#include "hwmodels/kernels/row.h"

#include <gtest/gtest.h>

#include "hwmodels/tile/evaluate.h"
#include "hwmodels/tile/recorder.h"
#include "hwmodels/value/verify_row.h"
#include "tests/hwmodels/fixtures.h"
namespace foretoken::hwmodels::kernels {
namespace {
using tile::CoreRates;
using value::Comparison;
using workloads::Dtype;
TEST(RowKernel, Probe) {
  for (const char* system : {"hgx_h200"}) {
    const CoreRates chip = test_support::core_rates_of(system);
    const auto show = [&](const char* what, const RowProblem& p) {
      const Comparison c = value::verify_row({}, chip, {p});
      std::printf("%s %s %g %g %g %s\n", system, what, c.max_relative, c.rms_relative, c.recall, c.hazard.c_str());
    };
    show("norm", norm_chain(300, 512, Dtype::kBf16));
    show("norm8", norm_chain(300, 512, Dtype::kFp8));
    show("resnorm", residual_norm_chain(300, 512));
    show("quant", quantise_chain(3, 1024));
    show("query", query_chain(40, 16, 128, 999));
    show("output", output_chain(40, 16, 128, 999));
    show("entry", entry_chain(40, 512, 999, 64));
    show("iq", index_query_chain(40, 64, 128, 999));
    show("ik", index_key_chain(40, 128, 999, 64));
    show("swiglu", swiglu_chain(40, 256, 10));
    show("emb", embedding_chain(40, 256, 100, 4));
    const Comparison c = value::verify_moe_rows({}, chip, {{.tokens=40,.choices=6,.first_expert=3,.experts=16,.hidden=256}});
      std::printf("%s moe %g %g %g %s\n", system,  c.max_relative, c.rms_relative, c.recall, c.hazard.c_str());
    const Comparison d = value::verify_argmax({}, chip, {20,5000});
      std::printf("%s argmax %g %s\n", system,  d.recall, d.hazard.c_str());
  }
}
}
}
