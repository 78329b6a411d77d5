#include "workloads/precision.h"

namespace foretoken::workloads {

using base::ConfigVisitor;
using base::Need;

namespace {

constexpr std::array<std::string_view, 6> kFormatNames = {"checkpoint", "fp4",  "int4",
                                                          "fp8",        "int8", "bf16"};
constexpr std::array<std::string_view, 4> kMixNames = {"tf32", "hf32", "fp32", "bf16"};

Dtype chosen(FormatChoice choice, Dtype released) {
  switch (choice) {
    case FormatChoice::kCheckpoint:
      return released;
    case FormatChoice::kFp4:
      return Dtype::kFp4;
    case FormatChoice::kInt4:
      return Dtype::kInt4;
    case FormatChoice::kFp8:
      return Dtype::kFp8;
    case FormatChoice::kInt8:
      return Dtype::kInt8;
    case FormatChoice::kBf16:
      return Dtype::kBf16;
  }
  return released;
}

constexpr std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

// Indexer key: FP4 carries one E8M0 per 32 channels, FP8 and INT8 one FP32 per 128 (facts: 68 and
// 132 bytes at width 128).
std::int64_t index_entry(Dtype dtype, std::int64_t width) {
  switch (dtype) {
    case Dtype::kFp4:
      return ceil_div(width, 2) + ceil_div(width, 32);
    case Dtype::kFp8:
    case Dtype::kInt8:
      return width + 4 * ceil_div(width, 128);
    default:
      return element_bytes(dtype, width);
  }
}

// V4: FP8 channels, BF16 rotary channels, one E8M0 per 64 channels padded to 8 bytes: 584 at 448
// + 64. V3.2: FP8 latent with one FP32 per 128, BF16 rotary key: 656 at 512 + 64. V4.1: FP4 with
// one E4M3 per 16 channels: 288 at 512.
std::int64_t quantised_main_entry(const ModelSpec& m) {
  switch (m.family) {
    case Family::kDeepseekV32:
      return m.head_dim + 4 * ceil_div(m.head_dim, 128) + 2 * m.rope_dim;
    case Family::kDeepseekV4: {
      const std::int64_t nope = m.head_dim - m.rope_dim;
      return nope + 2 * m.rope_dim + ceil_div(ceil_div(nope, 64), 8) * 8;
    }
    case Family::kDeepseekV41:
      return ceil_div(m.head_dim, 2) + ceil_div(m.head_dim, 16);
  }
  return 0;
}

std::int64_t entry_width(const ModelSpec& m) {
  return m.family == Family::kDeepseekV32 ? m.head_dim + m.rope_dim : m.head_dim;
}

}  // namespace

Precision resolve(const PrecisionRecipe& recipe, const ModelSpec& m) {
  const StorageFormats& s = m.storage;
  Precision p;
  p.linear_weight = chosen(recipe.linear, s.linear);
  p.linear_compute = p.linear_weight == Dtype::kFp32 ? Dtype::kTf32 : p.linear_weight;
  p.expert_weight = chosen(recipe.expert_weight, s.expert);
  const Dtype expert_released = s.expert == Dtype::kFp4    ? Dtype::kFp8
                                : s.expert == Dtype::kFp32 ? Dtype::kTf32
                                                           : s.expert;
  p.expert_compute = chosen(recipe.expert_compute, expert_released);
  p.attention = Dtype::kBf16;
  const Dtype index_released = !s.quantised                       ? s.plain
                               : m.family == Family::kDeepseekV32 ? Dtype::kFp8
                                                                  : Dtype::kFp4;
  p.index = chosen(recipe.index, index_released);
  p.plain = Dtype::kBf16;
  switch (recipe.mix) {
    case MixChoice::kTf32:
      p.mix = Dtype::kTf32;
      break;
    case MixChoice::kHf32:
      p.mix = Dtype::kHf32;
      break;
    case MixChoice::kFp32:
      p.mix = Dtype::kFp32;
      break;
    case MixChoice::kBf16:
      p.mix = Dtype::kBf16;
      break;
  }
  p.fp8_block = s.fp8_block;
  const Dtype plain_cache = s.quantised ? Dtype::kBf16 : s.plain;
  const bool as_released = recipe.cache == FormatChoice::kCheckpoint && s.quantised;
  if (as_released) {
    p.main_entry_bytes = quantised_main_entry(m);
    // V4.1 keeps its window in FP8 over all channels with one E8M0 per 32; V4's window entries are
    // its main entries.
    p.window_entry_bytes = m.family == Family::kDeepseekV41 ? m.head_dim + ceil_div(m.head_dim, 32)
                                                            : p.main_entry_bytes;
  } else {
    const Dtype d = chosen(recipe.cache, plain_cache);
    p.main_entry_bytes = element_bytes(d, entry_width(m));
    p.window_entry_bytes = p.main_entry_bytes;
  }
  p.index_entry_bytes = index_entry(p.index, m.index_dim);
  if (p.index == Dtype::kFp32) p.index = Dtype::kTf32;
  return p;
}

Precision release_precision(const ModelSpec& model) { return resolve(PrecisionRecipe{}, model); }

std::int64_t weight_bytes(Dtype dtype, std::int64_t batch, std::int64_t rows, std::int64_t columns,
                          std::int64_t fp8_block) {
  std::int64_t scales = 0;
  switch (dtype) {
    case Dtype::kFp4:
      scales = rows * ceil_div(columns, 32);
      break;
    case Dtype::kFp8:
      scales = ceil_div(rows, fp8_block) * ceil_div(columns, fp8_block);
      break;
    case Dtype::kInt8:
    case Dtype::kInt4:
      scales = 4 * rows;
      break;
    default:
      break;
  }
  return batch * (element_bytes(dtype, rows * columns) + scales);
}

void describe(ConfigVisitor& v, PrecisionRecipe& r) {
  v.text({"name", "the name other files use; equals the file's name"}, r.name);
  v.text({"title", "what it is"}, r.title);
  v.text({"source", "id in configs/sources.yaml"}, r.source);
  base::choice(v, {"linear", "projections and shared experts"}, r.linear, kFormatNames);
  base::choice(v, {"expert_weight", "routed experts as stored"}, r.expert_weight, kFormatNames);
  base::choice(v, {"expert_compute", "routed experts as multiplied"}, r.expert_compute,
               kFormatNames);
  base::choice(v, {"cache", "KV entries"}, r.cache, kFormatNames);
  base::choice(v, {"index", "indexer keys and their products"}, r.index, kFormatNames);
  base::choice(v, {"mix", "mHC projections, FP32 in the release"}, r.mix, kMixNames);
}

}  // namespace foretoken::workloads
