#include "reference/model/stored_format.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "sim/base/error.h"

namespace foretoken::reference {

namespace {

using workloads::Dtype;
using workloads::TensorClass;

constexpr std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

constexpr std::string_view kWeight = ".weight";

bool contains(std::string_view text, std::string_view part) {
  return text.find(part) != std::string_view::npos;
}

}  // namespace

TensorClass tensor_class(std::string_view name) {
  static constexpr std::array<std::string_view, 18> kLinears = {
      ".attn.wq_a.weight", ".attn.wq_b.weight", ".attn.wkv.weight", ".attn.wo_a.weight",
      ".attn.wo_b.weight", ".indexer.wq_b.weight", ".e_proj.weight", ".h_proj.weight",
      // V3.2
      ".q_a_proj.weight", ".q_b_proj.weight", ".kv_a_proj_with_mqa.weight", ".kv_b_proj.weight",
      ".o_proj.weight", ".indexer.wk.weight", ".mlp.gate_proj.weight", ".mlp.up_proj.weight",
      ".mlp.down_proj.weight", ".eh_proj.weight"};
  static constexpr std::array<std::string_view, 4> kSingles = {".ape", ".attn_sink", ".gate.bias",
                                                               ".e_score_correction_bias"};
  const auto ends = [name](std::string_view end) { return name.ends_with(end); };
  if (contains(name, ".experts.")) return TensorClass::kExpert;
  if (contains(name, ".shared_experts.") || std::ranges::any_of(kLinears, ends)) {
    return TensorClass::kLinear;
  }
  const std::string_view last = name.substr(name.rfind('.') + 1);  // the whole name without a dot
  if (last.starts_with("hc_") || std::ranges::any_of(kSingles, ends)) return TensorClass::kFp32;
  return TensorClass::kPlain;
}

bool has_float_scales(std::string_view name) { return name.starts_with("model."); }

std::string scale_name(std::string_view weight) {
  const std::string stem(
      weight.ends_with(kWeight) ? weight.substr(0, weight.size() - kWeight.size()) : weight);
  return stem + (has_float_scales(weight) ? ".weight_scale_inv" : ".scale");
}

QuantisedPair quantised_pair(const std::string& name, std::int64_t rows, std::int64_t columns,
                             Dtype format, std::int64_t block) {
  const StorageDtype scale = has_float_scales(name) ? StorageDtype::kF32 : StorageDtype::kF8E8M0;
  if (format == Dtype::kFp8) {
    return {.weight = {name, StorageDtype::kF8E4M3, {rows, columns}},
            .scale = {scale_name(name), scale, {ceil_div(rows, block), ceil_div(columns, block)}}};
  }
  if (columns % kFp4Group != 0) {
    throw base::UnsupportedError(
        fmt::format("tensor {} has {} inputs a row; FP4 needs a multiple of {}", quote_tensor(name),
                    columns, kFp4Group));
  }
  return {.weight = {name, StorageDtype::kI8, {rows, columns / 2}},
          .scale = {scale_name(name), scale, {rows, columns / kFp4Group}}};
}

}  // namespace foretoken::reference
