// V3.2 the long way, as its publication writes it down: keys and values of every head, plain loops
// in double, one whole sequence at once. The reference keeps latents, absorbs the key and value
// maps into queries and outputs and runs in steps; its numbers have to be these. Nothing here uses
// the code under test beyond reading tensors.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <numbers>
#include <numeric>
#include <ostream>
#include <stdexcept>
#include <string>
#include <vector>

#include "reference/model/random_checkpoint.h"
#include "tests/reference/model/model_fixtures.h"
#include "tests/reference/model/test_support.h"

namespace foretoken::reference::testing {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;
using Row = std::vector<double>;
using Rows = std::vector<Row>;  // one per token

// Ways to get V3.2 wrong that every shape check lets pass.
enum class Mistake : std::uint8_t {
  kNone,
  kInterleavedIndexRotary,
  kIndexRotaryOnLastChannels,
  kIndexKeyWithoutBias,
  kScaleWithoutMscale,
  kNoYarn,
  kMainRotaryInHalves,
  kRotaryChannelsFirst,
  kValuesBeforeKeys,
  kGroupsIgnored,
  kGroupsByTheirBest,
  kBiasInWeights,
  kNoRoutedScale,
  // In quantisers only:
  kNoHadamard,
  kRotaryKeysInFp8,
  kRoutingWeightBeforeDown,
};

// ---- Formats -----------------------------------------------------------------------------------

double decode_e4m3(unsigned code) {
  const double sign = (code & 0x80U) != 0 ? -1.0 : 1.0;
  const int exponent = static_cast<int>((code >> 3U) & 15U);
  const int mantissa = static_cast<int>(code & 7U);
  if (exponent == 0) return sign * std::ldexp(mantissa, -9);
  return sign * std::ldexp(8 + mantissa, exponent - 10);
}

// To the nearest E4M3 number, ties to even, beyond 448 to 448.
double round_e4m3(double x) {
  if (x == 0.0) return 0.0;
  const int exponent = std::max(std::ilogb(x), -6);  // subnormals have the step of 2^-6
  const double step = std::ldexp(1.0, exponent - 3);
  return std::clamp(std::nearbyint(x / step) * step, -448.0, 448.0);
}

// What is left of a row stored in E4M3 with one power-of-two scale per group.
void quantise(double* x, std::size_t count, std::size_t group) {
  for (std::size_t first = 0; first < count; first += group) {
    const std::size_t last = std::min(first + group, count);
    double most = 1e-4;
    for (std::size_t i = first; i < last; ++i) most = std::max(most, std::abs(x[i]));
    const double scale = std::exp2(std::ceil(std::log2(most / 448.0)));
    for (std::size_t i = first; i < last; ++i) x[i] = round_e4m3(x[i] / scale) * scale;
  }
}

// Times the Walsh-Hadamard matrix: plus or minus by the parity of the common bits.
void hadamard(double* x, std::size_t n) {
  const Row in(x, x + n);
  for (std::size_t i = 0; i < n; ++i) {
    x[i] = 0.0;
    for (std::size_t j = 0; j < n; ++j) {
      x[i] += std::popcount(i & j) % 2 == 0 ? in[j] : -in[j];
    }
    x[i] /= std::sqrt(static_cast<double>(n));
  }
}

struct Matrix {
  std::size_t columns = 0;
  bool fp8 = false;
  Row data;

