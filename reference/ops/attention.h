// Core attention of one query token: all heads over one list of keys that are also the values, with
// a learned sink logit per head (facts 3.5).
#pragma once

#include <cstdint>
#include <span>

#include "reference/ops/numerics.h"

namespace foretoken::reference {

struct AttentionShape {
  std::int64_t heads = 0;
  std::int64_t key_width = 0;    // channels of a key
  std::int64_t value_width = 0;  // the first channels of a key, which are its value
  double scale = 1.0;
};

// A run of keys [rows, stride >= key_width] with the rows to take; `rows` empty = all `count` in
// order.
template <class T>
struct KeyRun {
  const T* data = nullptr;
  std::int64_t stride = 0;
  std::int64_t count = 0;
  std::span<const std::int32_t> rows;

  [[nodiscard]] std::int64_t size() const {
    return rows.empty() ? count : static_cast<std::int64_t>(rows.size());
  }
};

// q [heads, key_width], out [heads, value_width]. Weights are exp(z - max z) in Acc (rounded to
// BF16 for the value product when the carrier is), their sum taken in key order with exp(sink - max
// z) at the end. `sink` may be null: no sink. No keys at all: zeros.
template <class T, class Acc>
void attend(const Numerics<T, Acc>& numerics, const AttentionShape& shape, const T* q,
            std::span<const KeyRun<T>> keys, const float* sink, T* out);

}  // namespace foretoken::reference
