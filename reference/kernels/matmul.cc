#include "reference/kernels/matmul.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cassert>
#include <cstddef>
#include <cstdlib>
#include <memory>
#include <new>
#include <numeric>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "reference/kernels/decode.h"
#include "reference/kernels/matmul_kernels.h"
#include "reference/kernels/parallel.h"

namespace foretoken::reference {
namespace {

using detail::Kernels;
using detail::PackJob;
using detail::TileJob;
using Format = WeightView::Format;
using Scale = WeightView::Scale;

// Packed weights of one panel: small enough for the second-level cache next to the inputs that
// stream by.
constexpr std::int64_t kPanelDepth = 256;
// Packed inputs of one pass over the weights; more rows take further passes.
constexpr std::int64_t kPackedInputBytes = 16 << 20;

std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

bool is_plain(Format format) { return format != Format::kFp8 && format != Format::kFp4; }

// Grows to the largest size asked for and stays; contents are lost on growth.
template <class T>
class Buffer {
 public:
  T* reserve(std::int64_t count) {
    if (count > capacity_) {
      memory_.reset();
      capacity_ = 0;
      const auto bytes = static_cast<std::size_t>(count) * sizeof(T);
      memory_.reset(static_cast<T*>(::operator new(bytes, kAlignment)));
      capacity_ = count;
    }
    return memory_.get();
  }

 private:
  static constexpr std::align_val_t kAlignment{64};
  struct Free {
    void operator()(T* p) const { ::operator delete(p, kAlignment); }
  };
  std::unique_ptr<T, Free> memory_;
  std::int64_t capacity_ = 0;
};

template <class Acc>
struct Scratch {
  Buffer<Acc> inputs, panel, scales, partial;
};
template <class Acc>
Scratch<Acc>& scratch() {
  thread_local Scratch<Acc> mine;
  return mine;
}

template <class Acc>
const Kernels<Acc>& kernels(Simd simd) {
  constexpr bool kDouble = std::is_same_v<Acc, double>;
  const auto pick = [](const auto& for_double, const auto& for_float) -> const Kernels<Acc>& {
    if constexpr (kDouble) {
      return for_double;
    } else {
      return for_float;
    }
  };
#if defined(__x86_64__)
  if (simd == Simd::kAvx512) return pick(detail::kAvx512Double, detail::kAvx512Float);
  if (simd == Simd::kAvx2) return pick(detail::kAvx2Double, detail::kAvx2Float);
#else
  static_cast<void>(simd);
#endif
  return pick(detail::kPortableDouble, detail::kPortableFloat);
}

// One call of matmul: what to multiply, and how it is cut into panels of weight rows, chunks of k
// and tiles of input rows. No cut changes a result.
template <class T, class Acc>
class Product {
 public:
  Product(const T* x, std::int64_t x_stride, const WeightView& w, Acc* y, std::int64_t y_stride,
          std::int64_t block)
      : kernels_(kernels<Acc>(simd())),
        x_(x),
        x_stride_(x_stride),
        w_(w),
        y_(y),
        y_stride_(y_stride),
        block_(block) {
    // Chunks are whole blocks where that keeps them short; else the chain of a block goes over
    // several calls of the kernel.
    depth_ = kPanelDepth;
    if (block_ >= w_.columns) {
      // Still the block's partial sum is added to a zero, as any other.
      block_ = w_.columns;
    }
    if (block_ > 0) {
      const std::int64_t step = std::lcm(std::min(block_, 2 * kPanelDepth), detail::kPackAlign);
      whole_blocks_ = block_ <= kPanelDepth && step <= kPanelDepth;
      if (whole_blocks_) depth_ = kPanelDepth / step * step;
      whole_blocks_ = whole_blocks_ || w_.columns <= depth_;
    }
    pack_ = kernels_.pack[static_cast<int>(w_.format)];
    if (w_.transposed || (w_.scale != Scale::kNone && w_.scale_columns < w_.columns &&
                          w_.scale_columns % detail::kPackAlign != 0)) {
      pack_ = nullptr;
    }
  }

