#include "hwmodels/tile/program.h"

namespace foretoken::hwmodels::tile {

std::string_view to_string(StepKind kind) {
  static constexpr std::array<std::string_view, 12> kNames = {
      "load",   "gather", "store", "reduce_store", "scatter", "move",
      "matrix", "vector", "widen", "top_k",        "signal",  "wait"};
  return kNames[static_cast<std::size_t>(kind)];
}

std::string_view to_string(VectorKind kind) {
  static constexpr std::array<std::string_view, kVectorKinds> kNames = {
      "copy",          "fill",          "add",       "sub",           "mul",     "fma",
      "div",           "max",           "min",       "exp",           "rsqrt",   "sigmoid",
      "silu",          "sqrt_softplus", "row_max",   "row_sum",       "col_max", "col_sum",
      "rotate",        "hadamard",      "mask",      "quantise",      "scaled",  "group_sum",
      "group_col_sum", "spill",         "group_div", "group_col_div", "col_dot", "row_top_k",
      "row_pick",      "row_keep",      "count",     "narrow",        "filter",  "rank",
      "dequantise"};
  return kNames[static_cast<std::size_t>(kind)];
}

void TileProgram::clear() {
  items = 0;
  steps.clear();
  phases.clear();
  sections.clear();
  buffers.clear();
  slots = 0;
  flops = 0.0;
  joules = 0.0;
  peer_loaded = 0.0;
  peer_stored = 0.0;
}

}  // namespace foretoken::hwmodels::tile
