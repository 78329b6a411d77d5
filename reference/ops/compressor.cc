#include "reference/ops/compressor.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace foretoken::reference {

template <class T>
CompressorState<T>::CompressorState(const CompressorShape& shape) : shape_(shape) {
  const auto size = static_cast<std::size_t>(shape.slots() * shape.projected());
  values_.assign(size, T{0});
  scores_.assign(size, -std::numeric_limits<T>::infinity());
}

template <class T>
template <class Acc>
bool CompressorState<T>::push(const Numerics<T, Acc>& numerics, std::int64_t position,
                              const Acc* value, const Acc* score, const float* bias, T* entry) {
  const std::int64_t projected = shape_.projected();
  const std::int64_t place = position % shape_.ratio;
  const std::int64_t row = shape_.overlap ? shape_.ratio + place : place;
  T* values = values_.data() + row * projected;
  T* scores = scores_.data() + row * projected;
  for (std::int64_t i = 0; i < projected; ++i) {
    values[i] = numerics.wide(value[i]);
    // The projection is stored before the bias is added.
    scores[i] =
        numerics.wide(static_cast<Acc>(numerics.wide(score[i])) + static_cast<Acc>(bias[i]));
  }
  if (place + 1 != shape_.ratio) return false;

  const std::int64_t slots = shape_.slots();
  for (std::int64_t c = 0; c < shape_.width; ++c) {
    const auto at = [&](std::int64_t slot) {
      const bool current = shape_.overlap && slot >= shape_.ratio;
      return static_cast<std::size_t>(slot * projected + (current ? shape_.width : 0) + c);
    };
    Acc most = -std::numeric_limits<Acc>::infinity();
    for (std::int64_t s = 0; s < slots; ++s)
      most = std::max(most, static_cast<Acc>(scores_[at(s)]));
    Acc sum = 0;
    Acc pooled = 0;
    for (std::int64_t s = 0; s < slots; ++s) {
      const Acc weight = std::exp(static_cast<Acc>(scores_[at(s)]) - most);
      sum += weight;
      pooled += weight * static_cast<Acc>(values_[at(s)]);
    }
    entry[c] = numerics.narrow(pooled / sum);
  }
  const auto current = static_cast<std::ptrdiff_t>((slots - shape_.ratio) * projected);
  if (shape_.overlap) {
    std::copy(values_.begin() + current, values_.end(), values_.begin());
    std::copy(scores_.begin() + current, scores_.end(), scores_.begin());
  }
  // The current rows are empty again: the next block has not begun.
  std::fill(values_.begin() + current, values_.end(), T{0});
  std::fill(scores_.begin() + current, scores_.end(), -std::numeric_limits<T>::infinity());
  return true;
}

template class CompressorState<double>;
template class CompressorState<float>;
// NOLINTBEGIN(bugprone-macro-parentheses): the arguments are types
#define FORETOKEN_INSTANTIATE(T, A)                                                               \
  template bool CompressorState<T>::push(const Numerics<T, A>&, std::int64_t, const A*, const A*, \
                                         const float*, T*);
FORETOKEN_FOR_NUMERICS(FORETOKEN_INSTANTIATE)
// NOLINTEND(bugprone-macro-parentheses)
#undef FORETOKEN_INSTANTIATE

}  // namespace foretoken::reference
