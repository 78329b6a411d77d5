// The rows of an expert layer around its grouped products: where each token's choices go, the way
// there with quantisation, and the weighted sum on the way back.
#pragma once

#include <cstdint>
#include <string>

#include "hwmodels/kernels/row.h"
#include "hwmodels/tile/core_rates.h"
#include "hwmodels/tile/machine.h"
#include "sim/base/config.h"

namespace foretoken::hwmodels::kernels {

struct MoeRowsDesign {
  std::string name{};
  std::int64_t pairs = 64;          // token-expert pairs counted together, at most
  std::int64_t single_pairs = 128;  // up to so many, one core orders all of them in one launch
  // Of the moves; `rows` tokens of one iteration.
  RowDesign rows{.columns = 2048, .slots = 4};
};
void describe(base::ConfigVisitor& v, MoeRowsDesign& design);

inline constexpr std::int64_t kMoeChoices = 16;  // experts of a token, at most

struct MoeRowsProblem {
  std::int64_t tokens = 0;
  std::int64_t choices = 0;       // experts of a token
  std::int64_t first_expert = 0;  // of the experts held here
  std::int64_t experts = 0;       // held here; other choices are left out
  std::int64_t hidden = 0;
  std::int64_t capacity = 0;  // rows of the ordered tensor; 0: tokens * choices
  // Places of an expert begin at first_place + stride times its number; 0: one expert's after the
  // other's.
  std::int64_t stride = 0;
  std::int64_t first_place = 0;
  workloads::Dtype input = workloads::Dtype::kBf16;
  workloads::Dtype moved = workloads::Dtype::kFp8;  // FP8: quantised 1 x 128 on the way
  bool weighted = false;  // the sum multiplies by router weights (else the activation did)
  bool shared = false;    // and adds the shared expert's rows

  [[nodiscard]] std::int64_t pairs() const { return tokens * choices; }
  [[nodiscard]] std::int64_t rows() const { return capacity > 0 ? capacity : pairs(); }
};

// Mistakes made on purpose, for tests of the verifier.
enum class MoeRowsFault : std::uint8_t {
  kNone,
  kInclusiveOffsets,  // experts' rows begin where they should end
  kScaleFloor,        // the MX rule (made by the quantiser)
  kEarlyLoad,         // rows arrive a stage before their slot is free
  kDropChoice,        // the sum forgets the last choice
};

// Places of pairs in the order of their experts, pairs of one expert in the order of tokens. Counts
// per block of pairs first, unless one core does it all; then places.
class ExpertOrderKernel final : public tile::Kernel {
 public:
  enum class Pass : std::uint8_t { kCount, kPlace };
  ExpertOrderKernel(const MoeRowsProblem& problem, const MoeRowsDesign& design,
                    const tile::CoreRates& chip, Pass pass,
                    MoeRowsFault fault = MoeRowsFault::kNone);

  [[nodiscard]] std::string_view name() const override {
    return pass_ == Pass::kCount ? "expert_count" : "expert_place";
  }
  [[nodiscard]] tile::Launch launch() const override;
  void classes(tile::FunctionRef<void(const tile::WorkClass&)> visit) const override;
  void item(tile::Machine& machine, std::int64_t index) const override;

  // Work items that count; one needs no count pass.
  [[nodiscard]] std::int64_t counters() const { return blocks_.items(); }

 private:
  MoeRowsProblem problem_;
  Pass pass_;
  MoeRowsFault fault_;
  RowBlocks blocks_;
};

// Each token's row, quantised, to the places of its choices.
class PermuteKernel final : public tile::Kernel {
 public:
  PermuteKernel(const MoeRowsProblem& problem, const MoeRowsDesign& design,
                const tile::CoreRates& chip, MoeRowsFault fault = MoeRowsFault::kNone);
  [[nodiscard]] std::string_view name() const override { return "permute"; }
  // A row leaves in so many parts, each a row of tensor "ordered".
  [[nodiscard]] std::int64_t parts() const { return blocks_.parts(); }
  [[nodiscard]] tile::Launch launch() const override;
  void classes(tile::FunctionRef<void(const tile::WorkClass&)> visit) const override;
  void item(tile::Machine& machine, std::int64_t index) const override;

 private:
  MoeRowsProblem problem_;
  std::int64_t slots_;
  MoeRowsFault fault_;
  double room_;
  std::int64_t width_ = 0;  // columns of an item
  RowBlocks blocks_;
};

// The sum of each token's expert rows.
class FinaliseKernel final : public tile::Kernel {
 public:
  FinaliseKernel(const MoeRowsProblem& problem, const MoeRowsDesign& design,
                 const tile::CoreRates& chip, MoeRowsFault fault = MoeRowsFault::kNone);
  [[nodiscard]] std::string_view name() const override { return "finalise"; }
  [[nodiscard]] tile::Launch launch() const override;
  void classes(tile::FunctionRef<void(const tile::WorkClass&)> visit) const override;
  void item(tile::Machine& machine, std::int64_t index) const override;

 private:
  MoeRowsProblem problem_;
  std::int64_t slots_;
  MoeRowsFault fault_;
  double room_;
  std::int64_t width_ = 0;
  RowBlocks blocks_;
};

}  // namespace foretoken::hwmodels::kernels
