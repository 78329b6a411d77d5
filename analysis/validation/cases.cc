#include "analysis/validation/cases.h"

#include <fmt/format.h>

namespace foretoken::analysis::validation {

namespace w = workloads;

namespace {

template <class... Ts>
struct Overloaded : Ts... {
  using Ts::operator()...;
};
template <class... Ts>
Overloaded(Ts...) -> Overloaded<Ts...>;

bool is_csa(const AttentionModuleCase& c) { return c.kind == w::AttentionKind::kCsa; }

std::string tokens(const auto& c) {
  return fmt::format("{} x {} on {}", c.sequences, c.new_tokens, c.history);
}

}  // namespace

std::string Origin::stack() const {
  if (framework.empty() || kernel_source.empty()) return framework + kernel_source;
  return framework + " " + kernel_source;
}

std::string class_of(const Case& any) {
  return std::visit(
      Overloaded{
          [](const DenseGemmCase& c) { return "dense_gemm/" + c.dtype; },
          [](const GroupedGemmCase& c) { return "grouped_gemm/" + c.dtype; },
          [](const RoutedExpertsCase& c) { return "grouped_gemm/" + c.dtype; },
          [](const AttentionModuleCase& c) {
            return fmt::format("{}_{}_module", is_csa(c) ? "csa" : "hca",
                               c.phase == w::Phase::kDecode ? "decode" : "prefill");
          },
          [](const IndexLogitsCase&) { return std::string("index_logits"); },
          [](const TopKCase&) { return std::string("top_k"); },
          [](const SparseAttentionCase&) { return std::string("sparse_attention_kernel"); },
          [](const HyperConnectionCase& c) {
            return std::string(c.phase == w::HyperPhase::kPost ? "mhc_post" : "mhc_pre");
          },
          [](const CollectiveCase& c) { return "collective/" + c.op; },
          [](const ExpertTrafficCase& c) {
            return std::string(c.combine ? "expert_combine" : "expert_dispatch");
          },
          [](const MegaMoeCase& c) {
            return std::string(c.fused ? "megamoe" : "megamoe (not fused)");
          },
          [](const AscendKernelCase& c) { return "ascend_kernel/" + c.op; },
          [](const EngineStepCase& c) { return "end_to_end_decode/" + c.step.system; },
          [](const SkippedCase& c) { return c.class_name; },
      },
      any);
}

std::string label_of(const Case& any) {
  return std::visit(
      Overloaded{
          [](const DenseGemmCase& c) {
            return fmt::format("{} {} m {} n {} k {}", c.origin.system, c.dtype, c.m, c.n, c.k);
          },
          [](const GroupedGemmCase& c) {
            return fmt::format("{} {} {} groups of m {} n {} k {}", c.origin.system, c.dtype,
                               c.groups, c.rows_per_group, c.n, c.k);
          },
          [](const RoutedExpertsCase& c) {
            return fmt::format("{} {} {} tp {} ep {} {}: {} tokens, {} x {}, top {} of {}",
                               c.origin.system, c.model, c.dtype, c.tp, c.ep, c.routing, c.tokens,
                               c.hidden, c.inner, c.topk, c.experts);
          },
          [](const AttentionModuleCase& c) {
            return fmt::format("{} {} {} {} tp {}, {} heads, {} weights, {} KV: {}",
                               c.origin.system, c.model, is_csa(c) ? "CSA" : "HCA", c.ratio, c.tp,
                               c.local_heads, c.weight_dtype, c.kv_dtype, tokens(c));
          },
          [](const IndexLogitsCase& c) {
            return fmt::format("{} {} logits {} {} heads, ratio {}: {}", c.origin.system, c.model,
                               c.dtype, c.heads, c.ratio, tokens(c));
          },
          [](const TopKCase& c) {
            return fmt::format("{} {} top-k ratio {} {}: {}", c.origin.system, c.model, c.ratio,
                               c.score_mode, tokens(c));
          },
          [](const SparseAttentionCase& c) {
            return fmt::format("{} {} attention {} {} heads, ratio {}: {}", c.origin.system,
                               c.model, c.kv_dtype, c.heads, c.ratio, tokens(c));
          },
          [](const HyperConnectionCase& c) {
            return fmt::format(
                "{} mHC {} x {} of {} streams, hidden {}, {} tokens", c.origin.system, c.sites,
                c.phase == w::HyperPhase::kPost ? "post" : "pre", c.streams, c.hidden, c.tokens);
          },
          [](const CollectiveCase& c) {
            return fmt::format("{} {} {} of {} elements over {}", c.origin.system, c.op, c.dtype,
                               c.elements, c.ranks);
          },
          [](const ExpertTrafficCase& c) {
            std::string label =
                fmt::format("{} {}{} {} EP{}: {} tokens of {} to {} of {}", c.origin.system,
                            c.low_latency ? "low-latency " : "", c.combine ? "combine" : "dispatch",
                            c.dtype, c.ranks, c.tokens_per_rank, c.hidden, c.topk, c.experts);
            if (c.cores > 0) label += fmt::format(", {} cores", c.cores);
            if (!c.link.empty()) label += ", " + c.link;
            return label;
          },
          [](const MegaMoeCase& c) {
            return fmt::format("{} {} {} EP{} {}: {} tokens a rank", c.origin.system, c.model,
                               c.precision, c.ep, c.routing, c.tokens_per_rank);
          },
          [](const AscendKernelCase& c) {
            return fmt::format("{} {}: {} x {} on {}, width {}, ratio {}", c.origin.system, c.op,
                               c.sequences, c.new_tokens, c.cached, c.width, c.ratio);
          },
          [](const EngineStepCase& c) { return c.step.label(); },
          [](const SkippedCase& c) { return c.label; },
      },
      any);
}

Origin origin_of(const Case& any) {
  return std::visit(Overloaded{
                        [](const EngineStepCase& c) {
                          return Origin{c.step.system, c.framework, ""};
                        },
                        [](const auto& c) { return c.origin; },
                    },
                    any);
}

}  // namespace foretoken::analysis::validation
