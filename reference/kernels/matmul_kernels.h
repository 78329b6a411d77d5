// What matmul asks of an instruction set: packing weight rows into a panel, and multiplying a few
// input rows by it. Plain types only, no inline function and no library template: the translation
// units that include this are compiled for more than the baseline, and whatever the linker might
// merge with baseline code must not come from them.
#pragma once

#include <cstdint>

namespace foretoken::reference::detail {

// How numbers are stored, as WeightView::Format and WeightView::Scale have them.
enum Stored : int {
  kStoredF64,
  kStoredF32,
  kStoredF16,
  kStoredBf16,
  kStoredFp8,
  kStoredFp4,
  kStoredE8M0,
  kStoredFormats
};
constexpr std::int64_t kMaxPanelRows = 64;
// Packing may write this many k beyond the last one asked for.
constexpr std::int64_t kPackSlack = 8;
// k are packed in multiples of this, so that a four-byte word has one scale.
constexpr std::int64_t kPackAlign = 8;

// The stored codes of some weight rows, from one k (a multiple of kPackAlign) on.
template <class Acc>
struct PackJob {
  const std::uint8_t* const* rows;  // kMaxPanelRows pointers, all of them readable
  std::int64_t valid;               // rows wanted
  std::int64_t bytes;               // readable behind each pointer
  std::int64_t count;               // k wanted
  // [scale block][panel_rows]; null: none. The first block covers the first `scale_first` k, each
  // further one `scale_columns`, all multiples of kPackAlign.
  const Acc* scales;
  std::int64_t scale_first;
  std::int64_t scale_columns;
};

// y[i, n] for `rows` inputs and `valid` weight rows, over `count` k.
template <class Acc>
struct TileJob {
  const Acc* panel;  // [k][panel_rows]
  const Acc* x;      // [k][rows]
  std::int64_t rows;
  std::int64_t valid;
  std::int64_t count;
  // 0: the chain goes on from y. Otherwise it restarts every `block` k and partial sums are added
  // to y; count is a multiple of block except at the end of the row.
  std::int64_t block;
  bool first;  // y counts as 0
  Acc* y;
  std::int64_t y_stride;
};

constexpr std::int64_t kMaxDirectRows = 4;

template <class Acc>
struct Kernels {
  std::int64_t panel_rows;
  std::int64_t tile_rows;  // most input rows a tile has
  // By stored format. Scales are packed like weights. Null: decode one by one.
  void (*pack[kStoredFormats])(const PackJob<Acc>&, Acc* panel);
  void (*tile)(const TileJob<Acc>&);
  // Packing and product in one for few inputs (tile.rows - 1 is the second index): decoded weights
  // are used at once and never stored. All k in one go; they and block are multiples of kPackAlign,
  // and tile.panel, tile.count and tile.first are not looked at. FP8 and FP4 have scales, the
  // others none. Null: there is none.
  void (*direct[kStoredFormats][kMaxDirectRows])(const PackJob<Acc>&, const TileJob<Acc>&);
};

extern const Kernels<double> kPortableDouble;
extern const Kernels<float> kPortableFloat;
#if defined(__x86_64__)
extern const Kernels<double> kAvx2Double;
extern const Kernels<float> kAvx2Float;
extern const Kernels<double> kAvx512Double;
extern const Kernels<float> kAvx512Float;
#endif

}  // namespace foretoken::reference::detail