  void run(std::int64_t m) {
    const std::int64_t row_bytes = w_.columns * static_cast<std::int64_t>(sizeof(Acc));
    const std::int64_t most = std::max<std::int64_t>(64, kPackedInputBytes / row_bytes);
    const std::int64_t passes = ceil_div(m, most);
    for (std::int64_t pass = 0; pass < passes; ++pass) {
      const std::int64_t begin = m * pass / passes;
      run_pass(begin, m * (pass + 1) / passes - begin);
    }
  }

 private:
  void run_pass(std::int64_t first_row, std::int64_t m) {
    first_row_ = first_row;
    m_ = m;
    tiles_ = ceil_div(m, kernels_.tile_rows);
    direct_ = direct_kernel(m);
    const std::int64_t panels = ceil_div(w_.rows, kernels_.panel_rows);
    packed_ = in_place() ? nullptr : scratch<Acc>().inputs.reserve(m * w_.columns);
    const std::int64_t work = m * w_.rows * w_.columns;
    if (work < kParallelWork || in_parallel() || threads() == 1) {
      for (std::int64_t t = 0; t < tiles_; ++t) pack_inputs(t);
      for (std::int64_t p = 0; p < panels; ++p) run_panel(p, 0, tiles_);
      return;
    }
    // Few panels and many rows: threads share a panel, each packing it for itself.
    const std::int64_t parts =
        std::clamp<std::int64_t>(std::min(2 * std::int64_t{threads()} / panels, m / 32), 1, tiles_);
    parallel_for(tiles_, 8 * m * w_.columns, [this](std::int64_t t) { pack_inputs(t); });
    parallel_for(panels * parts, work, [this, parts](std::int64_t i) {
      const std::int64_t part = i % parts;
      run_panel(i / parts, tiles_ * part / parts, tiles_ * (part + 1) / parts);
    });
  }

  [[nodiscard]] auto direct_kernel(std::int64_t m) const
      -> void (*)(const PackJob<Acc>&, const TileJob<Acc>&) {
    const bool scaled = w_.scale != Scale::kNone;
    const bool multiples = w_.columns % detail::kPackAlign == 0 && block_ % detail::kPackAlign == 0;
    if (pack_ == nullptr || m > detail::kMaxDirectRows || !multiples ||
        scaled == is_plain(w_.format)) {
      return nullptr;
    }
    return kernels_.direct[static_cast<int>(w_.format)][m - 1];
  }

  // Tiles differ by one row at most, so that none is left with a row of its own.
  [[nodiscard]] std::int64_t tile_begin(std::int64_t tile) const { return m_ * tile / tiles_; }

  [[nodiscard]] bool in_place() const { return std::is_same_v<T, Acc> && m_ == 1; }

  // Input rows of a tile next to each other, [k][row], widened to Acc.
  void pack_inputs(std::int64_t tile) {
    if (in_place()) return;
    const std::int64_t begin = tile_begin(tile);
    const std::int64_t rows = tile_begin(tile + 1) - begin;
    const T* x = x_ + (first_row_ + begin) * x_stride_;
    Acc* out = packed_ + begin * w_.columns;
    for (std::int64_t k = 0; k < w_.columns; ++k) {
      for (std::int64_t r = 0; r < rows; ++r) *out++ = static_cast<Acc>(x[r * x_stride_ + k]);
    }
  }

  [[nodiscard]] const Acc* inputs(std::int64_t tile) const {
    if constexpr (std::is_same_v<T, Acc>) {
      if (in_place()) return x_ + first_row_ * x_stride_;
    }
    return packed_ + tile_begin(tile) * w_.columns;
  }

