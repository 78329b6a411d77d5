#include "analysis/kernels/kernel_cases.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "hwmodels/value/verify_attention.h"
#include "hwmodels/value/verify_compressor.h"
#include "hwmodels/value/verify_expert_waves.h"
#include "hwmodels/value/verify_gemm.h"
#include "hwmodels/value/verify_hyper.h"
#include "hwmodels/value/verify_index_logits.h"
#include "hwmodels/value/verify_route.h"
#include "hwmodels/value/verify_row.h"
#include "hwmodels/value/verify_top_k.h"
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

namespace {

// What every kernel over sequences asks for.
void describe_batch(base::ConfigVisitor& v, SequencesShape& s) {
  using base::Need;
  v.integer({"sequences", "of the batch", Need::kOptional}, s.sequences,
            {.min = 1, .max = 1 << 16});
  v.integer({"context", "tokens of a sequence, the new ones included", Need::kOptional}, s.context,
            {.min = 1, .max = 1 << 24});
  v.integer({"queries", "new tokens of a sequence", Need::kOptional}, s.queries,
            {.min = 1, .max = 1 << 20});
  v.check(s.queries <= s.context, "queries", "more new tokens than the context has");
}

double work_of(const SequencesShape& s) {
  return static_cast<double>(s.sequences) * static_cast<double>(s.queries) *
         static_cast<double>(s.context);
}

k::SequenceGroup group_of(const SequencesShape& s) {
  return {.count = s.sequences, .history = s.context - s.queries, .queries = s.queries};
}

// Decode and prefill as a node of eight devices serves them.
constexpr SequencesShape kDecode{.sequences = 64, .context = 131072, .queries = 1};
constexpr SequencesShape kPrefill{.sequences = 1, .context = 8192, .queries = 8192};

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
[[maybe_unused]] GemmShape shape_type(const k::GemmDesign&) { return {}; }

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
    visit(k::SplitReduceKernel(kernel.splits(), kernel.tokens(), s.n, problem.output, chip),
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
    add("dense", {.groups = {{150, 1}}, .n = 272, .k = 256});
    add("many_tokens", {.groups = {{1100, 1}}, .n = 40, .k = 160});
    // Deep enough that every slot is reused, in each part of a split.
    add("deep", {.groups = {{8, 1}}, .n = 64, .k = 9728});
    add("rounded", {.groups = {{70, 1}}, .n = 136, .k = 192, .output = Dtype::kBf16});
    add("groups", {.groups = uneven, .n = 144, .k = 320});
    add("groups_swiglu", {.groups = uneven,
                          .n = 144,
                          .k = 320,
                          .epilogue = k::Epilogue::kSwiglu,
                          .swiglu_limit = 20.0});
    if (k::problem_of(f).activation == Dtype::kFp8 && k::problem_of(f).fp8_block > 0) {
      add("groups_swiglu_fp8", {.groups = uneven,
                                .n = 256,
                                .k = 160,
                                .output = Dtype::kFp8,
                                .epilogue = k::Epilogue::kSwiglu});
    }
  }
  return cases;
}

}  // namespace

// ---- attention ----------------------------------------------------------------------------------

void describe(base::ConfigVisitor& v, AttentionShape& s) {
  using base::Need;
  describe_batch(v, s.batch);
  v.integer({"heads", "of this device", Need::kOptional}, s.heads, {.min = 1, .max = 1024});
  v.integer({"window", "tokens that are seen whole", Need::kOptional}, s.window,
            {.min = 0, .max = 1 << 16});
  v.integer({"ratio", "tokens of a compressed entry", Need::kOptional}, s.ratio,
            {.min = 1, .max = 1 << 16});
  v.integer({"selected", "compressed entries of a query; 0: all", Need::kOptional}, s.selected,
            {.min = 0, .max = 1 << 20});
}

