#include "hwmodels/value/value_machine.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <numeric>

#include "hwmodels/value/ranked_machines.h"
#include "reference/formats/float_formats.h"

namespace foretoken::hwmodels::value {

using tile::Block;
using tile::BufferRef;
using tile::Dtype;
using tile::kAll;
using tile::TensorId;
using tile::VectorKind;

namespace {

constexpr std::int64_t kUnwritten = std::numeric_limits<std::int64_t>::min();

double largest_of(Dtype d) { return d == Dtype::kFp4 ? 6.0 : 448.0; }

// To nearest, ties to even, with `bits` of fraction.
float with_fraction(float value, int bits) {
  if (!std::isfinite(value)) return value;
  auto code = std::bit_cast<std::uint32_t>(value);
  const int drop = 23 - bits;
  code += (1U << (drop - 1)) - 1U + ((code >> drop) & 1U);
  code &= ~((1U << drop) - 1U);
  return std::bit_cast<float>(code);
}

float rounded(Dtype d, double value) {
  switch (d) {
    case Dtype::kFp4:
      return static_cast<float>(reference::round_e2m1(value));
    case Dtype::kFp8:
      return static_cast<float>(reference::round_e4m3(value));
    case Dtype::kBf16:
      return reference::round_bf16(static_cast<float>(value));
    default:
      return static_cast<float>(value);
  }
}

// Scale of a block from its largest magnitude.
float block_scale(double amax, Dtype d, const Quantisation& how) {
  const double largest = largest_of(d);
  if (how.scale_floor) {
    // OCP MX: the largest's exponent less the format's.
    if (amax <= 0.0) return 1.0F;
    return static_cast<float>(std::ldexp(1.0, std::ilogb(amax) - std::ilogb(largest)));
  }
  const double floored = std::max(amax, d == Dtype::kFp4 ? 6.0 * 0x1p-126 : 1e-4);
  const double scale = floored / largest;
  if (!how.power_of_two) return static_cast<float>(scale);
  int exponent = 0;
  const double mantissa = std::frexp(scale, &exponent);
  return static_cast<float>(std::ldexp(1.0, mantissa == 0.5 ? exponent - 1 : exponent));
}

// Bits of a score's key in radix selection, and the key: ordered as scores are, NaN below all.
int key_bits(Dtype d) { return d == Dtype::kBf16 ? 16 : 32; }
std::uint64_t key_of(float score, Dtype d) {
  if (std::isnan(score)) return 0;
  // Both zeros are one score.
  const auto bits = std::bit_cast<std::uint32_t>(score == 0.0F ? 0.0F : score);
  const std::uint32_t key = (bits & 0x80000000U) != 0 ? ~bits : bits | 0x80000000U;
  return key >> (32 - key_bits(d));
}

// Elements of the contracted dimension that one matrix instruction adds up before it rounds:
// 32 bytes of operands on every unit modelled here.
std::int64_t instruction_depth(Dtype d) { return 256 / workloads::element_bits(d); }

}  // namespace

HostTensor::HostTensor(std::int64_t r, std::int64_t c)
    : rows(r),
      cols(c),
      elements(static_cast<std::size_t>(r * c)),
      written(static_cast<std::size_t>(r * c)) {}

float HostTensor::value(std::int64_t row, std::int64_t col) const {
  const auto i = static_cast<std::size_t>(row * cols + col);
  return scales.empty() ? elements[i] : elements[i] * scales[i];
}

std::vector<float> HostTensor::values() const {
  std::vector<float> v = elements;
  for (std::size_t i = 0; i < scales.size(); ++i) v[i] *= scales[i];
  return v;
}

HostTensor quantised(std::span<const float> values, std::int64_t rows, std::int64_t cols,
                     const Quantisation& how) {
  HostTensor t(rows, cols);
  const bool scaled = how.block_cols > 0 && (how.dtype == Dtype::kFp8 || how.dtype == Dtype::kFp4);
  if (!scaled) {
    for (std::size_t i = 0; i < values.size(); ++i) t.elements[i] = rounded(how.dtype, values[i]);
    return t;
  }
  t.scales.assign(values.size(), 1.0F);
  for (std::int64_t r0 = 0; r0 < rows; r0 += how.block_rows) {
    for (std::int64_t c0 = 0; c0 < cols; c0 += how.block_cols) {
      const std::int64_t r1 = std::min(rows, r0 + how.block_rows);
      const std::int64_t c1 = std::min(cols, c0 + how.block_cols);
      double amax = 0.0;
      for (std::int64_t r = r0; r < r1; ++r) {
        for (std::int64_t c = c0; c < c1; ++c) {
          amax = std::max(amax, std::abs(double{values[static_cast<std::size_t>(r * cols + c)]}));
        }
      }
      const float scale = block_scale(amax, how.dtype, how);
      for (std::int64_t r = r0; r < r1; ++r) {
        for (std::int64_t c = c0; c < c1; ++c) {
          const auto i = static_cast<std::size_t>(r * cols + c);
          t.elements[i] = rounded(how.dtype, double{values[i]} / double{scale});
          t.scales[i] = scale;
        }
      }
    }
  }
  return t;
}

void ValueMachine::bind(std::string_view name, HostTensor& tensor) {
  bound_.insert_or_assign(std::string(name), &tensor);
}

void ValueMachine::set_quantisation(Dtype dtype, const Quantisation& how) {
  quantisation_.insert_or_assign(dtype, how);
}

void ValueMachine::run(const tile::Kernel& kernel) {
  tensors_.clear();
  const std::int64_t items = kernel.launch().items;
  for (std::int64_t i = 0; i < items; ++i) run_item(kernel, i);
}

void ValueMachine::run_item(const tile::Kernel& kernel, std::int64_t item) {
  kernel_ = &kernel;
  item_ = item;
  next_tensor_ = 0;
  next_buffer_ = 0;
  kernel.item(*this, item);
}

void ValueMachine::require_written(std::string_view name) const {
  const auto found = bound_.find(name);
  if (found == bound_.end()) throw Hazard(fmt::format("no tensor is bound to {}", name));
  const HostTensor& t = *found->second;
  std::int64_t missing = 0;
  std::int64_t first = -1;
  for (std::size_t i = 0; i < t.written.size(); ++i) {
    if (t.written[i] != 0) continue;
    if (first < 0) first = static_cast<std::int64_t>(i);
    ++missing;
  }
  if (missing == 0) return;
  throw Hazard(fmt::format("{} of {} elements of {} were never written, first row {} column {}",
                           missing, t.written.size(), name, first / t.cols, first % t.cols));
}

std::string ValueMachine::where() const {
  std::string text = fmt::format("{}, work item {}", kernel_->name(), item_);
  if (const std::string name = kernel_->item_name(item_); !name.empty()) text += " (" + name + ")";
  return ranks_ == nullptr ? text : fmt::format("rank {}, {}", rank_, text);
}

ValueMachine::Bound ValueMachine::bound(const tile::TensorSpec& spec) const {
  if (ranks_ != nullptr) {
    const RankedMachines::Bound found = ranks_->find(rank_, spec);
    return {spec, found.first, found.part_rows};
  }
  const auto found = bound_.find(spec.name);
  if (found == bound_.end()) {
    throw Hazard(fmt::format("{}: nothing is bound to tensor {}", where(), spec.name));
  }
  HostTensor& host = *found->second;
  if (host.rows != spec.rows || host.cols != spec.cols) {
    throw Hazard(fmt::format("{}: tensor {} is declared [{}, {}] but bound [{}, {}]", where(),
                             spec.name, spec.rows, spec.cols, host.rows, host.cols));
  }
  return {spec, &host, 0};
}

// Items mostly declare what the item before them did.
TensorId ValueMachine::tensor(const tile::TensorSpec& spec) {
  const std::size_t i = next_tensor_++;
  if (i < tensors_.size()) {
    Bound& b = tensors_[i];
    if (b.spec.name == spec.name && b.spec.rows == spec.rows && b.spec.cols == spec.cols &&
        b.spec.home == spec.home) {
      return static_cast<TensorId>(i);
    }
    tensors_.resize(i);
  }
  tensors_.push_back(bound(spec));
  return static_cast<TensorId>(i);
}

ValueMachine::Row ValueMachine::row_of(const Bound& t, std::int64_t row) const {
  if (t.part_rows == 0) return {t.host, static_cast<std::size_t>(row * t.spec.cols), rank_};
  const std::int64_t rank = row / t.part_rows;
  return {t.host + rank, static_cast<std::size_t>(row % t.part_rows * t.spec.cols), rank};
}

void ValueMachine::will_read(const Bound& t, const Row& row, std::int64_t row_number,
                             std::int64_t col, std::int64_t cols) {
  if (ranks_ != nullptr) {
    ranks_->read({rank_, t.spec, *row.host, row.rank, row_number, row.at(col), cols});
  }
}

void ValueMachine::will_write(const Bound& t, const Row& row, std::int64_t row_number,
                              std::int64_t col, std::int64_t cols) {
  if (ranks_ != nullptr) {
    ranks_->write({rank_, t.spec, *row.host, row.rank, row_number, row.at(col), cols});
    return;
  }
  for (std::int64_t c = 0; c < cols; ++c) {
    if (row.host->written[row.at(col + c)] == 0) continue;
    throw Hazard(fmt::format("{}: row {} column {} of {} is written a second time", where(),
                             row_number, col + c, t.spec.name));
  }
}

tile::Buffer ValueMachine::buffer(const tile::BufferSpec& spec) {
  if (next_buffer_ == buffers_.size()) buffers_.emplace_back();
  Storage& b = buffers_[next_buffer_];
  b.spec = spec;
  const auto size = static_cast<std::size_t>(spec.rows * spec.cols * spec.slots);
  b.elements.assign(size, 0.0F);
  b.scales.assign(size, 1.0F);
  b.generation.assign(size, kUnwritten);
  return {static_cast<std::uint32_t>(next_buffer_++)};
}

ValueMachine::View ValueMachine::view(const BufferRef& ref) {
  ++steps_;
  Storage& b = buffers_[ref.id];
  const tile::BufferSpec& s = b.spec;
  const Block& k = ref.block;
  const std::int64_t rows = k.rows == kAll ? s.rows - k.row : k.rows;
  const std::int64_t cols = k.cols == kAll ? s.cols - k.col : k.cols;
  if (k.row < 0 || k.col < 0 || rows < 0 || cols < 0 || k.row + rows > s.rows ||
      k.col + cols > s.cols) {
    throw Hazard(fmt::format("{}: rows {} to {}, columns {} to {} are outside buffer {} [{}, {}]",
                             where(), k.row, k.row + rows, k.col, k.col + cols, s.name, s.rows,
                             s.cols));
  }
  if (ref.index < 0) {
    throw Hazard(fmt::format("{}: buffer {} is used for iteration {}", where(), s.name, ref.index));
  }
  const std::int64_t slot = ref.index % s.slots;
  return {&b,     static_cast<std::size_t>((slot * s.rows + k.row) * s.cols + k.col),
          s.cols, rows,
          cols,   ref.index};
}

ValueMachine::View ValueMachine::read(const BufferRef& ref) {
  const View v = view(ref);
  for (std::int64_t r = 0; r < v.rows; ++r) {
    for (std::int64_t c = 0; c < v.cols; ++c) {
      const std::int64_t generation = v.buffer->generation[v.at(r, c)];
      if (generation == v.generation) continue;
      if (generation == kUnwritten) {
        throw Hazard(
            fmt::format("{}: slot {} of buffer {} is read before it was written (row {}, "
                        "column {})",
                        where(), ref.index % v.buffer->spec.slots, v.buffer->spec.name,
                        ref.block.row + r, ref.block.col + c));
      }
      throw Hazard(fmt::format(
          "{}: slot {} of buffer {} is read for iteration {} but holds iteration {}", where(),
          ref.index % v.buffer->spec.slots, v.buffer->spec.name, v.generation, generation));
    }
  }
  return v;
}

Block ValueMachine::resolved(const Bound& t, const Block& region) const {
  Block b = region;
  if (b.rows == kAll) b.rows = t.spec.rows - b.row;
  if (b.cols == kAll) b.cols = t.spec.cols - b.col;
  return b;
}

void ValueMachine::require_inside(const Bound& t, const Block& b) const {
  if (b.row >= 0 && b.col >= 0 && b.rows >= 0 && b.cols >= 0 && b.row + b.rows <= t.spec.rows &&
      b.col + b.cols <= t.spec.cols) {
    return;
  }
  throw Hazard(fmt::format("{}: rows {} to {}, columns {} to {} are outside tensor {} [{}, {}]",
                           where(), b.row, b.row + b.rows, b.col, b.col + b.cols, t.spec.name,
                           t.spec.rows, t.spec.cols));
}

void ValueMachine::load(const BufferRef& dst, TensorId src, const Block& region, int, double) {
  const Bound& t = tensors_[src];
  const Block b = resolved(t, region);
  require_inside(t, b);
  const View v = view(dst);
  if (v.rows != b.rows || v.cols != b.cols) {
    throw Hazard(fmt::format("{}: [{}, {}] of {} loaded into [{}, {}] of {}", where(), b.rows,
                             b.cols, t.spec.name, v.rows, v.cols, v.buffer->spec.name));
  }
  for (std::int64_t r = 0; r < b.rows; ++r) {
    const Row from = row_of(t, b.row + r);
    will_read(t, from, b.row + r, b.col, b.cols);
    const HostTensor& h = *from.host;
    for (std::int64_t c = 0; c < b.cols; ++c) {
      const std::size_t i = from.at(b.col + c);
      v.put(r, c, h.elements[i], h.scales.empty() ? 1.0F : h.scales[i]);
    }
  }
}

void ValueMachine::gather(const BufferRef& dst, TensorId src, const BufferRef& rows,
                          std::int64_t col, std::int64_t cols, std::int64_t page, int) {
  const Bound& t = tensors_[src];
  const View index = read(rows);
  const View v = view(dst);
  const std::int64_t width = cols == kAll ? t.spec.cols - col : cols;
  const std::int64_t count = index.rows * index.cols;
  if ((index.rows != 1 && index.cols != 1) || v.rows < count * page || v.cols != width) {
    throw Hazard(fmt::format("{}: {} rows of {} columns of {} gathered into [{}, {}] of {}",
                             where(), count * page, width, t.spec.name, v.rows, v.cols,
                             v.buffer->spec.name));
  }
  for (std::int64_t r = 0; r < count * page; ++r) {
    const std::int64_t n = r / page;
    const auto number =
        static_cast<std::int64_t>(index.cols == 1 ? index.value(n, 0) : index.value(0, n));
    const std::int64_t row = number < 0 ? number : number * page + r % page;
    if (row < 0) {
      for (std::int64_t c = 0; c < width; ++c) v.put(r, c, 0.0F, 1.0F);
      continue;
    }
    require_inside(t, {row, 1, col, width});
    const Row from = row_of(t, row);
    will_read(t, from, row, col, width);
    const HostTensor& h = *from.host;
    for (std::int64_t c = 0; c < width; ++c) {
      const std::size_t i = from.at(col + c);
      v.put(r, c, h.elements[i], h.scales.empty() ? 1.0F : h.scales[i]);
    }
  }
}

void ValueMachine::store(TensorId dst, const Block& region, const BufferRef& src) {
  Bound& t = tensors_[dst];
  const Block b = resolved(t, region);
  require_inside(t, b);
  const View v = read(src);
  if (v.rows != b.rows || v.cols != b.cols) {
    throw Hazard(fmt::format("{}: [{}, {}] of {} stored as [{}, {}] of {}", where(), v.rows, v.cols,
                             v.buffer->spec.name, b.rows, b.cols, t.spec.name));
  }
  for (std::int64_t r = 0; r < b.rows; ++r) {
    const Row to = row_of(t, b.row + r);
    will_write(t, to, b.row + r, b.col, b.cols);
    HostTensor& h = *to.host;
    for (std::int64_t c = 0; c < b.cols; ++c) {
      const std::size_t i = to.at(b.col + c);
      h.written[i] = 1;
      const std::size_t from = v.at(r, c);
      const float scale = v.buffer->scales[from];
      if (scale == 1.0F || v.buffer->spec.dtype == t.spec.dtype) {
        h.elements[i] = rounded(t.spec.dtype, v.buffer->elements[from]);
        if (scale != 1.0F && h.scales.empty()) h.scales.assign(h.elements.size(), 1.0F);
        if (!h.scales.empty()) h.scales[i] = scale;
      } else {
        h.elements[i] = rounded(t.spec.dtype, v.value(r, c));
      }
    }
  }
}

void ValueMachine::reduce_store(TensorId dst, const Block& region, const BufferRef& src) {
  Bound& t = tensors_[dst];
  const Block b = resolved(t, region);
  require_inside(t, b);
  const View v = read(src);
  if (ranks_ != nullptr) {
    throw Hazard(
        fmt::format("{}: sums in {} depend on the order of work items", where(), t.spec.name));
  }
  for (std::int64_t r = 0; r < b.rows; ++r) {
    const Row to = row_of(t, b.row + r);
    HostTensor& h = *to.host;
    for (std::int64_t c = 0; c < b.cols; ++c) {
      const std::size_t i = to.at(b.col + c);
      h.elements[i] = rounded(t.spec.dtype, h.elements[i] + v.value(r, c));
      h.written[i] = 1;
    }
  }
}

void ValueMachine::scatter(TensorId dst, const BufferRef& rows, const BufferRef& src,
                           std::int64_t col, std::int64_t cols) {
  const View index = read(rows);
  for (std::int64_t r = 0; r < index.rows; ++r) {
    const auto row = static_cast<std::int64_t>(index.value(r, 0));
    if (row < 0) continue;
    BufferRef one = src;
    one.block.row += r;
    one.block.rows = 1;
    store(dst, {row, 1, col, cols}, one);
  }
}

void ValueMachine::put_rounded(const View& dst, std::int64_t r, std::int64_t c, float value) const {
  dst.put(r, c, rounded(dst.buffer->spec.dtype, value), 1.0F);
}

void ValueMachine::move(const BufferRef& dst, const BufferRef& src, bool transposed) {
  const View from = read(src);
  const View to = view(dst);
  if ((transposed ? from.cols : from.rows) != to.rows ||
      (transposed ? from.rows : from.cols) != to.cols) {
    throw Hazard(fmt::format("{}: [{}, {}] of {} moved to [{}, {}] of {}", where(), from.rows,
                             from.cols, from.buffer->spec.name, to.rows, to.cols,
                             to.buffer->spec.name));
  }
  for (std::int64_t r = 0; r < from.rows; ++r) {
    for (std::int64_t c = 0; c < from.cols; ++c) {
      const std::size_t i = from.at(r, c);
      const std::int64_t row = transposed ? c : r;
      const std::int64_t col = transposed ? r : c;
      if (from.buffer->spec.dtype == to.buffer->spec.dtype) {
        to.put(row, col, from.buffer->elements[i], from.buffer->scales[i]);
      } else {
        put_rounded(to, row, col, from.value(r, c));
      }
    }
  }
}

void ValueMachine::matrix(const BufferRef& acc, const BufferRef& a, const BufferRef& b,
                          const tile::MatrixStep& step) {
  const View left = read(a);
  const View right = read(b);
  const View sum = step.accumulate ? read(acc) : view(acc);
  const std::int64_t depth = left.cols;
  const std::int64_t columns = step.b_by_rows ? right.cols : right.rows;
  if (depth != (step.b_by_rows ? right.rows : right.cols) || sum.rows != left.rows ||
      sum.cols != columns || left.rows > step.m || columns > step.n || depth > step.k) {
    throw Hazard(fmt::format("{}: matrix step of [{}, {}] x [{}, {}] into [{}, {}]", where(),
                             left.rows, left.cols, right.rows, right.cols, sum.rows, sum.cols));
  }
  const std::int64_t chunk = instruction_depth(step.compute);
  // FP32 operands lose their last bits on the way in.
  const int fraction = step.compute == Dtype::kTf32 ? 10 : step.compute == Dtype::kHf32 ? 11 : 23;
  const auto factor = [&](const View& v, std::int64_t r, std::int64_t c) -> double {
    const float x = step.scaled ? v.value(r, c) : v.buffer->elements[v.at(r, c)];
    return fraction < 23 ? with_fraction(x, fraction) : x;
  };
  std::vector<double> l(static_cast<std::size_t>(depth));
  for (std::int64_t r = 0; r < sum.rows; ++r) {
    for (std::int64_t i = 0; i < depth; ++i) l[static_cast<std::size_t>(i)] = factor(left, r, i);
    for (std::int64_t c = 0; c < sum.cols; ++c) {
      float total = step.accumulate ? sum.value(r, c) : 0.0F;
      for (std::int64_t k0 = 0; k0 < depth; k0 += chunk) {
        double part = 0.0;
        const std::int64_t k1 = std::min(depth, k0 + chunk);
        for (std::int64_t k = k0; k < k1; ++k) {
          part += l[static_cast<std::size_t>(k)] *
                  (step.b_by_rows ? factor(right, k, c) : factor(right, c, k));
        }
        total = static_cast<float>(double{total} + part);
      }
      sum.put(r, c, total, 1.0F);
    }
  }
}

void ValueMachine::put_rows_quantised(const View& dst, std::span<const float> values) const {
  const Dtype d = dst.buffer->spec.dtype;
  const auto found = quantisation_.find(d);
  if (found == quantisation_.end()) {
    throw Hazard(fmt::format("{}: no rule for quantising to {}", where(), to_string(d)));
  }
  const Quantisation& how = found->second;
  const std::int64_t block = how.block_cols > 0 ? how.block_cols : dst.cols;
  for (std::int64_t r = 0; r < dst.rows; ++r) {
    for (std::int64_t c0 = 0; c0 < dst.cols; c0 += block) {
      const std::int64_t c1 = std::min(dst.cols, c0 + block);
      double amax = 0.0;
      for (std::int64_t c = c0; c < c1; ++c) {
        amax = std::max(amax, std::abs(double{values[static_cast<std::size_t>(r * dst.cols + c)]}));
      }
      const float scale = how.block_cols > 0 ? block_scale(amax, d, how) : 1.0F;
      for (std::int64_t c = c0; c < c1; ++c) {
        const double v = values[static_cast<std::size_t>(r * dst.cols + c)];
        dst.put(r, c, rounded(d, v / double{scale}), scale);
      }
    }
  }
}

void ValueMachine::vector(VectorKind kind, const BufferRef& dst,
                          std::initializer_list<BufferRef> src, const tile::VectorArgs& args) {
  std::vector<View> in;
  in.reserve(src.size());
  for (const BufferRef& ref : src) in.push_back(read(ref));
  const View out = view(dst);
  const auto scalar = static_cast<float>(args.scalar);
  const auto require = [&](bool ok, std::string_view what) {
    if (!ok) throw Hazard(fmt::format("{}: vector step {}: {}", where(), to_string(kind), what));
  };
  const auto fits = [&](const View& v) {
    return (v.rows == out.rows || v.rows == 1) && (v.cols == out.cols || v.cols == 1);
  };
  const auto each = [&](auto f) {
    for (const View& v : in) require(fits(v), "operands of different shapes");
    // Gathered first: the destination may be an operand.
    std::vector<float> result(static_cast<std::size_t>(out.rows * out.cols));
    for (std::int64_t r = 0; r < out.rows; ++r) {
      for (std::int64_t c = 0; c < out.cols; ++c) {
        result[static_cast<std::size_t>(r * out.cols + c)] = f(r, c);
      }
    }
    for (std::int64_t r = 0; r < out.rows; ++r) {
      for (std::int64_t c = 0; c < out.cols; ++c) {
        put_rounded(out, r, c, result[static_cast<std::size_t>(r * out.cols + c)]);
      }
    }
  };
  const auto a = [&](std::int64_t r, std::int64_t c) { return in[0].broadcast(r, c); };
  const auto b = [&](std::int64_t r, std::int64_t c) {
    return in.size() > 1 ? in[1].broadcast(r, c) : scalar;
  };
  const std::size_t operands = in.size();
  switch (kind) {
    case VectorKind::kCopy:
    case VectorKind::kSpill:
    case VectorKind::kDequantise:
      require(operands == 1, "one operand");
      return each([&](auto r, auto c) { return a(r, c); });
    case VectorKind::kFill:
      return each([&](auto, auto) { return scalar; });
    case VectorKind::kAdd:
      return each([&](auto r, auto c) { return a(r, c) + b(r, c); });
    case VectorKind::kSub:
      return each([&](auto r, auto c) { return a(r, c) - b(r, c); });
    case VectorKind::kMul:
      return each([&](auto r, auto c) { return a(r, c) * b(r, c); });
    case VectorKind::kFma: {
      const View old = read(dst);
      return each([&](auto r, auto c) { return std::fma(a(r, c), b(r, c), old.value(r, c)); });
    }
    case VectorKind::kDiv:
      return each([&](auto r, auto c) { return a(r, c) / b(r, c); });
    case VectorKind::kMax:
      return each([&](auto r, auto c) { return std::max(a(r, c), b(r, c)); });
    case VectorKind::kMin:
      return each([&](auto r, auto c) { return std::min(a(r, c), b(r, c)); });
    case VectorKind::kExp:
      if (operands == 2) {
        return each([&](auto r, auto c) { return std::exp((a(r, c) - b(r, c)) * scalar); });
      }
      return each([&](auto r, auto c) { return std::exp(a(r, c)); });
    case VectorKind::kRsqrt:
      return each([&](auto r, auto c) {
        return 1.0F / std::sqrt(a(r, c) * scalar + static_cast<float>(args.scalar2));
      });
    case VectorKind::kSigmoid:
      return each([&](auto r, auto c) { return 1.0F / (1.0F + std::exp(-a(r, c))); });
    case VectorKind::kSilu:
      return each([&](auto r, auto c) { return a(r, c) / (1.0F + std::exp(-a(r, c))); });
    case VectorKind::kSqrtSoftplus:
      return each([&](auto r, auto c) {
        const float x = a(r, c);
        return std::sqrt(std::max(x, 0.0F) + std::log1p(std::exp(-std::abs(x))));
      });
    case VectorKind::kRowMax:
    case VectorKind::kRowSum: {
      require(operands == 1 && out.cols == 1 && out.rows == in[0].rows, "[rows, 1] of one operand");
      std::vector<float> result(static_cast<std::size_t>(out.rows));
      for (std::int64_t r = 0; r < out.rows; ++r) {
        float x = kind == VectorKind::kRowMax ? -std::numeric_limits<float>::infinity() : 0.0F;
        for (std::int64_t c = 0; c < in[0].cols; ++c) {
          x = kind == VectorKind::kRowMax ? std::max(x, in[0].value(r, c)) : x + in[0].value(r, c);
        }
        result[static_cast<std::size_t>(r)] = x;
      }
      for (std::int64_t r = 0; r < out.rows; ++r) {
        put_rounded(out, r, 0, result[static_cast<std::size_t>(r)]);
      }
      return;
    }
    case VectorKind::kColMax:
    case VectorKind::kColSum: {
      require(operands == 1 && out.rows == 1 && out.cols == in[0].cols, "[1, cols] of one operand");
      std::vector<float> result(static_cast<std::size_t>(out.cols));
      for (std::int64_t c = 0; c < out.cols; ++c) {
        float x = kind == VectorKind::kColMax ? -std::numeric_limits<float>::infinity() : 0.0F;
        for (std::int64_t r = 0; r < in[0].rows; ++r) {
          x = kind == VectorKind::kColMax ? std::max(x, in[0].value(r, c)) : x + in[0].value(r, c);
        }
        result[static_cast<std::size_t>(c)] = x;
      }
      for (std::int64_t c = 0; c < out.cols; ++c) {
        put_rounded(out, 0, c, result[static_cast<std::size_t>(c)]);
      }
      return;
    }
    case VectorKind::kRotate: {
      // b: cosine and sine of each pair side by side, each row for as many rows of a.
      require(operands == 2 && out.cols % 2 == 0 && in[0].cols == out.cols &&
                  in[1].cols == out.cols && in[0].rows == out.rows && in[1].rows > 0 &&
                  out.rows % in[1].rows == 0,
              "pairs and their angles");
      const float sign = args.scalar < 0.0 ? -1.0F : 1.0F;
      const View angles = in[1];
      const std::int64_t share = out.rows / angles.rows;
      in.pop_back();
      return each([&](auto r, auto c) {
        const std::int64_t even = c - c % 2;
        const float x = a(r, even);
        const float y = a(r, even + 1);
        const float cosine = angles.value(r / share, even);
        const float sine = sign * angles.value(r / share, even + 1);
        return c == even ? x * cosine - y * sine : x * sine + y * cosine;
      });
    }
    case VectorKind::kRank:
      require(operands == 1 && in[0].rows == out.rows && in[0].cols == out.cols, "one operand");
      return each([&](auto r, auto c) {
        const float value = a(r, c);
        std::int64_t before = 0;
        for (std::int64_t i = 0; i < out.cols; ++i) {
          const float other = a(r, i);
          before += other > value || (other == value && i < c) ? 1 : 0;
        }
        return static_cast<float>(before);
      });
    case VectorKind::kHadamard: {
      require(operands == 1 && in[0].rows == out.rows && in[0].cols == out.cols, "one operand");
      std::vector<float> row(static_cast<std::size_t>(out.cols));
      for (std::int64_t r = 0; r < out.rows; ++r) {
        for (std::int64_t c = 0; c < out.cols; ++c) row[static_cast<std::size_t>(c)] = a(r, c);
        reference::hadamard(std::span<float>(row));
        for (std::int64_t c = 0; c < out.cols; ++c) {
          put_rounded(out, r, c, row[static_cast<std::size_t>(c)]);
        }
      }
      return;
    }
    case VectorKind::kMask:
      require(operands == 2 && in[1].cols == 1, "values and the first masked column of each row");
      return each([&](auto r, auto c) {
        return static_cast<float>(c) >= in[1].broadcast(r, 0) ? scalar : in[0].broadcast(r, c);
      });
    case VectorKind::kQuantise: {
      require(operands == 1 && in[0].rows == out.rows && in[0].cols == out.cols, "one operand");
      std::vector<float> values(static_cast<std::size_t>(out.rows * out.cols));
      for (std::int64_t r = 0; r < out.rows; ++r) {
        for (std::int64_t c = 0; c < out.cols; ++c) {
          values[static_cast<std::size_t>(r * out.cols + c)] = a(r, c);
        }
      }
      put_rows_quantised(out, values);
      return;
    }
    case VectorKind::kScaled: {
      require(operands == 3 && in[0].rows == out.rows && in[0].cols == out.cols &&
                  in[1].rows == out.rows && in[2].rows == out.cols,
              "a product and its two operands");
      const View old = read(dst);
      for (std::int64_t r = 0; r < out.rows; ++r) {
        for (std::int64_t c = 0; c < out.cols; ++c) {
          const float scale =
              in[1].buffer->scales[in[1].at(r, 0)] * in[2].buffer->scales[in[2].at(c, 0)];
          put_rounded(out, r, c, std::fma(in[0].value(r, c), scale, old.value(r, c)));
        }
      }
      return;
    }
    case VectorKind::kGroupSum:
    case VectorKind::kGroupColSum: {
      const auto rows = static_cast<std::int64_t>(args.scalar);
      const auto cols = static_cast<std::int64_t>(args.scalar2);
      const bool by_row = kind == VectorKind::kGroupSum;
      require(operands == 1 && in[0].cols == rows * cols && out.cols == (by_row ? rows : cols) &&
                  out.rows == in[0].rows,
              "rows that hold matrices");
      for (std::int64_t r = 0; r < out.rows; ++r) {
        for (std::int64_t i = 0; i < out.cols; ++i) {
          float sum = 0.0F;
          for (std::int64_t j = 0; j < (by_row ? cols : rows); ++j) {
            sum += in[0].value(r, by_row ? i * cols + j : j * cols + i);
          }
          put_rounded(out, r, i, sum);
        }
      }
      return;
    }
    case VectorKind::kGroupDiv:
    case VectorKind::kGroupColDiv: {
      const auto rows = static_cast<std::int64_t>(args.scalar);
      const auto cols = static_cast<std::int64_t>(args.scalar2);
      const bool by_row = kind == VectorKind::kGroupDiv;
      require(operands == 2 && out.cols == rows * cols && in[0].cols == out.cols &&
                  in[0].rows == out.rows && in[1].rows == out.rows &&
                  in[1].cols == (by_row ? rows : cols),
              "matrices in rows and a divisor for each row or column");
      for (std::int64_t r = 0; r < out.rows; ++r) {
        for (std::int64_t c = 0; c < out.cols; ++c) {
          put_rounded(out, r, c, in[0].value(r, c) / in[1].value(r, by_row ? c / cols : c % cols));
        }
      }
      return;
    }
    case VectorKind::kColDot: {
      require(operands == 2 && out.rows == 1 && out.cols == in[0].cols &&
                  in[1].rows == in[0].rows && in[1].cols == 1,
              "[1, cols] of one operand and a value for each of its rows");
      for (std::int64_t c = 0; c < out.cols; ++c) {
        float sum = 0.0F;
        for (std::int64_t r = 0; r < in[0].rows; ++r) {
          sum = std::fma(in[0].value(r, c), in[1].value(r, 0), sum);
        }
        put_rounded(out, 0, c, sum);
      }
      return;
    }
    case VectorKind::kRowTopK: {
      require(operands == 1 && out.rows == in[0].rows && out.cols <= in[0].cols,
              "no more columns than the operand has");
      std::vector<std::int64_t> order(static_cast<std::size_t>(in[0].cols));
      for (std::int64_t r = 0; r < out.rows; ++r) {
        std::iota(order.begin(), order.end(), 0);
        std::partial_sort(order.begin(), order.begin() + out.cols, order.end(),
                          [&](std::int64_t x, std::int64_t y) {
                            const float u = in[0].value(r, x);
                            const float v = in[0].value(r, y);
                            return u > v || (u == v && x < y);
                          });
        for (std::int64_t c = 0; c < out.cols; ++c) {
          put_rounded(out, r, c, static_cast<float>(order[static_cast<std::size_t>(c)]));
        }
      }
      return;
    }
    case VectorKind::kRowPick:
      require(operands == 2 && out.rows == in[0].rows && out.rows == in[1].rows &&
                  out.cols == in[1].cols,
              "a column number for each value");
      for (std::int64_t r = 0; r < out.rows; ++r) {
        for (std::int64_t c = 0; c < out.cols; ++c) {
          const auto column = static_cast<std::int64_t>(in[1].value(r, c));
          require(column >= 0 && column < in[0].cols, "a column that is not there");
          put_rounded(out, r, c, in[0].value(r, column));
        }
      }
      return;
    case VectorKind::kRowKeep: {
      require(operands == 2 && in[0].rows == out.rows && in[0].cols == out.cols &&
                  in[1].rows == out.rows && args.scalar > 0.0,
              "values and the groups to keep in each row");
      const auto group = static_cast<std::int64_t>(args.scalar);
      for (std::int64_t r = 0; r < out.rows; ++r) {
        for (std::int64_t c = 0; c < out.cols; ++c) {
          bool kept = false;
          for (std::int64_t i = 0; i < in[1].cols; ++i) {
            kept = kept || static_cast<std::int64_t>(in[1].value(r, i)) == c / group;
          }
          put_rounded(out, r, c, kept ? in[0].value(r, c) : static_cast<float>(args.scalar2));
        }
      }
      return;
    }
    case VectorKind::kCount: {
      const int digit = std::countr_zero(static_cast<std::uint64_t>(out.cols));
      const int bits = key_bits(in[0].buffer->spec.dtype);
      const auto found = static_cast<int>(args.scalar);
      require(operands == 2 && out.rows == 1 && out.cols == std::int64_t{1} << digit &&
                  in[0].rows == 1 && in[1].cols == 2 && found + digit <= bits,
              "counters of a digit, a row of scores and the state");
      const View counts = read(dst);
      for (std::int64_t c = 0; c < in[0].cols; ++c) {
        const std::uint64_t key = key_of(in[0].value(0, c), in[0].buffer->spec.dtype);
        if (key >> (bits - found) != static_cast<std::uint64_t>(in[1].value(0, 0))) continue;
        const std::uint64_t bin = key >> (bits - found - digit) & ((std::uint64_t{1} << digit) - 1);
        const auto column = static_cast<std::int64_t>(bin);
        put_rounded(out, 0, column, counts.value(0, column) + 1.0F);
      }
      return;
    }
    case VectorKind::kNarrow: {
      require(operands == 1 && out.rows == 1 && out.cols == 2 && in[0].rows == 1,
              "the state and the counters of a digit");
      const View state = read(dst);
      float wanted = state.value(0, 1);
      std::int64_t bin = in[0].cols - 1;
      while (bin > 0 && in[0].value(0, bin) < wanted) wanted -= in[0].value(0, bin--);
      put_rounded(out, 0, 0,
                  state.value(0, 0) * static_cast<float>(in[0].cols) + static_cast<float>(bin));
      put_rounded(out, 0, 1, wanted);
      return;
    }
    case VectorKind::kFilter: {
      const int bits = key_bits(in[0].buffer->spec.dtype);
      const auto found = static_cast<int>(args.scalar);
      require(operands == 2 && out.cols == 2 && in[0].rows == 1 && in[1].cols == 2 && found <= bits,
              "a list, a row of scores and the state");
      const View list = read(dst);
      std::int64_t end = 0;
      while (end < list.rows && list.value(end, 0) >= 0.0F) ++end;
      for (std::int64_t c = 0; c < in[0].cols; ++c) {
        const float score = in[0].value(0, c);
        const std::uint64_t key = key_of(score, in[0].buffer->spec.dtype);
        if (key >> (bits - found) < static_cast<std::uint64_t>(in[1].value(0, 0))) continue;
        require(end < list.rows, "more scores pass than the list holds");
        put_rounded(out, end, 0, static_cast<float>(args.scalar2) + static_cast<float>(c));
        put_rounded(out, end++, 1, score);
      }
      return;
    }
  }
}

void ValueMachine::widen(const BufferRef& dst, const BufferRef& src) {
  const View from = read(src);
  const View to = view(dst);
  for (std::int64_t r = 0; r < from.rows; ++r) {
    for (std::int64_t c = 0; c < from.cols; ++c) {
      const std::size_t i = from.at(r, c);
      // Every FP4 value is one of FP8 and BF16; the scales stay beside the elements.
      to.put(r, c, from.buffer->elements[i], from.buffer->scales[i]);
    }
  }
}

void ValueMachine::top_k(const BufferRef& dst, const BufferRef& scores, std::int64_t k,
                         std::int64_t first, int) {
  const View v = read(scores);
  const View out = view(dst);
  const bool list = v.rows > 1;
  if ((list && v.cols != 2) || out.rows < k || out.cols > 2) {
    throw Hazard(fmt::format("{}: top-k of [{}, {}] into [{}, {}]", where(), v.rows, v.cols,
                             out.rows, out.cols));
  }
  constexpr float kNone = -std::numeric_limits<float>::infinity();
  const std::int64_t n = list ? v.rows : v.cols;
  const auto score = [&](std::int64_t i) {
    const float x = list ? v.value(i, 1) : v.value(0, i);
    return std::isnan(x) || (list && v.value(i, 0) < 0.0F) ? kNone : x;
  };
  std::vector<std::int64_t> order(static_cast<std::size_t>(n));
  std::iota(order.begin(), order.end(), 0);
  const auto chosen = std::min(k, n);
  std::partial_sort(order.begin(), order.begin() + chosen, order.end(),
                    [&](std::int64_t a, std::int64_t b) {
                      const float x = score(a);
                      const float y = score(b);
                      return x > y || (x == y && a < b);
                    });
  std::sort(order.begin(), order.begin() + chosen);
  for (std::int64_t i = 0; i < k; ++i) {
    const std::int64_t from = i < chosen ? order[static_cast<std::size_t>(i)] : 0;
    const bool there = i < chosen && score(from) > kNone;
    const float number = list ? v.value(from, 0) : static_cast<float>(first + from);
    out.put(i, 0, there ? number : -1.0F, 1.0F);
    if (out.cols == 2) out.put(i, 1, there ? score(from) : kNone, 1.0F);
  }
}

void ValueMachine::signal(std::int64_t flag, tile::Home) {
  if (ranks_ != nullptr) return ranks_->signal(flag);
  ++flags_[flag];
}

void ValueMachine::reset(std::int64_t first, std::int64_t count) {
  if (ranks_ != nullptr) return ranks_->reset(first, count);
  flags_.erase(flags_.lower_bound(first), flags_.lower_bound(first + count));
}

void ValueMachine::wait(std::int64_t flag, std::int64_t count) {
  if (ranks_ != nullptr) return ranks_->wait(flag, count);
  const auto found = flags_.find(flag);
  const std::int64_t now = found == flags_.end() ? 0 : found->second;
  if (now >= count) return;
  throw Hazard(fmt::format("{}: waits for flag {} to reach {}, which items before it left at {}",
                           where(), flag, count, now));
}

void ValueMachine::pipeline(std::int64_t count, std::span<const tile::Phase> phases) {
  std::int64_t most = 0;
  for (const tile::Phase& phase : phases) most = std::max(most, phase.ahead);
  for (std::int64_t tick = -most; tick < count; ++tick) {
    for (const tile::Phase& phase : phases) {
      const std::int64_t i = tick + phase.ahead;
      if (i >= 0 && i < count) phase.run(i);
    }
  }
}

}  // namespace foretoken::hwmodels::value
