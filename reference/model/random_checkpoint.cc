#include "reference/model/random_checkpoint.h"
#include "reference/kernels/parallel.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>

#include "reference/formats/float_formats.h"
#include "reference/model/mathematics.h"
#include "reference/model/stored_format.h"
#include "reference/model/tensor_names.h"
#include "sim/base/config_tree.h"
#include "sim/base/error.h"
#include "workloads/config_spelling.h"

namespace foretoken::reference {

namespace {

using workloads::Dtype;
using workloads::Family;
using workloads::LayerSpec;
using workloads::ModelSpec;
using workloads::TensorClass;

// SplitMix64's output function; with a counter in front, draw number i of a key.
std::uint64_t mix(std::uint64_t z) {
  z = (z ^ (z >> 30U)) * 0xbf58476d1ce4e5b9U;
  z = (z ^ (z >> 27U)) * 0x94d049bb133111ebU;
  return z ^ (z >> 31U);
}
std::uint64_t draw(std::uint64_t key, std::uint64_t i) {
  return mix(key + (i + 1) * 0x9e3779b97f4a7c15U);
}
double unit(std::uint64_t bits) { return static_cast<double>(bits >> 11U) * 0x1.0p-53; }

std::uint64_t key_of(std::uint64_t seed, std::string_view name) {
  std::uint64_t hash = 0xcbf29ce484222325U;  // FNV-1a
  for (const char c : name) hash = (hash ^ static_cast<std::uint8_t>(c)) * 0x100000001b3U;
  return mix(hash ^ mix(seed + 0x9e3779b97f4a7c15U));
}

// What a tensor is filled with. Everything but codes and tables is uniform around `mean`.
struct Content {
  enum class Kind : std::uint8_t { kUniform, kFp8Codes, kFp4Codes, kScales, kExperts };
  Kind kind = Kind::kUniform;
  double mean = 0.0;
  double deviation = 0.0;     // of scales: what a scale's root mean square is to be
  bool powers_of_two = true;  // scales
  std::int64_t experts = 0;   // kExperts: how many there are
  std::int64_t per_token = 0;
};

// Eight bytes of E4M3: exponent fields 11 to 14, so magnitudes 16 to 240, of which the largest puts
// a block's scale where the release's rule would (240 / 448 is above a half).
std::uint64_t fp8_codes(std::uint64_t bits) {
  return (bits & 0x9f9f9f9f9f9f9f9fU) + 0x5858585858585858U;
}
// Root mean square: mean of 4^e for e = 4 ... 7 times mean of (1 + k/8)^2 for k = 0 ... 7.
const double kFp8Deviation = std::sqrt(5440.0 * 2.1484375);

// Eight bytes of E2M1 pairs. A group's first element is 4 or 6, for the same reason.
std::uint64_t fp4_codes(std::uint64_t bits, std::uint64_t i) {
  return i % 2 == 0 ? bits | 0x06U : bits;
}
// Of the eight magnitudes, the first of 32 elements (16 + 36) / 2.
const double kFp4Deviation = std::sqrt((31.0 * 68.5 / 8.0 + 26.0) / 32.0);

// Fills bytes [first, first + out.size()) of a tensor; `first` is a multiple of 8. `word(i)`
// answers the eight bytes number i of the tensor.
template <class Word>
void fill_words(std::uint64_t first, std::span<std::byte> out, const Word& word) {
  std::uint64_t i = first / 8;
  std::size_t at = 0;
  for (; at + 8 <= out.size(); at += 8, ++i) {
    const auto value = word(i);
    static_assert(sizeof(value) == 8);
    std::memcpy(out.data() + at, &value, 8);
  }
  if (at < out.size()) {
    const auto value = word(i);
    std::memcpy(out.data() + at, &value, out.size() - at);
  }
}

void fill_uniform(const Content& content, StorageDtype dtype, std::uint64_t key,
                  std::uint64_t first, std::span<std::byte> out) {
  const auto mean = static_cast<float>(content.mean);
  const auto half = static_cast<float>(content.deviation * std::sqrt(3.0));
  if (dtype == StorageDtype::kF32) {
    const float step = half * 0x1.0p-31F;
    fill_words(first, out, [&](std::uint64_t i) {
      const std::uint64_t bits = draw(key, i);
      std::array<float, 2> values{};
      for (unsigned lane = 0; lane < 2; ++lane) {
        const auto drawn =
            static_cast<std::int32_t>(static_cast<std::uint32_t>(bits >> 32U * lane));
        values[lane] = mean + step * static_cast<float>(drawn);
      }
      return values;
    });
    return;
  }
  const float step = half * 0x1.0p-15F;
  fill_words(first, out, [&](std::uint64_t i) {
    const std::uint64_t bits = draw(key, i);
    std::array<std::uint16_t, 4> values{};
    for (unsigned lane = 0; lane < 4; ++lane) {
      const auto drawn = static_cast<std::int16_t>(static_cast<std::uint16_t>(bits >> 16U * lane));
      const float value = round_bf16(mean + step * (static_cast<float>(drawn) + 0.5F));
      values[lane] = static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(value) >> 16U);
    }
    return values;
  });
}

// Powers of two around the wanted scale, the lower and the upper one as often as makes their mean
// square right; or numbers within a quarter of it.
void fill_scales(const Content& content, StorageDtype dtype, std::uint64_t key, std::uint64_t first,
                 std::span<std::byte> out) {
  const int low = std::ilogb(content.deviation);
  const double ratio = content.deviation / std::ldexp(1.0, low);
  const double upper = (ratio * ratio - 1.0) / 3.0;
  if (dtype == StorageDtype::kF8E8M0) {
    const auto threshold = static_cast<std::uint64_t>(upper * 256.0);
    const auto code = static_cast<std::uint8_t>(low + 127);
    fill_words(first, out, [&](std::uint64_t i) {
      const std::uint64_t bits = draw(key, i);
      std::array<std::uint8_t, 8> codes{};
      for (unsigned lane = 0; lane < 8; ++lane) {
        const bool up = (bits >> 8U * lane & 0xffU) < threshold;
        codes[lane] = static_cast<std::uint8_t>(code + (up ? 1U : 0U));
      }
      return codes;
    });
    return;
  }
  fill_words(first, out, [&](std::uint64_t i) {
    std::array<float, 2> values{};
    for (unsigned lane = 0; lane < 2; ++lane) {
      const double u = unit(draw(key, 2 * i + lane));
      const double scale = content.powers_of_two ? std::ldexp(1.0, u < upper ? low + 1 : low)
                                                 : content.deviation * (0.75 + 0.5 * u);
      values[lane] = static_cast<float>(scale);
    }
    return values;
  });
}

// Distinct experts for each token: Floyd's sampling, one draw per expert.
void fill_experts(const Content& content, std::uint64_t key, std::uint64_t first,
                  std::span<std::byte> out) {
  const auto k = static_cast<std::uint64_t>(content.per_token);
  const auto experts = static_cast<std::uint64_t>(content.experts);
  std::vector<std::int64_t> row;
  std::uint64_t held = ~std::uint64_t{0};
  fill_words(first, out, [&](std::uint64_t i) {
    if (i / k != held) {
      held = i / k;
      row.clear();
      for (std::uint64_t j = experts - k; j < experts; ++j) {
        const auto any = static_cast<std::int64_t>(draw(key, held * k + row.size()) % (j + 1));
        const bool taken = std::ranges::find(row, any) != row.end();
        row.push_back(taken ? static_cast<std::int64_t>(j) : any);
      }
    }
    return row[i % k];
  });
}

void fill_bytes(const Content& content, StorageDtype dtype, std::uint64_t key, std::uint64_t first,
                std::span<std::byte> out) {
  switch (content.kind) {
    case Content::Kind::kUniform:
      fill_uniform(content, dtype, key, first, out);
      break;
    case Content::Kind::kFp8Codes:
      fill_words(first, out, [&](std::uint64_t i) { return fp8_codes(draw(key, i)); });
      break;
    case Content::Kind::kFp4Codes:
      fill_words(first, out, [&](std::uint64_t i) { return fp4_codes(draw(key, i), i); });
      break;
    case Content::Kind::kScales:
      fill_scales(content, dtype, key, first, out);
      break;
    case Content::Kind::kExperts:
      fill_experts(content, key, first, out);
      break;
  }
}

// Mean and deviation of what is stored as plain numbers. Matrices keep the size of their inputs;
// those that feed a softmax or a choice are half as large again, to make them matter.
Content plain_content(const ModelSpec& model, const TensorNeed& need) {
  const std::string_view name = need.name;
  const auto ends = [name](std::string_view end) { return name.ends_with(end); };
  const double inputs = static_cast<double>(need.columns);
  const auto around = [](double mean, double deviation) {
    return Content{.mean = mean, .deviation = deviation};
  };
  if (need.kind == TensorNeed::Kind::kMatrix) {
    if (ends("embed.weight") || ends("embed_tokens.weight")) return around(0.0, 1.0);
    const bool choice = ends(".gate.weight") || ends(".wgate.weight");
    return around(0.0, (choice ? 1.5 : 1.0) / std::sqrt(inputs));
  }
  if (ends("_fn")) {
    return around(0.0, 1.0 / std::sqrt(static_cast<double>(model.streams * model.hidden)));
  }
  if (ends("_base") || ends(".ape")) return around(0.0, 0.6);
  if (ends("_scale")) return around(0.8, 0.15);
  if (ends(".attn_sink")) return around(0.0, 0.5);
  if (ends(".gate.bias") || ends(".e_score_correction_bias")) return around(0.0, 0.2);
  if (ends(".bias")) return around(0.0, 0.1);
  return around(1.0, 0.2);  // norms
}

// The layer that a release name belongs to.
const LayerSpec* layer_of(const ModelSpec& model, std::string_view name) {
  const bool draft = name.starts_with("mtp.");
  constexpr std::string_view kLayers = "layers.";
  if (!draft && !name.starts_with(kLayers)) return nullptr;
  const std::vector<LayerSpec>& layers = draft ? model.draft_layers : model.layers;
  std::size_t number = 0;
  for (std::size_t i = name.find('.') + 1; i < name.size() && name[i] != '.'; ++i) {
    number = number * 10 + static_cast<std::size_t>(name[i] - '0');
  }
  return number < layers.size() ? &layers[number] : nullptr;
}

// The shape that the release gives a tensor of these elements.
std::vector<std::int64_t> plain_shape(const ModelSpec& model, const TensorNeed& need) {
  if (need.kind != TensorNeed::Kind::kVector) return {need.rows, need.columns};
  std::int64_t rows = 1;
  if (need.name.ends_with("_fn")) {
    rows = need.columns / (model.streams * model.hidden);
  } else if (need.name.ends_with(".ape")) {
    rows = layer_of(model, need.name)->ratio;
  }
  if (rows == 1 && !need.name.ends_with("_fn")) return {need.columns};
  return {rows, need.columns / rows};
}

struct Planned {
  std::vector<PlannedTensor> tensors;
  std::vector<Content> contents;
};

Planned plan(const ModelSpec& model, bool powers_of_two) {
  if (model.family == Family::kDeepseekV41) {
    throw base::UnsupportedError(model.name + ": no checkpoints of V4.1 are written here");
  }
  Planned planned;
  const auto add = [&](PlannedTensor tensor, const Content& content) {
    planned.tensors.push_back(std::move(tensor));
    planned.contents.push_back(content);
  };
  const auto add_plain = [&](const TensorNeed& need, Dtype dtype) {
    add({need.name, dtype == Dtype::kFp32 ? StorageDtype::kF32 : StorageDtype::kBf16,
         plain_shape(model, need)},
        plain_content(model, need));
  };
  for_each_needed_tensor(model, [&](const TensorNeed& need) {
    if (need.kind == TensorNeed::Kind::kInteger) {
      add({need.name, StorageDtype::kI64, {need.rows, need.columns}},
          {.kind = Content::Kind::kExperts, .experts = model.experts, .per_token = need.columns});
      return;
    }
    Dtype dtype = Dtype::kFp32;
    switch (tensor_class(need.name)) {
      case TensorClass::kLinear:
        dtype = model.storage.linear;
        break;
      case TensorClass::kExpert:
        dtype = model.storage.expert;
        break;
      case TensorClass::kPlain:
        dtype = model.storage.plain;
        break;
      case TensorClass::kFp32:
        break;
    }
    if (dtype != Dtype::kFp8 && dtype != Dtype::kFp4) {
      add_plain(need, dtype);
      return;
    }
    QuantisedPair pair =
        quantised_pair(need.name, need.rows, need.columns, dtype, model.storage.fp8_block);
    const bool fp4 = dtype == Dtype::kFp4;
    add(std::move(pair.weight),
        {.kind = fp4 ? Content::Kind::kFp4Codes : Content::Kind::kFp8Codes});
    add(std::move(pair.scale), {.kind = Content::Kind::kScales,
                                .deviation = 1.0 / std::sqrt(static_cast<double>(need.columns)) /
                                             (fp4 ? kFp4Deviation : kFp8Deviation),
                                .powers_of_two = powers_of_two});
  });
  return planned;
}

}  // namespace