namespace {

[[maybe_unused]] AttentionShape shape_type(const k::AttentionDesign&) { return {}; }
double work_of(const AttentionShape& s) {
  return work_of(s.batch) * 1024.0 * static_cast<double>(s.heads);
}

// Selected entries (CSA) and all visible entries (HCA) of V4-Pro.
std::vector<TimingCase> timing_cases_of(const k::AttentionDesign&, const CoreRates&) {
  return {{"decode_csa", AttentionShape{.batch = kDecode}},
          {"decode_hca", AttentionShape{.batch = kDecode, .ratio = 128, .selected = 0}},
          {"prefill_csa", AttentionShape{.batch = kPrefill}},
          {"prefill_hca", AttentionShape{.batch = kPrefill, .ratio = 128, .selected = 0}}};
}

void launches_of(const k::AttentionDesign& design, const AttentionShape& s, const CoreRates& chip,
                 LaunchVisitor visit) {
  const k::KeyRule rule{.window = s.window, .ratio = s.ratio, .selected = s.selected};
  std::vector<k::QueryClass> classes;
  k::AttentionProblem p;
  if (s.batch.queries <= 8) {
    k::add_decode_classes(rule, design, s.batch.sequences, s.batch.queries, s.batch.context,
                          p.window_rows, p.compressed_rows, classes);
  } else {
    for (std::int64_t i = 0; i < s.batch.sequences; ++i) {
      k::add_prefill_classes(rule, design, s.batch.context - s.batch.queries, s.batch.queries,
                             p.window_rows, p.compressed_rows, classes);
    }
  }
  p.classes = classes;
  p.heads = s.heads;
  p.scale = 1.0;
  p.selected = s.selected > 0;
  const k::AttentionLaunches launches(p, design, chip);
  const std::int64_t splits = launches.attention().most_splits();
  launches.for_each([&](const hwmodels::tile::Kernel& kernel) {
    visit(kernel,
          fmt::format("{} heads, {} keys a block, {}", std::min(design.heads, s.heads),
                      design.block_keys,
                      splits > 1 ? fmt::format("keys in up to {} parts", splits) : "keys whole"));
  });
}

std::vector<VerifyCase> verify_cases_of(const k::AttentionDesign& design, const CoreRates& chip) {
  std::vector<VerifyCase> cases;
  const auto add = [&](std::string name, value::AttentionCase c) {
    c.heads = 8;
    c.key_width = c.value_width = 512;
    c.window_entry = c.compressed_entry = k::kV4Entry;
    // Where few keys outweigh all others, the rounding of their probabilities does not average out:
    // the largest difference may be twice as large.
    value::Tolerance tolerance = value::attention_tolerance();
    tolerance.max_relative *= 2.0;
    cases.push_back(
        {.name = std::move(name),
         .tolerance = tolerance,
         .grid = OutputGrid::kBf16,
         .run = [&design, &chip, c] { return value::verify_attention(design, chip, c); }});
  };
  const k::KeyRule csa{.window = 128, .ratio = 4, .selected = 96};
  const k::KeyRule hca{.window = 128, .ratio = 16, .selected = 0};
  add("decode_csa", {.rule = csa, .contexts = {700, 130, 5}, .tokens = 2});
  add("decode_csa_padded",
      {.rule = csa, .contexts = {700}, .pattern = value::SelectionPattern::kPadded});
  add("decode_hca", {.rule = hca, .contexts = {1500, 37}});
  add("decode_hca_long", {.rule = hca, .contexts = {6000}});
  add("prefill_csa", {.rule = csa, .prefill = true, .contexts = {300}, .tokens = 13});
  add("prefill_hca", {.rule = hca, .prefill = true, .contexts = {150, 13}, .tokens = 13});
  return cases;
}

}  // namespace

// ---- row ----------------------------------------------------------------------------------------

void describe(base::ConfigVisitor& v, RowShape& s) {
  using base::Need;
  base::choice(v, {"chain", "what is done to a row", Need::kOptional}, s.chain, kChainNames);
  v.integer({"rows", "tokens", Need::kOptional}, s.rows, {.min = 1, .max = 1 << 24});
  v.integer({"heads", "of query, output and index_query", Need::kOptional}, s.heads,
            {.min = 1, .max = 1024});
  v.integer({"width", "channels of a head, or of a row", Need::kOptional}, s.width,
            {.min = 128, .max = 1 << 16});
  v.check(s.width % 128 == 0, "width", "widths are multiples of 128");
}