  [[nodiscard]] std::size_t rows() const { return data.size() / columns; }
  [[nodiscard]] Row times(const double* x) const {
    Row y(rows());
    for (std::size_t r = 0; r < y.size(); ++r) {
      for (std::size_t c = 0; c < columns; ++c) y[r] += data[r * columns + c] * x[c];
    }
    return y;
  }
  [[nodiscard]] Row times(const Row& x) const {
    if (x.size() != columns) throw std::logic_error("a matrix and its input differ in width");
    return times(x.data());
  }
};

// A tensor of any of the checkpoint's formats. FP8 has one FP32 scale per 128 x 128 block.
Matrix read(const Checkpoint& checkpoint, const std::string& name) {
  const StoredTensor& tensor = checkpoint.require(name);
  Matrix out;
  out.columns = static_cast<std::size_t>(tensor.info->shape.back());
  switch (tensor.info->dtype) {
    case StorageDtype::kF32:
      for (const float v : values_of<float>(checkpoint, tensor)) out.data.push_back(v);
      break;
    case StorageDtype::kBf16:
      for (const std::uint16_t v : values_of<std::uint16_t>(checkpoint, tensor)) {
        out.data.push_back(std::bit_cast<float>(static_cast<std::uint32_t>(v) << 16U));
      }
      break;
    case StorageDtype::kF8E4M3: {
      out.fp8 = true;
      const Matrix scale = read(checkpoint, name + "_scale_inv");
      for (const std::uint8_t v : values_of<std::uint8_t>(checkpoint, tensor)) {
        const std::size_t row = out.data.size() / out.columns;
        const std::size_t column = out.data.size() % out.columns;
        out.data.push_back(decode_e4m3(v) * scale.data[row / 128 * scale.columns + column / 128]);
      }
      break;
    }
    default:
      throw std::logic_error(name + " has an unexpected format");
  }
  return out;
}

// ---- Operators ---------------------------------------------------------------------------------

Row rms_norm(const Row& x, const Row& weight, double eps) {
  double sum = 0.0;
  for (const double v : x) sum += v * v;
  const double rms = std::sqrt(sum / static_cast<double>(x.size()) + eps);
  Row y(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) y[i] = weight.at(i) * x[i] / rms;
  return y;
}

Row layer_norm(const Row& x, const Row& weight, const Row& bias, double eps) {
  const auto n = static_cast<double>(x.size());
  const double mean = std::accumulate(x.begin(), x.end(), 0.0) / n;
  double variance = 0.0;
  for (const double v : x) variance += (v - mean) * (v - mean) / n;
  Row y(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) {
    y[i] = (x[i] - mean) / std::sqrt(variance + eps) * weight.at(i) + bias.at(i);
  }
  return y;
}

double dot(const double* a, const double* b, std::size_t n) {
  double sum = 0.0;
  for (std::size_t i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

double sigmoid(double x) { return 1.0 / (1.0 + std::exp(-x)); }

struct RopeScaling {
  double theta = 10'000.0;
  double factor = 1.0;
  double original = 0.0;
  double beta_fast = 32.0;
  double beta_slow = 1.0;
};

// Channel pairs' frequencies in FP32, operation by operation, since the release's tables are FP32:
// an angle of the same formula in double would be another rotation after the sixth digit.
std::vector<float> frequencies(std::size_t dim, const RopeScaling& s) {
  const auto turns = [&](double n) {
    return static_cast<double>(dim) * std::log(s.original / (n * 2.0 * std::numbers::pi)) /
           (2.0 * std::log(s.theta));
  };
  std::vector<float> out;
  for (std::size_t i = 0; i < dim / 2; ++i) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(dim);
    const float plain = 1.0F / static_cast<float>(std::pow(s.theta, double{exponent}));
    out.push_back(plain);
    if (s.factor == 1.0) continue;
    const double low = std::max(std::floor(turns(s.beta_fast)), 0.0);
    const double high = std::min(std::ceil(turns(s.beta_slow)), static_cast<double>(dim) - 1.0);
    const float slow = std::clamp(
        (static_cast<float>(i) - static_cast<float>(low)) / static_cast<float>(high - low), 0.0F,
        1.0F);
    const float keep = 1.0F - slow;
    out.back() = plain / static_cast<float>(s.factor) * (1.0F - keep) + plain * keep;
  }
  return out;
}

// Numbers of the `count` largest, best first, the lower number on ties.
std::vector<std::size_t> best(const Row& score, std::size_t count) {
  std::vector<std::size_t> order(score.size());
  std::iota(order.begin(), order.end(), 0U);
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return score[a] > score[b]; });
  order.resize(std::min(count, order.size()));
  return order;
}

