// The lightning indexer's scores and the top-k they decide.
#pragma once

#include <cstdint>
#include <vector>

#include "reference/ops/numerics.h"

namespace foretoken::reference {

// score_s = sum_h weight_h * relu(q_h . k_s) of one query for entries s < visible.
// q [heads, width], weights [heads], keys [visible, width]; scores [visible], stored narrow when
// `narrow_scores` (serving keeps them in BF16), else wide.
template <class T, class Acc>
void index_scores(const Numerics<T, Acc>& numerics, const T* q, const T* weights,
                  std::int64_t heads, std::int64_t width, const T* keys, std::int64_t visible,
                  bool narrow_scores, T* scores);

// Numbers of the min(k, n) largest scores, best first. Ties go to the lower number, and NaN ranks
// below everything. Writes to `out` (its capacity is reused).
template <class T>
void top_k(const T* scores, std::int64_t n, std::int64_t k, std::vector<std::int32_t>& out);

}  // namespace foretoken::reference