namespace {

[[maybe_unused]] RowShape shape_type(const k::RowDesign&) { return {}; }
double work_of(const RowShape& s) {
  return static_cast<double>(s.rows) * static_cast<double>(s.heads) * static_cast<double>(s.width) *
         16.0;
}

k::RowProblem problem_of(const RowShape& s) {
  constexpr std::int64_t kPositions = 1024;
  const std::int64_t cache = s.rows + s.rows / 8 + 8;
  switch (s.chain) {
    case Chain::kNorm:
      return k::norm_chain(s.rows, s.width, Dtype::kBf16);
    case Chain::kResidualNorm:
      return k::residual_norm_chain(s.rows, s.width);
    case Chain::kQuantise:
      return k::quantise_chain(s.rows, s.width);
    case Chain::kQuery:
      return k::query_chain(s.rows, s.heads, s.width, kPositions);
    case Chain::kOutput:
      return k::output_chain(s.rows, s.heads, s.width, kPositions);
    case Chain::kEntry:
      return k::entry_chain(s.rows, s.width, kPositions, cache);
    case Chain::kIndexQuery:
      return k::index_query_chain(s.rows, s.heads, s.width, kPositions);
    case Chain::kIndexKey:
      return k::index_key_chain(s.rows, s.width, kPositions, cache);
    case Chain::kSwiglu:
      return k::swiglu_chain(s.rows, s.width, 10.0);
    case Chain::kEmbedding:
      break;
  }
  return k::embedding_chain(s.rows, s.width, 4096, 4);
}

std::vector<TimingCase> timing_cases_of(const k::RowDesign&, const CoreRates&) {
  return {
      {"decode_norm", RowShape{.chain = Chain::kNorm, .rows = 64, .width = 7168}},
      {"decode_query", RowShape{.chain = Chain::kQuery, .rows = 64, .heads = 128, .width = 512}},
      {"prefill_norm", RowShape{.chain = Chain::kNorm, .rows = 8192, .width = 7168}},
      {"prefill_query", RowShape{.chain = Chain::kQuery, .rows = 8192, .heads = 128, .width = 512}},
      {"prefill_swiglu", RowShape{.chain = Chain::kSwiglu, .rows = 8192, .width = 3072}}};
}

void launches_of(const k::RowDesign& design, const RowShape& s, const CoreRates& chip,
                 LaunchVisitor visit) {
  const k::RowKernel kernel(problem_of(s), design, chip);
  visit(kernel, fmt::format("{} rows an iteration, {} parts of a row", kernel.blocks().size(),
                            kernel.blocks().parts()));
}

std::vector<VerifyCase> verify_cases_of(const k::RowDesign& design, const CoreRates& chip) {
  std::vector<VerifyCase> cases;
  for (std::size_t i = 0; i < kChainNames.size(); ++i) {
    const auto chain = static_cast<Chain>(i);
    const bool by_heads =
        chain == Chain::kQuery || chain == Chain::kOutput || chain == Chain::kIndexQuery;
    const bool index = chain == Chain::kIndexQuery || chain == Chain::kIndexKey;
    const value::RowCase c{
        .problem = problem_of(
            {.chain = chain, .rows = 37, .heads = by_heads ? 16 : 1, .width = index ? 128 : 512})};
    cases.push_back({.name = std::string(kChainNames[i]),
                     .tolerance = value::row_tolerance(c.problem.output),
                     .grid = grid_of(c.problem.output),
                     .run = [&design, &chip, c] { return value::verify_row(design, chip, c); }});
  }
  const value::ArgmaxCase likeliest{.rows = 20, .vocabulary = 5000};
  cases.push_back({.name = "argmax",
                   .tolerance = {.recall = 1.0},
                   .selection = true,
                   .run = [&design, &chip, likeliest] {
                     return value::verify_argmax(design, chip, likeliest);
                   }});
  return cases;
}

}  // namespace

// ---- hyper --------------------------------------------------------------------------------------

void describe(base::ConfigVisitor& v, HyperShape& s) {
  using base::Need;
  base::choice(v, {"phase", "before or after the layer", Need::kOptional}, s.phase,
               kHyperPhaseNames);
  v.integer({"tokens", "of this device", Need::kOptional}, s.tokens, {.min = 1, .max = 1 << 24});
  v.integer({"streams", "residual streams", Need::kOptional}, s.streams, {.min = 1, .max = 16});
  v.integer({"hidden", "channels of a stream", Need::kOptional}, s.hidden,
            {.min = 128, .max = 1 << 16});
}

