#include "reference/model/weights.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "reference/formats/float_formats.h"
#include "reference/model/tensor_names.h"
#include "sim/base/error.h"

namespace foretoken::reference {

namespace {

using base::ConfigError;
using Format = WeightView::Format;
using Scale = WeightView::Scale;
using workloads::Dtype;

constexpr std::int64_t kFp4Block = 32;  // inputs that share an MXFP4 scale

constexpr std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

[[noreturn]] void fail(const StoredTensor& tensor, const std::string& message) {
  throw ConfigError({tensor.file->path().string(), 0, 0},
                    fmt::format("tensor '{}' {}", tensor.info->name, message));
}

std::string shape_text(const std::vector<std::int64_t>& shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

bool is_plain(StorageDtype dtype) {
  return dtype == StorageDtype::kF32 || dtype == StorageDtype::kBf16 ||
         dtype == StorageDtype::kF16 || dtype == StorageDtype::kF64;
}
bool is_packed(StorageDtype dtype) {
  return dtype == StorageDtype::kI8 || dtype == StorageDtype::kU8;
}

Format plain_format(StorageDtype dtype) {
  switch (dtype) {
    case StorageDtype::kF64:
      return Format::kF64;
    case StorageDtype::kF16:
      return Format::kF16;
    case StorageDtype::kBf16:
      return Format::kBf16;
    default:
      return Format::kF32;
  }
}

Dtype workload_dtype(StorageDtype dtype) {
  switch (dtype) {
    case StorageDtype::kF8E4M3:
      return Dtype::kFp8;
    case StorageDtype::kI8:
    case StorageDtype::kU8:
      return Dtype::kFp4;
    case StorageDtype::kBf16:
    case StorageDtype::kF16:
      return Dtype::kBf16;
    default:
      return Dtype::kFp32;
  }
}

// Bytes of one row as stored.
std::uint64_t row_bytes(StorageDtype dtype, std::int64_t columns) {
  return static_cast<std::uint64_t>(is_packed(dtype) ? columns / 2 : columns * element_size(dtype));
}

// "layers.N.ffn.experts.E." -> E, and what comes after; -1 when the name is another one.
std::int64_t expert_of(std::string_view name, std::string_view& rest) {
  constexpr std::string_view kMark = ".ffn.experts.";
  const std::size_t at = name.find(kMark);
  if (at == std::string_view::npos) return -1;
  std::string_view tail = name.substr(at + kMark.size());
  std::int64_t expert = 0;
  while (!tail.empty() && tail[0] >= '0' && tail[0] <= '9') {
    expert = expert * 10 + (tail[0] - '0');
    tail.remove_prefix(1);
  }
  rest = tail;
  return expert;
}

}  // namespace

WeightView Linear::rows(std::int64_t first, std::int64_t count) const {
  WeightView part = view;
  part.rows = count;
  const auto offset = static_cast<std::uint64_t>(first);
  const auto* bytes = static_cast<const std::byte*>(view.data);
  const std::int64_t stride = view.stride > 0 ? view.stride : view.columns;
  switch (view.format) {
    case Format::kF64:
      part.data = bytes + offset * static_cast<std::uint64_t>(stride) * 8;
      break;
    case Format::kF32:
      part.data = bytes + offset * static_cast<std::uint64_t>(stride) * 4;
      break;
    case Format::kF16:
    case Format::kBf16:
      part.data = bytes + offset * static_cast<std::uint64_t>(stride) * 2;
      break;
    case Format::kFp8:
      part.data = bytes + offset * static_cast<std::uint64_t>(stride);
      break;
    case Format::kFp4:
      part.data = bytes + offset * static_cast<std::uint64_t>(stride) / 2;
      break;
  }
  if (view.scale != Scale::kNone) {
    const std::int64_t width = view.scale == Scale::kE8M0 ? 1 : view.scale == Scale::kBf16 ? 2 : 4;
    const std::int64_t per_row =
        view.scale_stride > 0 ? view.scale_stride : ceil_div(view.columns, view.scale_columns);
    part.scales =
        static_cast<const std::byte*>(view.scales) + first / view.scale_rows * per_row * width;
  }
  return part;
}

Weights::Weights(const Checkpoint& checkpoint, const workloads::ModelSpec& model)
    : checkpoint_(checkpoint),
      fp8_block_(model.storage.fp8_block),
      experts_(model.experts),
      expert_inner_(model.expert_inner) {
  transformers_ = model.family == workloads::Family::kDeepseekV4 &&
                  checkpoint.find("embed.weight") == nullptr &&
                  checkpoint.find("model.embed_tokens.weight") != nullptr;
  // A checkpoint may leave the MTP blocks out altogether: the main model does without.
  const std::vector<std::string> names = checkpoint.names();
  const bool drafts = std::ranges::any_of(
      names, [](const std::string& stored) { return stored.starts_with("mtp."); });
  for_each_needed_tensor(model, [&](const TensorNeed& need) {
    if (!drafts && need.name.starts_with("mtp.")) return;
    if (need.kind != TensorNeed::Kind::kInteger) {
      check(need.name, need.rows, need.columns, need.kind == TensorNeed::Kind::kMatrix);
      return;
    }
    const StoredTensor& t = *locate(need.name).tensor;
    if (t.info->dtype != StorageDtype::kI64 && t.info->dtype != StorageDtype::kI32) {
      fail(t, fmt::format("is {}; expert tables are I64 or I32", to_string(t.info->dtype)));
    }
    if (t.info->shape != std::vector<std::int64_t>{need.rows, need.columns}) {
      fail(t, fmt::format("has shape {}; the configuration asks for [{}, {}]",
                          shape_text(t.info->shape), need.rows, need.columns));
    }
  });
}

bool Weights::has(std::string_view name) const {
  return checkpoint_.find(transformers_ ? transformers_name(name) : std::string(name)) != nullptr;
}

Weights::Found Weights::locate(std::string_view name) const {
  if (!transformers_) return {&checkpoint_.require(name), 0};
  const std::string other = transformers_name(name);
  const StoredTensor& tensor = checkpoint_.require(other.empty() ? name : std::string_view(other));
  std::string_view rest;
  const std::int64_t expert = expert_of(name, rest);
  if (expert < 0 || tensor.info->shape.size() != 3) return {&tensor, 0};
  // Fused: [experts, rows of an expert, columns], w3 behind w1.
  const std::int64_t per_expert = tensor.info->shape[1];
  return {&tensor, expert * per_expert + (rest == ".w3.weight" ? expert_inner_ : 0)};
}

Weights::Found Weights::locate_scale(std::string_view name) const {
  constexpr std::string_view kSuffix = ".weight";
  const std::string stem(name.substr(0, name.size() - kSuffix.size()));
  for (const char* suffix : {".scale", ".weight_scale_inv"}) {
    if (const StoredTensor* t = checkpoint_.find(stem + suffix)) return {t, 0};
  }
  const bool inverse = name.rfind("model.", 0) == 0;
  return {&checkpoint_.require(stem + (inverse ? ".weight_scale_inv" : ".scale")), 0};
}

void Weights::check(const std::string& name, std::int64_t rows, std::int64_t columns,
                    bool matrix) const {
  const Found found = locate(name);
  const StoredTensor& t = *found.tensor;
  const TensorInfo& info = *t.info;
  if (!matrix) {
    if (!is_plain(info.dtype)) {
      fail(t, fmt::format("is {}; F32, BF16, F16 or F64 can be read here", to_string(info.dtype)));
    }
    if (info.elements() != rows * columns) {
      fail(t, fmt::format("has {} elements; the configuration asks for {}", info.elements(),
                          rows * columns));
    }
    return;
  }
  const std::int64_t stored_columns = is_packed(info.dtype) ? columns / 2 : columns;
  std::vector<std::int64_t> wanted = {rows, stored_columns};
  std::string_view part;
  if (transformers_ && expert_of(name, part) >= 0) {  // fused: w3 behind w1, w2 alone
    wanted = {experts_, part == ".w2.weight" ? rows : 2 * rows, stored_columns};
  }
  const bool even = !is_packed(info.dtype) || columns % 2 == 0;
  if (info.shape != wanted || !even) {
    fail(t, fmt::format("has shape {} as {}; the configuration asks for {}", shape_text(info.shape),
                        to_string(info.dtype), shape_text(wanted)));
  }
  if (is_plain(info.dtype)) return;
  for (const std::string_view table :
       {"embed.weight", "head.weight", "model.embed_tokens.weight", "lm_head.weight"}) {
    if (name == table) fail(t, "is quantised; here it has to be F32, BF16 or F16");
  }
  if (info.shape.size() == 3) {
    fail(t, fmt::format("is {}; fused experts are read as F32, BF16 or F16 only",
                        to_string(info.dtype)));
  }
  if (info.dtype != StorageDtype::kF8E4M3 && !is_packed(info.dtype)) {
    fail(t, fmt::format("is {}; weights are F32, BF16, F16, F64, F8_E4M3 or packed FP4 (I8)",
                        to_string(info.dtype)));
  }
  const StoredTensor& scale = *locate_scale(name).tensor;
  const bool fp4 = is_packed(info.dtype);
  const std::vector<std::int64_t> scale_shape = {fp4 ? rows : ceil_div(rows, fp8_block_),
                                                 ceil_div(columns, fp4 ? kFp4Block : fp8_block_)};
  if (scale.info->shape != scale_shape) {
    fail(scale, fmt::format("has shape {}; the weight beside it asks for {}",
                            shape_text(scale.info->shape), shape_text(scale_shape)));
  }
  const StorageDtype d = scale.info->dtype;
  if (d != StorageDtype::kF8E8M0 && d != StorageDtype::kF32 && d != StorageDtype::kBf16) {
    fail(scale, fmt::format("is {}; scales are F8_E8M0, F32 or BF16", to_string(d)));
  }
}

Linear Weights::linear(std::string_view name, std::int64_t rows, std::int64_t columns) const {
  const Found found = locate(name);
  const StorageDtype dtype = found.tensor->info->dtype;
  if (found.first_row > 0 || found.tensor->info->shape.size() == 3) {
    return linear_rows(name, columns, 0, rows);
  }
  Linear out;
  out.dtype = workload_dtype(dtype);
  out.narrow = !is_plain(dtype);
  out.data = checkpoint_.map(*found.tensor);
  out.view.data = out.data.bytes().data();
  out.view.rows = rows;
  out.view.columns = columns;
  if (is_plain(dtype)) {
    out.view.format = plain_format(dtype);
    return out;
  }
  const bool fp4 = is_packed(dtype);
  out.view.format = fp4 ? Format::kFp4 : Format::kFp8;
  const StoredTensor& scale = *locate_scale(name).tensor;
  out.scale_data = checkpoint_.map(scale);
  out.view.scales = out.scale_data.bytes().data();
  out.view.scale = scale.info->dtype == StorageDtype::kF8E8M0 ? Scale::kE8M0
                   : scale.info->dtype == StorageDtype::kBf16 ? Scale::kBf16
                                                              : Scale::kF32;
  out.view.scale_rows = fp4 ? 1 : fp8_block_;
  out.view.scale_columns = fp4 ? kFp4Block : fp8_block_;
  return out;
}

Linear Weights::linear_rows(std::string_view name, std::int64_t columns, std::int64_t first,
                            std::int64_t count) const {
  const Found found = locate(name);
  const StorageDtype dtype = found.tensor->info->dtype;
  if (!is_plain(dtype)) fail(*found.tensor, "is quantised; here it has to be F32, BF16 or F16");
  Linear out;
  out.dtype = workload_dtype(dtype);
  const std::uint64_t bytes = row_bytes(dtype, columns);
  out.data =
      checkpoint_.map(*found.tensor, static_cast<std::uint64_t>(found.first_row + first) * bytes,
                      static_cast<std::uint64_t>(count) * bytes);
  out.view.data = out.data.bytes().data();
  out.view.rows = count;
  out.view.columns = columns;
  out.view.format = plain_format(dtype);
  return out;
}

std::vector<float> Weights::vector(std::string_view name, std::int64_t elements) const {
  const Found found = locate(name);
  const MappedBytes data = checkpoint_.map(*found.tensor);
  WeightView view;
  view.format = plain_format(found.tensor->info->dtype);
  view.data = data.bytes().data();
  view.rows = 1;
  view.columns = elements;
  std::vector<float> out(static_cast<std::size_t>(elements));
  decode_rows(view, 0, 1, out.data());
  return out;
}

std::vector<std::int32_t> Weights::integer_row(std::string_view name, std::int64_t row,
                                               std::int64_t columns, std::int64_t limit) const {
  const StoredTensor& t = *locate(name).tensor;
  const auto size = static_cast<std::uint64_t>(element_size(t.info->dtype));
  const auto count = static_cast<std::uint64_t>(columns) * size;
  const MappedBytes data = checkpoint_.map(t, static_cast<std::uint64_t>(row) * count, count);
  std::vector<std::int32_t> out(static_cast<std::size_t>(columns));
  for (std::size_t i = 0; i < out.size(); ++i) {
    std::int64_t value = 0;
    if (size == 8) {
      std::memcpy(&value, data.bytes().data() + i * 8, 8);
    } else {
      std::int32_t narrow = 0;
      std::memcpy(&narrow, data.bytes().data() + i * 4, 4);
      value = narrow;
    }
    if (value < 0 || value >= limit) {
      fail(t, fmt::format("names expert {} at row {}; there are {}", value, row, limit));
    }
    out[i] = static_cast<std::int32_t>(value);
  }
  return out;
}

std::string transformers_name(std::string_view release) {
  static constexpr std::array<std::pair<std::string_view, std::string_view>, 6> kGlobal = {{
      {"embed.weight", "model.embed_tokens.weight"},
      {"head.weight", "lm_head.weight"},
      {"norm.weight", "model.norm.weight"},
      {"hc_head_fn", "model.hc_head.hc_fn"},
      {"hc_head_base", "model.hc_head.hc_base"},
      {"hc_head_scale", "model.hc_head.hc_scale"},
  }};
  static constexpr std::array<std::pair<std::string_view, std::string_view>, 31> kLayer = {{
      {"attn.attn_sink", "self_attn.sinks"},
      {"attn.kv_norm.weight", "self_attn.kv_norm.weight"},
      {"attn.q_norm.weight", "self_attn.q_a_norm.weight"},
      {"attn.wkv.weight", "self_attn.kv_proj.weight"},
      {"attn.wo_a.weight", "self_attn.o_a_proj.weight"},
      {"attn.wo_b.weight", "self_attn.o_b_proj.weight"},
      {"attn.wq_a.weight", "self_attn.q_a_proj.weight"},
      {"attn.wq_b.weight", "self_attn.q_b_proj.weight"},
      {"attn_norm.weight", "input_layernorm.weight"},
      {"ffn_norm.weight", "post_attention_layernorm.weight"},
      {"hc_attn_fn", "attn_hc.fn"},
      {"hc_attn_base", "attn_hc.base"},
      {"hc_attn_scale", "attn_hc.scale"},
      {"hc_ffn_fn", "ffn_hc.fn"},
      {"hc_ffn_base", "ffn_hc.base"},
      {"hc_ffn_scale", "ffn_hc.scale"},
      {"attn.compressor.ape", "self_attn.compressor.position_bias"},
      {"attn.compressor.norm.weight", "self_attn.compressor.kv_norm.weight"},
      {"attn.compressor.wgate.weight", "self_attn.compressor.gate_proj.weight"},
      {"attn.compressor.wkv.weight", "self_attn.compressor.kv_proj.weight"},
      {"attn.indexer.compressor.ape", "self_attn.compressor.indexer.position_bias"},
      {"attn.indexer.compressor.norm.weight", "self_attn.compressor.indexer.kv_norm.weight"},
      {"attn.indexer.compressor.wgate.weight", "self_attn.compressor.indexer.gate_proj.weight"},
      {"attn.indexer.compressor.wkv.weight", "self_attn.compressor.indexer.kv_proj.weight"},
      {"attn.indexer.weights_proj.weight",
       "self_attn.compressor.indexer.scorer.weights_proj.weight"},
      {"attn.indexer.wq_b.weight", "self_attn.compressor.indexer.q_b_proj.weight"},
      {"ffn.gate.weight", "mlp.gate.weight"},
      {"ffn.gate.tid2eid", "mlp.gate.tid2eid"},
      {"ffn.gate.bias", "mlp.gate.e_score_correction_bias"},
      {"ffn.shared_experts.w1.weight", "mlp.shared_experts.gate_proj.weight"},
      {"ffn.shared_experts.w3.weight", "mlp.shared_experts.up_proj.weight"},
  }};
  for (const auto& [ours, theirs] : kGlobal) {
    if (release == ours) return std::string(theirs);
  }
  constexpr std::string_view kPrefix = "layers.";
  if (release.substr(0, kPrefix.size()) != kPrefix) return {};
  const std::size_t dot = release.find('.', kPrefix.size());
  if (dot == std::string_view::npos) return {};
  const std::string layer = "model." + std::string(release.substr(0, dot + 1));
  const std::string_view rest = release.substr(dot + 1);
  for (const auto& [ours, theirs] : kLayer) {
    if (rest == ours) return layer + std::string(theirs);
  }
  if (rest == "ffn.shared_experts.w2.weight") return layer + "mlp.shared_experts.down_proj.weight";
  std::string_view part;
  if (expert_of(release, part) >= 0) {
    return layer + (part == ".w2.weight" ? "mlp.experts.down_proj" : "mlp.experts.gate_up_proj");
  }
  return {};
}

}  // namespace foretoken::reference