// ---- The model ---------------------------------------------------------------------------------

struct Shape {
  explicit Shape(const Json& json) {
    const auto size = [&](const char* key) { return json.at(key).get<std::size_t>(); };
    layers = size("num_hidden_layers");
    dense_layers = size("first_k_dense_replace");
    heads = size("num_attention_heads");
    nope = size("qk_nope_head_dim");
    rotary = size("qk_rope_head_dim");
    value = size("v_head_dim");
    latent = size("kv_lora_rank");
    index_heads = size("index_n_heads");
    index_dim = size("index_head_dim");
    index_topk = size("index_topk");
    experts = size("n_routed_experts");
    groups = size("n_group");
    kept_groups = size("topk_group");
    chosen = size("num_experts_per_tok");
    routed_scale = json.at("routed_scaling_factor");
    eps = json.at("rms_norm_eps");
    const Json& scaling = json.at("rope_scaling");
    rope = {json.at("rope_theta"), scaling.at("factor"),
            scaling.at("original_max_position_embeddings"), scaling.at("beta_fast"),
            scaling.at("beta_slow")};
    mscale = scaling.at("mscale");
  }

  std::size_t layers, dense_layers, heads, nope, rotary, value, latent, index_heads, index_dim,
      index_topk, experts, groups, kept_groups, chosen;
  double routed_scale, eps, mscale;
  RopeScaling rope;
};

class Oracle {
 public:
  // With quantisers: FP8 inputs of FP8 matrices, FP8 latents, FP8 index queries and keys.
  Oracle(const fs::path& folder, bool quantisers, Mistake mistake = Mistake::kNone)
      : checkpoint_(folder),
        shape_(Json::parse(base::content_of(folder / "config.json"))),
        quantisers_(quantisers),
        mistake_(mistake) {
    RopeScaling rope = shape_.rope;
    if (mistake_ == Mistake::kNoYarn) rope.factor = 1.0;
    frequencies_ = frequencies(shape_.rotary, rope);
  }

  // What a run tells its sink, by the same names; choices in `choices`.
  struct Result {
    std::map<std::string, Rows> rows;
    std::map<std::string, std::vector<std::vector<std::size_t>>> choices;
  };

  Result run(const std::vector<std::int32_t>& tokens) const {
    Result out;
    const Matrix embedding = weight("model.embed_tokens");
    Rows hidden;
    for (const std::int32_t token : tokens) {
      const auto first =
          embedding.data.begin() +
          static_cast<std::ptrdiff_t>(token) * static_cast<std::ptrdiff_t>(embedding.columns);
      hidden.emplace_back(first, first + static_cast<std::ptrdiff_t>(embedding.columns));
    }
    for (std::size_t layer = 0; layer < shape_.layers; ++layer) {
      const std::string number = "layers." + std::to_string(layer);
      const std::string prefix = "model." + number;
      Rows normed = normalised(hidden, prefix + ".input_layernorm");
      out.rows[number + ".attn.out"] = attention(normed, prefix + ".self_attn", number, out);
      add(hidden, out.rows[number + ".attn.out"]);
      normed = normalised(hidden, prefix + ".post_attention_layernorm");
      out.rows[number + ".ffn.out"] = layer < shape_.dense_layers
                                          ? each(Swiglu(*this, prefix + ".mlp"), normed)
                                          : mixture(normed, prefix + ".mlp", number, out);
      add(hidden, out.rows[number + ".ffn.out"]);
    }
    const Matrix head = weight("lm_head");
    for (const Row& x : normalised(hidden, "model.norm")) {
      out.rows["logits"].push_back(product(head, x));
    }
    return out;
  }

 private:
  struct Swiglu {
    Swiglu(const Oracle& o, const std::string& name)
        : gate(o.weight(name + ".gate_proj")),
          up(o.weight(name + ".up_proj")),
          down(o.weight(name + ".down_proj")) {}
    Matrix gate, up, down;
  };

