// Selection of the k largest scores of each row as tile programs: radix selection over rows that a
// core holds or that it reads part by part, and rows split over cores with a merge after it.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "hwmodels/kernels/sequences.h"
#include "hwmodels/tile/core_rates.h"
#include "hwmodels/tile/machine.h"
#include "sim/base/config.h"

namespace foretoken::hwmodels::kernels {

// One row of scores per query, of which it sees the first (visible_entries).
struct TopKProblem {
  std::span<const SequenceGroup> sequences{};
  std::int64_t ratio = 4;  // tokens of an entry
  std::int64_t k = 1024;
  std::int64_t columns = 0;  // of the scores; 0: as many as the longest row sees
  workloads::Dtype score = workloads::Dtype::kBf16;
};

// Schedule of the selection. A row of no more than k scores is taken whole; one of up to `held` is
// read once and kept; a longer one is read once for each digit counted and once more to filter what
// passes into a list, from which the rest is selected.
struct TopKDesign {
  std::string name{};
  std::int64_t tile = 8192;  // scores of one load
  std::int64_t stages = 3;
  std::int64_t held = 32768;
  std::int64_t digit_bits = 8;      // of a pass over what is in the core
  std::int64_t row_digits = 2;      // counted while a row is read in parts
  std::int64_t row_digit_bits = 8;  // each
  std::int64_t spare = 2048;        // scores the list holds beyond k
  // Rows of more than k and up to so many scores are selected by comparing each score with all
  // others; 0: never.
  std::int64_t rank_up_to = 0;
  std::int64_t parts = 16;        // of a row at most, each on its own core; as many as fill them
  std::int64_t min_part = 16384;  // scores of a part at least
};
void describe(base::ConfigVisitor& v, TopKDesign& design);
TopKDesign default_top_k_design(const tile::CoreRates& chip);

// Mistakes made on purpose, for tests of the verification.
enum class TopKFault : std::uint8_t {
  kNone,
  kWideScores,  // selects by FP32 scores where BF16 ones are served
  kLostPart,    // the merge leaves the last part of a row out
};

// Tensors: "scores" [query, columns], "selected" [query x k, 1]: entry numbers in order, -1 where
// a row has fewer; of rows that are split, "candidates" [row x part x k, 2]: numbers and scores.
class TopKKernel final : public tile::Kernel {
 public:
  TopKKernel(const TopKProblem& problem, const TopKDesign& design, const tile::CoreRates& chip);

  [[nodiscard]] std::string_view name() const override { return "top_k"; }
  [[nodiscard]] tile::Launch launch() const override;
  void classes(tile::FunctionRef<void(const tile::WorkClass&)> visit) const override;
  void item(tile::Machine& machine, std::int64_t index) const override;

  [[nodiscard]] std::int64_t rows() const { return rows_; }
  [[nodiscard]] std::int64_t columns() const { return columns_; }
  // Rows of the candidates; 0: no row is split.
  [[nodiscard]] std::int64_t candidates() const { return candidates_; }
  [[nodiscard]] std::int64_t parts(const SequenceGroup& g) const;
  [[nodiscard]] const TopKProblem& problem() const { return problem_; }
  [[nodiscard]] const TopKDesign& design() const { return *design_; }

 private:
  struct Place {
    std::int64_t row = 0;
    std::int64_t first = 0;  // score
    std::int64_t count = 0;
    std::int64_t candidates = -1;  // row of the list; negative: the row is not split
  };
  [[nodiscard]] Place place(std::int64_t index) const;
  [[nodiscard]] std::int64_t seen(const SequenceGroup& g, std::int64_t query) const;

  TopKProblem problem_;
  const TopKDesign* design_;
  double cache_capacity_ = 0.0;
  std::int64_t items_ = 0;
  std::int64_t rows_ = 0;
  std::int64_t columns_ = 0;
  std::int64_t candidates_ = 0;
  std::int64_t most_parts_ = 1;
  double score_bytes_ = 0.0;
};

// Selects among the candidates of rows that were split. One item per such row; none is launched
// when candidates() of `first` is 0. `first` must outlive it.
class TopKMergeKernel final : public tile::Kernel {
 public:
  explicit TopKMergeKernel(const TopKKernel& first, TopKFault fault = TopKFault::kNone);

  [[nodiscard]] std::string_view name() const override { return "top_k_merge"; }
  [[nodiscard]] tile::Launch launch() const override;
  void classes(tile::FunctionRef<void(const tile::WorkClass&)> visit) const override;
  void item(tile::Machine& machine, std::int64_t index) const override;

 private:
  const TopKKernel* first_;
  TopKFault fault_;
  std::int64_t items_ = 0;
};

// Calls visit for each launch the selection takes.
template <class Visit>
void for_each_launch(const TopKKernel& kernel, Visit&& visit) {
  visit(static_cast<const tile::Kernel&>(kernel));
  if (kernel.candidates() > 0) visit(static_cast<const tile::Kernel&>(TopKMergeKernel(kernel)));
}

}  // namespace foretoken::hwmodels::kernels
