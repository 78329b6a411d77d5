// Runs an expert layer on all ranks at once, on real numbers through simulated links, and compares
// every rank's output with the functional reference.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "hwmodels/kernels/expert_waves.h"
#include "hwmodels/value/ranked_machines.h"
#include "hwmodels/value/verify.h"

namespace foretoken::hwmodels::value {

// How popular experts are; choices are the reference router's on seeded logits.
enum class Popularity : std::uint8_t {
  kEven,
  kHot,      // one expert is in nearly every token's choice
  kUnloved,  // one expert in nobody's
  kOneRank,  // all choices are experts of the last rank
};

// Small; numbers follow from the seed and a token's place among all ranks' tokens alone, so that
// designs and numbers of ranks can be compared.
struct ExpertWavesCase {
  std::vector<std::int64_t> tokens = {5, 9};  // of each rank
  std::int64_t choices = 3;
  std::int64_t experts = 8;
  std::int64_t hidden = 256;
  std::int64_t inner = 128;
  kernels::GemmFormat format = kernels::GemmFormat::kFp4Fp8;
  Popularity popularity = Popularity::kEven;
  double swiglu_limit = 3.0;
  std::int64_t layers = 1;  // one after another, each with its own tokens and weights
  RankedMachines::Schedule schedule{};
  unsigned seed = 1;
};

// All layers' outputs in the order of tokens. Bytes that cross links are held against the counts of
// workloads::Dispatch and workloads::Combine; a difference is a hazard.
Comparison verify_expert_waves(const kernels::ExpertWavesDesign& design,
                               const tile::CoreRates& chip, const ExpertWavesCase& c,
                               kernels::ExpertWavesFault fault = kernels::ExpertWavesFault::kNone);

Tolerance expert_waves_tolerance();

}  // namespace foretoken::hwmodels::value
