#include "reference/model/convert_checkpoint.h"
#include "reference/kernels/parallel.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "reference/formats/block_formats.h"
#include "reference/formats/float_formats.h"
#include "reference/kernels/matmul.h"
#include "reference/model/session.h"
#include "reference/model/stored_format.h"
#include "reference/model/weights.h"
#include "sim/base/config_tree.h"
#include "sim/base/error.h"

namespace foretoken::reference {

namespace {

namespace fs = std::filesystem;
using base::UnsupportedError;
using Json = nlohmann::ordered_json;
using workloads::Dtype;
using workloads::Family;
using workloads::ModelSpec;
using workloads::TensorClass;

// Bytes handed on at once, of a copy or of a converted tensor.
constexpr std::int64_t kAtOnce = 16 << 20;
// FP64 can hold numbers that no scale reaches.
constexpr double kLargest = std::numeric_limits<float>::max();
constexpr std::uint8_t kNanScale = 255;
constexpr std::string_view kTooLarge = "has numbers beyond those of FP32";

[[noreturn]] void unsupported(std::string_view tensor, std::string_view message) {
  throw UnsupportedError(fmt::format("tensor {} {}", quote_tensor(tensor), message));
}

bool is_quantised(StorageDtype dtype) {
  return dtype == StorageDtype::kF8E4M3 || dtype == StorageDtype::kI8 || dtype == StorageDtype::kU8;
}
bool is_packed(StorageDtype dtype) { return is_quantised(dtype) && dtype != StorageDtype::kF8E4M3; }

LoadedCheckpoint open(const ConvertSource& source, const CheckpointTarget& target) {
  LoadedCheckpoint loaded = load_checkpoint(source.folder);
  std::error_code error;
  if (fs::equivalent(source.folder, target.folder, error)) {
    throw base::UsageError("--out names the folder that is read: " + target.folder.string());
  }
  const Checkpoint& checkpoint = loaded.checkpoint;
  if (loaded.model.family == Family::kDeepseekV41) {
    throw UnsupportedError(loaded.model.name + ": checkpoints of V4.1 are not converted here");
  }
  if (loaded.model.family == Family::kDeepseekV4 && checkpoint.find("embed.weight") == nullptr &&
      checkpoint.find("model.embed_tokens.weight") != nullptr) {
    throw UnsupportedError(loaded.model.name +
                           " has Hugging Face's names for V4; those of the release are converted");
  }
  return loaded;
}

// The input, opened and checked, and the configuration to write.
class Input {
 public:
  Input(const ConvertSource& source, const CheckpointTarget& target)
      : loaded_(open(source, target)),
        weights_(loaded_.checkpoint, loaded_.model),
        config_path_(source.config.empty() ? loaded_.checkpoint.config_path() : source.config),
        config_(Json::parse(read_config_text(config_path_))) {}
  Input(const Input&) = delete;
  Input& operator=(const Input&) = delete;
  ~Input() = default;

  [[nodiscard]] const Checkpoint& checkpoint() const { return loaded_.checkpoint; }
  [[nodiscard]] std::int64_t fp8_block() const { return loaded_.model.storage.fp8_block; }
  [[nodiscard]] Json& config() { return config_; }

  // Rows and columns in numbers, not in bytes.
  [[nodiscard]] std::pair<std::int64_t, std::int64_t> shape(const TensorInfo& info) const {
    if (info.shape.size() != 2) unsupported(info.name, "is no matrix");
    return {info.shape[0], info.shape[1] * (is_packed(info.dtype) ? 2 : 1)};
  }
  [[nodiscard]] Linear matrix(const std::string& name) const {
    const auto [rows, columns] = shape(*checkpoint().require(name).info);
    return weights_.linear(name, rows, columns);
  }

  // As it will be read, it has to describe the tensors that are there.
  [[nodiscard]] std::string checked_config() const {
    std::string text = config_.dump(2) + "\n";
    ModelSpec model =
        workloads::read_model(base::parse_json(config_path_.string(), text), loaded_.model.name);
    model.storage.fp8_block = fp8_block();  // of the tensors that are checked
    static_cast<void>(Weights(checkpoint(), model));
    return text;
  }

