// RapidCheck with a fixed seed, so that a run can be repeated, and the generators these tests
// share.
#pragma once

#include <rapidcheck.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

namespace foretoken::reference {

// RC_PARAMS in the environment overrides the seed and the number of cases.
template <class Testable>
bool holds(const std::string& property, Testable&& testable) {
  setenv("RC_PARAMS", "seed=20481 max_success=1000", 0);
  return rc::check(property, std::forward<Testable>(testable));
}

// Signed numbers with exponents from `lowest` to `highest`. Often with few mantissa bits, because
// ties and exact values would otherwise never come up.
inline rc::Gen<double> any_number(int lowest, int highest) {
  return rc::gen::resize(
      rc::kNominalSize,
      rc::gen::apply(
          [](bool negative, int exponent, int kept_bits, std::uint64_t random) {
            const std::uint64_t mantissa =
                (random >> 12U) &
                ~((std::uint64_t{1} << static_cast<unsigned>(52 - kept_bits)) - 1);
            const double magnitude =
                std::ldexp(1.0 + std::ldexp(static_cast<double>(mantissa), -52), exponent);
            return negative ? -magnitude : magnitude;
          },
          rc::gen::arbitrary<bool>(), rc::gen::inRange(lowest, highest + 1),
          rc::gen::inRange(0, 53), rc::gen::arbitrary<std::uint64_t>()));
}

inline rc::Gen<float> any_float(int lowest, int highest) {
  return rc::gen::map(any_number(lowest, highest),
                      [](double value) { return static_cast<float>(value); });
}

// A row of activations: exponents from `lowest` to `highest`, now and then a zero.
inline rc::Gen<std::vector<float>> any_row(std::size_t size, int lowest, int highest) {
  return rc::gen::container<std::vector<float>>(
      size, rc::gen::weightedOneOf<float>(
                {{9, any_float(lowest, highest)}, {1, rc::gen::element(0.0F, -0.0F)}}));
}

}  // namespace foretoken::reference
