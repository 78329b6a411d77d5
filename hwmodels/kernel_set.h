// The designs a chip uses for every kind of kernel. Files: configs/designs/sets/<family>.yaml name
// them; a serving stack may put others in their place.
#pragma once

#include <filesystem>
#include <map>
#include <string>

#include "hwmodels/expert_layer_design.h"
#include "hwmodels/kernels/attention.h"
#include "hwmodels/kernels/compressor.h"
#include "hwmodels/kernels/expert_waves.h"
#include "hwmodels/kernels/gemm.h"
#include "hwmodels/kernels/hyper.h"
#include "hwmodels/kernels/index_logits.h"
#include "hwmodels/kernels/moe_rows.h"
#include "hwmodels/kernels/route.h"
#include "hwmodels/kernels/row.h"
#include "hwmodels/kernels/top_k.h"

namespace foretoken::hwmodels {

struct KernelSet {
  std::string name{};
  kernels::GemmDesign gemm_bf16{};  // also TF32, HF32 and FP32
  kernels::GemmDesign gemm_fp8{};   // one scale per tensor; also INT8
  kernels::GemmDesign gemm_fp8_block{};
  kernels::GemmDesign gemm_fp4{};      // FP4 x FP4
  kernels::GemmDesign gemm_fp4_fp8{};  // FP4 (or INT4) weights, 8-bit activations
  kernels::GemmDesign grouped_fp8{};
  kernels::GemmDesign grouped_fp4{};
  kernels::GemmDesign grouped_fp4_fp8{};
  kernels::AttentionDesign decode_attention{};
  kernels::AttentionDesign prefill_attention{};
  kernels::IndexLogitsDesign decode_index{};
  kernels::IndexLogitsDesign prefill_index{};
  kernels::TopKDesign decode_top_k{};
  kernels::TopKDesign prefill_top_k{};
  kernels::CompressorDesign short_compressor{};  // of blocks of a few tokens
  kernels::CompressorDesign long_compressor{};
  kernels::RouteDesign route{};
  kernels::RowDesign row{};
  kernels::HyperDesign hyper{};
  kernels::MoeRowsDesign expert_rows{};
  kernels::ExpertWavesDesign expert_waves{};
  ExpertLayerDesign expert_layer{};
};

// The set of a chip family, with `instead` (kind of kernel -> design) in place of its own. Throws
// ConfigError for an unknown family, kind or design, and for a design of another kernel.
KernelSet load_kernel_set(const std::string& family, const std::filesystem::path& configs,
                          const std::map<std::string, std::string>& instead = {});

}  // namespace foretoken::hwmodels