namespace {

[[maybe_unused]] HyperShape shape_type(const k::HyperDesign&) { return {}; }
double work_of(const HyperShape& s) {
  return static_cast<double>(s.tokens) * static_cast<double>(s.hidden) *
         static_cast<double>(s.streams * s.streams * s.streams) * 64.0;
}

std::vector<TimingCase> timing_cases_of(const k::HyperDesign&, const CoreRates&) {
  return {{"decode_pre", HyperShape{.phase = HyperPhase::kPre, .tokens = 64}},
          {"decode_post", HyperShape{.phase = HyperPhase::kPost, .tokens = 64}},
          {"prefill_pre", HyperShape{.phase = HyperPhase::kPre, .tokens = 8192}},
          {"prefill_post", HyperShape{.phase = HyperPhase::kPost, .tokens = 8192}}};
}

void launches_of(const k::HyperDesign& design, const HyperShape& s, const CoreRates& chip,
                 LaunchVisitor visit) {
  const k::HyperProblem p{.tokens = s.tokens,
                          .streams = s.streams,
                          .hidden = s.hidden,
                          .compute = k::hyper_compute(chip)};
  if (s.phase == HyperPhase::kPost) return visit(k::HyperPostKernel(p, design, chip), "");
  for (const k::HyperPass pass : k::hyper_passes(design)) {
    const k::HyperPreKernel kernel(p, design, chip, pass);
    visit(kernel, fmt::format("channels in {} parts", kernel.splits()));
  }
}

std::vector<VerifyCase> verify_cases_of(const k::HyperDesign& design, const CoreRates& chip) {
  std::vector<VerifyCase> cases;
  for (const std::int64_t tokens : {7, 70}) {
    const value::HyperCase c{
        .problem = {.tokens = tokens, .hidden = 256, .compute = k::hyper_compute(chip)}};
    cases.push_back(
        {.name = fmt::format("pre_{}", tokens),
         .tolerance = value::hyper_pre_tolerance(c.problem.compute),
         .run = [&design, &chip, c] { return value::verify_hyper_pre(design, chip, c); }});
    cases.push_back(
        {.name = fmt::format("post_{}", tokens),
         .tolerance = value::hyper_post_tolerance(),
         .grid = OutputGrid::kBf16,
         .run = [&design, &chip, c] { return value::verify_hyper_post(design, chip, c); }});
  }
  return cases;
}

}  // namespace

// ---- expert_rows --------------------------------------------------------------------------------

void describe(base::ConfigVisitor& v, ExpertRowsShape& s) {
  using base::Need;
  v.integer({"tokens", "of this device", Need::kOptional}, s.tokens, {.min = 1, .max = 1 << 22});
  v.integer({"choices", "experts of a token", Need::kOptional}, s.choices, {.min = 1, .max = 64});
  v.integer({"experts", "that are here", Need::kOptional}, s.experts, {.min = 1, .max = 4096});
  v.integer({"hidden", "channels of a row", Need::kOptional}, s.hidden,
            {.min = 128, .max = 1 << 16});
  v.check(s.choices <= s.experts, "choices", "more choices than experts");
  v.check(s.hidden % 128 == 0, "hidden", "rows are multiples of 128");
}

namespace {

[[maybe_unused]] ExpertRowsShape shape_type(const k::MoeRowsDesign&) { return {}; }
double work_of(const ExpertRowsShape& s) {
  return static_cast<double>(s.tokens * s.choices) *
         static_cast<double>(std::max(s.hidden, s.experts)) * 16.0;
}

std::vector<TimingCase> timing_cases_of(const k::MoeRowsDesign&, const CoreRates&) {
  return {{"decode", ExpertRowsShape{.tokens = 64}}, {"prefill", ExpertRowsShape{.tokens = 8192}}};
}

void launches_of(const k::MoeRowsDesign& design, const ExpertRowsShape& s, const CoreRates& chip,
                 LaunchVisitor visit) {
  using Order = k::ExpertOrderKernel;
  const k::MoeRowsProblem p{
      .tokens = s.tokens, .choices = s.choices, .experts = s.experts, .hidden = s.hidden};
  const Order place(p, design, chip, Order::Pass::kPlace);
  if (place.counters() > 1) visit(Order(p, design, chip, Order::Pass::kCount), "");
  visit(place, fmt::format("{} counting cores", place.counters()));
  const k::PermuteKernel permute(p, design, chip);
  visit(permute, fmt::format("{} parts of a row", permute.parts()));
  visit(k::FinaliseKernel(p, design, chip), "");
}

std::vector<VerifyCase> verify_cases_of(const k::MoeRowsDesign& design, const CoreRates& chip) {
  std::vector<VerifyCase> cases;
  for (const std::int64_t tokens : {40, 300}) {
    const value::MoeRowsCase c{
        .problem = {
            .tokens = tokens, .choices = 6, .first_expert = 3, .experts = 16, .hidden = 256}};
    cases.push_back(
        {.name = fmt::format("tokens_{}", tokens),
         .tolerance = value::row_tolerance(Dtype::kBf16),
         .selection = true,
         .grid = OutputGrid::kBf16,
         .run = [&design, &chip, c] { return value::verify_moe_rows(design, chip, c); }});
  }
  return cases;
}

}  // namespace

