// What a vector step costs per element, in instructions of the vector units.
#pragma once

#include "hwmodels/tile/machine.h"

namespace foretoken::hwmodels::tile {

struct VectorCost {
  double lane = 0.0;     // simple instructions (one multiply-add, maximum, conversion or move)
  double special = 0.0;  // exponentials, reciprocals, square roots
  double convert = 0.0;  // block-scaled FP8 numbers unpacked
  double chain = 1.0;    // dependent instructions a result passes through, times the step's latency
};

// Instruction counts as compilers for these units emit them; a division is a reciprocal and a
// multiplication, a row reduction over lanes exchanges log2(32) times.
constexpr VectorCost vector_cost(VectorKind kind) {
  switch (kind) {
    case VectorKind::kCopy:
      return {.lane = 1.0};  // a conversion: 127 values a clock and core measured on Hopper
    case VectorKind::kFill:
      return {.lane = 0.5};
    case VectorKind::kAdd:
    case VectorKind::kSub:
    case VectorKind::kMul:
    case VectorKind::kFma:
      return {.lane = 1.0};
    case VectorKind::kMax:
    case VectorKind::kMin:
      return {.lane = 2.0};  // 64 values a clock and core, half the rate of additions, on Hopper
    case VectorKind::kMask:
      return {.lane = 1.0};
    case VectorKind::kDiv:
      return {.lane = 1.0, .special = 1.0, .chain = 5.0};
    case VectorKind::kExp:
    case VectorKind::kRsqrt:
      return {.lane = 1.0, .special = 1.0, .chain = 4.0};
    case VectorKind::kSigmoid:
    case VectorKind::kSilu:
      return {.lane = 3.0, .special = 2.0, .chain = 9.0};
    case VectorKind::kSqrtSoftplus:
      return {.lane = 4.0, .special = 3.0, .chain = 12.0};
    case VectorKind::kRowMax:
      return {.lane = 2.0, .chain = 20.0};
    case VectorKind::kRowSum:
      return {.lane = 1.0, .chain = 20.0};
    case VectorKind::kColMax:
      return {.lane = 2.0, .chain = 5.0};
    case VectorKind::kColSum:
      return {.lane = 1.0, .chain = 5.0};
    case VectorKind::kRotate:
      return {.lane = 2.0, .chain = 2.0};
    case VectorKind::kHadamard:
      return {.lane = 7.0, .chain = 24.0};  // log2(128) additions an element
    case VectorKind::kQuantise:
      return {.lane = 3.0, .chain = 18.0};  // absolute maximum over the block, scale, convert
    case VectorKind::kScaled:
      return {.lane = 1.0};
    case VectorKind::kGroupSum:
    case VectorKind::kGroupColSum:
      return {.lane = 1.0, .chain = 3.0};
    case VectorKind::kSpill:
      // 8 bytes an element over a port of 128 B per clock, where 128 lanes take one clock.
      return {.lane = 8.0};
    case VectorKind::kRank:
      // Of each pair: read, compare values, compare places, combine, add, and the loop around.
      return {.lane = 6.0, .chain = 5.0};
    case VectorKind::kDequantise:
      // Unpack, scale, round to BF16 and place.
      return {.lane = 3.0, .convert = 1.0, .chain = 4.0};
    case VectorKind::kGroupDiv:
    case VectorKind::kGroupColDiv:
      return {.lane = 1.0, .special = 1.0, .chain = 5.0};
    case VectorKind::kColDot:
      return {.lane = 1.0, .chain = 2.0};
    case VectorKind::kRowTopK:
      return {.lane = 2.0, .chain = 20.0};  // a round: compare and keep, then exchange over lanes
    case VectorKind::kRowPick:
      return {.lane = 2.0};
    case VectorKind::kRowKeep:
      return {.lane = 1.0};
    case VectorKind::kCount:
      return {.lane = 4.0, .chain = 2.0};  // read, take the digit, compare, count in local memory
    case VectorKind::kNarrow:
      return {.lane = 2.0, .chain = 80.0};  // a scan of the counters
    case VectorKind::kFilter:
      return {.lane = 4.0, .chain = 30.0};  // read, compare, count over lanes, write
  }
  return {};
}

}  // namespace foretoken::hwmodels::tile
