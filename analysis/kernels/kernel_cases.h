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

// A product: `groups` times [m, k] x [n, k].
struct GemmShape {
  hwmodels::kernels::GemmFormat format = hwmodels::kernels::GemmFormat::kBf16;
  std::int64_t m = 1;  // tokens of a group
  std::int64_t n = 1;
  std::int64_t k = 1;
  std::int64_t groups = 1;
  bool swiglu = false;
};
void describe(base::ConfigVisitor& v, GemmShape& shape);

// Sequences that all stand at `context`, the last `queries` tokens of which are new.
struct SequencesShape {
  std::int64_t sequences = 1;
  std::int64_t context = 1;
  std::int64_t queries = 1;
};

// One layer's attention.
struct AttentionShape {
  SequencesShape batch;
  std::int64_t heads = 128;
  std::int64_t window = 128;
  std::int64_t ratio = 4;        // tokens of a compressed entry
  std::int64_t selected = 1024;  // of the compressed entries; 0: all
};
void describe(base::ConfigVisitor& v, AttentionShape& shape);

// A chain of one of V4's layers over `rows` tokens.
enum class Chain : std::uint8_t {
  kNorm,
  kResidualNorm,
  kQuantise,
  kQuery,
  kOutput,
  kEntry,
  kIndexQuery,
  kIndexKey,
  kSwiglu,
  kEmbedding
};
inline constexpr std::array<std::string_view, 10> kChainNames = {
    "norm",  "residual_norm", "quantise",  "query",  "output",
    "entry", "index_query",   "index_key", "swiglu", "embedding"};
struct RowShape {
  Chain chain = Chain::kNorm;
  std::int64_t rows = 1;
  std::int64_t heads = 1;  // of query, output and index_query
  std::int64_t width = 128;
};
void describe(base::ConfigVisitor& v, RowShape& shape);

enum class HyperPhase : std::uint8_t { kPre, kPost };
inline constexpr std::array<std::string_view, 2> kHyperPhaseNames = {"pre", "post"};
struct HyperShape {
  HyperPhase phase = HyperPhase::kPre;
  std::int64_t tokens = 1;
  std::int64_t streams = 4;
  std::int64_t hidden = 7168;
};
void describe(base::ConfigVisitor& v, HyperShape& shape);

// Rows to their experts and back.
struct ExpertRowsShape {
  std::int64_t tokens = 1;
  std::int64_t choices = 6;
  std::int64_t experts = 384;
  std::int64_t hidden = 7168;
};
void describe(base::ConfigVisitor& v, ExpertRowsShape& shape);

enum class IndexFormat : std::uint8_t { kBf16, kFp8, kFp4 };
inline constexpr std::array<std::string_view, 3> kIndexFormatNames = {"bf16", "fp8", "fp4"};
struct IndexShape {
  IndexFormat format = IndexFormat::kBf16;
  SequencesShape batch;
  std::int64_t heads = 64;
  std::int64_t width = 128;
  std::int64_t ratio = 4;
};
void describe(base::ConfigVisitor& v, IndexShape& shape);

struct TopKShape {
  SequencesShape batch;
  std::int64_t ratio = 4;
  std::int64_t k = 1024;
};
void describe(base::ConfigVisitor& v, TopKShape& shape);

struct CompressorShape {
  SequencesShape batch;
  std::int64_t ratio = 4;
  std::int64_t width = 512;
};
void describe(base::ConfigVisitor& v, CompressorShape& shape);

struct RouteShape {
  std::int64_t tokens = 64;
  std::int64_t experts = 384;
  std::int64_t choices = 6;
};
void describe(base::ConfigVisitor& v, RouteShape& shape);

// An expert layer of `ranks` alike devices, whose choices spread evenly.
struct ExpertWavesShape {
  hwmodels::kernels::GemmFormat format = hwmodels::kernels::GemmFormat::kFp4Fp8;
  std::int64_t ranks = 8;
  std::int64_t tokens = 64;  // of each
  std::int64_t choices = 6;
  std::int64_t experts = 384;  // of all
  std::int64_t hidden = 7168;
  std::int64_t inner = 3072;
};
void describe(base::ConfigVisitor& v, ExpertWavesShape& shape);

// One alternative per kernel.
using Shape = std::variant<GemmShape, AttentionShape, RowShape, HyperShape, ExpertRowsShape,
                           IndexShape, TopKShape, CompressorShape, RouteShape, ExpertWavesShape>;

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