  // `share` is a routing weight; it scales what comes out.
  [[nodiscard]] Row apply(const Swiglu& f, const Row& x, double share = 1.0) const {
    const bool early = is(Mistake::kRoutingWeightBeforeDown);
    Row inner = product(f.gate, x);
    const Row other = product(f.up, x);
    for (std::size_t i = 0; i < inner.size(); ++i) {
      inner[i] *= sigmoid(inner[i]) * other[i] * (early ? share : 1.0);
    }
    Row out = product(f.down, inner);
    for (double& v : out) v *= early ? 1.0 : share;
    return out;
  }

  [[nodiscard]] Rows each(const Swiglu& f, const Rows& in) const {
    Rows out;
    for (const Row& x : in) out.push_back(apply(f, x));
    return out;
  }

  // A linear map as the release has it: inputs of FP8 matrices are rounded to FP8 too.
  [[nodiscard]] Row product(const Matrix& matrix, Row x) const {
    if (quantisers_ && matrix.fp8) quantise(x.data(), x.size(), 128);
    return matrix.times(x);
  }

  // An index query or key as it is scored.
  void quantise_index(double* x) const {
    if (!quantisers_) return;  // the rotation alone changes no score
    if (!is(Mistake::kNoHadamard)) hadamard(x, shape_.index_dim);
    quantise(x, shape_.index_dim, 128);
  }

  [[nodiscard]] Matrix weight(const std::string& name) const {
    return read(checkpoint_, name + ".weight");
  }
  [[nodiscard]] bool is(Mistake mistake) const { return mistake_ == mistake; }

  [[nodiscard]] Rows normalised(const Rows& in, const std::string& name) const {
    const Row gain = weight(name).data;
    Rows out;
    for (const Row& x : in) out.push_back(rms_norm(x, gain, shape_.eps));
    return out;
  }

  static void add(Rows& to, const Rows& what) {
    for (std::size_t t = 0; t < to.size(); ++t) {
      for (std::size_t i = 0; i < to[t].size(); ++i) to[t][i] += what[t].at(i);
    }
  }

  void rotate(double* x, std::size_t position, bool halves) const {
    const std::size_t pairs = frequencies_.size();
    for (std::size_t i = 0; i < pairs; ++i) {
      const float angle = static_cast<float>(position) * frequencies_[i];
      const double cosine = std::cos(angle);  // of and in FP32
      const double sine = std::sin(angle);
      double& re = x[halves ? i : 2 * i];
      double& im = x[halves ? i + pairs : 2 * i + 1];
      const double was = re;
      re = was * cosine - im * sine;
      im = was * sine + im * cosine;
    }
  }

  // Which tokens each query attends to, best first.
  [[nodiscard]] std::vector<std::vector<std::size_t>> index(const Rows& in, const Rows& low_rank,
                                                            const std::string& name) const {
    const Matrix wq = weight(name + ".wq_b");
    const Matrix wk = weight(name + ".wk");
    const Matrix head_weights = weight(name + ".weights_proj");
    const Row gain = weight(name + ".k_norm").data;
    Row bias = read(checkpoint_, name + ".k_norm.bias").data;
    if (is(Mistake::kIndexKeyWithoutBias)) bias.assign(bias.size(), 0.0);
    const std::size_t dim = shape_.index_dim;
    const bool halves = !is(Mistake::kInterleavedIndexRotary);
    const std::size_t first =
        is(Mistake::kIndexRotaryOnLastChannels) ? dim - shape_.rotary : std::size_t{0};
    Rows keys;
    std::vector<std::vector<std::size_t>> out;
    for (std::size_t t = 0; t < in.size(); ++t) {
      keys.push_back(layer_norm(product(wk, in[t]), gain, bias, 1e-6));
      rotate(keys[t].data() + first, t, halves);
      quantise_index(keys[t].data());
      Row query = product(wq, low_rank[t]);
      for (std::size_t h = 0; h < shape_.index_heads; ++h) {
        rotate(query.data() + h * dim + first, t, halves);
        quantise_index(query.data() + h * dim);
      }
      Row importance = product(head_weights, in[t]);
      for (double& w : importance) {
        w /= std::sqrt(static_cast<double>(shape_.index_heads) * static_cast<double>(dim));
      }
      Row score(t + 1);
      for (std::size_t s = 0; s <= t; ++s) {
        for (std::size_t h = 0; h < shape_.index_heads; ++h) {
          const double product = dot(query.data() + h * dim, keys[s].data(), dim);
          score[s] += importance.at(h) * std::max(product, 0.0);
        }
      }
      out.push_back(best(score, shape_.index_topk));
    }
    return out;
  }

