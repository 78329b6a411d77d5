#include "reference/study/precision_study.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <span>

#include "reference/formats/block_formats.h"
#include "reference/ops/selection.h"
#include "sim/base/error.h"
#include "sim/base/progress.h"

namespace foretoken::reference {

namespace {

using workloads::IndexMode;
using workloads::LayerSpec;

constexpr std::int64_t kQueries = 32;  // looked at before each context length
constexpr std::int64_t kStep = 1024;   // tokens a step: bounds memory, changes nothing

std::vector<std::int64_t> context_marks(std::int64_t tokens) {
  std::vector<std::int64_t> marks;
  for (std::int64_t c = 1024; c < tokens; c *= 2) marks.push_back(c);
  marks.push_back(tokens);
  return marks;
}

// Keeps the rows of the positions before the marks, and whole key lists.
class StudySink final : public Sink {
 public:
  StudySink(std::vector<std::int64_t> marks, std::vector<std::string> sampled,
            std::vector<std::string> whole)
      : marks_(std::move(marks)), sampled_(std::move(sampled)), whole_(std::move(whole)) {}

  [[nodiscard]] bool wants(std::string_view name) const override {
    return ends(name, sampled_) || ends(name, whole_);
  }
  void rows(std::string_view name, std::span<const std::int64_t> row,
            std::span<const float> data) override {
    take(name, row, data);
  }
  void rows(std::string_view name, std::span<const std::int64_t> row,
            std::span<const double> data) override {
    take(name, row, data);
  }
  void rows(std::string_view /*name*/, std::span<const std::int64_t> /*row*/,
            std::span<const std::int32_t> /*data*/) override {}
  void ragged_row(std::string_view /*name*/, std::span<const float> /*data*/) override {}
  void ragged_row(std::string_view /*name*/, std::span<const double> /*data*/) override {}
  void ragged_row(std::string_view /*name*/, std::span<const std::int32_t> /*data*/) override {}

  // Row of a position, or the empty span when it was not kept.
  [[nodiscard]] std::span<const double> at(const std::string& name, std::int64_t position) const {
    const auto tensor = kept_.find(name);
    if (tensor == kept_.end()) return {};
    const auto row = tensor->second.find(position);
    if (row == tensor->second.end()) return {};
    return row->second;
  }
  [[nodiscard]] const std::vector<double>& whole(const std::string& name) const {
    return all_.at(name);
  }

 private:
  static bool ends(std::string_view name, const std::vector<std::string>& endings) {
    return std::any_of(endings.begin(), endings.end(), [&](const std::string& e) {
      return name.size() >= e.size() && name.substr(name.size() - e.size()) == e;
    });
  }
  [[nodiscard]] bool sampled(std::int64_t position) const {
    return std::any_of(marks_.begin(), marks_.end(), [&](std::int64_t mark) {
      return position < mark && position >= mark - kQueries;
    });
  }
  template <class V>
  void take(std::string_view name, std::span<const std::int64_t> row, std::span<const V> data) {
    const std::string key(name);
    if (ends(name, whole_)) {
      all_[key].insert(all_[key].end(), data.begin(), data.end());
      return;
    }
    std::size_t width = 1;
    for (const std::int64_t n : row) width *= static_cast<std::size_t>(n);
    std::int64_t& position = next_[key];
    for (std::size_t i = 0; i < data.size(); i += width, ++position) {
      if (!sampled(position)) continue;
      const auto from = data.begin() + static_cast<std::ptrdiff_t>(i);
      kept_[key][position].assign(from, from + static_cast<std::ptrdiff_t>(width));
    }
  }

