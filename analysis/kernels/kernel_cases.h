// What the kernel command knows of each kernel: the shapes it is timed at and verified on, and the
// launches of a shape. One section of kernel_cases.cc per kernel; the compiler names what a new one
// lacks.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "hwmodels/designs.h"
#include "hwmodels/tile/core_rates.h"
#include "hwmodels/tile/machine.h"
#include "hwmodels/value/verify.h"
#include "sim/base/config.h"

namespace foretoken::analysis::kernels {

// A product to be timed: `groups` times [m, k] x [n, k].
struct GemmShape {
  hwmodels::kernels::GemmFormat format = hwmodels::kernels::GemmFormat::kBf16;
  std::int64_t m = 1;  // tokens of a group
  std::int64_t n = 1;
  std::int64_t k = 1;
  std::int64_t groups = 1;
  bool swiglu = false;
};
void describe(base::ConfigVisitor& v, GemmShape& shape);

// One alternative per kernel, in the order of DesignFile::design.
using Shape = std::variant<GemmShape>;

// A real shape with a name.
struct TimingCase {
  std::string name;
  Shape shape;
};

// The shapes of DeepSeek-V4-Pro that a design is timed at, those in formats that the chip lacks or
// the design does not offer left out.
std::vector<TimingCase> timing_cases(const hwmodels::DesignFile& design,
                                     const hwmodels::tile::CoreRates& chip);

// "m=64 n=7168 k=16384", every key of the shape.
std::string to_string(const Shape& shape);
// A shape with keys changed by settings like "m=64" or "format=fp8_block". Throws UsageError, also
// for a shape too large to be counted exactly.
Shape with_settings(const Shape& shape, std::span<const std::string> settings);

// Calls `visit` for each launch in order, with what the kernel chose, such as its tile.
using LaunchVisitor =
    hwmodels::tile::FunctionRef<void(const hwmodels::tile::Kernel&, const std::string& chosen)>;
void for_each_launch(const hwmodels::DesignFile& design, const Shape& shape,
                     const hwmodels::tile::CoreRates& chip, LaunchVisitor visit);

// Gaps between numbers that the output's format can hold, to count distances in.
enum class OutputGrid : std::uint8_t { kFp32, kBf16, kFp8 };
inline constexpr std::array<std::string_view, 3> kGridNames = {"fp32", "bf16", "fp8"};

// A small shape to be executed. Cases of the same name have the same inputs whatever the design.
struct VerifyCase {
  std::string name;
  hwmodels::value::Tolerance tolerance;
  bool selection = false;  // recall means something
  OutputGrid grid = OutputGrid::kFp32;
  std::function<hwmodels::value::Comparison()> run;  // borrows design and chip
};
std::vector<VerifyCase> verify_cases(const hwmodels::DesignFile& design,
                                     const hwmodels::tile::CoreRates& chip);

}  // namespace foretoken::analysis::kernels