  Rows attention(const Rows& in, const std::string& name, const std::string& number,
                 Result& result) const {
    const Matrix wq_a = weight(name + ".q_a_proj");
    const Matrix wq_b = weight(name + ".q_b_proj");
    const Matrix wkv_a = weight(name + ".kv_a_proj_with_mqa");
    const Matrix wkv_b = weight(name + ".kv_b_proj");
    const Matrix wo = weight(name + ".o_proj");
    const Row q_gain = weight(name + ".q_a_layernorm").data;
    const Row kv_gain = weight(name + ".kv_a_layernorm").data;
    const std::size_t width = shape_.nope + shape_.rotary;
    const bool halves = is(Mistake::kMainRotaryInHalves);
    // Where the rotary and the other channels of a query head are.
    const std::size_t at_rotary = is(Mistake::kRotaryChannelsFirst) ? 0 : shape_.nope;
    const std::size_t at_nope = is(Mistake::kRotaryChannelsFirst) ? shape_.rotary : 0;
    const std::size_t at_key = is(Mistake::kValuesBeforeKeys) ? shape_.value : 0;
    const std::size_t at_value = is(Mistake::kValuesBeforeKeys) ? 0 : shape_.nope;

    Rows low_rank;
    Rows queries;   // [heads, nope + rotary]
    Rows expanded;  // [heads, nope + value]
    Rows rotary_keys;
    for (std::size_t t = 0; t < in.size(); ++t) {
      low_rank.push_back(rms_norm(product(wq_a, in[t]), q_gain, shape_.eps));
      queries.push_back(product(wq_b, low_rank[t]));
      for (std::size_t h = 0; h < shape_.heads; ++h) {
        rotate(queries[t].data() + h * width + at_rotary, t, halves);
      }
      const Row kv = product(wkv_a, in[t]);
      const auto cut = kv.begin() + static_cast<std::ptrdiff_t>(shape_.latent);
      Row latent = rms_norm(Row(kv.begin(), cut), kv_gain, shape_.eps);
      if (quantisers_) quantise(latent.data(), latent.size(), 128);
      expanded.push_back(wkv_b.times(latent));
      rotary_keys.emplace_back(cut, kv.end());
      rotate(rotary_keys[t].data(), t, halves);
      if (is(Mistake::kRotaryKeysInFp8)) quantise(rotary_keys[t].data(), shape_.rotary, 64);
    }
    const auto chosen = index(in, low_rank, name + ".indexer");
    result.choices[number + ".attn.indexer.topk"] = chosen;

    double scale = 1.0 / std::sqrt(static_cast<double>(width));
    if (!is(Mistake::kScaleWithoutMscale)) {
      const double mscale = 0.1 * shape_.mscale * std::log(shape_.rope.factor) + 1.0;
      scale *= mscale * mscale;
    }
    Rows out;
    for (std::size_t t = 0; t < in.size(); ++t) {
      Row joined(shape_.heads * shape_.value);
      for (std::size_t h = 0; h < shape_.heads; ++h) {
        const double* query = queries[t].data() + h * width;
        Row z;
        for (const std::size_t s : chosen[t]) {
          const double* key = expanded[s].data() + h * (shape_.nope + shape_.value) + at_key;
          z.push_back(scale * (dot(query + at_nope, key, shape_.nope) +
                               dot(query + at_rotary, rotary_keys[s].data(), shape_.rotary)));
        }
        const double most = *std::max_element(z.begin(), z.end());
        double sum = 0.0;
        for (double& v : z) sum += v = std::exp(v - most);
        for (std::size_t j = 0; j < z.size(); ++j) {
          const double* value =
              expanded[chosen[t][j]].data() + h * (shape_.nope + shape_.value) + at_value;
          for (std::size_t i = 0; i < shape_.value; ++i) {
            joined[h * shape_.value + i] += z[j] / sum * value[i];
          }
        }
      }
      out.push_back(product(wo, joined));
    }
    return out;
  }

