// The lightning indexer's scores as a tile program: score[query, entry] = sum over heads of
// weight[query, head] * relu(q[query, head] . key[entry]), keys in pages (facts 3.8). One program
// serves decode (few queries of a sequence, its entries split over cores) and prefill (blocks of
// queries, causal visibility of entries).
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "hwmodels/kernels/sequences.h"
#include "hwmodels/tile/core_rates.h"
#include "hwmodels/tile/machine.h"
#include "sim/base/config.h"

namespace foretoken::hwmodels::kernels {

struct IndexLogitsProblem {
  std::span<const SequenceGroup> sequences{};
  std::int64_t heads = 64;
  std::int64_t width = 128;
  std::int64_t ratio = 4;                             // tokens of an entry
  std::int64_t page = 64;                             // entries of a page
  workloads::Dtype key = workloads::Dtype::kFp4;      // as cached
  workloads::Dtype compute = workloads::Dtype::kFp4;  // of the product, and the queries' format
  workloads::Dtype score = workloads::Dtype::kBf16;
  bool keys_in_cache = false;  // a benchmark that repeats itself; else keys come from memory
  // FP8 keys have one FP32 scale an entry, which joins the score; FP8 queries' scales are part of
  // the head weights, as the public kernel takes them.
};

// Schedule of the scores.
struct IndexLogitsDesign {
  std::string name{};
  std::int64_t block_queries = 2;   // of one sequence that share what is read of the keys
  std::int64_t tile_entries = 256;  // of one iteration
  std::int64_t stages = 3;          // slots of the key buffer
  std::int64_t accumulators = 1;    // slots of products in the matrix unit
  std::int64_t score_slots = 1;     // slots of products in the vector units
  std::int64_t split = 64;          // parts of a block's entries at most; as many as fill the cores
  bool keys_are_rows = true;        // of the matrix instruction; else the queries' heads are
  bool persistent = false;
};
void describe(base::ConfigVisitor& v, IndexLogitsDesign& design);
// A design that suits the chip's kind of core, for few queries of a sequence or for prefill.
IndexLogitsDesign default_index_logits_design(const tile::CoreRates& chip, bool prefill = false);

// Mistakes made on purpose, for tests of the verification.
enum class IndexLogitsFault : std::uint8_t {
  kNone,
  kNoRelu,       // the products' negative parts count too
  kCausalBound,  // a query sees the entry that its own, incomplete block will become
  kEarlyReuse,   // keys are loaded into a slot that is still to be read
};

// Tensors: "queries" [query x head, width], "head_weights" [query x head, 1] FP32, "keys" [page x
// entry, width], "pages" [page, 1] (of each sequence in turn) and "scores" [query, entry], of which
// what a query's block sees is written, -infinity beyond what the query itself sees.
class IndexLogitsKernel final : public tile::Kernel {
 public:
  IndexLogitsKernel(const IndexLogitsProblem& problem, const IndexLogitsDesign& design,
                    const tile::CoreRates& chip, IndexLogitsFault fault = IndexLogitsFault::kNone);

  [[nodiscard]] std::string_view name() const override { return "index_logits"; }
  [[nodiscard]] tile::Launch launch() const override;
  void classes(tile::FunctionRef<void(const tile::WorkClass&)> visit) const override;
  void item(tile::Machine& machine, std::int64_t index) const override;

  [[nodiscard]] std::int64_t queries() const { return queries_; }
  [[nodiscard]] std::int64_t pages() const { return pages_; }
  // Columns of the scores.
  [[nodiscard]] std::int64_t columns() const { return columns_; }
  // Tiles of the longest part of any block's entries.
  [[nodiscard]] std::int64_t part_tiles() const { return part_tiles_; }

 private:
  struct Place {
    const SequenceGroup* group = nullptr;
    std::int64_t first_query = 0;  // of the block, among all queries
    std::int64_t first_page = 0;   // of the sequence, among all pages
    std::int64_t position = 0;     // of the first query in its sequence
    std::int64_t queries = 0;      // of the block
    std::int64_t first_tile = 0;
    std::int64_t last_tile = 0;  // the part's, exclusive
  };
  [[nodiscard]] Place place(std::int64_t index) const;
  [[nodiscard]] std::int64_t visible(std::int64_t position) const;
  [[nodiscard]] std::int64_t blocks(const SequenceGroup& g) const;
  // Tiles that block `block` of a sequence sees.
  [[nodiscard]] std::int64_t tiles(const SequenceGroup& g, std::int64_t block) const;
  [[nodiscard]] std::int64_t splits(const SequenceGroup& g) const;
  [[nodiscard]] std::int64_t pages(const SequenceGroup& g) const;
  void choose_split(const tile::CoreRates& chip);

  IndexLogitsProblem problem_;
  const IndexLogitsDesign* design_;
  IndexLogitsFault fault_;
  bool widen_ = false;
  double cores_ = 1.0;
  double cache_capacity_ = 0.0;
  std::int64_t items_ = 0;
  std::int64_t queries_ = 0;
  std::int64_t pages_ = 0;
  std::int64_t columns_ = 0;
  std::int64_t part_tiles_ = 1;
  double key_bytes_ = 0.0;    // all launches' keys, once
  double key_passes_ = 1.0;   // how often they come from memory
  double score_bytes_ = 0.0;  // written
};

}  // namespace foretoken::hwmodels::kernels
