// In which format the release stores which tensor, and what stands beside a quantised one.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "reference/checkpoint/safetensors.h"
#include "workloads/dtype.h"
#include "workloads/tensors.h"

namespace foretoken::reference {

// Inputs of a row that share a scale in packed FP4, and the sides of a block that does in FP8.
inline constexpr std::int64_t kFp4Group = 32;
inline constexpr std::int64_t kFp8Block = 128;

// The class of a weight by its release name: "layers.0.attn.wq_a.weight" is a linear,
// "layers.0.attn.compressor.wkv.weight" plain, "layers.0.attn.attn_sink" FP32.
workloads::TensorClass tensor_class(std::string_view name);

// V3.2 (names of Hugging Face) has FP32 scales in ".weight_scale_inv", V4 E8M0 in ".scale".
bool has_float_scales(std::string_view name);
std::string scale_name(std::string_view weight);

// A quantised matrix in a file: codes and scales.
struct QuantisedPair {
  PlannedTensor weight;
  PlannedTensor scale;
};
// For FP8 (blocks of `block` x `block`) or packed FP4. Throws UnsupportedError naming the tensor
// when its rows cannot be cut into FP4 groups.
QuantisedPair quantised_pair(const std::string& name, std::int64_t rows, std::int64_t columns,
                             workloads::Dtype format, std::int64_t block);

}  // namespace foretoken::reference
