// Expert choice as a tile program: scores from the router's logits, the experts with the largest
// biased scores (or those a table gives to the token), normalised weights (facts 3.9; groups of
// V3.2: facts 5).
#pragma once

#include <cstdint>
#include <string>

#include "hwmodels/tile/core_rates.h"
#include "hwmodels/tile/machine.h"
#include "reference/ops/router.h"
#include "sim/base/config.h"

namespace foretoken::hwmodels::kernels {

struct RouteProblem {
  std::int64_t tokens = 0;
  reference::RouterShape router{.experts = 256, .topk = 6};
  bool bias = true;        // joins the selection
  std::int64_t vocab = 0;  // rows of the table of experts; 0: experts are selected
};

// Schedule of expert choice.
struct RouteDesign {
  std::string name{};
  std::int64_t rows = 16;   // tokens of one iteration at most; fewer while cores would idle
  std::int64_t stages = 2;  // slots of the logits
};
void describe(base::ConfigVisitor& v, RouteDesign& design);

// Mistakes made on purpose, for tests of the verification.
enum class RouteFault : std::uint8_t {
  kNone,
  kBiasInWeights,  // weights of the biased scores
  kGroupMaximum,   // groups ranked by their best score instead of their two best
  kNotNormalised,
};

// Tensors: "logits" [token, expert] FP32, "bias" [1, expert] or, with a table, "token_ids" [token,
// 1] and "table" [vocab, topk]; "experts" and "weights" [token, topk], best first.
class RouteKernel final : public tile::Kernel {
 public:
  RouteKernel(const RouteProblem& problem, const RouteDesign& design, const tile::CoreRates& chip,
              RouteFault fault = RouteFault::kNone);

  [[nodiscard]] std::string_view name() const override { return "route"; }
  [[nodiscard]] tile::Launch launch() const override;
  void classes(tile::FunctionRef<void(const tile::WorkClass&)> visit) const override;
  void item(tile::Machine& machine, std::int64_t index) const override;

 private:
  RouteProblem problem_;
  const RouteDesign* design_;
  RouteFault fault_;
  std::int64_t rows_ = 1;   // of an iteration
  std::int64_t tiles_ = 0;  // iterations of all items
  std::int64_t items_ = 0;
};

}  // namespace foretoken::hwmodels::kernels
