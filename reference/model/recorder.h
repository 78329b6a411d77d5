// Writes down the operators a reference run executes, as the graph that the lowering builds from
// the configuration alone.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string_view>

#include "workloads/op_graph.h"

namespace foretoken::reference {

class Recorder {
 public:
  using Id = std::uint32_t;
  static constexpr Id kNone = 0xffffffffu;

  explicit Recorder(workloads::OpGraph& graph) : graph_(graph) { graph_.clear(); }

  // A block run: half of a layer, embedding, head or draft; `name` has static storage.
  void begin(std::string_view name, std::int32_t layer);

  // An operator with the shapes it ran with. A role that the block already has is the same operator
  // on further rows (long inputs are worked through in pieces): the two are merged.
  Id add(workloads::Role role, workloads::Component component, const workloads::Op& op,
         std::initializer_list<Id> inputs);

  // While on, every operator counts as the draft module's.
  void set_draft(bool draft) { draft_ = draft; }

 private:
  workloads::OpGraph& graph_;
  bool draft_ = false;
};

}  // namespace foretoken::reference
