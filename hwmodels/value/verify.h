// How a tile program's output is compared with the functional reference.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace foretoken::hwmodels::value {

// Output of a program beside the right one.
struct Comparison {
  double max_relative = 0.0;  // largest difference over the root mean square of what is right
  double rms_relative = 0.0;  // root mean square difference over the same
  double recall = 1.0;  // share of the right selection that was selected; 1 where none is made
  std::int64_t elements = 0;
  std::string hazard{};         // what the value interpreter refused, empty when it ran
  std::vector<float> output{};  // what was compared, in order: to compare two designs by

  // Counts the differences of another output in; both are of one program.
  void add(std::span<const float> got, std::span<const double> want);
};

// What a correct program of a kernel stays within.
struct Tolerance {
  double max_relative = 0.0;
  double rms_relative = 0.0;
  double recall = 1.0;
};
bool within(const Comparison& c, const Tolerance& t);

}  // namespace foretoken::hwmodels::value
