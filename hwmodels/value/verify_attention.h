// Runs attention kernels on seeded numbers and compares them with the functional reference.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "hwmodels/kernels/attention.h"
#include "hwmodels/value/verify.h"

namespace foretoken::hwmodels::value {

// Which compressed entries the queries of a made-up indexer select.
enum class SelectionPattern : std::uint8_t {
  kRandom,
  kSequential,  // the newest
  kStrided,     // far apart, in an order that no two neighbours are near
  kPadded,      // random, with places left empty (-1) anywhere
  kRepeated,    // random, some of them several times: each counts as often as it is named
};

// One or more sequences of a layer. Small shapes, any widths.
struct AttentionCase {
  std::int64_t heads = 8;
  std::int64_t key_width = 48;
  std::int64_t value_width = 48;
  kernels::EntryFormat window_entry{workloads::Dtype::kFp8, 32, 8.0 / 448.0};
  kernels::EntryFormat compressed_entry{workloads::Dtype::kFp8, 32, 8.0 / 448.0};
  bool sink = true;
  kernels::KeyRule rule{.window = 24, .ratio = 4, .selected = 32};
  // Decode: contexts of the sequences and the tokens each decodes. Prefill: the lengths the
  // sequences have reached afterwards, and their new tokens.
  bool prefill = false;
  std::vector<std::int64_t> contexts = {300};
  std::int64_t tokens = 1;
  SelectionPattern pattern = SelectionPattern::kRandom;
  // Entry numbers within the sequence, [queries, rule.selected], instead of the pattern's: what an
  // indexer chose. Negative: none. Queries stand sequence by sequence, in order of position.
  std::span<const std::int32_t> selection{};
  unsigned seed = 1;
};

Comparison verify_attention(const kernels::AttentionDesign& design, const tile::CoreRates& chip,
                            const AttentionCase& c,
                            kernels::AttentionFault fault = kernels::AttentionFault::kNone);

// Of outputs in BF16 from probabilities in BF16, whatever the entries' format: widening is exact.
Tolerance attention_tolerance();

}  // namespace foretoken::hwmodels::value
