// Attention over one shared list of keys that are also the values, as tile programs: CSA (a window
// and selected compressed entries), HCA (a window and all visible entries), MLA with and without
// DSA; decode with keys split over cores, and prefill with query tokens that share entries.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "hwmodels/tile/core_rates.h"
#include "hwmodels/tile/machine.h"
#include "sim/base/config.h"

namespace foretoken::hwmodels::kernels {

// Who multiplies the running sums when a row's maximum grows.
enum class Rescale : std::uint8_t {
  kInPlace,   // vector instructions, in the accumulators where they lie (Hopper: registers)
  kThrough,   // out of the accumulators, multiplied, and back (Blackwell: tensor memory)
  kInVector,  // each block's product leaves the accumulators; sums are kept by the vector units
              // (Ascend)
};

// Where queries or probabilities lie when the matrix unit reads them.
enum class OperandHome : std::uint8_t {
  kOperand,      // shared memory, L1
  kAccumulator,  // registers or tensor memory
};

// Who merges the parts of a query whose keys were split over items.
enum class SplitMerge : std::uint8_t {
  kKernel,    // a second launch
  kLastItem,  // the query's last item, once the others have signalled
};

struct AttentionDesign {
  std::string name{};
  std::int64_t heads = 64;           // query heads of an item at most
  std::int64_t queries = 1;          // query tokens of an item at most, where they share keys
  std::int64_t block_keys = 64;      // keys of one iteration
  std::int64_t kv_slots = 2;         // blocks of keys as the matrix unit reads them
  std::int64_t raw_slots = 1;        // blocks as fetched, where vector units widen them
  std::int64_t score_slots = 2;      // 2: the next block's scores run during this one's softmax
  std::int64_t value_columns = 128;  // value channels that move between units at a time
  std::int64_t max_splits = 64;      // parts a query's keys are cut into at most
  std::int64_t min_split_blocks = 2;
  std::int64_t sharing = 1;  // neighbouring items of one query (other heads) that fetch and widen
                             // a part each for all
  std::int64_t merge_heads = 8;  // heads of an item of the merge
  Rescale rescale = Rescale::kInPlace;
  OperandHome queries_in = OperandHome::kOperand;
  OperandHome probabilities_in = OperandHome::kAccumulator;
  SplitMerge merge = SplitMerge::kKernel;
  bool pair = false;  // two that share work on one matrix instruction, which spans both's rows
  bool widen_first = false;  // a kernel before this one writes all entries out in BF16
  bool persistent = false;
};
void describe(base::ConfigVisitor& v, AttentionDesign& design);

// A cache entry: its first `narrow` channels in `dtype` with block scales, the others BF16.
struct EntryFormat {
  workloads::Dtype dtype = workloads::Dtype::kBf16;
  std::int64_t narrow = 0;
  double scale_bytes = 0.0;  // per narrow channel, padding included
};
inline constexpr EntryFormat kBf16Entry{};
inline constexpr EntryFormat kV4Entry{workloads::Dtype::kFp8, 448, 8.0 / 448.0};     // 584 B
inline constexpr EntryFormat kV32Entry{workloads::Dtype::kFp8, 512, 16.0 / 512.0};   // 656 B
inline constexpr EntryFormat kV41Entry{workloads::Dtype::kFp4, 512, 32.0 / 512.0};   // 288 B
inline constexpr EntryFormat kV41Window{workloads::Dtype::kFp8, 512, 16.0 / 512.0};  // 528 B

// Query tokens with equally many keys, in order. Contiguous runs: query i of the class reads rows
// row + i * step on. The counts are exact unless fewer are said to be possible; then, and where
// query tokens share an item, the tensor `visible` says per query where its keys begin and end.
struct QueryClass {
  std::int64_t queries = 0;
  std::int64_t window = 0;             // window keys of a query, at most
  std::int64_t compressed = 0;         // selected or visible compressed entries, at most
  std::int64_t window_least = -1;      // at least; -1: as many as at most
  std::int64_t compressed_least = -1;  // contiguous runs only; selections are padded with -1
  std::int64_t window_row = 0;
  std::int64_t window_step = 0;
  std::int64_t compressed_row = 0;
  std::int64_t compressed_step = 0;
  bool operator==(const QueryClass&) const = default;
};

struct AttentionProblem {
  std::span<const QueryClass> classes{};
  std::int64_t heads = 0;  // of this rank
  std::int64_t key_width = 512;
  std::int64_t value_width = 512;
  double scale = 0.0;     // of the scores before the softmax
  bool selected = false;  // compressed entries by index; else contiguous
  bool sink = true;       // a learned logit per head joins the softmax
  EntryFormat window_entry = kV4Entry;
  EntryFormat compressed_entry = kV4Entry;
  // Rows of the caches, whole pages of blocks: the last block of a run is fetched whole.
  std::int64_t window_rows = 0;
  std::int64_t compressed_rows = 0;
  // Distinct entries that any query touches; -1: all that are asked for, at most the rows.
  std::int64_t window_distinct = -1;
  std::int64_t compressed_distinct = -1;
};

// Mistakes made on purpose, for tests of the verifier.
enum class AttentionFault : std::uint8_t {
  kNone,
  kNoWindow,       // the window branch is left out
  kNoSink,         // the sink is left out
  kPlainMerge,     // parts are added without rescaling to their common maximum
  kSlotEarly,      // a slot of keys is filled a stage before its last reader
  kLateBound,      // the causal bound of compressed entries lies a block too late
  kNoTailMask,     // keys behind the end of a run take part
  kNoRescale,      // running sums are not rescaled when the maximum grows
  kWindowTooLong,  // the window's begin is not masked for query tokens that share it
};

// Items: parts of the keys of (some heads of) a query token, or of some tokens that share keys.
// Head blocks run fastest, then splits, then queries. Tensors: "queries" [queries * heads,
// key_width], "window_narrow", "window_wide", "compressed_narrow", "compressed_wide", "selection"
// [queries, blocks * block_keys] (-1: none), "visible" [queries, 3] (rows where the window begins
// and ends, and where the visible compressed entries end), "sinks" [heads, 1], "output" [queries *
// heads, value_width]; of split queries "partial_output" [parts * heads, value_width],
// "partial_max" and "partial_sum" [parts, heads].
class AttentionKernel final : public tile::Kernel {
 public:
  AttentionKernel(const AttentionProblem& problem, const AttentionDesign& design,
                  const tile::CoreRates& chip, AttentionFault fault = AttentionFault::kNone);