  void run_panel(std::int64_t panel, std::int64_t first_tile, std::int64_t last_tile) {
    const std::int64_t n = panel * kernels_.panel_rows;
    const std::int64_t valid = std::min(kernels_.panel_rows, w_.rows - n);
    Scratch<Acc>& mine = scratch<Acc>();
    const Acc* scales = pack_scales(n, valid);
    if (direct_ != nullptr) {
      const RowPointers rows = code_rows(n, valid, 0);
      TileJob<Acc> job = tile_job(n, valid, 0);
      direct_(pack_job(rows, valid, scales, 0, w_.columns), job);
      return;
    }
    Acc* weights = mine.panel.reserve((depth_ + detail::kPackSlack) * kernels_.panel_rows);
    const bool split_blocks = block_ > 0 && !whole_blocks_;
    const std::int64_t first_row = tile_begin(first_tile);
    Acc* partial =
        split_blocks
            ? mine.partial.reserve((tile_begin(last_tile) - first_row) * kernels_.panel_rows)
            : nullptr;
    for (std::int64_t k0 = 0; k0 < w_.columns; k0 += depth_) {
      const std::int64_t count = std::min(depth_, w_.columns - k0);
      if (pack_ != nullptr) {
        const RowPointers rows = code_rows(n, valid, k0);
        pack_(pack_job(rows, valid, scales, k0, count), weights);
      } else {
        pack_slowly(n, valid, k0, count, weights);
      }
      for (std::int64_t tile = first_tile; tile < last_tile; ++tile) {
        TileJob<Acc> job = tile_job(n, valid, tile);
        job.panel = weights;
        job.x += k0 * job.rows;
        job.count = count;
        job.first = k0 == 0;
        if (split_blocks) {
          run_split(job, k0, partial + (tile_begin(tile) - first_row) * kernels_.panel_rows);
        } else {
          kernels_.tile(job);
        }
      }
    }
  }

  // All k of a tile.
  [[nodiscard]] TileJob<Acc> tile_job(std::int64_t n, std::int64_t valid, std::int64_t tile) const {
    const std::int64_t begin = tile_begin(tile);
    return {.panel = nullptr,
            .x = inputs(tile),
            .rows = tile_begin(tile + 1) - begin,
            .valid = valid,
            .count = w_.columns,
            .block = block_,
            .first = true,
            .y = y_ + (first_row_ + begin) * y_stride_ + n,
            .y_stride = y_stride_};
  }

  // A chunk whose ends are not those of blocks: `partial` keeps the chain of the current block.
  void run_split(const TileJob<Acc>& whole, std::int64_t k0, Acc* partial) const {
    for (std::int64_t k = k0; k < k0 + whole.count;) {
      const std::int64_t block_end = std::min((k / block_ + 1) * block_, w_.columns);
      const std::int64_t end = std::min(block_end, k0 + whole.count);
      TileJob<Acc> job = whole;
      job.panel += (k - k0) * kernels_.panel_rows;
      job.x += (k - k0) * whole.rows;
      job.count = end - k;
      job.block = 0;
      job.first = k % block_ == 0;
      job.y = partial;
      job.y_stride = kernels_.panel_rows;
      kernels_.tile(job);
      if (end == block_end) {
        for (std::int64_t r = 0; r < whole.rows; ++r) {
          for (std::int64_t c = 0; c < whole.valid; ++c) {
            Acc& total = whole.y[r * whole.y_stride + c];
            const Acc before = block_end <= block_ ? Acc{0} : total;
            total = before + partial[r * kernels_.panel_rows + c];
          }
        }
      }
      k = end;
    }
  }

  using RowPointers = std::array<const std::uint8_t*, detail::kMaxPanelRows>;

  // Rows beyond the last repeat it; nobody looks at what comes of them.
  template <class RowAt>
  static RowPointers row_pointers(std::int64_t n, std::int64_t valid, const RowAt& at) {
    RowPointers rows;
    for (std::int64_t r = 0; r < detail::kMaxPanelRows; ++r) {
      rows[static_cast<std::size_t>(r)] = at(n + std::min(r, valid - 1));
    }
    return rows;
  }

