// Runs matrix products on real numbers and compares them with a product in double.
#pragma once

#include <cstdint>
#include <vector>

#include "hwmodels/kernels/gemm.h"
#include "hwmodels/value/verify.h"

namespace foretoken::hwmodels::value {

// A small product; its numbers follow from the seed alone, so that designs can be compared.
struct GemmCase {
  std::vector<kernels::GroupRun> groups = {{37, 1}};
  std::int64_t n = 192;
  std::int64_t k = 640;
  kernels::GemmFormat format = kernels::GemmFormat::kBf16;
  workloads::Dtype output = workloads::Dtype::kFp32;  // FP8: with scales of 1 x 128
  kernels::Epilogue epilogue = kernels::Epilogue::kStore;
  double swiglu_limit = 0.0;
  unsigned seed = 1;
};

Comparison verify_gemm(const kernels::GemmDesign& design, const tile::CoreRates& chip,
                       const GemmCase& test, kernels::GemmFault fault = kernels::GemmFault::kNone);

Tolerance gemm_tolerance(workloads::Dtype output);

}  // namespace foretoken::hwmodels::value