  [[nodiscard]] std::vector<std::size_t> route(const Row& biased) const {
    Row allowed = biased;
    const std::size_t size = shape_.experts / shape_.groups;
    Row rank;
    for (std::size_t g = 0; g < shape_.groups; ++g) {
      Row of(biased.begin() + static_cast<std::ptrdiff_t>(g * size),
             biased.begin() + static_cast<std::ptrdiff_t>((g + 1) * size));
      std::sort(of.rbegin(), of.rend());
      rank.push_back(is(Mistake::kGroupsByTheirBest) ? of.at(0) : of.at(0) + of.at(1));
    }
    const std::vector<std::size_t> kept = best(rank, shape_.kept_groups);
    for (std::size_t e = 0; e < shape_.experts && !is(Mistake::kGroupsIgnored); ++e) {
      if (std::find(kept.begin(), kept.end(), e / size) == kept.end()) allowed[e] = -INFINITY;
    }
    return best(allowed, shape_.chosen);
  }

  Rows mixture(const Rows& in, const std::string& name, const std::string& number,
               Result& result) const {
    const Matrix router = weight(name + ".gate");
    const Row bias = read(checkpoint_, name + ".gate.e_score_correction_bias").data;
    const Swiglu shared(*this, name + ".shared_experts");
    std::vector<Swiglu> experts;
    for (std::size_t e = 0; e < shape_.experts; ++e) {
      experts.emplace_back(*this, name + ".experts." + std::to_string(e));
    }
    auto& indices = result.choices[number + ".ffn.gate.indices"];
    Rows& weights = result.rows[number + ".ffn.gate.weights"];
    Rows out;
    for (const Row& x : in) {
      Row score = product(router, x);
      for (double& s : score) s = sigmoid(s);
      Row biased = score;
      for (std::size_t e = 0; e < biased.size(); ++e) biased[e] += bias.at(e);
      indices.push_back(route(biased));
      Row share;
      for (const std::size_t e : indices.back()) {
        share.push_back(is(Mistake::kBiasInWeights) ? biased[e] : score[e]);
      }
      const double sum = std::accumulate(share.begin(), share.end(), 0.0);
      Row y = apply(shared, x);
      for (std::size_t j = 0; j < share.size(); ++j) {
        share[j] *= (is(Mistake::kNoRoutedScale) ? 1.0 : shape_.routed_scale) / sum;
        const Row routed = apply(experts[indices.back()[j]], x, share[j]);
        for (std::size_t i = 0; i < y.size(); ++i) y[i] += routed[i];
      }
      weights.push_back(share);
      out.push_back(y);
    }
    return out;
  }

  Checkpoint checkpoint_;
  Shape shape_;
  bool quantisers_;
  Mistake mistake_;
  std::vector<float> frequencies_;
};

// ---- Comparison --------------------------------------------------------------------------------