  [[nodiscard]] std::string_view name() const override { return "attention"; }
  [[nodiscard]] tile::Launch launch() const override;
  void classes(tile::FunctionRef<void(const tile::WorkClass&)> visit) const override;
  void item(tile::Machine& machine, std::int64_t index) const override;

  // Parts the keys of a query of this class are cut into.
  [[nodiscard]] std::int64_t splits(const QueryClass& c) const;
  [[nodiscard]] std::int64_t most_splits() const { return most_splits_; }
  [[nodiscard]] std::int64_t query_count() const { return queries_; }
  // Rows of partial results, over heads; 0: nothing is split.
  [[nodiscard]] std::int64_t parts() const { return parts_; }
  [[nodiscard]] std::int64_t selection_columns() const { return selection_columns_; }

 private:
  friend class AttentionMergeKernel;
  struct Place;
  // Blocks of a query's keys, in this order.
  struct Blocks {
    std::int64_t window = 0;  // without and with mask
    std::int64_t window_masked = 0;
    std::int64_t compressed = 0;
    std::int64_t compressed_masked = 0;
    [[nodiscard]] std::int64_t total() const {
      return window + window_masked + compressed + compressed_masked;
    }
    bool operator==(const Blocks&) const = default;
  };
  [[nodiscard]] Place place(std::int64_t index) const;
  [[nodiscard]] Blocks blocks(const QueryClass& c, std::int64_t tokens) const;
  // Those of part `split` of `splits`, and the first of them within its kind.
  struct Part {
    Blocks count, first;
  };
  [[nodiscard]] static Part part(const Blocks& all, std::int64_t split, std::int64_t splits);
  [[nodiscard]] std::int64_t head_blocks() const;
  [[nodiscard]] std::int64_t tokens(const QueryClass& c) const;  // of an item

