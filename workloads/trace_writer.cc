#include "workloads/trace_writer.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <ostream>

#include "sim/base/error.h"
#include "sim/base/text.h"

namespace foretoken::workloads {

namespace {

using Out = std::back_insert_iterator<std::string>;

void field(Out& out, std::string_view key, std::int64_t value) {
  fmt::format_to(out, ",\"{}\":{}", key, value);
}
void field(Out& out, std::string_view key, std::string_view value) {
  fmt::format_to(out, ",\"{}\":\"{}\"", key, value);
}

// The shape fields of one operator, under the names of its struct.
struct Shapes {
  Out& out;

  void dtypes(Dtype activation, Dtype weight, Dtype compute, Dtype output) const {
    field(out, "activation", to_string(activation));
    field(out, "weight", to_string(weight));
    field(out, "compute", to_string(compute));
    field(out, "output", to_string(output));
  }
  void operator()(const Gemm& o) const {
    field(out, "m", o.m);
    field(out, "n", o.n);
    field(out, "k", o.k);
    field(out, "batch", o.batch);
    dtypes(o.activation, o.weight, o.compute, o.output);
  }
  void operator()(const GroupedGemm& o) const {
    field(out, "rows", o.rows);
    field(out, "groups", o.groups);
    field(out, "active", o.active);
    field(out, "n", o.n);
    field(out, "k", o.k);
    dtypes(o.activation, o.weight, o.compute, o.output);
  }
  void operator()(const Attention& o) const {
    field(out, "queries", o.queries);
    field(out, "heads", o.heads);
    field(out, "qk_width", o.qk_width);
    field(out, "v_width", o.v_width);
    field(out, "keys", o.keys);
    field(out, "compute", to_string(o.compute));
  }
  void operator()(const IndexLogits& o) const {
    field(out, "queries", o.queries);
    field(out, "heads", o.heads);
    field(out, "width", o.width);
    field(out, "entries", o.entries);
    field(out, "compute", to_string(o.compute));
  }
  void operator()(const TopK& o) const {
    field(out, "queries", o.queries);
    field(out, "entries", o.entries);
    field(out, "k", o.k);
  }
  void operator()(const Compress& o) const {
    field(out, "tokens", o.tokens);
    field(out, "emitted", o.emitted);
    field(out, "slots", o.slots);
    field(out, "width", o.width);
  }
  void operator()(const HyperConnection& o) const {
    field(out, "tokens", o.tokens);
    field(out, "streams", o.streams);
    field(out, "hidden", o.hidden);
    field(out, "outputs", o.outputs);
    field(out, "sinkhorn_iterations", o.sinkhorn_iterations);
    field(out, "compute", to_string(o.compute));
  }
  void operator()(const VectorOp& o) const {
    static constexpr std::array<std::string_view, 7> kKinds = {
        "norm", "rope", "quantise", "hadamard", "swiglu", "residual", "sample"};
    field(out, "vector", kKinds[static_cast<std::size_t>(o.kind)]);
    field(out, "rows", o.rows);
    field(out, "width", o.width);
    field(out, "input", to_string(o.input));
    field(out, "output", to_string(o.output));
  }
  void operator()(const Route& o) const {
    field(out, "tokens", o.tokens);
    field(out, "experts", o.experts);
    field(out, "topk", o.topk);
    fmt::format_to(out, ",\"hash\":{}", o.hash);
  }
  void operator()(const Dispatch& o) const { traffic(o); }
  void operator()(const Combine& o) const { traffic(o); }
  void operator()(const Collective& o) const {
    field(out, "collective", kCollectiveNames[static_cast<std::size_t>(o.kind)]);
    field(out, "bytes", o.bytes);
    field(out, "ranks", o.ranks);
  }
  void operator()(const Lookup& o) const {
    field(out, "tokens", o.tokens);
    field(out, "rows_per_token", o.rows_per_token);
    field(out, "width", o.width);
    field(out, "element", to_string(o.element));
    fmt::format_to(out, ",\"host\":{}", o.host);
  }

  template <class T>
  void traffic(const T& o) const {
    field(out, "tokens", o.tokens);
    field(out, "pairs", o.pairs);
    field(out, "remote", o.remote);
    field(out, "hidden", o.hidden);
    field(out, "ranks", o.ranks);
    field(out, "element", to_string(o.element));
  }
};

}  // namespace

void write_trace(const TraceHeader& header, const OpGraph& graph, std::ostream& stream) {
  std::string line;
  std::string name;
  for (const char c : header.model) {
    if (c == '"' || c == '\\') name += '\\';
    name += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
  }
  try {
    base::check_characters("", name);
  } catch (const base::ConfigError&) {  // a folder's name may be no UTF-8; JSON has to be
    std::replace_if(
        name.begin(), name.end(), [](char c) { return static_cast<unsigned char>(c) >= 0x7f; },
        '?');
  }
  line = fmt::format(
      "{{\"schema\":\"foretoken.op_trace/1\",\"model\":\"{}\",\"phase\":\"{}\",\"sequences\":{},"
      "\"context\":{},\"new_tokens\":{},\"draft_tokens\":{},\"plan\":\"{}\",\"rank\":{}}}\n",
      name, header.batch.phase == Phase::kDecode ? "decode" : "prefill", header.batch.sequences,
      header.batch.context, header.batch.new_tokens, header.batch.draft_tokens,
      to_string(header.plan), header.rank);
  stream << line;
  std::int64_t id = 0;
  std::int64_t last_of_previous = -1;
  for (const BlockRun& run : graph.order) {
    const Block& block = graph.blocks[run.block];
    const std::int64_t first = id;
    for (const OpNode& node : graph.ops(block)) {
      const WorkCount w = count_op(node.op);
      line.clear();
      Out out(line);
      fmt::format_to(out, "{{\"id\":{},\"name\":\"{}\",\"kind\":\"{}\",\"block\":\"{}\"", id,
                     kRoleNames[index_of(node.role)], op_kind(node.op), block.name);
      if (run.layer >= 0) field(out, "layer", run.layer);
      field(out, "component", kComponentNames[static_cast<std::size_t>(node.component)]);
      std::visit(Shapes{out}, node.op);
      fmt::format_to(out, ",\"flops\":{}", w.total_flops());
      field(out, "vector_ops", w.vector_ops + w.special_ops);
      field(out, "weight_bytes", w.weight_bytes);
      field(out, "input_bytes", w.input_bytes);
      field(out, "output_bytes", w.output_bytes);
      field(out, "kv_read_bytes", w.kv_read_bytes);
      field(out, "kv_write_bytes", w.kv_write_bytes);
      field(out, "sent_bytes", w.sent_bytes);
      line += ",\"deps\":[";
      if (node.dependency_count == 0) {
        if (last_of_previous >= 0) fmt::format_to(out, "{}", last_of_previous);
      } else {
        for (std::uint8_t i = 0; i < node.dependency_count; ++i) {
          fmt::format_to(out, "{}{}", i > 0 ? "," : "", first + node.dependencies[i] - block.first);
        }
      }
      line += "]}\n";
      stream << line;
      ++id;
    }
    if (id > first) last_of_previous = id - 1;
  }
}

}  // namespace foretoken::workloads
