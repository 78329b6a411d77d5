// The vocabulary tile programs are written in: what one core does for one work item, as steps on
// named buffers. A machine is what runs them: on real numbers (value/value_machine.h), or into a
// record that is priced (recorder.h).
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

#include "workloads/dtype.h"

namespace foretoken::hwmodels::tile {

using workloads::Dtype;

// A callable that is borrowed for the length of a call: no heap, unlike std::function.
template <class Signature>
class FunctionRef;
template <class R, class... Args>
class FunctionRef<R(Args...)> {
 public:
  template <class F, class = std::enable_if_t<!std::is_same_v<std::decay_t<F>, FunctionRef>>>
  // NOLINTNEXTLINE(google-explicit-constructor): a reference to a callable is one
  FunctionRef(F&& f)
      : object_(const_cast<void*>(static_cast<const void*>(&f))),
        call_([](void* o, Args... args) -> R {
          return (*static_cast<std::remove_reference_t<F>*>(o))(std::forward<Args>(args)...);
        }) {}
  R operator()(Args... args) const { return call_(object_, std::forward<Args>(args)...); }

 private:
  void* object_;
  R (*call_)(void*, Args...);
};

// Where a tensor lives when the kernel starts, or goes to when it ends.
enum class Home : std::uint8_t {
  kMemory,  // device memory: first read from there, later reads from the cache as far as it holds
            // it
  kCache,   // left in the cache by the kernel before
  kPeer,    // memory of all devices of a group, rank after rank, reached over the scale-up links
};

// A matrix in global memory, row by row. Its bytes are elements plus block scales.
struct TensorSpec {
  std::string_view name;
  Dtype dtype = Dtype::kBf16;
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  Home home = Home::kMemory;
  // Bytes of scales per element: 1 byte per 32 for MXFP4, 4 per 128 for FP8 blocks of activations.
  double scale_bytes = 0.0;
  // Bytes the whole launch takes from memory (or writes to it); negative: every element once.
  double memory_bytes = -1.0;
  // Of a peer tensor's traffic, what crosses the links; the rest stays in this device's part.
  double peer_share = 1.0;
};
using TensorId = std::uint32_t;

// Kinds of memory inside a core, which every family has in its own form.
enum class Local : std::uint8_t {
  kOperand,      // shared memory; L1 with L0A and L0B
  kAccumulator,  // tensor memory or registers; L0C
  kVector,       // registers; unified buffer
};
inline constexpr int kLocals = 3;

// A buffer of `slots` matrices, so that the pipeline's next iterations can be filled while this one
// is read.
struct BufferSpec {
  std::string_view name;
  Local local = Local::kOperand;
  Dtype dtype = Dtype::kBf16;
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  std::int64_t slots = 1;
  double scale_bytes = 0.0;  // per element, as TensorSpec
  // What of it this core has to hold at a time: half of an operand that a pair of cores shares, the
  // part of a result that is converted at once.
  double share = 1.0;
  // Slots alternate from item to item of a persistent kernel rather than from iteration to
  // iteration: accumulators that drain while the next tile fills another set.
  bool per_item = false;
};

// Rows and columns of a tensor or of a buffer's slot. `cols` or `rows` of kAll: the rest.
inline constexpr std::int64_t kAll = -1;
struct Block {
  std::int64_t row = 0;
  std::int64_t rows = kAll;
  std::int64_t col = 0;
  std::int64_t cols = kAll;
};

// One slot of a buffer as a step sees it: iteration `index` uses slot index mod slots, and a read
// finds what the same iteration wrote, or the machine reports a hazard.
struct BufferRef {
  std::uint32_t id = 0;
  std::int64_t index = 0;
  Block block{};
};
struct Buffer {
  std::uint32_t id = 0;
  BufferRef operator()(std::int64_t index = 0) const { return {id, index, {}}; }
  BufferRef operator()(std::int64_t index, const Block& block) const { return {id, index, block}; }
};

// Vector steps, element by element on [rows, cols] unless said otherwise. An operand with one
// column or one row (or both) is broadcast. Costs per element: vector_cost.h.
enum class VectorKind : std::uint8_t {
  kCopy,          // dst = a, rounded to dst's format
  kFill,          // dst = scalar
  kAdd,           // a + b (b absent: + scalar)
  kSub,           // a - b
  kMul,           // a * b (b absent: * scalar)
  kFma,           // dst + a * b
  kDiv,           // a / b
  kMax,           // max(a, b) (b absent: scalar)
  kMin,           // min(a, b)
  kExp,           // e^a (with b: e^((a - b) * scalar), the form of a softmax)
  kRsqrt,         // 1 / sqrt(a * scalar + scalar2)
  kSigmoid,       // 1 / (1 + e^-a)
  kSilu,          // a / (1 + e^-a)
  kSqrtSoftplus,  // sqrt(log(1 + e^a))
  kRowMax,        // dst [rows, 1]
  kRowSum,        // dst [rows, 1]
  kColMax,        // dst [1, cols]
  kColSum,        // dst [1, cols]
  kRotate,  // pairs (2i, 2i+1) of a by the angles whose cosine and sine b holds; scalar < 0: back.
            // Rows of b divide those of a: each serves as many in a row (the heads of a token)
  kHadamard,  // each row times the Walsh-Hadamard matrix over sqrt(cols)
  kMask,      // columns from b[row, 0] on become scalar
  kQuantise,  // a in dst's format with its block scales
  kScaled,    // dst + a * (row scales of b) * (row scales of c as columns): FP8 block promotion
  kGroupSum,  // rows hold a matrix of scalar x scalar2 rows by columns: sums along its rows (dst
              // [rows, scalar]) or, kGroupColSum, along its columns (dst [rows, scalar2])
  kGroupColSum,
  kSpill,        // a, written to the core's local memory and read again
  kGroupDiv,     // a / b, b one value per row of the group (dst like a)
  kGroupColDiv,  // a / b, b one value per column of the group
  kColDot,       // dst [1, cols]: sum over rows of a * b, b one value per row
  kRowTopK,      // columns of the dst.cols largest of each row, largest first, ties to the lower
  kRowPick,      // dst[r, i] = a[r, b[r, i]]
  kRowKeep,      // a where the group of `scalar` columns is listed in the row of b, else scalar2
  // Radix selection over rows that are read part by part. A score's key orders as the score does
  // and has its dtype's bits; the state [1, 2] holds the key's leading bits found so far as a
  // number and how many scores are still wanted among those that begin with them.
  kCount,  // dst [1, 2^d] += how often each next d bits occur in a, of scores that begin as state b
           // says; `scalar` bits are found already
  kNarrow,  // state dst: appends the digit at which counts a, from the largest down, reach the
            // number wanted, and what is wanted of it
  kFilter,  // appends to list dst the number and value of each score of a whose leading `scalar`
            // bits are not below those of state b; column 0 of a is number `scalar2`
  kRank,    // how many of the row's values stand before each: larger ones, and equal ones further
            // left
  kDequantise,  // a with its block scales as numbers of dst's wider format: FP8 cache entries
};
inline constexpr int kVectorKinds = static_cast<int>(VectorKind::kDequantise) + 1;
std::string_view to_string(VectorKind kind);

struct VectorArgs {
  double scalar = 0.0;
  double scalar2 = 0.0;
  int shared = 1;  // neighbouring cores that each do an equal part and pass it on to the others
};

// acc[m, n] (+)= a[m, k] * b[n, k]^T, or b[k, n] when `b_by_rows`. Operands' block scales take part
// in the product when `scaled`, as units with native block scaling do; else the raw elements are
// multiplied.
struct MatrixStep {
  std::int64_t m = 0;
  std::int64_t n = 0;
  std::int64_t k = 0;
  Dtype compute = Dtype::kBf16;
  bool accumulate = true;
  bool b_by_rows = false;
  bool scaled = true;
  // FP4 weights against FP8 activations, where the unit takes the pair: its rate factor applies.
  bool mixed_fp4 = false;
  // Two cores work on one instruction, which spans the rows of both: each feeds half of the
  // columns.
  bool pair = false;
};

// One part of a pipelined loop: at tick t it runs iteration t + ahead.
struct Phase {
  std::int64_t ahead = 0;
  FunctionRef<void(std::int64_t)> run;
};

// What executes tile programs. A kernel calls tensor() and buffer() in the same order for every
// item, then the steps. Steps on different engines overlap as far as buffers allow: a step waits
// for what it reads to be written, for what it overwrites to be read, and for its engine.
class Machine {
 public:
  Machine() = default;
  Machine(const Machine&) = delete;
  Machine& operator=(const Machine&) = delete;
  virtual ~Machine() = default;

