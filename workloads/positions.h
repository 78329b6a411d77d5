// Exact sums over the positions a step computes: how many keys, entries and selections they see.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>

namespace foretoken::workloads {

// Sum over t = 0 .. x-1 of floor((t + 1) / m), for m >= 1: with x = m a + b it is
// m a (a - 1) / 2 + a (b + 1).
constexpr std::int64_t sum_entries_below(std::int64_t x, std::int64_t m) {
  const std::int64_t a = x / m;
  const std::int64_t b = x % m;
  return m * (a * (a - 1) / 2) + a * (b + 1);
}

// The same sum with every term capped at `cap`.
constexpr std::int64_t sum_capped_below(std::int64_t x, std::int64_t m, std::int64_t cap) {
  const std::int64_t turn = m * cap - 1;  // the first t whose term reaches the cap
  if (x <= turn) return sum_entries_below(x, m);
  return sum_entries_below(turn, m) + cap * (x - turn);
}

// `sequences` sequences that each compute the tokens at positions first .. first + tokens - 1.
struct Span {
  std::int64_t sequences = 0;
  std::int64_t first = 0;
  std::int64_t tokens = 0;

  [[nodiscard]] constexpr std::int64_t end() const { return first + tokens; }
};

// What one rank computes in a step: one span, or two when context parallelism pairs an early piece
// of the prompt with a late one.
struct Positions {
  std::array<Span, 2> spans{};

  template <class F>
  [[nodiscard]] constexpr std::int64_t sum(F&& f) const {
    std::int64_t total = 0;
    for (const Span& s : spans) {
      if (s.sequences > 0 && s.tokens > 0) total += s.sequences * f(s);
    }
    return total;
  }
  [[nodiscard]] constexpr std::int64_t tokens() const {
    return sum([](const Span& s) { return s.tokens; });
  }
  [[nodiscard]] constexpr std::int64_t sequences() const {
    return sum([](const Span&) { return std::int64_t{1}; });
  }
  // Visible entries of a cache with `m` tokens an entry, summed over the queries.
  [[nodiscard]] constexpr std::int64_t entries(std::int64_t m) const {
    return sum([m](const Span& s) {
      return sum_entries_below(s.end(), m) - sum_entries_below(s.first, m);
    });
  }
  // The same, at most `cap` entries a query.
  [[nodiscard]] constexpr std::int64_t entries_capped(std::int64_t m, std::int64_t cap) const {
    return sum([m, cap](const Span& s) {
      return sum_capped_below(s.end(), m, cap) - sum_capped_below(s.first, m, cap);
    });
  }
  // Entries completed by these tokens.
  [[nodiscard]] constexpr std::int64_t emitted(std::int64_t m) const {
    return sum([m](const Span& s) { return s.end() / m - s.first / m; });
  }
  // Entries the last query of each sequence sees: the distinct ones any query can read.
  [[nodiscard]] constexpr std::int64_t distinct(std::int64_t m) const {
    return sum([m](const Span& s) { return s.end() / m; });
  }
  [[nodiscard]] constexpr std::int64_t distinct_capped(std::int64_t m, std::int64_t cap) const {
    return sum([m, cap](const Span& s) { return std::min(s.end() / m, cap); });
  }
  // Distinct window tokens read: those of the first query and all later ones.
  [[nodiscard]] constexpr std::int64_t distinct_window(std::int64_t window) const {
    return sum([window](const Span& s) {
      return s.end() - std::max<std::int64_t>(0, s.first - window + 1);
    });
  }
  // Only the tokens at positions from `begin` up to `end`.
  [[nodiscard]] constexpr Positions between(std::int64_t begin, std::int64_t end) const {
    Positions p = *this;
    for (Span& s : p.spans) {
      const std::int64_t first = std::clamp(begin, s.first, s.end());
      s.tokens = std::max<std::int64_t>(0, std::min(end, s.end()) - first);
      s.first = first;
    }
    return p;
  }
  // Only the last `tail` tokens of every sequence.
  [[nodiscard]] constexpr Positions last(std::int64_t tail) const {
    Positions p = *this;
    for (Span& s : p.spans) {
      const std::int64_t kept = std::min(s.tokens, tail);
      s.first += s.tokens - kept;
      s.tokens = kept;
    }
    return p;
  }
};

}  // namespace foretoken::workloads