std::vector<std::vector<std::size_t>> choices_of(const MemorySink& sink, const std::string& name) {
  std::vector<std::vector<std::size_t>> out;
  const auto take = [&](const double* first, std::size_t count) {
    out.emplace_back();
    for (std::size_t i = 0; i < count; ++i) {
      if (first[i] >= 0.0) out.back().push_back(static_cast<std::size_t>(first[i]));
    }
  };
  if (const auto ragged = sink.ragged.find(name); ragged != sink.ragged.end()) {
    for (const Row& row : ragged->second) take(row.data(), row.size());
  } else if (const auto found = sink.tensors.find(name); found != sink.tensors.end()) {
    const Values& v = found->second;
    for (std::int64_t t = 0; t < v.rows(); ++t) {
      take(v.data.data() + static_cast<std::size_t>(t) * v.width(), v.width());
    }
  }
  return out;
}

// Names of the tensors that differ, in the order of the layers; the logits last. Numbers may
// differ by `tolerance` times the tensor's largest.
std::vector<std::string> differences(const MemorySink& got, const Oracle::Result& want,
                                     double tolerance) {
  std::vector<std::string> out;
  for (const auto& [name, choices] : want.choices) {
    auto theirs = choices_of(got, name);
    auto ours = choices;
    if (name.ends_with("topk")) {  // sets
      for (auto* all : {&theirs, &ours}) {
        for (auto& row : *all) std::sort(row.begin(), row.end());
      }
    }
    if (theirs != ours) out.push_back(name);
  }
  for (const auto& [name, rows] : want.rows) {
    const auto found = got.tensors.find(name);
    if (found == got.tensors.end() ||
        found->second.data.size() != rows.size() * rows.front().size()) {
      out.push_back(name + " is absent or misshapen");
      continue;
    }
    double most = 0.0;
    double worst = 0.0;
    std::size_t at = 0;
    for (const Row& row : rows) {
      for (const double v : row) {
        most = std::max(most, std::abs(v));
        worst = std::max(worst, std::abs(v - found->second.data[at++]));
      }
    }
    if (!(worst <= tolerance * most)) out.push_back(name);
  }
  return out;
}

struct Variant {
  const char* name;
  bool fp8;         // weights, as the file has them; else FP32
  bool quantisers;  // of activations, latents and index keys, as the release runs
  Json changes;
};

std::ostream& operator<<(std::ostream& out, const Variant& v) { return out << v.name; }

std::vector<Variant> variants() {
  // No two widths alike, groups of experts in which the two best are not all, and a number of
  // tokens to attend to that divides nothing.
  const Json uneven = {
      {"num_attention_heads", 6}, {"num_key_value_heads", 6}, {"qk_nope_head_dim", 40},
      {"qk_rope_head_dim", 16},   {"v_head_dim", 56},         {"kv_lora_rank", 96},
      {"q_lora_rank", 72},        {"index_n_heads", 5},       {"index_head_dim", 32},
      {"index_topk", 7},          {"n_routed_experts", 20},   {"n_group", 5},
      {"topk_group", 2},          {"num_experts_per_tok", 3}, {"first_k_dense_replace", 2}};
  return {{"Even", false, false, Json::object()},
          {"Uneven", false, false, uneven},
          {"Fp8Weights", true, false, Json::object()},
          {"Fp8", true, true, {{"kv_lora_rank", 256}}}};
}

