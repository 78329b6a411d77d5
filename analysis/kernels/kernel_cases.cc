#include "analysis/kernels/kernel_cases.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "hwmodels/value/verify_gemm.h"
#include "sim/base/config_print.h"
#include "sim/base/error.h"
#include "sim/base/text.h"

namespace foretoken::analysis::kernels {

namespace k = hwmodels::kernels;
namespace value = hwmodels::value;
using hwmodels::DesignFile;
using hwmodels::tile::CoreRates;
using workloads::Dtype;

namespace {

// Counts are exact in 63 bits; a factor of 2^8 stays for bytes and parts of an element.
constexpr double kMostWork = 3.6e16;  // 2^55

void require_countable(double work) {
  if (work > kMostWork) throw base::UsageError("--shape: too large to be counted exactly");
}

OutputGrid grid_of(Dtype output) {
  return output == Dtype::kBf16  ? OutputGrid::kBf16
         : output == Dtype::kFp8 ? OutputGrid::kFp8
                                 : OutputGrid::kFp32;
}

bool multiplies(const CoreRates& chip, Dtype compute) {
  return chip.matrix[static_cast<std::size_t>(compute)] > 0.0;
}

}  // namespace

// ---- gemm ---------------------------------------------------------------------------------------

void describe(base::ConfigVisitor& v, GemmShape& s) {
  using base::Need;
  base::choice(v, {"format", "of the operands", Need::kOptional}, s.format, k::kGemmFormatNames);
  v.integer({"m", "tokens of a group", Need::kOptional}, s.m, {.min = 1, .max = 1 << 24});
  v.integer({"n", "weight rows", Need::kOptional}, s.n, {.min = 1, .max = 1 << 20});
  v.integer({"k", "contracted dimension", Need::kOptional}, s.k, {.min = 1, .max = 1 << 20});
  v.integer({"groups", "experts, each with m tokens", Need::kOptional}, s.groups,
            {.min = 1, .max = 1 << 16});
  v.boolean({"swiglu", "gate and up, activated and rounded to FP8", Need::kOptional}, s.swiglu);
  v.check(!s.swiglu || s.n % 2 == 0, "n", "gate and up need an even n");
}

namespace {

// The shapes of a design's kernel.
GemmShape shape_type(const k::GemmDesign&) { return {}; }

double work_of(const GemmShape& s) {
  return static_cast<double>(s.groups) * static_cast<double>(s.m) * static_cast<double>(s.n) *
         static_cast<double>(s.k);
}

bool offers(const k::GemmDesign& design, k::GemmFormat format) {
  const std::string_view name = k::kGemmFormatNames[static_cast<std::size_t>(format)];
  return design.formats.empty() ||
         std::find(design.formats.begin(), design.formats.end(), name) != design.formats.end();
}

std::vector<k::GemmFormat> formats_of(const k::GemmDesign& design, const CoreRates& chip) {
  std::vector<k::GemmFormat> formats;
  for (std::size_t i = 0; i < k::kGemmFormatNames.size(); ++i) {
    const auto f = static_cast<k::GemmFormat>(i);
    if (offers(design, f) && multiplies(chip, k::problem_of(f).compute)) formats.push_back(f);
  }
  return formats;
}

std::string in_format(std::string_view name, k::GemmFormat format) {
  return fmt::format("{}/{}", name, k::kGemmFormatNames[static_cast<std::size_t>(format)]);
}

// Output and query projections at decode and prefill; experts of one of eight devices.
std::vector<TimingCase> timing_cases_of(const k::GemmDesign& design, const CoreRates& chip) {
  std::vector<TimingCase> cases;
  for (const k::GemmFormat f : formats_of(design, chip)) {
    const auto add = [&](std::string_view name, GemmShape s) {
      s.format = f;
      cases.push_back({in_format(name, f), s});
    };
    add("decode_output", {.m = 64, .n = 7168, .k = 16384});
    add("decode_query_down", {.m = 64, .n = 1536, .k = 7168});
    add("prefill_output", {.m = 8192, .n = 7168, .k = 16384});
    if (f == k::GemmFormat::kFp8Block || f == k::GemmFormat::kFp4Fp8) {
      add("decode_experts", {.m = 64, .n = 6144, .k = 7168, .groups = 48, .swiglu = true});
      add("prefill_experts", {.m = 1024, .n = 7168, .k = 3072, .groups = 48});
    }
  }
  return cases;
}

void launches_of(const k::GemmDesign& design, const GemmShape& s, const CoreRates& chip,
                 LaunchVisitor visit) {
  if (!offers(design, s.format)) {
    throw base::UnsupportedError(
        fmt::format("{} offers {}, not {}", design.name, fmt::join(design.formats, ", "),
                    k::kGemmFormatNames[static_cast<std::size_t>(s.format)]));
  }
  const std::array<k::GroupRun, 1> groups = {{{s.m, s.groups}}};
  k::GemmProblem problem = k::problem_of(s.format);
  problem.groups = groups;
  problem.n = s.n;
  problem.k = s.k;
  if (s.swiglu) {
    problem.epilogue = k::Epilogue::kSwiglu;
    problem.swiglu_limit = 10.0;
    if (problem.activation == Dtype::kFp8) problem.output = Dtype::kFp8;
  }
  const k::GemmKernel kernel(problem, design, chip);
  const k::GemmTile& tile = kernel.tile();
  visit(kernel, fmt::format("{} weight rows x {} tokens{}, {} stages, {}", tile.weights,
                            tile.tokens, tile.pair ? " by pairs of cores" : "", kernel.stages(),
                            kernel.splits() > 1 ? fmt::format("k in {} parts", kernel.splits())
                                                : "k whole"));
  if (kernel.splits() > 1) {
    visit(k::SplitReduceKernel(kernel.splits(), kernel.tokens(), s.n, problem.output),
          "a token an item");
  }
}

std::vector<VerifyCase> verify_cases_of(const k::GemmDesign& design, const CoreRates& chip) {
  std::vector<VerifyCase> cases;
  for (const k::GemmFormat f : formats_of(design, chip)) {
    const auto add = [&](std::string_view name, value::GemmCase c) {
      c.format = f;
      cases.push_back({.name = in_format(name, f),
                       .tolerance = value::gemm_tolerance(c.output),
                       .grid = grid_of(c.output),
                       .run = [&design, &chip, c] { return value::verify_gemm(design, chip, c); }});
    };
    const std::vector<k::GroupRun> uneven = {{5, 1}, {0, 1}, {130, 1}, {33, 2}};
    add("one_token", {.groups = {{1, 1}}, .n = 192, .k = 640});
    add("dense", {.groups = {{150, 1}}, .n = 320, .k = 384});
    add("many_tokens", {.groups = {{1100, 1}}, .n = 72, .k = 192});
    // Deep enough that every slot is reused, in each part of a split.
    add("deep", {.groups = {{8, 1}}, .n = 64, .k = 9728});
    add("rounded", {.groups = {{70, 1}}, .n = 256, .k = 512, .output = Dtype::kBf16});
    add("groups", {.groups = uneven, .n = 320, .k = 640});
    add("groups_swiglu", {.groups = uneven,
                          .n = 320,
                          .k = 640,
                          .epilogue = k::Epilogue::kSwiglu,
                          .swiglu_limit = 20.0});
    if (k::problem_of(f).activation == Dtype::kFp8 && k::problem_of(f).fp8_block > 0) {
      add("groups_swiglu_fp8", {.groups = uneven,
                                .n = 512,
                                .k = 256,
                                .output = Dtype::kFp8,
                                .epilogue = k::Epilogue::kSwiglu});
    }
  }
  return cases;
}

}  // namespace

// ---- all kernels --------------------------------------------------------------------------------

std::vector<TimingCase> timing_cases(const DesignFile& design, const CoreRates& chip) {
  return std::visit([&](const auto& d) { return timing_cases_of(d, chip); }, design.design);
}

std::string to_string(const Shape& shape) {
  std::string text = std::visit([](const auto& s) { return base::print_config(s); }, shape);
  std::string line;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\n') {
      if (i + 1 < text.size()) line += ' ';
    } else if (text.compare(i, 2, ": ") == 0) {
      line += '=';
      ++i;
    } else {
      line += text[i];
    }
  }
  return line;
}

