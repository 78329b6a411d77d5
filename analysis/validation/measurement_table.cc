#include "analysis/validation/measurement_table.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <functional>
#include <optional>
#include <stdexcept>

#include "sim/base/text.h"

namespace foretoken::analysis::validation {

namespace w = workloads;
using base::ConfigError;
using base::CsvRow;
using base::CsvTable;

namespace {

constexpr double kMostWhole = 1099511627776.0;  // 2^40

const Unit kMicroseconds{"us", 1e-6};
const Unit kMilliseconds{"ms", 1e-3};

// Names that tables give devices, and the chip each means.
constexpr std::pair<std::string_view, std::string_view> kChipNames[] = {
    {"A100 80GB", "a100_sxm"},
    {"H100", "h100_sxm"},
    {"H200", "h200_sxm"},
    {"H800", "h800_sxm"},
    {"H800 SXM5", "h800_sxm"},
    {"H20", "h20_sxm"},
    {"H20-96GB", "h20_sxm"},
    {"H20-141GB", "h20_141gb"},
    {"B200", "b200_sxm"},
    {"B300", "b300_sxm"},
    {"GB200", "gb200"},
    {"GB300", "gb300"},
    // The tables do not say which part; the one most in use.
    {"SM100 (Blackwell; exact SKU not stated in the PR)", "b200_sxm"},
    {"Blackwell (node not shown in excerpt)", "b200_sxm"},
    {"Atlas A3", "ascend_910c"},
    {"A3 384 SuperPOD", "ascend_910c"},
    // Generations whose SKU is not said: those with all links and a NIC of 400 Gb/s.
    {"SM90", "h100_sxm"},
    {"SM100", "b200_sxm"},
};

std::string chip_of(const std::string& name) {
  for (const auto& [known, chip] : kChipNames) {
    if (name == known) return std::string(chip);
  }
  return name;
}

std::string lower(std::string_view text) {
  std::string out(text);
  for (char& c : out) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return out;
}

std::string model_of(const std::string& name) {
  if (name == "DeepSeek-V3.2-Exp") return "deepseek-v3.2";
  return lower(name);
}

std::string dtype_of(const std::string& name) {
  if (name == "bfloat16") return "bf16";
  if (name == "float16" || name == "half") return "fp16";
  if (name == "fp8_e4m3") return "fp8";
  return lower(name);
}

// A required field that the row leaves empty, or a value that means nothing here. Caught per row.
struct Unreadable {
  std::string reason;
};

std::int64_t product_of(std::int64_t a, std::int64_t b) {
  if (static_cast<double>(a) * static_cast<double>(b) > kMostWhole) {
    throw Unreadable{fmt::format("{} x {} is beyond 2^40", a, b)};
  }
  return a * b;
}

class Row {
 public:
  Row(const CsvTable& table, const CsvRow& row) : table_(table), row_(row) {}

  // "" for an empty field, and for a column the table does without.
  [[nodiscard]] std::string text(std::string_view column) const {
    return table_.has(column) ? table_.cell(row_, column) : std::string();
  }
  [[nodiscard]] std::string required(std::string_view column) const {
    std::string value = text(column);
    if (value.empty()) throw Unreadable{fmt::format("'{}' is empty", column)};
    return value;
  }
  [[nodiscard]] std::int64_t count(std::string_view column, std::int64_t least = 1) const {
    const std::string value = required(column);
    try {
      return parse_whole(value, least);
    } catch (const std::invalid_argument& error) {
      throw ConfigError(table_.position(row_, column),
                        fmt::format("'{}': {}", column, error.what()));
    }
  }
  [[nodiscard]] std::int64_t count_or(std::string_view column, std::int64_t otherwise,
                                      std::int64_t least = 1) const {
    return text(column).empty() ? otherwise : count(column, least);
  }
  [[nodiscard]] std::optional<double> positive(std::string_view column) const {
    const std::string value = text(column);
    if (value.empty()) return std::nullopt;
    try {
      return parse_positive(value);
    } catch (const std::invalid_argument& error) {
      throw ConfigError(table_.position(row_, column),
                        fmt::format("'{}': {}", column, error.what()));
    }
  }
  [[nodiscard]] Origin origin() const {
    return {chip_of(required("system")), text("framework"), text("kernel_source")};
  }
  [[nodiscard]] const CsvTable& table() const { return table_; }
  [[nodiscard]] const CsvRow& row() const { return row_; }