// ---- index_logits -------------------------------------------------------------------------------

void describe(base::ConfigVisitor& v, IndexShape& s) {
  using base::Need;
  base::choice(v, {"format", "of keys and queries", Need::kOptional}, s.format, kIndexFormatNames);
  describe_batch(v, s.batch);
  v.integer({"heads", "of the indexer", Need::kOptional}, s.heads, {.min = 1, .max = 1024});
  v.integer({"width", "channels of a head", Need::kOptional}, s.width, {.min = 32, .max = 1024});
  v.integer({"ratio", "tokens of an entry", Need::kOptional}, s.ratio, {.min = 1, .max = 1 << 16});
}

namespace {

Dtype dtype_of(IndexFormat format) {
  return format == IndexFormat::kFp4   ? Dtype::kFp4
         : format == IndexFormat::kFp8 ? Dtype::kFp8
                                       : Dtype::kBf16;
}

// FP4 as released where the chip multiplies it, else the next wider.
IndexFormat index_format(const CoreRates& chip) {
  return multiplies(chip, Dtype::kFp4)   ? IndexFormat::kFp4
         : multiplies(chip, Dtype::kFp8) ? IndexFormat::kFp8
                                         : IndexFormat::kBf16;
}

[[maybe_unused]] IndexShape shape_type(const k::IndexLogitsDesign&) { return {}; }
double work_of(const IndexShape& s) {
  return work_of(s.batch) * static_cast<double>(s.heads) * static_cast<double>(s.width);
}

std::vector<TimingCase> timing_cases_of(const k::IndexLogitsDesign&, const CoreRates& chip) {
  const IndexFormat f = index_format(chip);
  const std::string_view name = kIndexFormatNames[static_cast<std::size_t>(f)];
  return {{fmt::format("decode/{}", name), IndexShape{.format = f, .batch = kDecode}},
          {fmt::format("prefill/{}", name), IndexShape{.format = f, .batch = kPrefill}}};
}

void launches_of(const k::IndexLogitsDesign& design, const IndexShape& s, const CoreRates& chip,
                 LaunchVisitor visit) {
  const k::SequenceGroup group = group_of(s.batch);
  k::IndexLogitsProblem p;
  p.sequences = {&group, 1};
  p.heads = s.heads;
  p.width = s.width;
  p.ratio = s.ratio;
  p.key = p.compute = dtype_of(s.format);
  const k::IndexLogitsKernel kernel(p, design, chip);
  visit(kernel, fmt::format("{} queries, {} entries a tile, up to {} tiles an item",
                            design.block_queries, design.tile_entries, kernel.part_tiles()));
}

std::vector<VerifyCase> verify_cases_of(const k::IndexLogitsDesign& design, const CoreRates& chip) {
  std::vector<VerifyCase> cases;
  for (std::size_t i = 0; i < kIndexFormatNames.size(); ++i) {
    const Dtype d = dtype_of(static_cast<IndexFormat>(i));
    if (!multiplies(chip, d)) continue;
    const auto add = [&](std::string_view name, value::IndexLogitsCase c) {
      c.width = 128;
      c.page = 64;
      c.key = c.compute = d;
      cases.push_back(
          {.name = fmt::format("{}/{}", name, kIndexFormatNames[i]),
           .tolerance = value::index_logits_tolerance(c.score),
           .grid = grid_of(c.score),
           .run = [&design, &chip, c] { return value::verify_index_logits(design, chip, c); }});
    };
    add("decode", {.sequences = {{.count = 2, .history = 4100}, {.history = 3}}});
    add("decode_rounded", {.sequences = {{.history = 2000, .queries = 2}}, .score = Dtype::kBf16});
    add("prefill", {.sequences = {{.history = 900, .queries = 13}}});
  }
  return cases;
}

}  // namespace