Shape with_settings(const Shape& shape, std::span<const std::string> settings) {
  base::ConfigFile file{.path = "--shape", .root = {}};
  file.root.kind = base::ConfigTree::Kind::kMap;
  for (const std::string& s : settings) {
    try {
      base::apply_override(file, s);
    } catch (const base::UsageError&) {
      throw base::UsageError(fmt::format("--shape: {} is not key=value", base::quote(s)));
    }
  }
  return std::visit(
      [&](auto s) -> Shape {
        try {
          base::ConfigReader reader(file);
          describe(reader, s);
          reader.finish();
        } catch (const base::ConfigError& error) {
          throw base::UsageError("--shape: " + error.message());
        }
        require_countable(work_of(s));
        return s;
      },
      shape);
}

void for_each_launch(const DesignFile& design, const Shape& shape, const CoreRates& chip,
                     LaunchVisitor visit) {
  std::visit(
      [&](const auto& d) {
        using ShapeOfDesign = decltype(shape_type(d));
        const auto* s = std::get_if<ShapeOfDesign>(&shape);
        if (s == nullptr) throw base::UsageError("a shape of another kernel");
        launches_of(d, *s, chip, visit);
      },
      design.design);
}

std::vector<VerifyCase> verify_cases(const DesignFile& design, const CoreRates& chip) {
  return std::visit([&](const auto& d) { return verify_cases_of(d, chip); }, design.design);
}

}  // namespace foretoken::analysis::kernels
