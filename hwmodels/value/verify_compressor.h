// Runs a compressor on real numbers and compares entries and state with the reference.
#pragma once

#include <cstdint>
#include <vector>

#include "hwmodels/kernels/compressor.h"
#include "hwmodels/value/verify.h"

namespace foretoken::hwmodels::value {

// A small batch; numbers follow from the seed.
struct CompressorCase {
  std::vector<kernels::SequenceGroup> sequences = {{.count = 2, .history = 9, .queries = 7}};
  std::int64_t ratio = 4;
  std::int64_t width = 128;
  bool overlap = true;
  kernels::CompressedFormat entry = kernels::CompressedFormat::kFp8Rope;
  unsigned seed = 1;
};

// Compares each entry as decoded, and the rows of the state that the next tokens need.
Comparison verify_compressor(const kernels::CompressorDesign& design, const tile::CoreRates& chip,
                             const CompressorCase& test,
                             kernels::CompressorFault fault = kernels::CompressorFault::kNone);

Tolerance compressor_tolerance(kernels::CompressedFormat entry);

}  // namespace foretoken::hwmodels::value