 private:
  const CsvTable& table_;
  const CsvRow& row_;
};

struct Value {
  std::optional<double> number;
  Unit unit;
};

Value microseconds(const Row& r, std::string_view column = "latency_us") {
  return {r.positive(column), kMicroseconds};
}

// Reads one measurement's case; the value is read apart, so that a row that is skipped still shows
// what was measured.
using ReadCase = Case (*)(const Row&);
using ReadValue = Value (*)(const Row&);

struct Column {
  ReadValue value;
  ReadCase read;
};

struct Layout {
  TableKind kind;
  std::string_view title;
  std::string_view class_name;  // of rows that cannot be read
  std::vector<std::string_view> columns;
  std::vector<Column> measurements;  // of a row
};

Case dense_gemm(const Row& r) {
  return DenseGemmCase{r.origin(), dtype_of(r.required("dtype")), r.count("m"), r.count("n"),
                       r.count("k")};
}

Case routed_experts(const Row& r) {
  return RoutedExpertsCase{.origin = r.origin(),
                           .model = model_of(r.text("model")),
                           .dtype = dtype_of(r.required("moe_dtype")),
                           .routing = r.text("routing_distribution"),
                           .tokens = r.count("num_tokens_into_moe"),
                           .hidden = r.count("hidden"),
                           .inner = r.count("moe_intermediate"),
                           .experts = r.count("num_experts"),
                           .topk = r.count("topk"),
                           .tp = r.count_or("moe_tp_size", 1),
                           .ep = r.count_or("moe_ep_size", 1)};
}

AttentionModuleCase attention_module(const Row& r) {
  AttentionModuleCase c;
  c.origin = r.origin();
  c.model = model_of(r.required("model"));
  const std::string kind = r.required("attention_kind");
  if (kind != "CSA" && kind != "HCA") {
    throw Unreadable{fmt::format("attention kind {} is not CSA or HCA", base::quote(kind))};
  }
  c.kind = kind == "CSA" ? w::AttentionKind::kCsa : w::AttentionKind::kHca;
  c.weight_dtype = dtype_of(r.text("gemm_weight_dtype"));
  c.kv_dtype = dtype_of(r.text("kv_cache_dtype"));
  c.ratio = r.count_or("compress_ratio", c.kind == w::AttentionKind::kCsa ? 4 : 128);
  c.tp = r.count_or("tp_size", 1);
  c.local_heads = r.count("local_heads");
  c.sequences = r.count("batch_size");
  return c;
}

Case attention_decode(const Row& r) {
  AttentionModuleCase c = attention_module(r);
  c.phase = w::Phase::kDecode;
  c.new_tokens = r.count_or("q_tokens_per_seq", 1);
  c.history = r.count("kv_history_tokens", 0);
  return c;
}

Case attention_prefill(const Row& r) {
  AttentionModuleCase c = attention_module(r);
  c.phase = w::Phase::kPrefill;
  c.new_tokens = r.count("new_tokens_per_seq");
  c.history = r.count("cached_prefix_tokens", 0);
  return c;
}

Case sparse_attention(const Row& r) {
  const std::string op = r.required("op");
  const Origin origin = r.origin();
  const std::string model = model_of(r.required("model"));
  const std::string dtype = dtype_of(r.text("dtype"));
  const std::int64_t heads = r.count("num_heads");
  const std::int64_t ratio = r.count("compress_ratio");
  const std::int64_t sequences = r.count("batch_size");
  const std::int64_t new_tokens = r.count("q_tokens_per_seq");
  const std::int64_t history = r.count("kv_history_tokens", 0);
  if (op.find("mqa_logits") != std::string::npos) {
    return IndexLogitsCase{origin, model, dtype, heads, ratio, sequences, new_tokens, history};
  }
  if (op.find("topk") != std::string::npos) {
    return TopKCase{origin,     model,  r.text("topk_score_mode"), ratio, sequences,
                    new_tokens, history};
  }
  if (op.find("attn_module") != std::string::npos) {
    return SparseAttentionCase{origin, model, dtype, heads, ratio, sequences, new_tokens, history};
  }
  throw Unreadable{fmt::format("op {} is not known", base::quote(op))};
}

Case hyper_connection(const Row& r) {
  const std::string op = r.required("op");
  if (op != "pre" && op != "post") {
    throw Unreadable{fmt::format("op {} is not pre or post", base::quote(op))};
  }
  return HyperConnectionCase{r.origin(),
                             op == "pre" ? w::HyperPhase::kPre : w::HyperPhase::kPost,
                             r.count_or("num_sites", 1),
                             r.count("hc_mult"),
                             r.count("hidden"),
                             r.count_or("sinkhorn_iters", 0, 0),
                             r.count("num_tokens")};
}

Case collective(const Row& r) {
  Origin origin{chip_of(r.required("system")), "nccl " + r.text("nccl_version"), ""};
  return CollectiveCase{std::move(origin), r.required("op"), dtype_of(r.required("dtype")),
                        r.count("num_gpus"), r.count("message_size_elements")};
}

Case low_latency(const Row& r, bool combine) {
  return ExpertTrafficCase{.origin = r.origin(),
                           .combine = combine,
                           .low_latency = true,
                           .dtype = combine ? "bf16" : "fp8",
                           .ranks = product_of(r.count("node_num"), 8),
                           .tokens_per_rank = r.count("tokens_per_rank"),
                           .hidden = r.count("hidden"),
                           .topk = r.count("topk"),
                           .experts = r.count("num_experts"),
                           .nodes = r.count("node_num"),
                           .link = ""};
}

// The ranks of "EP64", "EP 8x2" and "EP 8".
std::int64_t ranks_of(std::string_view topology) {
  std::string_view rest = topology;
  if (!rest.starts_with("EP")) {
    throw Unreadable{fmt::format("topology {} is not EP and a number", base::quote(topology))};
  }
  rest.remove_prefix(2);
  if (rest.starts_with(' ')) rest.remove_prefix(1);
  const std::size_t x = rest.find('x');
  try {
    if (x == std::string_view::npos) return parse_whole(rest, 1);
    return product_of(parse_whole(rest.substr(0, x), 1), parse_whole(rest.substr(x + 1), 1));
  } catch (const std::invalid_argument&) {
    throw Unreadable{fmt::format("topology {} is not EP and a number", base::quote(topology))};
  }
}

Case surveyed_traffic(const Row& r) {
  const std::string kernel = r.required("kernel");
  const bool combine = kernel.find("combine") != std::string::npos;
  if (!combine && kernel.find("dispatch") == std::string::npos) {
    throw Unreadable{fmt::format("kernel {} is no dispatch or combine", base::quote(kernel))};
  }
  return ExpertTrafficCase{.origin = {chip_of(r.required("gpu")), "", kernel},
                           .combine = combine,
                           .low_latency = kernel.find("low-latency") != std::string::npos,
                           .dtype = dtype_of(r.text("dtype")),
                           .ranks = ranks_of(r.required("topology")),
                           .tokens_per_rank = r.count("tokens_per_rank"),
                           .hidden = r.count("hidden"),
                           .topk = r.count("topk"),
                           .cores = r.count_or("sms", 0),
                           .link = r.text("bottleneck_link")};
}

Value traffic_value(const Row& r) {
  if (!r.text("latency_us").empty()) return microseconds(r);
  return {r.positive("bandwidth_GBps"), {"GB/s", 0.0}};
}

Case mega_moe(const Row& r) {
  return MegaMoeCase{.origin = {chip_of(r.required("system")), r.text("db_folder_framework"),
                                r.text("pre_dispatch")},
                     .model = model_of(r.required("model")),
                     .precision = dtype_of(r.text("moe_quant_mode")),
                     .routing = r.text("routing_distribution"),
                     .ep = r.count("ep_size"),
                     .tokens_per_rank = r.count("tokens_per_rank"),
                     .hidden = r.count("hidden"),
                     .inner = r.count("moe_intermediate"),
                     .experts = r.count("num_experts"),
                     .topk = r.count("topk")};
}

Case surveyed_mega_moe(const Row& r) {
  const std::string implementation = r.required("implementation");
  return MegaMoeCase{.origin = {chip_of(r.required("gpu")), "", implementation},
                     .model = model_of(r.required("model")),
                     .precision = lower(r.text("precision")),
                     .routing = "",
                     // Baselines run DeepEP and grouped products one after another.
                     .fused = implementation.find("DeepEP") == std::string::npos,
                     .ep = r.count_or("ep", r.count_or("gpus", 8)),
                     .tokens_per_rank = r.count("tokens_per_rank")};
}

// DeepGEMM's tables give TFLOP/s where they give no time.
Value gemm_survey_value(const Row& r) {
  Value latency = microseconds(r);
  if (latency.number) return latency;
  const std::optional<double> tflops = r.positive("tflops");
  if (!tflops) return latency;
  const double flops = 2.0 * static_cast<double>(r.count_or("groups", 1)) *
                       static_cast<double>(r.count("m_or_m_per_group")) *
                       static_cast<double>(r.count("n")) * static_cast<double>(r.count("k"));
  return {flops / (*tflops * 1e12) / kMicroseconds.seconds, kMicroseconds};
}

Case surveyed_gemm(const Row& r) {
  const std::string kernel = r.required("kernel");
  Origin origin{chip_of(r.required("gpu")), "", kernel};
  // DeepGEMM's FP8 has 1x128 by 128x128 scales.
  const std::string dtype = kernel.find("W4A8") != std::string::npos  ? "w4a8_mxfp4_fp8"
                            : kernel.find("FP8") != std::string::npos ? "fp8_block"
                                                                      : "";
  if (dtype.empty()) throw Unreadable{fmt::format("kernel {} names no dtype", base::quote(kernel))};
  const std::int64_t m = r.count("m_or_m_per_group");
  const std::int64_t n = r.count("n");
  const std::int64_t k = r.count("k");
  if (lower(kernel).find("grouped") == std::string::npos) {
    return DenseGemmCase{std::move(origin), dtype, m, n, k};
  }
  return GroupedGemmCase{std::move(origin), dtype, r.count("groups"), m, n, k};
}

Case matmul(const Row& r) {
  const std::string op = r.required("op");
  if (!op.starts_with("matmul ")) {
    throw Unreadable{fmt::format("op {} is not a matmul", base::quote(op))};
  }
  // The table does not say which of its two widths is reduced; FLOPs and weight bytes are the same.
  return DenseGemmCase{{chip_of(r.required("gpu")), "", ""},
                       dtype_of(op.substr(7)),
                       r.count("m"),
                       r.count("n_or_k"),
                       r.count("k_or_n")};
}

// "b*s=16 hc=4 d=4096" -> the number after "hc="; nothing where the key or its number is missing.
std::optional<std::int64_t> shape_value(std::string_view shape, std::string_view key) {
  while (!shape.empty()) {
    const std::size_t end = std::min(shape.find(' '), shape.size());
    const std::string_view item = shape.substr(0, end);
    shape.remove_prefix(std::min(end + 1, shape.size()));
    const std::size_t equals = item.find('=');
    if (equals == std::string_view::npos || item.substr(0, equals) != key) continue;
    const std::string_view value = item.substr(equals + 1);
    if (value.empty()) return std::nullopt;
    try {
      return parse_whole(value, 0);
    } catch (const std::invalid_argument&) {
      throw Unreadable{fmt::format("shape {} cannot be read", base::quote(item))};
    }
  }
  return std::nullopt;
}

Case ascend_hyper_connection(const Row& r, const Origin& origin, w::HyperPhase phase) {
  const std::string shape = r.text("shape");
  std::optional<std::int64_t> tokens = shape_value(shape, "b*s");
  if (!tokens) {
    const auto sequences = shape_value(shape, "B");
    const auto each = shape_value(shape, "S1");
    if (sequences && each) tokens = product_of(*sequences, *each);
  }
  if (!tokens || *tokens < 1) {
    throw Unreadable{fmt::format("shape {} gives no number of tokens", base::quote(shape))};
  }
  // Kernels of V4-Flash: 4 streams of 4,096.
  return HyperConnectionCase{origin,
                             phase,
                             1,
                             shape_value(shape, "hc").value_or(4),
                             shape_value(shape, "d").value_or(4096),
                             phase == w::HyperPhase::kPre ? 20 : 0,
                             *tokens};
}

Case ascend_kernel(const Row& r) {
  const std::string name = r.required("operator");
  const Origin origin{chip_of(r.required("platform")), "", name};
  const std::string shape = r.text("shape");
  if (name.find("HcPre") != std::string::npos || name.ends_with(" hc_pre")) {
    return ascend_hyper_connection(r, origin, w::HyperPhase::kPre);
  }
  if (name.find("HcPost") != std::string::npos || name.find(" hc_post") != std::string::npos) {
    return ascend_hyper_connection(r, origin, w::HyperPhase::kPost);
  }
  const bool combine = name.find(" combine") != std::string::npos;
  if (combine || name.find(" dispatch") != std::string::npos) {
    // 7,168 wide and top-8 as the table's notes say; dispatch in INT8, combine in BF16.
    return ExpertTrafficCase{.origin = origin,
                             .combine = combine,
                             .low_latency = name.find("low-latency") != std::string::npos,
                             .dtype = combine ? "bf16" : "int8",
                             .ranks = ranks_of(shape),
                             .tokens_per_rank = r.count("batch_or_tokens"),
                             .hidden = 7168,
                             .topk = 8,
                             .link = ""};
  }
  const std::string prefix = "V4-Flash PyPTO ";
  if (!name.starts_with(prefix)) {
    throw Unreadable{fmt::format("operator {} is not of a model here", base::quote(name))};
  }
  std::optional<std::int64_t> cached = shape_value(shape, "S2");
  if (!cached) cached = shape_value(shape, "start_pos");
  return AscendKernelCase{origin,
                          name.substr(prefix.size()),
                          shape_value(shape, "B").value_or(-1),
                          shape_value(shape, "S1").value_or(-1),
                          cached.value_or(-1),
                          shape_value(shape, "D").value_or(-1),
                          shape_value(shape, "cmp_ratio").value_or(-1)};
}

Value value_and_unit(const Row& r) {
  const std::string unit = r.required("unit");
  if (unit == "us") return {r.positive("value"), kMicroseconds};
  if (unit == "ms") return {r.positive("value"), kMilliseconds};
  return {r.positive("value"), {unit, 0.0}};
}

// The number in front of " GPU".
std::int64_t gpus_of(const std::string& pool) {
  const std::size_t end = pool.find(" GPU");
  try {
    if (end != std::string::npos) return parse_whole(pool.substr(0, end), 1);
  } catch (const std::invalid_argument&) {
  }
  throw Unreadable{fmt::format("pool {} is not a number of GPUs", base::quote(pool))};
}

// The stack whose kernels an engine of this description launches.
std::string engine_stack(const std::string& described) {
  const std::string text = lower(described);
  if (text.find("vllm") != std::string::npos) return "vllm";
  if (text.find("sglang") != std::string::npos) return "sglang";
  return "serving";
}

// GPUs of one engine of an EP1 pool, which is tensor-parallel: as many as the prefill engines have
// ("28 GPU TP8"), half of them where these do not divide the pool; 0 where neither does.
std::int64_t tensor_width(const std::string& prefill_pool, std::int64_t gpus) {
  constexpr std::int64_t kUsual = 8;
  const std::size_t at = prefill_pool.find(" TP");
  std::int64_t width = kUsual;
  if (at != std::string::npos) {
    try {
      width = parse_whole(prefill_pool.substr(at + 3), 1);
    } catch (const std::invalid_argument&) {
      return 0;
    }
  }
  if (gpus % width == 0) return width;
  return width % 2 == 0 && gpus % (width / 2) == 0 ? width / 2 : 0;
}

// Decode pools: "8 GPU EP8" runs attention on every GPU by itself; EP1 pools are tensor-parallel
// engines.
Case disaggregated_engine(const Row& r) {
  const std::string speculative = r.text("speculative");
  if (speculative != "none" && !speculative.empty()) {
    throw Unreadable{"speculative decoding whose acceptance is not said"};
  }
  std::string system = lower(r.required("system"));
  std::replace(system.begin(), system.end(), ' ', '_');
  const std::string pool = r.required("decode_pool");
  const std::int64_t gpus = gpus_of(pool);
  const std::size_t at = pool.find(" EP");
  if (at == std::string::npos) throw Unreadable{fmt::format("pool {} has no EP", pool)};
  const std::int64_t ep = ranks_of(pool.substr(at + 1));
  const std::int64_t width = ep == 1 ? tensor_width(r.required("prefill_pool"), gpus) : ep;
  if (width == 0 || gpus % width != 0) {
    throw Unreadable{fmt::format("how {} form engines is not said", base::quote(pool))};
  }
  // Little's law: sequences = output tokens/s x time per token, over the engines of the pool.
  const std::optional<double> rate = r.positive("total_tok_per_s_per_gpu");
  const std::optional<double> tpot = r.positive("tpot_ms");
  if (!rate || !tpot) throw Unreadable{"'total_tok_per_s_per_gpu' or 'tpot_ms' is empty"};
  const auto input = static_cast<double>(r.count("isl"));
  const auto output = static_cast<double>(r.count("osl"));
  const double all = static_cast<double>(gpus + gpus_of(r.required("prefill_pool")));
  const double sequences = *rate * all * output / (input + output) * *tpot * 1e-3;
  const double per_engine = sequences * static_cast<double>(width) / static_cast<double>(gpus);
  if (!(per_engine < 1e9)) throw Unreadable{"more sequences than an engine can hold"};
  EngineStepCase c;
  c.step = {
      .system = system,
      .model = model_of(r.required("model")),
      .precision = "release",
      .stack = engine_stack(r.text("stack")),
      .plan = ep == 1 ? fmt::format("tp={},ep=1", width) : fmt::format("dp={},ep={}", width, width),
      .batch = std::max<std::int64_t>(1, std::llround(per_engine)),
      .context = r.count("isl") + r.count("osl") / 2};
  c.framework = r.text("stack");
  return c;
}

Case ascend_engine(const Row& r) {
  if (r.text("phase") != "decode") {
    throw Unreadable{fmt::format("phase {} is not decode", base::quote(r.text("phase")))};
  }
  const std::string platform = r.required("platform");
  const std::string precision = r.required("precision");
  std::int64_t devices = r.count("chips");
  const std::int64_t drafts = r.count_or("mtp_draft_tokens", 0, 0);
  double accepted = 0.0;
  if (drafts > 0) {
    const auto given = r.positive("mtp_accepted_draft_tokens_avg");
    if (!given) throw Unreadable{"'mtp_accepted_draft_tokens_avg' is empty"};
    accepted = *given;
  }
  EngineStepCase c;
  c.step.model = model_of(r.required("model"));
  if (platform == "Ascend 950DT") {
    c.step.system = "atlas_850e";
    if (precision != "Hybrid MXFP8-MXFP4" && precision != "Hybrid FP8-MXFP4") {
      throw Unreadable{fmt::format("precision {} has no recipe", base::quote(precision))};
    }
    c.step.precision = "ascend-950";
  } else if (platform == "Atlas A3" || platform == "Atlas A3 Pod") {
    // A chip is a package of two dies there, each a device here: a V3.2 in INT8 does not fit into
    // the dies of as many chips as its rows name.
    constexpr std::int64_t kDies = 2;
    devices = product_of(devices, kDies);
    c.step.system = "cloudmatrix384";
    if (!precision.starts_with("W8A8C16")) {
      throw Unreadable{fmt::format("precision {} has no recipe", base::quote(precision))};
    }
    c.step.precision = "int8";
  } else {
    throw Unreadable{fmt::format("platform {} is not known", base::quote(platform))};
  }
  c.step.stack = "cann";
  c.step.plan = fmt::format("dp={},ep={},overlap=none,routing=balanced", devices, devices);
  c.step.batch = r.count("global_batch");
  c.step.context = r.count("seq_len");
  c.step.draft_tokens = drafts;
  c.framework = "cann-recipes-infer";
  c.tokens_per_step = 1.0 + accepted;
  return c;
}

Case surveyed_engine(const Row& r) {
  const std::string metric = r.required("metric");
  if (metric != "peak_tpot") {
    throw Unreadable{
        fmt::format("metric {} is not the time of a decode step", base::quote(metric))};
  }
  const std::string gpu = r.required("gpu");
  const std::string profile = r.required("profile");
  const std::int64_t nodes = r.count("nodes");
  if (gpu != "H20-141GB" || profile != "PP2-TP8" || nodes != 2) {
    throw Unreadable{fmt::format("no system here is {} nodes of {} as {}", nodes, base::quote(gpu),
                                 base::quote(profile))};
  }
  if (r.text("speculation") != "none") {
    throw Unreadable{"speculative decoding whose acceptance is not said"};
  }
  std::string length = r.required("input_len_label");
  std::int64_t context = 0;
  try {
    const std::int64_t unit = length.ends_with('K') ? 1024 : length.ends_with('M') ? 1048576 : 1;
    if (unit > 1) length.pop_back();
    context = product_of(parse_whole(length, 1), unit);
  } catch (const std::invalid_argument& error) {
    throw Unreadable{fmt::format("'input_len_label': {}", error.what())};
  }
  EngineStepCase c;
  c.step = {.system = "hgx_h20_141gb_x2",
            .model = "deepseek-v4-pro",
            .precision = "fp8-index",
            .stack = "sglang",
            .plan = "pp=2,tp=8,ep=8",
            .batch = r.count("batch_or_conc_per_dp_rank"),
            .context = context};
  return c;
}

Case saturated_serving(const Row&) {
  throw Unreadable{"saturated serving, where requests queue, is not one engine step"};
}

Case never_read(const Row&) { throw Unreadable{"read by validate_end_to_end"}; }

Value latency_us(const Row& r) { return microseconds(r); }
Value tpot_ms(const Row& r) { return {r.positive("tpot_ms"), kMilliseconds}; }

const std::vector<Layout>& layouts() {
  static const std::vector<Layout> all = {
      {TableKind::kDenseGemm,
       "dense linear layers",
       "dense_gemm",
       {"system", "dtype", "m", "n", "k", "latency_us"},
       {{latency_us, dense_gemm}}},
      {TableKind::kGroupedGemmSurvey,
       "products by kernel",
       "grouped_gemm",
       {"gpu", "kernel", "groups", "m_or_m_per_group", "n", "k", "latency_us", "tflops"},
       {{gemm_survey_value, surveyed_gemm}}},
      {TableKind::kRoutedExperts,
       "routed experts of one rank",
       "grouped_gemm",
       {"system", "moe_dtype", "moe_ep_size", "num_tokens_into_moe", "hidden", "moe_intermediate",
        "num_experts", "topk", "latency_us"},
       {{latency_us, routed_experts}}},
      {TableKind::kAttentionDecode,
       "attention modules, decode",
       "attention_decode_module",
       {"system", "model", "attention_kind", "local_heads", "batch_size", "kv_history_tokens",
        "latency_us"},
       {{latency_us, attention_decode}}},
      {TableKind::kAttentionPrefill,
       "attention modules, prefill",
       "attention_prefill_module",
       {"system", "model", "attention_kind", "local_heads", "batch_size", "new_tokens_per_seq",
        "cached_prefix_tokens", "latency_us"},
       {{latency_us, attention_prefill}}},
      {TableKind::kSparseAttention,
       "kernels of sparse attention",
       "sparse_attention_kernel",
       {"system", "op", "model", "num_heads", "compress_ratio", "batch_size", "q_tokens_per_seq",
        "kv_history_tokens", "latency_us"},
       {{latency_us, sparse_attention}}},
      {TableKind::kHyperConnection,
       "mHC",
       "mhc",
       {"system", "op", "hc_mult", "hidden", "num_tokens", "latency_us"},
       {{latency_us, hyper_connection}}},
      {TableKind::kCollectives,
       "collectives",
       "collective",
       {"system", "op", "dtype", "num_gpus", "message_size_elements", "latency_us"},
       {{latency_us, collective}}},
      {TableKind::kLowLatencyTraffic,
       "expert traffic, low latency",
       "expert_traffic",
       {"system", "node_num", "hidden", "tokens_per_rank", "topk", "num_experts", "dispatch_us",
        "combine_us"},
       {{[](const Row& r) { return microseconds(r, "dispatch_us"); },
         [](const Row& r) { return low_latency(r, false); }},
        {[](const Row& r) { return microseconds(r, "combine_us"); },
         [](const Row& r) { return low_latency(r, true); }}}},
      {TableKind::kTrafficSurvey,
       "expert traffic by kernel",
       "expert_traffic",
       {"gpu", "kernel", "topology", "tokens_per_rank", "hidden", "topk", "latency_us",
        "bandwidth_GBps"},
       {{traffic_value, surveyed_traffic}}},
      {TableKind::kMegaMoe,
       "fused expert layers",
       "megamoe",
       {"system", "model", "ep_size", "tokens_per_rank", "hidden", "moe_intermediate", "topk",
        "num_experts", "moe_quant_mode", "latency_us"},
       {{latency_us, mega_moe}}},
      {TableKind::kMegaMoeSurvey,
       "fused expert layers by implementation",
       "megamoe",
       {"gpu", "model", "implementation", "precision", "tokens_per_rank", "latency_us"},
       {{latency_us, surveyed_mega_moe}}},
      {TableKind::kAscendKernels,
       "Ascend kernels",
       "ascend_kernel",
       {"platform", "operator", "shape", "batch_or_tokens", "value", "unit"},
       {{value_and_unit, ascend_kernel}}},
      {TableKind::kMatmul,
       "matrix products",
       "dense_gemm",
       {"gpu", "op", "m", "n_or_k", "k_or_n", "latency_ms"},
       {{[](const Row& r) {
           return Value{r.positive("latency_ms"), kMilliseconds};
         },
         matmul}}},
      {TableKind::kEngineSteps,
       "decode steps of engines",
       "end_to_end_decode",
       {"role", "system", "model", "precision", "plan", "batch", "context", "draft_tokens",
        "step_ms"},
       {{[](const Row& r) {
           return Value{r.positive("step_ms"), kMilliseconds};
         },
         never_read}}},
      {TableKind::kAscendEngines,
       "decode of Ascend engines",
       "end_to_end_decode",
       {"platform", "model", "phase", "chips", "precision", "global_batch", "seq_len",
        "mtp_draft_tokens", "tpot_ms"},
       {{tpot_ms, ascend_engine}}},
      {TableKind::kDisaggregatedEngines,
       "disaggregated engines",
       "end_to_end_decode",
       {"system", "model", "prefill_pool", "decode_pool", "isl", "osl", "total_tok_per_s_per_gpu",
        "tpot_ms"},
       {{tpot_ms, disaggregated_engine}}},
      {TableKind::kSaturatedServing,
       "saturated serving",
       "serving",
       {"gpu", "model", "strategy", "isl", "osl", "max_concurrency", "tpot_ms"},
       {{tpot_ms, saturated_serving}}},
      {TableKind::kEngineSurvey,
       "engines by metric",
       "end_to_end",
       {"table", "phase", "gpu", "nodes", "profile", "input_len_label", "batch_or_conc_per_dp_rank",
        "metric", "value", "unit"},
       {{value_and_unit, surveyed_engine}}},
  };
  return all;
}

const Layout& layout_of(TableKind kind) {
  return *std::find_if(layouts().begin(), layouts().end(),
                       [kind](const Layout& l) { return l.kind == kind; });
}

// The row as its author wrote it, for rows that cannot be put into words.
std::string cells_of(const Row& r) {
  std::string out;
  for (std::size_t i = 0; i < r.row().cells.size(); ++i) {
    if (r.table().columns[i] == "source" || r.row().cells[i].empty()) continue;
    out += (out.empty() ? "" : " ") + r.row().cells[i];
  }
  return out;
}

Case skipped(const Layout& layout, const Row& r, std::string reason) {
  return SkippedCase{{}, std::string(layout.class_name), cells_of(r), std::move(reason)};
}

Measurement read_one(const Layout& layout, const Column& column, const Row& r) {
  Measurement m;
  m.line = r.row().line;
  try {
    m.measured = column.read(r);
  } catch (const Unreadable& reason) {
    m.measured = skipped(layout, r, reason.reason);
  }
  try {
    const Value value = column.value(r);
    m.unit = value.unit;
    m.value = value.number.value_or(0.0);
    if (value.number && m.unit.seconds > 0.0) return m;
    // Traffic has a number of bytes, so that its bandwidth is a time.
    if (value.number && m.unit.name == kBandwidth &&
        std::holds_alternative<ExpertTrafficCase>(m.measured)) {
      return m;
    }
    if (std::holds_alternative<SkippedCase>(m.measured)) return m;
    const std::string reason =
        value.number ? fmt::format("measured in {}; only times are compared", m.unit.name)
                     : std::string("no measured time is given");
    m.measured =
        SkippedCase{origin_of(m.measured), class_of(m.measured), label_of(m.measured), reason};
  } catch (const Unreadable& reason) {
    m.measured = skipped(layout, r, reason.reason);
  }
  return m;
}

double parse_number(std::string_view text) {
  double value = 0.0;
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  if (error == std::errc::result_out_of_range) {
    throw std::invalid_argument(fmt::format("{} is out of range", base::quote(text)));
  }
  if (error != std::errc{} || stop != end || !std::isfinite(value)) {
    throw std::invalid_argument(fmt::format("{} is not a number", base::quote(text)));
  }
  return value;
}

}  // namespace

std::int64_t parse_whole(std::string_view text, std::int64_t least) {
  const double value = parse_number(text);
  if (value != std::floor(value)) {
    throw std::invalid_argument(fmt::format("{} is not a whole number", base::quote(text)));
  }
  if (value < static_cast<double>(least) || value > kMostWhole) {
    throw std::invalid_argument(
        fmt::format("{} is not between {} and 2^40", base::quote(text), least));
  }
  return static_cast<std::int64_t>(value);
}

double parse_positive(std::string_view text) {
  const double value = parse_number(text);
  if (!(value > 0.0)) {
    throw std::invalid_argument(fmt::format("{} is not positive", base::quote(text)));
  }
  return value;
}

std::string_view to_string(TableKind kind) { return layout_of(kind).title; }

std::span<const std::string_view> columns_of(TableKind kind) { return layout_of(kind).columns; }

TableKind recognise(const CsvTable& table) {
  const Layout* found = nullptr;
  const Layout* closest = nullptr;
  double closest_share = 0.0;
  for (const Layout& layout : layouts()) {
    const auto present = std::count_if(layout.columns.begin(), layout.columns.end(),
                                       [&](std::string_view column) { return table.has(column); });
    const auto share = static_cast<double>(present) / static_cast<double>(layout.columns.size());
    if (share == 1.0 && (found == nullptr || layout.columns.size() > found->columns.size())) {
      found = &layout;
    }
    if (share > closest_share) {
      closest_share = share;
      closest = &layout;
    }
  }
  if (found != nullptr) return found->kind;
  if (closest == nullptr) {
    throw ConfigError({table.path, table.header_line, 1},
                      "no known table of measurements has these columns");
  }
  const auto missing = std::find_if(closest->columns.begin(), closest->columns.end(),
                                    [&](std::string_view column) { return !table.has(column); });
  throw ConfigError({table.path, table.header_line, 1},
                    fmt::format("no known table of measurements; for '{}' the column '{}' is "
                                "missing",
                                closest->title, *missing));
}

std::vector<Measurement> read_measurements(const CsvTable& table, TableKind kind) {
  const Layout& layout = layout_of(kind);
  std::vector<Measurement> out;
  int number = 0;
  for (const CsvRow& row : table.rows) {
    ++number;
    for (const Column& column : layout.measurements) {
      out.push_back(read_one(layout, column, Row(table, row)));
      out.back().row = number;
    }
  }
  return out;
}

}  // namespace foretoken::analysis::validation
