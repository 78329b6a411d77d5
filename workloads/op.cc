#include "workloads/op.h"

#include <algorithm>

#include "workloads/precision.h"

namespace foretoken::workloads {

namespace {

// Index into WorkCount::flops.
std::size_t flop_slot(Dtype compute, Dtype weight) {
  return static_cast<std::size_t>(precision_class(compute, weight));
}

// Radix selection over 16-bit scores reads them four times: two 8-bit digit histograms, one pass
// that gathers what is above the threshold, one that fills up ties. Data-independent.
constexpr std::int64_t kRadixPasses = 4;
// Per element: compare, shift and mask, histogram add, address.
constexpr std::int64_t kRadixOps = 4;

}  // namespace

WorkCount& WorkCount::operator+=(const WorkCount& o) {
  for (std::size_t i = 0; i < flops.size(); ++i) flops[i] += o.flops[i];
  vector_ops += o.vector_ops;
  special_ops += o.special_ops;
  weight_bytes += o.weight_bytes;
  input_bytes += o.input_bytes;
  output_bytes += o.output_bytes;
  kv_read_bytes += o.kv_read_bytes;
  kv_write_bytes += o.kv_write_bytes;
  sent_bytes += o.sent_bytes;
  return *this;
}

WorkCount count(const Gemm& op) {
  WorkCount w;
  if (op.m == 0) return w;  // nobody asks for the weights
  w.flops[flop_slot(op.compute, op.weight)] = 2 * op.batch * op.m * op.n * op.k;
  w.weight_bytes = weight_bytes(op.weight, op.batch, op.n, op.k, op.fp8_block);
  w.input_bytes = element_bytes(op.activation, op.batch * op.m * op.k);
  w.output_bytes = element_bytes(op.output, op.batch * op.m * op.n);
  return w;
}

WorkCount count(const GroupedGemm& op) {
  WorkCount w;
  w.flops[flop_slot(op.compute, op.weight)] = 2 * op.rows * op.n * op.k;
  w.weight_bytes = weight_bytes(op.weight, op.active, op.n, op.k, op.fp8_block);
  w.input_bytes = element_bytes(op.activation, op.rows * op.k);
  w.output_bytes = element_bytes(op.output, op.rows * op.n);
  return w;
}

WorkCount count(const Attention& op) {
  WorkCount w;
  w.flops[flop_slot(op.compute, op.compute)] = 2 * op.heads * (op.qk_width + op.v_width) * op.keys;
  // Per score: scale, running maximum, subtract, sum; one exp. Output rescale per head and query.
  w.vector_ops = 4 * op.heads * op.keys + 2 * op.queries * op.heads * op.v_width;
  w.special_ops = op.heads * op.keys;
  w.input_bytes = element_bytes(Dtype::kBf16, op.queries * op.heads * op.qk_width);
  w.output_bytes = element_bytes(op.output, op.queries * op.heads * op.v_width);
  w.kv_read_bytes = op.requested_bytes;
  w.weight_bytes = op.sink ? element_bytes(Dtype::kFp32, op.heads) : 0;
  return w;
}

WorkCount count(const IndexLogits& op) {
  WorkCount w;
  w.flops[flop_slot(op.compute, op.compute)] = 2 * op.heads * op.width * op.entries;
  w.vector_ops = 3 * op.heads * op.entries;  // relu, multiply by the head weight, add
  w.input_bytes = element_bytes(op.compute, op.queries * op.heads * op.width) +
                  element_bytes(Dtype::kFp32, op.queries * op.heads);
  w.output_bytes = element_bytes(Dtype::kBf16, op.entries);
  w.kv_read_bytes = op.key_bytes;
  return w;
}

WorkCount count(const TopK& op) {
  WorkCount w;
  w.vector_ops = kRadixPasses * kRadixOps * op.entries;
  w.input_bytes = kRadixPasses * element_bytes(Dtype::kBf16, op.entries);
  w.output_bytes = element_bytes(Dtype::kInt32, op.queries * op.k);
  return w;
}

WorkCount count(const Compress& op) {
  WorkCount w;
  // Per slot and channel: add the bias, maximum, subtract, sum, multiply-add; one exp.
  const std::int64_t pooled = op.emitted * op.slots * op.width;
  w.vector_ops = 6 * pooled + op.tokens * op.state_width;
  w.special_ops = pooled;
  w.input_bytes = element_bytes(Dtype::kFp32, 2 * op.tokens * op.state_width);
  w.output_bytes = 0;
  w.kv_read_bytes = 0;
  // Values and scores of every token enter the state; entries leave.
  w.kv_write_bytes = op.emitted * op.entry_bytes;
  w.weight_bytes = element_bytes(Dtype::kFp32, op.position_weights);
  return w;
}

WorkCount count(const HyperConnection& op) {
  WorkCount w;
  const std::int64_t wide = op.streams * op.hidden;
  if (op.phase == HyperPhase::kPost) {
    // x'_k = post_k y + sum_j C_jk x_j.
    w.vector_ops = 2 * op.tokens * op.hidden * op.streams * (op.streams + 1);
    w.input_bytes = element_bytes(Dtype::kBf16, op.tokens * (wide + op.hidden));
    w.output_bytes = element_bytes(Dtype::kBf16, op.tokens * wide);
    return w;
  }
  if (op.phase == HyperPhase::kHead) {
    // Published FLOP counts leave the head merge out (0.0001 % of V4-Pro's).
    w.vector_ops += 2 * op.tokens * op.outputs * wide;
  } else {
    w.flops[flop_slot(op.compute, op.compute)] = 2 * op.tokens * op.outputs * wide;
  }
  // Sum of squares, collapse; Sinkhorn: row and column sums and divisions of a small square.
  w.vector_ops += 2 * op.tokens * wide + 2 * op.tokens * wide +
                  op.tokens * op.sinkhorn_iterations * 4 * op.streams * op.streams;
  w.special_ops = op.tokens * (op.outputs + op.sinkhorn_iterations * 2 * op.streams);
  if (op.outputs > 0) {
    w.weight_bytes = element_bytes(
        Dtype::kFp32, op.outputs * wide + op.outputs + (op.phase == HyperPhase::kHead ? 1 : 3));
  }
  w.input_bytes = element_bytes(Dtype::kBf16, op.tokens * wide);
  w.output_bytes = element_bytes(Dtype::kBf16, op.tokens * op.hidden) +
                   (op.phase == HyperPhase::kPre
                        ? element_bytes(Dtype::kFp32, op.tokens * (op.outputs - op.streams))
                        : 0);
  return w;
}

WorkCount count(const VectorOp& op) {
  WorkCount w;
  const std::int64_t n = op.rows * op.width;
  std::int64_t inputs = n;
  switch (op.kind) {
    case VectorKind::kNorm:
      w.vector_ops = 4 * n;  // square, add, scale, weight
      w.special_ops = op.rows;
      break;
    case VectorKind::kRope:
      w.vector_ops = 3 * n;  // complex rotation of pairs: 4 multiplications and 2 additions each
      break;
    case VectorKind::kQuantise:
      w.vector_ops = 4 * n;  // absolute value, maximum, scale, convert
      break;
    case VectorKind::kHadamard: {
      std::int64_t stages = 0;
      while ((std::int64_t{1} << stages) < op.width) ++stages;
      w.vector_ops = (stages + 1) * n;
      break;
    }
    case VectorKind::kSwiglu:
      w.vector_ops = 6 * n;   // two clamps, sigmoid's add and divide, two products
      w.special_ops = 2 * n;  // exp, reciprocal
      inputs = 2 * n;         // gate and up
      break;
    case VectorKind::kResidual:
      w.vector_ops = n;
      inputs = 2 * n;
      break;
    case VectorKind::kSample:
      w.vector_ops = 2 * n;
      break;
  }
  w.input_bytes = element_bytes(op.input, inputs);
  w.output_bytes = op.kv_write_bytes > 0            ? 0
                   : op.kind == VectorKind::kSample ? element_bytes(Dtype::kInt32, op.rows)
                                                    : element_bytes(op.output, n);
  w.kv_write_bytes = op.kv_write_bytes;
  w.weight_bytes = 2 * op.weights;
  return w;
}

WorkCount count(const Route& op) {
  WorkCount w;
  const std::int64_t n = op.tokens * op.experts;
  // sqrt(softplus): exp, log, square root; selection by k maximum scans unless a table decides.
  w.special_ops = 3 * n;
  w.vector_ops = 2 * n + (op.hash ? 0 : n * op.topk);
  w.input_bytes = element_bytes(Dtype::kFp32, n);
  w.output_bytes = op.tokens * op.topk * 8;  // index and weight
  w.weight_bytes = op.hash ? op.tokens * op.topk * 8 : 4 * op.experts;
  return w;
}

WorkCount count(const Dispatch& op) {
  WorkCount w;
  // FP8 rows carry one E8M0 per 32 values, INT8 rows one FP32.
  const std::int64_t scales = op.element == Dtype::kFp8    ? op.hidden / 32
                              : op.element == Dtype::kInt8 ? 4
                                                           : 0;
  const std::int64_t row = element_bytes(op.element, op.hidden) + scales;
  w.input_bytes = op.tokens * row;
  w.output_bytes = op.pairs * row;
  w.sent_bytes = op.remote * row;
  return w;
}

WorkCount count(const Combine& op) {
  WorkCount w;
  const std::int64_t row = element_bytes(op.element, op.hidden);
  w.vector_ops = op.pairs * op.hidden;
  w.input_bytes = op.pairs * row;
  w.output_bytes = op.tokens * row;
  w.sent_bytes = op.remote * row;
  return w;
}

WorkCount count(const Collective& op) {
  WorkCount w;
  w.input_bytes = op.bytes;
  const std::int64_t peers = op.ranks - 1;
  switch (op.kind) {
    case CollectiveKind::kAllReduce:
      w.output_bytes = op.bytes;
      w.sent_bytes = 2 * op.bytes * peers / std::max<std::int64_t>(op.ranks, 1);
      break;
    case CollectiveKind::kAllGather:
      w.output_bytes = op.bytes * op.ranks;
      w.sent_bytes = op.bytes * peers;
      break;
    case CollectiveKind::kReduceScatter:
      w.output_bytes = op.bytes / std::max<std::int64_t>(op.ranks, 1);
      w.sent_bytes = op.bytes * peers / std::max<std::int64_t>(op.ranks, 1);
      break;
    case CollectiveKind::kSendRecv:
      w.output_bytes = op.bytes;
      w.sent_bytes = op.bytes;
      break;
  }
  return w;
}

WorkCount count(const Lookup& op) {
  WorkCount w;
  const std::int64_t rows = op.tokens * op.rows_per_token;
  w.weight_bytes = rows * (element_bytes(op.element, op.width) + op.scale_bytes_per_row);
  w.output_bytes = element_bytes(Dtype::kBf16, rows * op.width);
  return w;
}

WorkCount count_op(const Op& op) {
  return std::visit([](const auto& concrete) { return count(concrete); }, op);
}

std::string_view op_kind(const Op& op) {
  struct Name {
    std::string_view operator()(const Gemm&) const { return "gemm"; }
    std::string_view operator()(const GroupedGemm&) const { return "grouped_gemm"; }
    std::string_view operator()(const Attention&) const { return "attention"; }
    std::string_view operator()(const IndexLogits&) const { return "index_logits"; }
    std::string_view operator()(const TopK&) const { return "top_k"; }
    std::string_view operator()(const Compress&) const { return "compress"; }
    std::string_view operator()(const HyperConnection&) const { return "hyper_connection"; }
    std::string_view operator()(const VectorOp&) const { return "vector"; }
    std::string_view operator()(const Route&) const { return "route"; }
    std::string_view operator()(const Dispatch&) const { return "dispatch"; }
    std::string_view operator()(const Combine&) const { return "combine"; }
    std::string_view operator()(const Collective&) const { return "collective"; }
    std::string_view operator()(const Lookup&) const { return "lookup"; }
  };
  return std::visit(Name{}, op);
}

}  // namespace foretoken::workloads