std::vector<PlannedTensor> checkpoint_tensors(const ModelSpec& model) {
  return plan(model, true).tensors;
}

WrittenCheckpoint write_random_checkpoint(const std::filesystem::path& config, std::uint64_t seed,
                                          const CheckpointTarget& target) {
  const std::string text = read_config_text(config);
  const base::ConfigFile file =
      workloads::with_release_keys(base::parse_json(config.string(), text));
  std::string name = config.stem().string();
  const ModelSpec model = workloads::read_model(file, std::move(name));
  const Planned planned = plan(model, read_mathematics(file, model).power_of_two_scales);

  std::unordered_map<std::string_view, const Content*> content_of;
  for (std::size_t i = 0; i < planned.tensors.size(); ++i) {
    content_of.emplace(planned.tensors[i].name, &planned.contents[i]);
  }
  // Pieces that threads fill next to each other, and what is handed on at once.
  constexpr std::int64_t kPiece = 256 << 10;
  constexpr std::uint64_t kAtOnce = 64 * kPiece;
  std::vector<std::byte> buffer(kAtOnce);
  return write_checkpoint(
      target, text, planned.tensors, [&](const PlannedTensor& tensor, const AppendBytes& append) {
        const Content& content = *content_of.at(tensor.name);
        const std::uint64_t key = key_of(seed, tensor.name);
        const std::uint64_t bytes = tensor.bytes();
        for (std::uint64_t at = 0; at < bytes; at += kAtOnce) {
          const auto now = static_cast<std::int64_t>(std::min(kAtOnce, bytes - at));
          const std::span<std::byte> out(buffer.data(), static_cast<std::size_t>(now));
          parallel_for((now + kPiece - 1) / kPiece, 8 * now, [&](std::int64_t i) {
            const std::int64_t piece = i * kPiece;
            const auto size = static_cast<std::size_t>(std::min(kPiece, now - piece));
            fill_bytes(content, tensor.dtype, key, at + static_cast<std::uint64_t>(piece),
                       out.subspan(static_cast<std::size_t>(piece), size));
          });
          append(out);
        }
      });
}

}  // namespace foretoken::reference