class V32Oracle : public ::testing::TestWithParam<Variant> {
 protected:
  V32Oracle() : tokens_(some_tokens(60, 512)) {
    Json json = Json::parse(base::content_of(config_path("tiny-v3.2.json")));
    json.update(GetParam().changes);
    if (!GetParam().fp8) {
      json.erase("quantization_config");
      json["torch_dtype"] = "float32";
    }
    first_routed_ = json.at("first_k_dense_replace");
    write_random_checkpoint(folder_.write("edited.json", json.dump(2)), 5,
                            {folder_ / "checkpoint", 2'000'000'000, false});
    if (!GetParam().quantisers) {
      options_.kv_quantisation = Switch::kOff;
      options_.index_quantisation = Switch::kOff;
      options_.activation_quantisation = Switch::kOff;
    }
  }

  void run(const std::vector<std::int64_t>& steps, MemorySink& sink) const {
    const LoadedCheckpoint loaded = load_checkpoint(folder_ / "checkpoint");
    const auto model = make_model(loaded, options_);
    run_steps(*model, tokens_, steps, &sink);
  }

  [[nodiscard]] Oracle::Result expected(Mistake mistake = Mistake::kNone) const {
    return Oracle(folder_ / "checkpoint", GetParam().quantisers, mistake).run(tokens_);
  }

  base::ScratchFolder folder_;
  std::vector<std::int32_t> tokens_;
  ReferenceOptions options_;
  int first_routed_ = 0;
};

TEST_P(V32Oracle, TheReferenceEqualsHeadByHeadAttention) {
  const Oracle::Result want = expected();
  for (const std::vector<std::int64_t>& steps :
       {std::vector<std::int64_t>{60}, {41, 1}, {1}, {5, 17, 30}}) {
    MemorySink sink;
    run(steps, sink);
    EXPECT_THAT(differences(sink, want, 1e-9), ::testing::IsEmpty())
        << "first step of " << steps.front();
  }
}

TEST_P(V32Oracle, EveryMistakeShows) {
  struct Case {
    Mistake mistake;
    std::string where;  // it has to show, at the latest
  };
  const std::string routed = "layers." + std::to_string(first_routed_) + ".ffn.";
  std::vector<Case> cases = {
      {Mistake::kInterleavedIndexRotary, "layers.0.attn.indexer.topk"},
      {Mistake::kIndexRotaryOnLastChannels, "layers.0.attn.indexer.topk"},
      {Mistake::kIndexKeyWithoutBias, "layers.0.attn.indexer.topk"},
      {Mistake::kScaleWithoutMscale, "layers.0.attn.out"},
      {Mistake::kNoYarn, "layers.0.attn.out"},
      {Mistake::kMainRotaryInHalves, "layers.0.attn.out"},
      {Mistake::kRotaryChannelsFirst, "layers.0.attn.out"},
      {Mistake::kValuesBeforeKeys, "layers.0.attn.out"},
      {Mistake::kGroupsIgnored, routed + "gate.indices"},
      {Mistake::kGroupsByTheirBest, routed + "gate.indices"},
      {Mistake::kBiasInWeights, routed + "gate.weights"},
      {Mistake::kNoRoutedScale, routed + "gate.weights"},
  };
  if (GetParam().quantisers) {
    cases = {{Mistake::kNoHadamard, "layers.0.attn.indexer.topk"},
             {Mistake::kRotaryKeysInFp8, "layers.0.attn.out"},
             {Mistake::kRoutingWeightBeforeDown, routed + "out"}};
  }
  MemorySink sink;
  run({60}, sink);
  for (const Case& c : cases) {
    const auto found = differences(sink, expected(c.mistake), 1e-4);
    EXPECT_THAT(found, ::testing::IsSupersetOf({c.where, std::string("logits")}))
        << "mistake " << static_cast<int>(c.mistake);
  }
}

INSTANTIATE_TEST_SUITE_P(Variants, V32Oracle, ::testing::ValuesIn(variants()),
                         [](const auto& test) { return std::string(test.param.name); });

TEST(V32OracleItself, FrequenciesAreThePublishedOnes) {
  const std::vector<float> f = frequencies(64, {10'000.0, 40.0, 4096.0, 32.0, 1.0});
  for (const auto& [i, want] : std::map<std::size_t, double>{{0, 1.0},
                                                             {1, 7.498942093e-01},
                                                             {10, 5.623413252e-02},
                                                             {15, 8.334508951e-03},
                                                             {16, 5.5e-03},
                                                             {20, 7.905694150e-04},
                                                             {24, 2.5e-05},
                                                             {25, 1.874735523e-05},
                                                             {31, 3.333803580e-06}}) {
    EXPECT_NEAR(f.at(i) / want, 1.0, 1e-6) << i;
  }
}

}  // namespace
}  // namespace foretoken::reference::testing