  std::vector<std::int64_t> marks_;
  std::vector<std::string> sampled_;
  std::vector<std::string> whole_;
  std::map<std::string, std::int64_t> next_;
  std::map<std::string, std::map<std::int64_t, std::vector<double>>> kept_;
  std::map<std::string, std::vector<double>> all_;
};

void run_prompt(const LoadedCheckpoint& loaded, const std::vector<std::int32_t>& tokens,
                const ReferenceOptions& options, StudySink& sink, const std::string& label) {
  const auto model =
      make_reference({loaded.checkpoint, loaded.model, loaded.mathematics, options, false});
  const std::span<const std::int32_t> all(tokens);
  const std::size_t steps = (tokens.size() + kStep - 1) / kStep;
  base::Progress progress(label, steps);
  for (std::size_t at = 0; at < tokens.size(); at += kStep) {
    RunRequest request;
    request.tokens = all.subspan(at, std::min<std::size_t>(kStep, tokens.size() - at));
    request.sink = &sink;
    model->run(request);
    progress.advance();
  }
}

struct Ratio {
  double error = 0.0;
  double norm = 0.0;
  void add(std::span<const double> want, std::span<const double> got) {
    for (std::size_t i = 0; i < want.size(); ++i) {
      error += (want[i] - got[i]) * (want[i] - got[i]);
      norm += want[i] * want[i];
    }
  }
  [[nodiscard]] double value() const { return norm > 0.0 ? std::sqrt(error / norm) : 0.0; }
};

// Variants against a baseline, by the relative error of a layer output and of the logits.
StudyResult compare_runs(const LoadedCheckpoint& loaded, const std::vector<std::int32_t>& tokens,
                         const ReferenceOptions& baseline, const std::string& output,
                         const std::vector<std::pair<std::string, ReferenceOptions>>& variants) {
  const std::vector<std::int64_t> marks = context_marks(static_cast<std::int64_t>(tokens.size()));
  StudyResult result;
  result.measures = {output + ", relative error", "logits, relative error", "same likeliest token"};
  StudySink truth(marks, {output, "logits"}, {});
  run_prompt(loaded, tokens, baseline, truth, "baseline");
  for (const auto& [name, options] : variants) {
    StudySink sink(marks, {output, "logits"}, {});
    run_prompt(loaded, tokens, options, sink, name);
    for (const std::int64_t mark : marks) {
      StudyRow row{name, mark, 0, {}};
      Ratio layers;
      Ratio logits;
      double same = 0.0;
      for (std::int64_t p = std::max<std::int64_t>(0, mark - kQueries); p < mark; ++p) {
        for (std::size_t l = 0; l < loaded.model.layers.size(); ++l) {
          const std::string tensor = fmt::format("layers.{}.{}", l, output);
          layers.add(truth.at(tensor, p), sink.at(tensor, p));
        }
        const auto want = truth.at("logits", p);
        const auto got = sink.at("logits", p);
        logits.add(want, got);
        same += std::max_element(want.begin(), want.end()) - want.begin() ==
                        std::max_element(got.begin(), got.end()) - got.begin()
                    ? 1.0
                    : 0.0;
        ++row.queries;
      }
      row.values = {layers.value(), logits.value(), same / static_cast<double>(row.queries)};
      result.rows.push_back(std::move(row));
    }
  }
  result.notes.push_back(
      fmt::format("Relative error: L2 norm of the difference over L2 norm of the baseline, over {} "
                  "tokens before the context length{}.",
                  kQueries, output == "logits" ? "" : " and, of layer outputs, over all layers"));
  return result;
}

ReferenceOptions without_quantisers(ReferenceOptions options) {
  options.kv_quantisation = Switch::kOff;
  options.index_quantisation = Switch::kOff;
  options.activation_quantisation = Switch::kOff;
  options.bf16_index_scores = false;
  return options;
}

StudyResult index_study(const LoadedCheckpoint& loaded, const std::vector<std::int32_t>& tokens,
                        const ReferenceOptions& given) {
  const workloads::ModelSpec& m = loaded.model;
  const bool v4 = m.family == workloads::Family::kDeepseekV4;
  const std::vector<std::int64_t> marks = context_marks(static_cast<std::int64_t>(tokens.size()));
  ReferenceOptions options = given;
  options.index_quantisation = Switch::kOff;
  options.bf16_index_scores = false;
  StudySink sink(marks, {".attn.indexer.q", ".attn.indexer.weights"},
                 {".attn.indexer.compressor.kv"});
  run_prompt(loaded, tokens, options, sink, "index-precision");

  const std::string narrow = v4 ? "FP4" : "FP8";
  struct Variant {
    std::string name;
    bool keys;
    bool queries;
    bool scores;
  };
  const std::vector<Variant> variants = {
      {"BF16 scores", false, false, true},
      {narrow + " keys", true, false, false},
      {narrow + " queries and keys", true, true, false},
      {narrow + " queries and keys, BF16 scores", true, true, true}};
  const Numerics<double, double> exact{};
  const auto quantise = [&](std::span<double> row) {
    if (v4) {
      fake_quantise_e2m1(row, 32, kFp4Index);
    } else {
      fake_quantise_e4m3(row, 128, kFp8Activation);
    }
  };

  StudyResult result;
  result.measures = {"recall, mean", "recall, worst query", "selected of visible"};
  std::map<std::pair<std::string, std::int64_t>, StudyRow> rows;
  int layers = 0;
  for (std::size_t l = 0; l < m.layers.size(); ++l) {
    const LayerSpec& layer = m.layers[l];
    if (layer.index != IndexMode::kAll) continue;
    ++layers;
    const std::string p = fmt::format("layers.{}.attn.indexer.", l);
    const std::vector<double>& keys = sink.whole(p + "compressor.kv");
    std::vector<double> narrow_keys = keys;
    const auto width = static_cast<std::size_t>(m.index_dim);
    for (std::size_t i = 0; i < narrow_keys.size(); i += width) {
      quantise(std::span<double>(narrow_keys).subspan(i, width));
    }
    for (const std::int64_t mark : marks) {
      for (std::int64_t t = std::max<std::int64_t>(0, mark - kQueries); t < mark; ++t) {
        const std::int64_t visible = (t + 1) / layer.ratio;
        if (visible <= m.index_topk) continue;  // everything is selected
        const std::span<const double> q = sink.at(p + "q", t);
        const std::span<const double> weights = sink.at(p + "weights", t);
        std::vector<double> narrow_q(q.begin(), q.end());
        for (std::size_t i = 0; i < narrow_q.size(); i += width) {
          quantise(std::span<double>(narrow_q).subspan(i, width));
        }
        std::vector<double> scores(static_cast<std::size_t>(visible));
        std::vector<std::int32_t> truth;
        index_scores(exact, q.data(), weights.data(), m.index_heads, m.index_dim, keys.data(),
                     visible, false, scores.data());
        // "FP32": rounded once, so that ties are those of an exact FP32 kernel.
        for (double& s : scores) s = static_cast<double>(static_cast<float>(s));
        top_k(scores.data(), visible, m.index_topk, truth);
        std::sort(truth.begin(), truth.end());
        for (const Variant& v : variants) {
          std::vector<std::int32_t> chosen;
          index_scores(exact, v.queries ? narrow_q.data() : q.data(), weights.data(), m.index_heads,
                       m.index_dim, v.keys ? narrow_keys.data() : keys.data(), visible, v.scores,
                       scores.data());
          top_k(scores.data(), visible, m.index_topk, chosen);
          std::sort(chosen.begin(), chosen.end());
          std::vector<std::int32_t> both;
          std::set_intersection(truth.begin(), truth.end(), chosen.begin(), chosen.end(),
                                std::back_inserter(both));
          const double recall =
              static_cast<double>(both.size()) / static_cast<double>(truth.size());
          StudyRow& row = rows[{v.name, mark}];
          if (row.values.empty()) row = {v.name, mark, 0, {0.0, 1.0, 0.0}};
          ++row.queries;
          row.values[0] += recall;
          row.values[1] = std::min(row.values[1], recall);
          row.values[2] += static_cast<double>(m.index_topk) / static_cast<double>(visible);
        }
      }
    }
  }
  if (layers == 0) throw base::UnsupportedError(m.name + " has no layer with an indexer");
  if (rows.empty()) {
    throw base::UnsupportedError(
        fmt::format("{}: {} tokens are too few: no query sees more than the {} entries it selects",
                    m.name, tokens.size(), m.index_topk));
  }
  for (const Variant& v : variants) {
    for (const std::int64_t mark : marks) {
      const auto found = rows.find({v.name, mark});
      if (found == rows.end()) continue;
      StudyRow row = found->second;
      row.values[0] /= static_cast<double>(row.queries);
      row.values[2] /= static_cast<double>(row.queries);
      result.rows.push_back(std::move(row));
    }
  }
  result.notes.push_back(fmt::format(
      "Recall: share of the top-{} of FP32 scores from unquantised queries and keys (after their "
      "Hadamard rotation) that the variant selects too; queries are the {} tokens before the "
      "context length in each of {} layers. Contexts where everything is selected are left out.",
      m.index_topk, kQueries, layers));
  return result;
}

}  // namespace

StudyResult run_study(Study study, const LoadedCheckpoint& loaded,
                      const std::vector<std::int32_t>& tokens, const ReferenceOptions& options) {
  StudyResult result;
  const ReferenceOptions plain = without_quantisers(options);
  ReferenceOptions changed = plain;
  std::vector<std::pair<std::string, ReferenceOptions>> variants;
  switch (study) {
    case Study::kIndex:
      result = index_study(loaded, tokens, options);
      result.title = "Index precision: which entries the top-k keeps";
      break;
    case Study::kKv:
      changed.kv_quantisation = Switch::kOn;
      variants.emplace_back("FP8 cache entries", changed);
      changed.index_quantisation = Switch::kOn;
      variants.emplace_back("FP8 cache entries, FP4 index", changed);
      changed.bf16_index_scores = true;
      variants.emplace_back("FP8 cache entries, FP4 index, BF16 scores", changed);
      result = compare_runs(loaded, tokens, plain, "attn.out", variants);
      result.title = "Cache precision: attention with FP8 entries";
      break;
    case Study::kExperts:
      if (!loaded.mathematics.quantised) {
        for (const auto& [name, weights] :
             {std::pair{"FP8 experts", ExpertWeights::kFp8},
              std::pair{"MXFP4 experts, scale rounded up", ExpertWeights::kMxfp4},
              std::pair{"MXFP4 experts, MX scale rule", ExpertWeights::kMxfp4Floor}}) {
          changed.expert_weights = weights;
          variants.emplace_back(name, changed);
        }
        changed.expert_weights = ExpertWeights::kMxfp4;
        changed.activation_quantisation = Switch::kOn;
        variants.emplace_back("MXFP4 experts, FP8 inputs of every product", changed);
      } else {
        changed.activation_quantisation = Switch::kOn;
        variants.emplace_back("FP8 inputs of every product", changed);
      }
      result = compare_runs(loaded, tokens, plain, "ffn.out", variants);
      result.title = "Expert precision: FFN halves under quantised weights and inputs";
      if (loaded.mathematics.quantised) {
        result.notes.push_back("The checkpoint's weights are quantised: they are the baseline.");
      }
      break;
  }
  return result;
}

}  // namespace foretoken::reference