// ---- top_k --------------------------------------------------------------------------------------

void describe(base::ConfigVisitor& v, TopKShape& s) {
  using base::Need;
  describe_batch(v, s.batch);
  v.integer({"ratio", "tokens of an entry", Need::kOptional}, s.ratio, {.min = 1, .max = 1 << 16});
  v.integer({"k", "entries selected", Need::kOptional}, s.k, {.min = 1, .max = 1 << 16});
}

namespace {

[[maybe_unused]] TopKShape shape_type(const k::TopKDesign&) { return {}; }
double work_of(const TopKShape& s) { return work_of(s.batch) * 64.0; }

std::vector<TimingCase> timing_cases_of(const k::TopKDesign&, const CoreRates&) {
  return {{"decode", TopKShape{.batch = kDecode}}, {"prefill", TopKShape{.batch = kPrefill}}};
}

void launches_of(const k::TopKDesign& design, const TopKShape& s, const CoreRates& chip,
                 LaunchVisitor visit) {
  const k::SequenceGroup group = group_of(s.batch);
  k::TopKProblem p;
  p.sequences = {&group, 1};
  p.ratio = s.ratio;
  p.k = s.k;
  const k::TopKKernel kernel(p, design, chip);
  k::for_each_launch(kernel, [&](const hwmodels::tile::Kernel& launch) {
    visit(launch, fmt::format("rows in {} parts", kernel.parts(group)));
  });
}

std::vector<VerifyCase> verify_cases_of(const k::TopKDesign& design, const CoreRates& chip) {
  std::vector<VerifyCase> cases;
  const auto add = [&](std::string name, const value::TopKCase& c) {
    cases.push_back({.name = std::move(name),
                     .tolerance = value::top_k_tolerance(),
                     .selection = true,
                     .run = [&design, &chip, c] { return value::verify_top_k(design, chip, c); }});
  };
  using value::ScorePattern;
  add("short", {.sequences = {{.history = 0, .queries = 3}, {.history = 255, .queries = 9}}});
  add("normal", {.sequences = {{.count = 2, .history = 4003}, {.history = 2222}}});
  add("shifted", {.sequences = {{.history = 8000}}, .pattern = ScorePattern::kShifted});
  add("ties", {.sequences = {{.history = 8000}}, .pattern = ScorePattern::kTies});
  add("masked", {.sequences = {{.history = 8000}}, .pattern = ScorePattern::kMasked});
  add("long", {.sequences = {{.history = 70000}},
               .ratio = 1,
               .k = 1024,
               .pattern = ScorePattern::kAscending});
  return cases;
}

}  // namespace

// ---- compressor ---------------------------------------------------------------------------------

void describe(base::ConfigVisitor& v, CompressorShape& s) {
  using base::Need;
  describe_batch(v, s.batch);
  v.integer({"ratio", "tokens of a block", Need::kOptional}, s.ratio, {.min = 1, .max = 1024});
  v.integer({"width", "channels of an entry", Need::kOptional}, s.width, {.min = 128, .max = 4096});
  v.check(s.width % 128 == 0, "width", "entries are multiples of 128 channels");
}

namespace {

[[maybe_unused]] CompressorShape shape_type(const k::CompressorDesign&) { return {}; }
double work_of(const CompressorShape& s) {
  return static_cast<double>(s.batch.sequences * s.batch.queries) * static_cast<double>(s.width) *
         64.0;
}

// Blocks that a core pools several of are CSA's, of four tokens; the others HCA's.
std::int64_t block_of(const k::CompressorDesign& design) { return design.blocks > 1 ? 4 : 128; }

std::vector<TimingCase> timing_cases_of(const k::CompressorDesign& design, const CoreRates&) {
  const std::int64_t ratio = block_of(design);
  return {{"decode", CompressorShape{.batch = kDecode, .ratio = ratio}},
          {"prefill", CompressorShape{.batch = kPrefill, .ratio = ratio}}};
}

void launches_of(const k::CompressorDesign& design, const CompressorShape& s, const CoreRates& chip,
                 LaunchVisitor visit) {
  const k::SequenceGroup group = group_of(s.batch);
  k::CompressorProblem p;
  p.sequences = {&group, 1};
  p.ratio = s.ratio;
  p.width = s.width;
  p.overlap = s.ratio <= 4;
  visit(k::CompressorKernel(p, design, chip), "");
}

std::vector<VerifyCase> verify_cases_of(const k::CompressorDesign& design, const CoreRates& chip) {
  std::vector<VerifyCase> cases;
  const std::int64_t ratio = block_of(design);
  for (const auto& [name, entry] : {std::pair{"keys", k::CompressedFormat::kFp8Rope},
                                    {"index_fp4", k::CompressedFormat::kFp4},
                                    {"index_fp8", k::CompressedFormat::kFp8}}) {
    const value::CompressorCase c{
        .sequences = {{.count = 2, .history = ratio + 1, .queries = 2 * ratio + 3}},
        .ratio = ratio,
        .overlap = ratio <= 4,
        .entry = entry};
    cases.push_back(
        {.name = name, .tolerance = value::compressor_tolerance(entry), .run = [&design, &chip, c] {
           return value::verify_compressor(design, chip, c);
         }});
  }
  return cases;
}

}  // namespace

