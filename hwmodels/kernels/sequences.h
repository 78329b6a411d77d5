// The sequences of a batch, as the kernels of sparse attention see them.
#pragma once

#include <algorithm>
#include <cstdint>

namespace foretoken::hwmodels::kernels {

// Sequences that look alike: `queries` new tokens each, after `history` tokens.
struct SequenceGroup {
  std::int64_t count = 1;
  std::int64_t history = 0;
  std::int64_t queries = 1;

  // Nothing to do.
  [[nodiscard]] bool empty() const { return count == 0 || queries == 0; }
};

// Entries that the query at `position` sees, one entry for every `ratio` tokens: those whose tokens
// are all there.
constexpr std::int64_t visible_entries(std::int64_t position, std::int64_t ratio) {
  return (position + 1) / ratio;
}

// Puts numbers 0 .. n-1, whose size does not fall, into runs of like sizes, largest first, and
// calls visit(first, count) for each. Sizes are alike when they differ by less than a 64th of the
// largest or when there would be more than 24 runs; what has no size is left out.
template <class Size, class Visit>
void runs_alike(std::int64_t n, Size&& size, Visit&& visit) {
  constexpr std::int64_t kRuns = 24;
  constexpr std::int64_t kLikeness = 64;
  if (n <= 0) return;
  const std::int64_t most = size(n - 1);
  const std::int64_t width =
      std::max({std::int64_t{1}, (most - size(0)) / kRuns + 1, most / kLikeness});
  std::int64_t end = n;
  for (std::int64_t top = most; end > 0 && top > 0; top -= width) {
    const std::int64_t below = std::max<std::int64_t>(0, top - width);
    std::int64_t low = 0;  // becomes the first number of a size above `below`
    std::int64_t high = end;
    while (low < high) {
      const std::int64_t middle = low + (high - low) / 2;
      if (size(middle) > below) {
        high = middle;
      } else {
        low = middle + 1;
      }
    }
    if (low < end) visit(low, end - low);
    end = low;
  }
}

}  // namespace foretoken::hwmodels::kernels