  AttentionProblem problem_;
  const AttentionDesign* design_;
  AttentionFault fault_;
  double room_ = 0.0;       // B of the cache that operands may take and still be found there
  double sector_ = 1.0;     // B
  std::int64_t heads_ = 0;  // of an item
  std::int64_t queries_ = 0;
  std::int64_t split_blocks_ = 1;  // blocks that one part should have
  std::int64_t most_splits_ = 1;
  std::int64_t parts_ = 0;
  std::int64_t selection_columns_ = 0;
  // Entries that come from memory.
  double window_fetched_ = 0.0;
  double compressed_fetched_ = 0.0;
};

// Merges the parts of split queries: items are some heads of a query.
class AttentionMergeKernel final : public tile::Kernel {
 public:
  // Borrows the kernel whose parts it merges.
  explicit AttentionMergeKernel(const AttentionKernel& attention) : attention_(&attention) {}

  [[nodiscard]] std::string_view name() const override { return "attention_merge"; }
  [[nodiscard]] tile::Launch launch() const override;
  void classes(tile::FunctionRef<void(const tile::WorkClass&)> visit) const override;
  void item(tile::Machine& machine, std::int64_t index) const override;

 private:
  const AttentionKernel* attention_;
};

// Writes cache entries out in BF16, for attention kernels that read them so: "narrow", "wide" ->
// "workspace". Items are blocks of entries.
class WidenEntriesKernel final : public tile::Kernel {
 public:
  WidenEntriesKernel(const EntryFormat& format, std::int64_t width, std::int64_t rows,
                     const tile::CoreRates& chip);

  [[nodiscard]] std::string_view name() const override { return "widen_entries"; }
  [[nodiscard]] tile::Launch launch() const override;
  void classes(tile::FunctionRef<void(const tile::WorkClass&)> visit) const override;
  void item(tile::Machine& machine, std::int64_t index) const override;

 private:
  EntryFormat format_;
  std::int64_t width_, rows_;
  double room_;
};

// The launches of one attention operator, in order.
class AttentionLaunches {
 public:
  AttentionLaunches(const AttentionProblem& problem, const AttentionDesign& design,
                    const tile::CoreRates& chip, AttentionFault fault = AttentionFault::kNone);
  AttentionLaunches(const AttentionLaunches&) = delete;
  AttentionLaunches& operator=(const AttentionLaunches&) = delete;

  void for_each(tile::FunctionRef<void(const tile::Kernel&)> visit) const;
  [[nodiscard]] const AttentionKernel& attention() const { return attention_; }
  [[nodiscard]] bool merges() const { return merge_.has_value(); }
  [[nodiscard]] const std::optional<WidenEntriesKernel>& widen_window() const { return window_; }
  [[nodiscard]] const std::optional<WidenEntriesKernel>& widen_compressed() const {
    return compressed_;
  }

 private:
  std::optional<WidenEntriesKernel> window_, compressed_;
  AttentionKernel attention_;
  std::optional<AttentionMergeKernel> merge_;
};

// Which keys a layer's queries see: the last `window` tokens, and of the compressed entries, one
// per `ratio` tokens (0: none), those of blocks that have ended, the `selected` best of them (0:
// all).
struct KeyRule {
  std::int64_t window = 128;
  std::int64_t ratio = 0;
  std::int64_t selected = 0;
};
// Classes of decoding: each of `sequences` has `tokens` tokens to decode, the last at position
// context - 1. Every sequence keeps its own pages. Appends; rows start at `window_rows` and
// `compressed_rows`, which are advanced.
void add_decode_classes(const KeyRule& rule, const AttentionDesign& design, std::int64_t sequences,
                        std::int64_t tokens, std::int64_t context, std::int64_t& window_rows,
                        std::int64_t& compressed_rows, std::vector<QueryClass>& classes);
// Classes of one sequence's prefill: tokens at positions [first, first + tokens), window tokens in
// rows of their own (the first of them at position max(0, first - window + 1)).
void add_prefill_classes(const KeyRule& rule, const AttentionDesign& design, std::int64_t first,
                         std::int64_t tokens, std::int64_t& window_rows,
                         std::int64_t& compressed_rows, std::vector<QueryClass>& classes);

}  // namespace foretoken::hwmodels::kernels