// ---- route --------------------------------------------------------------------------------------

void describe(base::ConfigVisitor& v, RouteShape& s) {
  using base::Need;
  v.integer({"tokens", "of this device", Need::kOptional}, s.tokens, {.min = 1, .max = 1 << 24});
  v.integer({"experts", "to choose from", Need::kOptional}, s.experts, {.min = 1, .max = 4096});
  v.integer({"choices", "experts of a token", Need::kOptional}, s.choices, {.min = 1, .max = 64});
  v.check(s.choices <= s.experts, "choices", "more choices than experts");
}

namespace {

[[maybe_unused]] RouteShape shape_type(const k::RouteDesign&) { return {}; }
double work_of(const RouteShape& s) {
  return static_cast<double>(s.tokens * s.experts) * static_cast<double>(s.choices) * 8.0;
}

std::vector<TimingCase> timing_cases_of(const k::RouteDesign&, const CoreRates&) {
  return {{"decode", RouteShape{.tokens = 64}}, {"prefill", RouteShape{.tokens = 8192}}};
}

void launches_of(const k::RouteDesign& design, const RouteShape& s, const CoreRates& chip,
                 LaunchVisitor visit) {
  k::RouteProblem p;
  p.tokens = s.tokens;
  p.router.experts = s.experts;
  p.router.topk = s.choices;
  visit(k::RouteKernel(p, design, chip), "");
}

std::vector<VerifyCase> verify_cases_of(const k::RouteDesign& design, const CoreRates& chip) {
  std::vector<VerifyCase> cases;
  for (const std::int64_t vocab : {0, 100}) {
    const value::RouteCase c{.vocab = vocab};
    cases.push_back({.name = vocab > 0 ? "hashed" : "scored",
                     .tolerance = value::route_tolerance(),
                     .selection = true,
                     .run = [&design, &chip, c] { return value::verify_route(design, chip, c); }});
  }
  return cases;
}

}  // namespace

// ---- expert_waves -------------------------------------------------------------------------------

void describe(base::ConfigVisitor& v, ExpertWavesShape& s) {
  using base::Need;
  base::choice(v, {"format", "of tokens and weights", Need::kOptional}, s.format,
               k::kGemmFormatNames);
  v.integer({"ranks", "devices that share the experts", Need::kOptional}, s.ranks,
            {.min = 1, .max = 1024});
  v.integer({"tokens", "of each device", Need::kOptional}, s.tokens, {.min = 1, .max = 1 << 18});
  v.integer({"choices", "experts of a token", Need::kOptional}, s.choices,
            {.min = 1, .max = k::kMoeChoices});
  v.integer({"experts", "of all devices", Need::kOptional}, s.experts, {.min = 1, .max = 4096});
  v.integer({"hidden", "channels of a token", Need::kOptional}, s.hidden,
            {.min = 128, .max = 1 << 16});
  v.integer({"inner", "channels of an expert", Need::kOptional}, s.inner,
            {.min = 128, .max = 1 << 16});
  v.check(s.choices <= s.experts, "choices", "more choices than experts");
  v.check(s.experts % s.ranks == 0, "experts", "not the same number on every device");
  v.check(s.hidden % 128 == 0, "hidden", "rows are multiples of 128");
  v.check(s.inner % 128 == 0, "inner", "rows are multiples of 128");
}