  [[nodiscard]] RowPointers code_rows(std::int64_t n, std::int64_t valid, std::int64_t k0) const {
    const std::int64_t bits = detail::element_bits(w_.format);
    const std::int64_t stride = detail::row_stride(w_);
    const auto* data = static_cast<const std::uint8_t*>(w_.data);
    return row_pointers(n, valid,
                        [=](std::int64_t row) { return data + (row * stride + k0) * bits / 8; });
  }

  [[nodiscard]] PackJob<Acc> pack_job(const RowPointers& rows, std::int64_t valid,
                                      const Acc* scales, std::int64_t k0,
                                      std::int64_t count) const {
    PackJob<Acc> job = {.rows = rows.data(),
                        .valid = valid,
                        .bytes = (count * detail::element_bits(w_.format) + 7) / 8,
                        .count = count,
                        .scales = scales,
                        .scale_first = 0,
                        .scale_columns = w_.scale_columns};
    if (scales != nullptr) {
      const std::int64_t block = k0 / w_.scale_columns;
      job.scales += block * kernels_.panel_rows;
      // One block that need not be a multiple of kPackAlign: it never ends.
      job.scale_first = w_.scale_columns >= w_.columns ? detail::kPackAlign * w_.columns
                                                       : (block + 1) * w_.scale_columns - k0;
    }
    return job;
  }

  // The panel's scales as [scale block][panel_rows], or null.
  [[nodiscard]] const Acc* pack_scales(std::int64_t n, std::int64_t valid) const {
    if (pack_ == nullptr || w_.scale == Scale::kNone) return nullptr;
    const auto stored = [&] {
      switch (w_.scale) {
        case Scale::kE8M0:
          return detail::kStoredE8M0;
        case Scale::kBf16:
          return detail::kStoredBf16;
        default:
          return detail::kStoredF32;
      }
    }();
    const std::int64_t blocks = ceil_div(w_.columns, w_.scale_columns);
    Acc* scales =
        scratch<Acc>().scales.reserve((blocks + detail::kPackSlack) * kernels_.panel_rows);
    const RowPointers rows =
        row_pointers(n, valid, [&](std::int64_t row) { return detail::scale_row(w_, row); });
    kernels_.pack[stored]({.rows = rows.data(),
                           .valid = valid,
                           .bytes = blocks * detail::scale_bytes(w_.scale),
                           .count = blocks,
                           .scales = nullptr,
                           .scale_first = 0,
                           .scale_columns = 0},
                          scales);
    return scales;
  }

  void pack_slowly(std::int64_t n, std::int64_t valid, std::int64_t k0, std::int64_t count,
                   Acc* out) const {
    const std::int64_t width = kernels_.panel_rows;
    if (w_.transposed) {
      const std::int64_t stride = detail::row_stride(w_);
      // Seen the other way round, the stored rows are rows.
      WeightView stored = w_;
      stored.transposed = false;
      stored.stride = stride;
      for (std::int64_t k = 0; k < count; ++k) {
        detail::decode_range(stored, k0 + k, n, valid, out + k * width, 1);
        std::fill(out + k * width + valid, out + (k + 1) * width, Acc{0});
      }
      return;
    }
    for (std::int64_t r = 0; r < width; ++r) {
      if (r < valid) {
        detail::decode_range(w_, n + r, k0, count, out + r, width);
      } else {
        for (std::int64_t k = 0; k < count; ++k) out[k * width + r] = 0;
      }
    }
  }