  virtual TensorId tensor(const TensorSpec& spec) = 0;
  virtual Buffer buffer(const BufferSpec& spec) = 0;

  // `shared`: neighbouring cores that receive the same tile from one read (multicast). `padding`:
  // what is moved over what is asked, where whole tiles are read.
  virtual void load(const BufferRef& dst, TensorId src, const Block& region, int shared = 1,
                    double padding = 1.0) = 0;
  // Rows of `src` whose numbers are in `rows`, [count, 1] or [1, count] (negative: a row of zeros).
  // With `page`, the numbers are those of pages of that many rows, which lie together.
  virtual void gather(const BufferRef& dst, TensorId src, const BufferRef& rows, std::int64_t col,
                      std::int64_t cols, std::int64_t page = 1, int shared = 1) = 0;
  virtual void store(TensorId dst, const Block& region, const BufferRef& src) = 0;
  // Adds to what is there, atomically: partial sums of a split dimension.
  virtual void reduce_store(TensorId dst, const Block& region, const BufferRef& src) = 0;
  // Rows of `src` to the rows of `dst` whose numbers are in `rows`, [count, 1] (negative: nowhere),
  // from column `col` on.
  virtual void scatter(TensorId dst, const BufferRef& rows, const BufferRef& src,
                       std::int64_t col = 0, std::int64_t cols = kAll) = 0;
  // Between memories of the core, rounding to dst's format: accumulators to vector units, vector
  // results to operands. `transposed`: dst [cols, rows].
  virtual void move(const BufferRef& dst, const BufferRef& src, bool transposed = false) = 0;
  virtual void matrix(const BufferRef& acc, const BufferRef& a, const BufferRef& b,
                      const MatrixStep& step) = 0;
  virtual void vector(VectorKind kind, const BufferRef& dst, std::initializer_list<BufferRef> src,
                      const VectorArgs& args = {}) = 0;
  // FP4 weights into FP8 or BF16 operands on the vector units; exact.
  virtual void widen(const BufferRef& dst, const BufferRef& src) = 0;
  // The k largest of a row of `scores`, ties to the lower index, as row numbers in dst [k, 1],
  // padded with -1; `first` is the row number of column 0; `passes` reads of the scores. `scores`
  // may be a list instead, [n, 2] of numbers (negative: no score) and scores, ties to what stands
  // first, and so may dst be, [k, 2].
  virtual void top_k(const BufferRef& dst, const BufferRef& scores, std::int64_t k,
                     std::int64_t first, int passes) = 0;
  // A counter in global memory: `signal` adds one after all stores before it, `wait` holds the item
  // until it is at least `count`. A flag in a peer's memory has a number beyond this rank's own;
  // `where` then says that the signal crosses a link.
  virtual void signal(std::int64_t flag, Home where = Home::kCache) = 0;
  virtual void wait(std::int64_t flag, std::int64_t count) = 0;
  // `count` flags from `first` on start at zero again, for a launch that comes later.
  virtual void reset(std::int64_t first, std::int64_t count) = 0;

