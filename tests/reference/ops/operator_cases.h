// What the operators' tests share: the number pairs every operator exists for, how far rounding may
// take a result from its formula, and random inputs as they would be stored.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "reference/formats/float_formats.h"
#include "reference/ops/numerics.h"
#include "tests/reference/formats/property.h"

namespace foretoken::reference {

// A pair with the relative rounding errors that go with it (half a unit in the last place).
template <class Stored, class Computed, bool rounds>
struct Numbers {
  using T = Stored;
  using Acc = Computed;
  static constexpr bool kBf16 = rounds;
  static constexpr Numerics<T, Acc> kNumerics{.bf16 = rounds};
  static constexpr double kComputed = sizeof(Acc) == 8 ? 0x1p-53 : 0x1p-24;  // of one operation
  static constexpr double kWide = sizeof(T) == 8 ? kComputed : 0x1p-24;      // of a wide store
  static constexpr double kNarrow = rounds ? 0x1p-8 : kWide;                 // of a narrow store
};

using Exact = Numbers<double, double, false>;
using Stored32 = Numbers<float, double, false>;
using Hardware = Numbers<float, float, false>;
using ExactBf16 = Numbers<float, double, true>;
using HardwareBf16 = Numbers<float, float, true>;
using AllNumbers = testing::Types<Exact, Stored32, Hardware, ExactBf16, HardwareBf16>;

struct NumbersName {
  template <class N>
  static std::string GetName(int) {  // NOLINT(readability-identifier-naming): GoogleTest's name
    std::string name = sizeof(typename N::T) == 8 ? "F64" : "F32";
    name += sizeof(typename N::Acc) == 8 ? "InF64" : "InF32";
    return N::kBf16 ? name + "Bf16" : name;
  }
};

// Numbers that follow from a seed alone, on any machine. Properties let RapidCheck choose the seed
// and the shape, because a generator per element would take most of the run.
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}

  // Steele, Lea and Flood's splitmix64.
  std::uint64_t bits() {
    std::uint64_t z = state_ += 0x9e3779b97f4a7c15U;
    z = (z ^ (z >> 30U)) * 0xbf58476d1ce4e5b9U;
    z = (z ^ (z >> 27U)) * 0x94d049bb133111ebU;
    return z ^ (z >> 31U);
  }
  double uniform(double low, double high) {
    return low + (high - low) * std::ldexp(static_cast<double>(bits() >> 11U), -53);
  }
  std::int64_t between(std::int64_t low, std::int64_t high) {  // both included
    const auto choices = static_cast<std::uint64_t>(high - low + 1);
    return low + static_cast<std::int64_t>(bits() % choices);
  }
  // Mean 0, variance `deviation` squared (sum of twelve uniforms, which is close enough here).
  double normal(double deviation) {
    double sum = -6.0;
    for (int i = 0; i < 12; ++i) sum += uniform(0.0, 1.0);
    return deviation * sum;
  }
  std::vector<std::int64_t> permutation(std::int64_t n) {
    std::vector<std::int64_t> order(static_cast<std::size_t>(n));
    std::iota(order.begin(), order.end(), 0);
    for (std::int64_t i = n - 1; i > 0; --i) std::swap(order[i], order[between(0, i)]);
    return order;
  }
  // `n` numbers of magnitude up to `magnitude`, all different from zero, as float or double.
  template <class Value>
  std::vector<Value> plain(std::int64_t n, double magnitude) {
    std::vector<Value> values(static_cast<std::size_t>(n));
    for (Value& value : values) {
      value = static_cast<Value>(uniform(magnitude * 0x1p-10, magnitude));
      if (bits() % 2 == 0) value = -value;
    }
    return values;
  }
  // The same as stored between operators.
  template <class N>
  std::vector<typename N::T> row(std::int64_t n, double magnitude) {
    auto values = plain<typename N::T>(n, magnitude);
    for (auto& value : values) value = N::kNumerics.narrow(static_cast<typename N::Acc>(value));
    return values;
  }

 private:
  std::uint64_t state_;
};

inline Random any_random() {
  return Random(*rc::gen::resize(rc::kNominalSize, rc::gen::arbitrary<std::uint64_t>()));
}

inline std::int64_t any_size(std::int64_t low, std::int64_t high) {  // both included
  return *rc::gen::resize(rc::kNominalSize, rc::gen::inRange(low, high + 1));
}

// The same bits, with zeros of either sign equal and NaN equal to nothing.
template <class Value>
bool same(const std::vector<Value>& a, const std::vector<Value>& b) {
  return a == b;
}

template <class Value>
std::vector<Value> times(const std::vector<Value>& row, double factor) {
  std::vector<Value> result = row;
  for (Value& value : result) value = static_cast<Value>(value * factor);
  return result;
}

template <class Value>
std::vector<Value> slice(const std::vector<Value>& all, std::int64_t first, std::int64_t count) {
  return {all.begin() + first, all.begin() + first + count};
}

// Row r of the result is row order[r] of `rows`.
template <class Value>
std::vector<Value> reordered(const std::vector<Value>& rows, std::int64_t width,
                             const std::vector<std::int64_t>& order) {
  std::vector<Value> result;
  for (const std::int64_t from : order) {
    result.insert(result.end(), rows.begin() + from * width, rows.begin() + (from + 1) * width);
  }
  return result;
}

// Largest distance; infinite when sizes differ or a NaN is about.
template <class A, class B>
double distance(const std::vector<A>& a, const std::vector<B>& b) {
  if (a.size() != b.size()) return HUGE_VAL;
  double most = 0.0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double error = std::fabs(static_cast<double>(a[i]) - static_cast<double>(b[i]));
    most = error <= most ? most : (std::isnan(error) ? HUGE_VAL : error);
  }
  return most;
}

template <class Value>
bool all_bf16(const std::vector<Value>& values) {
  return std::ranges::all_of(values, [](Value value) {
    const auto single = static_cast<float>(value);
    return static_cast<Value>(round_bf16(single)) == value;
  });
}

// What a narrow store must leave.
template <class N>
bool storable(const std::vector<typename N::T>& values) {
  return !N::kBf16 || all_bf16(values);
}

}  // namespace foretoken::reference