  const Kernels<Acc>& kernels_;
  const T* x_;
  std::int64_t x_stride_;
  const WeightView& w_;
  Acc* y_;
  std::int64_t y_stride_;
  std::int64_t block_;
  std::int64_t depth_ = 0;
  bool whole_blocks_ = false;
  void (*pack_)(const PackJob<Acc>&, Acc*) = nullptr;
  void (*direct_)(const PackJob<Acc>&, const TileJob<Acc>&) = nullptr;
  std::int64_t first_row_ = 0;
  std::int64_t m_ = 0;
  std::int64_t tiles_ = 0;
  Acc* packed_ = nullptr;
};

void check(const WeightView& w) {
  assert(w.rows >= 0 && w.columns >= 0 && w.stride >= 0);
  assert(!w.transposed || (is_plain(w.format) && w.scale == Scale::kNone));
  assert(w.format != Format::kFp4 || w.stride % 2 == 0);
  assert(w.scale == Scale::kNone || (w.scale_rows > 0 && w.scale_columns > 0));
  static_cast<void>(w);
}

template <class Acc>
void decode_all(const WeightView& w, std::int64_t first, std::int64_t count, Acc* out) {
  check(w);
  assert(first >= 0 && first + count <= w.rows);
  for (std::int64_t r = 0; r < count; ++r) {
    detail::decode_range(w, first + r, 0, w.columns, out + r * w.columns, 1);
  }
}

Simd simd_from_environment() {
  const char* name = std::getenv("FORETOKEN_SIMD");
  if (name == nullptr || *name == '\0') return best_simd();
  for (const Simd simd : {Simd::kPortable, Simd::kAvx2, Simd::kAvx512}) {
    if (name == to_string(simd)) return std::min(simd, best_simd());
  }
  throw std::invalid_argument("FORETOKEN_SIMD: expected portable, avx2 or avx512, got '" +
                              std::string(name) + "'");
}

std::atomic<Simd>& chosen_simd() {
  static std::atomic<Simd> chosen = simd_from_environment();
  return chosen;
}

}  // namespace

template <class T, class Acc>
void matmul(const T* x, std::int64_t m, std::int64_t x_stride, const WeightView& w, Acc* y,
            std::int64_t y_stride, std::int64_t block) {
  check(w);
  assert(m >= 0 && block >= 0);
  if (x_stride == 0) x_stride = w.columns;
  if (y_stride == 0) y_stride = w.rows;
  if (m <= 0 || w.rows <= 0) return;
  if (w.columns <= 0) {
    for (std::int64_t i = 0; i < m; ++i) std::fill_n(y + i * y_stride, w.rows, Acc{0});
    return;
  }
  if (std::is_same_v<Acc, double>) block = 0;
  Product<T, Acc>(x, x_stride, w, y, y_stride, block).run(m);
}

template void matmul(const double*, std::int64_t, std::int64_t, const WeightView&, double*,
                     std::int64_t, std::int64_t);
template void matmul(const float*, std::int64_t, std::int64_t, const WeightView&, double*,
                     std::int64_t, std::int64_t);
template void matmul(const float*, std::int64_t, std::int64_t, const WeightView&, float*,
                     std::int64_t, std::int64_t);

void decode_rows(const WeightView& w, std::int64_t first, std::int64_t count, double* out) {
  decode_all(w, first, count, out);
}
void decode_rows(const WeightView& w, std::int64_t first, std::int64_t count, float* out) {
  decode_all(w, first, count, out);
}

std::string_view to_string(Simd simd) {
  switch (simd) {
    case Simd::kPortable:
      return "portable";
    case Simd::kAvx2:
      return "avx2";
    case Simd::kAvx512:
      return "avx512";
  }
  return "unknown";
}

Simd best_simd() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f") != 0 && __builtin_cpu_supports("avx512bw") != 0 &&
      __builtin_cpu_supports("avx512vl") != 0 && __builtin_cpu_supports("avx512dq") != 0) {
    return Simd::kAvx512;
  }
  // F16C came with every processor that has AVX2.
  if (__builtin_cpu_supports("avx2") != 0 && __builtin_cpu_supports("fma") != 0) {
    return Simd::kAvx2;
  }
#endif
  return Simd::kPortable;
}

Simd simd() { return chosen_simd().load(std::memory_order_relaxed); }

void set_simd(Simd simd) {
  if (simd > best_simd()) {
    throw std::invalid_argument("this machine has no " + std::string(to_string(simd)));
  }
  chosen_simd().store(simd, std::memory_order_relaxed);
}

}  // namespace foretoken::reference