  // A loop of `count` iterations whose parts run skewed, as software pipelines do. Its steady state
  // may be solved instead of run.
  virtual void pipeline(std::int64_t count, std::span<const Phase> phases) = 0;
  void pipeline(std::int64_t count, std::initializer_list<Phase> phases) {
    pipeline(count, std::span<const Phase>(phases.begin(), phases.size()));
  }
};

// Work items that cost the same.
struct WorkClass {
  std::int64_t first = 0;  // a representative item
  std::int64_t count = 0;
};

// One launch of a kernel: items dealt to cores in order.
struct Launch {
  std::int64_t items = 0;
  std::int64_t cores = 0;   // at most; 0: all
  bool persistent = false;  // a core's next item starts while its last one drains
};

// A tile program with its launch. Stateless apart from shapes and design.
class Kernel {
 public:
  Kernel() = default;
  virtual ~Kernel() = default;

  [[nodiscard]] virtual std::string_view name() const = 0;
  [[nodiscard]] virtual Launch launch() const = 0;
  // Calls `visit` once per class, in the order items are dealt.
  virtual void classes(FunctionRef<void(const WorkClass&)> visit) const = 0;
  virtual void item(Machine& machine, std::int64_t index) const = 0;
  // What an item of a kernel with several kinds of them does, for messages: "first product of wave
  // 2". Empty: the kernel's name says it.
  [[nodiscard]] virtual std::string item_name(std::int64_t) const { return {}; }

 protected:
  Kernel(const Kernel&) = default;
  Kernel& operator=(const Kernel&) = default;
};

}  // namespace foretoken::hwmodels::tile