namespace {

[[maybe_unused]] ExpertWavesShape shape_type(const k::ExpertWavesDesign&) { return {}; }
double work_of(const ExpertWavesShape& s) {
  return static_cast<double>(s.ranks * s.tokens) * static_cast<double>(s.choices) *
         static_cast<double>(s.hidden) * static_cast<double>(s.inner);
}

// The layer in the formats that it has: tokens in FP8 or BF16.
std::vector<k::GemmFormat> layer_formats(const k::ExpertWavesDesign& design,
                                         const CoreRates& chip) {
  std::vector<k::GemmFormat> formats = formats_of(design.product, chip);
  std::erase_if(formats, [](k::GemmFormat f) {
    return f != k::GemmFormat::kFp4Fp8 && f != k::GemmFormat::kFp8Block &&
           f != k::GemmFormat::kBf16;
  });
  return formats;
}

std::vector<TimingCase> timing_cases_of(const k::ExpertWavesDesign& design, const CoreRates& chip) {
  std::vector<TimingCase> cases;
  for (const k::GemmFormat f : layer_formats(design, chip)) {
    cases.push_back({in_format("decode", f), ExpertWavesShape{.format = f}});
    cases.push_back({in_format("batch", f), ExpertWavesShape{.format = f, .tokens = 512}});
  }
  return cases;
}

// One rank with its peers' traffic at the link's rate; waits for them are not.
void launches_of(const k::ExpertWavesDesign& design, const ExpertWavesShape& s,
                 const CoreRates& chip, LaunchVisitor visit) {
  if (!offers(design.product, s.format)) {
    throw base::UnsupportedError(
        fmt::format("{} offers {}, not {}", design.name, fmt::join(design.product.formats, ", "),
                    k::kGemmFormatNames[static_cast<std::size_t>(s.format)]));
  }
  if (s.ranks > 1 && chip.link <= 1.0) {
    throw base::UnsupportedError(
        fmt::format("expert_waves on {}: no system is known in which it has peers", chip.chip));
  }
  const std::vector<std::int64_t> counts =
      k::balanced_counts(s.ranks, s.experts, s.tokens, s.choices);
  const k::ExpertWavesProblem p{.ranks = s.ranks,
                                .tokens = s.tokens,
                                .capacity = s.tokens,
                                .choices = s.choices,
                                .experts = s.experts,
                                .hidden = s.hidden,
                                .inner = s.inner,
                                .format = s.format,
                                .counts = counts};
  const k::ExpertWavesKernel kernel(p, design, chip);
  const k::GemmTile& tile = kernel.first().tile();
  visit(kernel, fmt::format("{} waves of {} experts, {} weight rows x {} tokens", kernel.waves(),
                            kernel.wave_experts(), tile.weights, tile.tokens));
}

std::vector<VerifyCase> verify_cases_of(const k::ExpertWavesDesign& design, const CoreRates& chip) {
  std::vector<VerifyCase> cases;
  for (const k::GemmFormat f : layer_formats(design, chip)) {
    const auto add = [&](std::string_view name, value::ExpertWavesCase c) {
      c.format = f;
      // Wide enough for the scales of a tile's activations.
      c.inner = 256;
      cases.push_back(
          {.name = in_format(name, f),
           .tolerance = value::expert_waves_tolerance(),
           .grid = OutputGrid::kBf16,
           .run = [&design, &chip, c] { return value::verify_expert_waves(design, chip, c); }});
    };
    using value::ItemOrder;
    add("one_rank", {.tokens = {23}});
    add("ranks", {.tokens = {9, 0, 17, 4}, .schedule = {.order = ItemOrder::kLatest}});
    add("layers", {.tokens = {6, 3}, .layers = 3, .schedule = {.order = ItemOrder::kRandom}});
    add("hot_expert", {.tokens = {30, 20},
                       .popularity = value::Popularity::kHot,
                       .schedule = {.order = ItemOrder::kLatest}});
    add("one_receiver",
        {.tokens = {5, 7, 3, 8}, .choices = 2, .popularity = value::Popularity::kOneRank});
    // Every tile that a layer may take: each token chooses both experts, one on each rank.
    std::int64_t fewest = 1;
    for (const k::GemmTile& t : design.product.tiles) {
      const std::int64_t tokens = std::min(t.max_tokens, std::max(fewest, t.tokens + 3));
      add(fmt::format("tile_{}x{}", t.weights, t.tokens),
          {.tokens = {tokens - tokens / 3, tokens / 3}, .choices = 2, .experts = 2});
      fewest = t.max_tokens + 1;
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
