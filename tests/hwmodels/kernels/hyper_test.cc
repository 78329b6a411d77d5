#include "hwmodels/kernels/hyper.h"

#include <gtest/gtest.h>

#include "hwmodels/tile/evaluate.h"
#include "hwmodels/tile/recorder.h"
#include "hwmodels/value/verify_hyper.h"
#include "tests/hwmodels/fixtures.h"
namespace foretoken::hwmodels::kernels {
namespace {
using tile::CoreRates;
using value::Comparison;
TEST(HyperKernel, Probe) {
  for (const char* system : {"hgx_h200", "atlas_950_1024"}) {
    const CoreRates chip = test_support::core_rates_of(system);
    for (const bool fused : {false, true}) {
      HyperProblem p{.tokens = 7, .hidden = 256, .compute = hyper_compute(chip)};
      const Comparison c = value::verify_hyper_pre({.fused = fused}, chip, {p});
      std::printf("%s %d %g %g %s\n", system, fused, c.max_relative, c.rms_relative, c.hazard.c_str());
    }
  }
}
}
}
