#include "reference/model/recorder.h"

#include <algorithm>
#include <variant>

namespace foretoken::reference {

namespace {

using namespace workloads;  // NOLINT: a page of operator names

// Adds the rows of `b` to `a`; what describes a weight or the whole sequence stays or is the
// larger.
struct Merge {
  Op& into;

  void operator()(const Gemm& b) const { std::get<Gemm>(into).m += b.m; }
  void operator()(const GroupedGemm& b) const {
    auto& a = std::get<GroupedGemm>(into);
    a.rows += b.rows;
    a.active = std::max(a.active, b.active);
  }
  void operator()(const Attention& b) const {
    auto& a = std::get<Attention>(into);
    a.queries += b.queries;
    a.keys += b.keys;
    a.requested_bytes += b.requested_bytes;
    a.distinct_bytes = std::max(a.distinct_bytes, b.distinct_bytes);
  }
  void operator()(const IndexLogits& b) const {
    auto& a = std::get<IndexLogits>(into);
    a.queries += b.queries;
    a.entries += b.entries;
    a.key_bytes = std::max(a.key_bytes, b.key_bytes);
  }
  void operator()(const TopK& b) const {
    auto& a = std::get<TopK>(into);
    a.queries += b.queries;
    a.entries += b.entries;
  }
  void operator()(const Compress& b) const {
    auto& a = std::get<Compress>(into);
    a.tokens += b.tokens;
    a.emitted += b.emitted;
  }
  void operator()(const HyperConnection& b) const {
    std::get<HyperConnection>(into).tokens += b.tokens;
  }
  void operator()(const VectorOp& b) const {
    auto& a = std::get<VectorOp>(into);
    a.rows += b.rows;
    a.kv_write_bytes += b.kv_write_bytes;
  }
  void operator()(const Route& b) const { std::get<Route>(into).tokens += b.tokens; }
  void operator()(const Lookup& b) const { std::get<Lookup>(into).tokens += b.tokens; }
  // One device sends nothing.
  void operator()(const Dispatch& /*b*/) const {}
  void operator()(const Combine& /*b*/) const {}
  void operator()(const Collective& /*b*/) const {}
};

}  // namespace

void Recorder::begin(std::string_view name, std::int32_t layer) {
  graph_.order.push_back({static_cast<std::uint32_t>(graph_.blocks.size()), layer});
  graph_.blocks.push_back({name, static_cast<std::uint32_t>(graph_.nodes.size()), 0, 1});
}

Recorder::Id Recorder::add(Role role, Component component, const Op& op,
                           std::initializer_list<Id> inputs) {
  Block& block = graph_.blocks.back();
  for (std::uint32_t i = block.first; i < block.first + block.count; ++i) {
    if (graph_.nodes[i].role != role) continue;
    std::visit(Merge{graph_.nodes[i].op}, op);
    return i;
  }
  OpNode& node = graph_.nodes.emplace_back();
  node.op = op;
  node.role = role;
  node.component = draft_ ? Component::kDraft : component;
  for (const Id input : inputs) {
    if (input != kNone) node.dependencies[node.dependency_count++] = input;
  }
  ++block.count;
  return static_cast<Id>(graph_.nodes.size() - 1);
}

}  // namespace foretoken::reference
