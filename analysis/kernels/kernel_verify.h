// Runs designs on real numbers: against the reference, and against each other.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "analysis/kernels/kernel_cases.h"
#include "analysis/kernels/kernel_timing.h"

namespace foretoken::analysis::kernels {

// A design on a chip; both are borrowed.
struct Subject {
  const hwmodels::DesignFile* design = nullptr;
  const KernelChip* chip = nullptr;
};

struct VerifyRow {
  std::string design;
  std::string kernel;
  std::string chip;
  std::string name{};  // of the case
  bool selection = false;
  hwmodels::value::Tolerance tolerance{};
  hwmodels::value::Comparison result{};
  std::string refused{};  // why the design cannot run there at all

  [[nodiscard]] bool passed() const { return refused.empty() && within(result, tolerance); }
  // Why it did not pass; empty when it did.
  [[nodiscard]] std::string reason() const;
};

// Every case of every subject, in order, on as many threads as the machine has. A subject without a
// case has one row that is refused.
std::vector<VerifyRow> verify(std::span<const Subject> subjects);

// Outputs of two designs on the same inputs.
struct PairRow {
  std::string name;
  OutputGrid grid = OutputGrid::kFp32;
  std::int64_t elements = 0;
  std::int64_t different = 0;
  // Numbers near zero are many units apart and yet alike, hence both.
  double largest_distance = 0.0;  // in units of the last place of the output's format
  double largest_relative = 0.0;  // over the root mean square of the first's outputs
  VerifyRow first, second;        // each against the reference

  [[nodiscard]] bool bit_equal() const { return elements > 0 && different == 0; }
};

// Cases that both have. Throws UsageError for designs of different kernels and UnsupportedError
// when they have no case in common.
std::vector<PairRow> compare_pair(const Subject& first, const Subject& second);

// Numbers of the grid between a and b; endless when only one of them is a number.
double distance(float a, float b, OutputGrid grid);

}  // namespace foretoken::analysis::kernels