 private:
  LoadedCheckpoint loaded_;
  Weights weights_;
  fs::path config_path_;
  Json config_;
};

void copy(const Input& input, const PlannedTensor& tensor, const AppendBytes& append) {
  const StoredTensor& stored = input.checkpoint().require(tensor.name);
  const std::uint64_t bytes = stored.info->bytes();
  constexpr auto kStep = static_cast<std::uint64_t>(kAtOnce);
  for (std::uint64_t at = 0; at < bytes; at += kStep) {
    append(input.checkpoint().map(stored, at, std::min(kStep, bytes - at)).bytes());
  }
}

// Runs `convert(first row, rows, out)` for strips of `strip` rows, shared among threads, and
// appends in the rows' order what comes out: `strip_bytes` of a whole strip, fewer of a shorter
// last one.
template <class Convert>
void in_strips(std::int64_t rows, std::int64_t strip, std::int64_t strip_bytes,
               const AppendBytes& append, const Convert& convert) {
  const std::int64_t strips = (rows + strip - 1) / strip;
  const std::int64_t at_once = std::max<std::int64_t>(1, kAtOnce / strip_bytes);
  std::vector<std::byte> buffer(static_cast<std::size_t>(std::min(at_once, strips) * strip_bytes));
  for (std::int64_t first = 0; first < strips; first += at_once) {
    const std::int64_t count = std::min(at_once, strips - first);
    std::atomic<std::int64_t> used{0};
    parallel_for(count, 16 * count * strip_bytes, [&](std::int64_t i) {
      const std::int64_t row = (first + i) * strip;
      used += convert(row, std::min(strip, rows - row), buffer.data() + i * strip_bytes);
    });
    append(std::span<const std::byte>(buffer.data(), static_cast<std::size_t>(used.load())));
  }
}

// Codes or scales of an FP8 matrix.
void write_fp8(const std::string& name, const Linear& from, bool scales, StorageDtype scale_dtype,
               std::int64_t block, const AppendBytes& append) {
  const WeightView& view = from.view;
  const std::int64_t columns = view.columns;
  const std::int64_t blocks = (columns + block - 1) / block;
  const std::int64_t scale_bytes = element_size(scale_dtype);
  const std::int64_t strip_bytes = scales ? blocks * scale_bytes : block * columns;
  std::atomic<bool> fits = true;
  const auto convert = [&](std::int64_t first, std::int64_t rows, std::byte* out) {
    std::vector<double> values(static_cast<std::size_t>(rows * columns));
    decode_rows(view, first, rows, values.data());
    for (std::int64_t b = 0; b < blocks; ++b) {
      const std::int64_t begin = b * block;
      const std::int64_t end = std::min(begin + block, columns);
      double amax = 0.0;
      for (std::int64_t r = 0; r < rows; ++r) {
        for (std::int64_t c = begin; c < end; ++c) {
          amax = std::max(amax, std::abs(values[static_cast<std::size_t>(r * columns + c)]));
        }
      }
      if (amax > kLargest) fits = false;
      const float scale = kFp8Activation.of(std::min(amax, kLargest));
      if (scales) {
        if (scale_dtype == StorageDtype::kF32) {
          std::memcpy(out + b * scale_bytes, &scale, sizeof(scale));
        } else {
          out[b] = static_cast<std::byte>(encode_e8m0(static_cast<double>(scale)));
        }
        continue;
      }
      const double inverse = 1.0 / static_cast<double>(scale);  // exact: a power of two
      for (std::int64_t r = 0; r < rows; ++r) {
        for (std::int64_t c = begin; c < end; ++c) {
          const std::int64_t i = r * columns + c;
          out[i] =
              static_cast<std::byte>(encode_e4m3(values[static_cast<std::size_t>(i)] * inverse));
        }
      }
    }
    return scales ? strip_bytes : rows * columns;
  };
  in_strips(view.rows, block, strip_bytes, append, convert);
  if (!fits) unsupported(name, kTooLarge);
}

// Codes or scales of an FP4 matrix.
void write_fp4(const std::string& name, const Linear& from, bool scales, StorageDtype scale_dtype,
               ScaleRule rule, const AppendBytes& append) {
  const WeightView& view = from.view;
  const std::int64_t columns = view.columns;
  const std::int64_t groups = columns / kFp4Group;
  const std::int64_t scale_bytes = element_size(scale_dtype);
  constexpr std::int64_t kRows = 16;
  const std::int64_t row_bytes = scales ? groups * scale_bytes : columns / 2;
  std::atomic<bool> fits = true;
  const auto convert = [&](std::int64_t first, std::int64_t rows, std::byte* out) {
    std::vector<float> values(static_cast<std::size_t>(rows * columns));
    decode_rows(view, first, rows, values.data());
    for (std::int64_t g = 0; g < rows * groups; ++g) {
      const Mxfp4Block block = encode_mxfp4(
          std::span<const float>(values).subspan(static_cast<std::size_t>(g * kFp4Group),
                                                 static_cast<std::size_t>(kFp4Group)),
          rule);
      if (block.scale == kNanScale) fits = false;
      if (!scales) {
        std::memcpy(out + g * kFp4Group / 2, block.codes.data(), block.codes.size());
      } else if (scale_dtype == StorageDtype::kF32) {
        const float scale = decode_e8m0(block.scale);
        std::memcpy(out + g * scale_bytes, &scale, sizeof(scale));
      } else {
        out[g] = static_cast<std::byte>(block.scale);
      }
    }
    return rows * row_bytes;
  };
  in_strips(view.rows, kRows, kRows * row_bytes, append, convert);
  if (!fits) unsupported(name, kTooLarge);
}

// A quantised matrix as plain numbers. Every product of code and scale is exact in double.
void write_plain(const std::string& name, const Linear& from, Dtype to, const AppendBytes& append) {
  const WeightView& view = from.view;
  const std::int64_t columns = view.columns;
  const bool single = to == Dtype::kFp32;
  constexpr std::int64_t kRows = 16;
  const std::int64_t row_bytes = columns * (single ? 4 : 2);
  std::atomic<bool> exact = true;
  const auto convert = [&](std::int64_t first, std::int64_t rows, std::byte* out) {
    std::vector<double> values(static_cast<std::size_t>(rows * columns));
    decode_rows(view, first, rows, values.data());
    bool all = true;
    for (std::size_t i = 0; i < values.size(); ++i) {
      const auto narrow = static_cast<float>(values[i]);
      const float stored = single ? narrow : round_bf16(narrow);
      all = all && static_cast<double>(stored) == values[i];
      const auto bits = std::bit_cast<std::uint32_t>(stored);
      const auto upper = static_cast<std::uint16_t>(bits >> 16U);
      if (single) {
        std::memcpy(out + i * 4, &bits, 4);
      } else {
        std::memcpy(out + i * 2, &upper, 2);
      }
    }
    if (!all) exact = false;
    return rows * row_bytes;
  };
  in_strips(view.rows, kRows, kRows * row_bytes, append, convert);
  if (!exact) {
    unsupported(name, single ? "has numbers that FP32 cannot hold exactly"
                             : "has numbers that BF16 cannot hold exactly; FP32 may");
  }
}

QuantiseTo format_for(const QuantiseFormats& formats, std::string_view name) {
  if (!name.ends_with(".weight")) return QuantiseTo::kNone;
  switch (tensor_class(name)) {
    case TensorClass::kExpert:
      return formats.experts;
    case TensorClass::kLinear:
      return formats.linear;
    case TensorClass::kPlain:
    case TensorClass::kFp32:
      break;
  }
  return QuantiseTo::kNone;
}

void add_quantisation(Json& config, const QuantiseFormats& formats, std::int64_t block) {
  const bool before = config.contains("quantization_config");
  if (!before) {
    config["quantization_config"] = Json{{"activation_scheme", "dynamic"},
                                         {"fmt", "e4m3"},
                                         {"quant_method", "fp8"},
                                         {"scale_fmt", "ue8m0"},
                                         {"weight_block_size", {block, block}}};
  }
  if (formats.experts == QuantiseTo::kNone) {
    if (!before) config["expert_dtype"] = "bf16";
  } else {
    config["expert_dtype"] = formats.experts == QuantiseTo::kFp8 ? "fp8" : "fp4";
  }
}

PlannedTensor as_it_is(const TensorInfo& info) { return {info.name, info.dtype, info.shape}; }

// A tensor of the output that is made of a weight of the input.
struct Made {
  std::string weight;
  QuantiseTo to = QuantiseTo::kNone;
  bool scale = false;
};

}  // namespace

WrittenCheckpoint quantise_checkpoint(const ConvertSource& source, const QuantiseFormats& formats,
                                      const CheckpointTarget& target) {
  if (formats.linear == QuantiseTo::kMxfp4 || formats.linear == QuantiseTo::kMxfp4Floor) {
    throw std::invalid_argument("linears are not stored in FP4");
  }
  Input input(source, target);
  add_quantisation(input.config(), formats, input.fp8_block());
  std::vector<PlannedTensor> tensors;
  std::map<std::string, Made, std::less<>> made;
  for (const std::string& name : input.checkpoint().names()) {
    const TensorInfo& info = *input.checkpoint().require(name).info;
    const QuantiseTo to = format_for(formats, name);
    if (to == QuantiseTo::kNone) {
      tensors.push_back(as_it_is(info));
      continue;
    }
    if (is_quantised(info.dtype)) {
      unsupported(name, fmt::format("is {} already; dequantise first", to_string(info.dtype)));
    }
    const auto [rows, columns] = input.shape(info);
    QuantisedPair pair = quantised_pair(
        name, rows, columns, to == QuantiseTo::kFp8 ? Dtype::kFp8 : Dtype::kFp4, input.fp8_block());
    made.emplace(pair.weight.name, Made{name, to, false});
    made.emplace(pair.scale.name, Made{name, to, true});
    tensors.push_back(std::move(pair.weight));
    tensors.push_back(std::move(pair.scale));
  }
  return write_checkpoint(
      target, input.checked_config(), tensors,
      [&](const PlannedTensor& tensor, const AppendBytes& append) {
        const auto found = made.find(tensor.name);
        if (found == made.end()) {
          copy(input, tensor, append);
          return;
        }
        const Made& m = found->second;
        const Linear from = input.matrix(m.weight);
        if (m.to == QuantiseTo::kFp8) {
          write_fp8(m.weight, from, m.scale, tensor.dtype, input.fp8_block(), append);
        } else {
          const ScaleRule rule = m.to == QuantiseTo::kMxfp4 ? ScaleRule::kDeepseek : ScaleRule::kMx;
          write_fp4(m.weight, from, m.scale, tensor.dtype, rule, append);
        }
      });
}

WrittenCheckpoint dequantise_checkpoint(const ConvertSource& source, Dtype to,
                                        const CheckpointTarget& target) {
  if (to != Dtype::kFp32 && to != Dtype::kBf16) {
    throw std::invalid_argument("weights are dequantised to FP32 or BF16");
  }
  Input input(source, target);
  input.config().erase("quantization_config");
  input.config().erase("expert_dtype");
  const StorageDtype plain = to == Dtype::kFp32 ? StorageDtype::kF32 : StorageDtype::kBf16;
  const auto decodes = [&](const TensorInfo& info) {
    return is_quantised(info.dtype) && info.name.ends_with(".weight");
  };
  std::set<std::string, std::less<>> scales;
  for (const std::string& name : input.checkpoint().names()) {
    if (decodes(*input.checkpoint().require(name).info)) scales.insert(scale_name(name));
  }
  std::vector<PlannedTensor> tensors;
  for (const std::string& name : input.checkpoint().names()) {
    const TensorInfo& info = *input.checkpoint().require(name).info;
    if (scales.contains(name)) continue;
    if (!decodes(info)) {
      tensors.push_back(as_it_is(info));
      continue;
    }
    const auto [rows, columns] = input.shape(info);
    tensors.push_back({name, plain, {rows, columns}});
  }
  return write_checkpoint(target, input.checked_config(), tensors,
                          [&](const PlannedTensor& tensor, const AppendBytes& append) {
                            if (decodes(*input.checkpoint().require(tensor.name).info)) {
                              write_plain(tensor.name, input.matrix(tensor.name), to, append);
                            } else {
                              copy(input, tensor, append);
                            }
                          });
}

}  // namespace foretoken::reference
