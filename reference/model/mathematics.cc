#include "reference/model/mathematics.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <string>

#include "sim/base/config.h"

namespace foretoken::reference {

namespace {

using base::ConfigReader;
using base::Need;
using base::UnitKind;
using workloads::Family;

void read_rope_scaling(ConfigReader& v, Mathematics& m, double& mscale) {
  base::group(v, {"rope_scaling", "", Need::kOptional}, [&] {
    std::string type = "yarn";
    v.text({"type", "", Need::kOptional}, type);
    v.text({"rope_type", "", Need::kOptional}, type);
    v.check(type == "yarn", "type",
            fmt::format("rope_scaling of type '{}' is not known; known: yarn", type));
    std::int64_t positions = 0;
    v.real({"factor", ""}, m.yarn.factor, UnitKind::kNumber, {.min = 1.0, .open_low = false});
    v.integer({"original_max_position_embeddings", ""}, positions,
              {.min = 1, .max = std::int64_t{1} << 40});
    v.real({"beta_fast", "", Need::kOptional}, m.yarn.beta_fast, UnitKind::kNumber, {});
    v.real({"beta_slow", "", Need::kOptional}, m.yarn.beta_slow, UnitKind::kNumber, {});
    v.real({"mscale", "", Need::kOptional}, mscale, UnitKind::kNumber, base::kNonNegative);
    m.yarn.original_positions = static_cast<double>(positions);
  });
}

void read_quantisation(ConfigReader& v, Mathematics& m) {
  m.quantised = base::group(v, {"quantization_config", "", Need::kOptional}, [&] {
    std::string format = "e4m3";
    v.text({"fmt", "", Need::kOptional}, format);
    v.check(format == "e4m3", "fmt", fmt::format("'fmt' '{}' is not known; known: e4m3", format));
    std::string scales;
    v.text({"scale_fmt", "", Need::kOptional}, scales);
    v.check(scales.empty() || scales == "ue8m0", "scale_fmt",
            fmt::format("'scale_fmt' '{}' is not known; known: ue8m0", scales));
    m.power_of_two_scales = scales == "ue8m0";
  });
}

}  // namespace

Mathematics read_mathematics(const base::ConfigFile& file, const workloads::ModelSpec& model) {
  static constexpr std::array<std::string_view, 3> kScorings = {"sqrtsoftplus", "sigmoid",
                                                                "softmax"};
  Mathematics m;
  ConfigReader v(file);
  v.ignore_unknown_keys();
  const base::RealRange eps{.min = 0.0, .max = 1.0, .open_low = false};
  v.real({"rms_norm_eps", "", Need::kOptional}, m.rms_eps, UnitKind::kNumber, eps);
  v.real({"rope_theta", "", Need::kOptional}, m.rope_theta, UnitKind::kNumber,
         {.min = 1.0, .max = 1e12});
  double mscale = 1.0;
  read_rope_scaling(v, m, mscale);
  read_quantisation(v, m);

  RouterShape& r = m.router;
  r.experts = model.experts;
  r.topk = model.experts_per_token;
  const bool v4 = model.family == Family::kDeepseekV4;
  r.scoring = v4 ? Scoring::kSqrtSoftplus : Scoring::kSigmoid;
  base::choice(v, {"scoring_func", "", Need::kOptional}, r.scoring, kScorings);
  v.boolean({"norm_topk_prob", "", Need::kOptional}, r.normalise);
  v.real({"routed_scaling_factor", "", Need::kOptional}, r.scale, UnitKind::kNumber,
         {.min = 0.0, .max = 1e6});
  if (v4) {
    v.real({"compress_rope_theta", "", Need::kOptional}, m.compress_theta, UnitKind::kNumber,
           {.min = 1.0, .max = 1e12});
    v.real({"swiglu_limit", "", Need::kOptional}, m.swiglu_limit, UnitKind::kNumber,
           base::kNonNegative);
    v.real({"hc_eps", "", Need::kOptional}, m.hyper_eps, UnitKind::kNumber, eps);
    m.softmax_scale = 1.0 / std::sqrt(static_cast<double>(model.head_dim));
  } else {
    v.integer({"n_group", "", Need::kOptional}, r.groups, {.min = 1, .max = 1 << 20});
    v.integer({"topk_group", "", Need::kOptional}, r.kept_groups, {.min = 1, .max = 1 << 20});
    v.check(r.experts % r.groups == 0, "n_group",
            fmt::format("'n_group' {} does not divide 'n_routed_experts' {}", r.groups, r.experts));
    v.check(r.kept_groups <= r.groups, "topk_group", "'topk_group' exceeds 'n_group'");
    v.check(r.kept_groups * (r.experts / r.groups) >= r.topk, "topk_group",
            "'topk_group' groups hold fewer experts than 'num_experts_per_tok'");
    // YaRN's attention temperature enters V3.2's softmax scale squared (facts 5).
    const double temperature =
        m.yarn.factor > 1.0 ? 0.1 * mscale * std::log(m.yarn.factor) + 1.0 : 1.0;
    m.softmax_scale =
        temperature * temperature / std::sqrt(static_cast<double>(model.nope_dim + model.rope_dim));
  }
  v.check(model.rope_dim % 2 == 0, "qk_rope_head_dim", "'qk_rope_head_dim' has to be even");
  const auto indexed = [](const workloads::LayerSpec& l) {
    return l.index != workloads::IndexMode::kNone;
  };
  if (std::ranges::any_of(model.layers, indexed) ||
      std::ranges::any_of(model.draft_layers, indexed)) {
    v.check(model.index_dim >= model.rope_dim, "index_head_dim",
            "'index_head_dim' is smaller than 'qk_rope_head_dim'");
    v.check((model.index_dim & (model.index_dim - 1)) == 0, "index_head_dim",
            fmt::format("'index_head_dim' {} is no power of two, which its Hadamard rotation needs",
                        model.index_dim));
  }
  v.finish();
  return m;
}

}  // namespace foretoken::reference
