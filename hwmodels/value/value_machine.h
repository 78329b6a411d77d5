// The value interpreter: executes tile programs on real numbers, in the program's formats and
// order, and finds what no priced program may do: read a slot that was not written yet or was
// overwritten already, reach outside a tensor or buffer, write an output twice or never.
#pragma once

#include <cstdint>
#include <map>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "hwmodels/tile/machine.h"
#include "reference/formats/block_formats.h"

namespace foretoken::hwmodels::value {

// A program did something no correct one does; the message says which buffer or tensor, where.
class Hazard : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Who wrote an element last and who read it last, by the numbers that machines of several ranks
// give their work items (ranked_machines.h).
struct Access {
  std::int32_t writer = -1;
  std::int32_t reader = -1;
  std::int32_t signals = 0;  // that the writer had sent before
};

// A tensor in global memory: elements as decoded, with the scale each belongs to (empty: 1).
struct HostTensor {
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  std::vector<float> elements;
  std::vector<float> scales;          // one per element
  std::vector<std::uint8_t> written;  // by the program, per element
  std::vector<Access> accesses;       // per element; empty: not followed

  HostTensor() = default;
  HostTensor(std::int64_t rows, std::int64_t cols);
  [[nodiscard]] float value(std::int64_t row, std::int64_t col) const;
  // All values, scales applied, row by row.
  [[nodiscard]] std::vector<float> values() const;
};

// How a tensor's numbers become narrow ones: scales shared by blocks of block_rows x block_cols.
struct Quantisation {
  tile::Dtype dtype = tile::Dtype::kBf16;
  std::int64_t block_rows = 1;
  std::int64_t block_cols = 0;  // 0: the whole tensor has one scale of 1
  bool power_of_two = true;     // E8M0 scales, rounded up
  bool scale_floor = false;  // the OCP rule: scale from the exponent of the largest, rounded down
};
HostTensor quantised(std::span<const float> values, std::int64_t rows, std::int64_t cols,
                     const Quantisation& how);

// A work item waits for a flag that is not there yet, and has had no effect so far.
struct NotReady {
  std::int64_t flag = 0;
  std::int64_t count = 0;
};

class RankedMachines;

class ValueMachine final : public tile::Machine {
 public:
  // The tensor a kernel declares under `name`. It must outlive the machine.
  void bind(std::string_view name, HostTensor& tensor);
  // How kQuantise and stores to block-scaled formats take their scales.
  void set_quantisation(tile::Dtype dtype, const Quantisation& how);

  // Runs every work item in order. Throws Hazard.
  void run(const tile::Kernel& kernel);
  // Throws Hazard when an element of the bound tensor was never written.
  void require_written(std::string_view name) const;

  // Steps executed so far, a measure of work.
  [[nodiscard]] std::int64_t steps() const { return steps_; }

  tile::TensorId tensor(const tile::TensorSpec& spec) override;
  tile::Buffer buffer(const tile::BufferSpec& spec) override;
  void load(const tile::BufferRef& dst, tile::TensorId src, const tile::Block& region, int shared,
            double padding) override;
  void gather(const tile::BufferRef& dst, tile::TensorId src, const tile::BufferRef& rows,
              std::int64_t col, std::int64_t cols, std::int64_t page, int shared) override;
  void store(tile::TensorId dst, const tile::Block& region, const tile::BufferRef& src) override;
  void reduce_store(tile::TensorId dst, const tile::Block& region,
                    const tile::BufferRef& src) override;
  void scatter(tile::TensorId dst, const tile::BufferRef& rows, const tile::BufferRef& src,
               std::int64_t col, std::int64_t cols) override;
  void move(const tile::BufferRef& dst, const tile::BufferRef& src, bool transposed) override;
  void matrix(const tile::BufferRef& acc, const tile::BufferRef& a, const tile::BufferRef& b,
              const tile::MatrixStep& step) override;
  void vector(tile::VectorKind kind, const tile::BufferRef& dst,
              std::initializer_list<tile::BufferRef> src, const tile::VectorArgs& args) override;
  void widen(const tile::BufferRef& dst, const tile::BufferRef& src) override;
  void top_k(const tile::BufferRef& dst, const tile::BufferRef& scores, std::int64_t k,
             std::int64_t first, int passes) override;
  void signal(std::int64_t flag, tile::Home where) override;
  void wait(std::int64_t flag, std::int64_t count) override;
  void reset(std::int64_t first, std::int64_t count) override;
  void pipeline(std::int64_t count, std::span<const tile::Phase> phases) override;

 private:
  friend class RankedMachines;

  struct Storage {
    tile::BufferSpec spec;
    std::vector<float> elements;
    std::vector<float> scales;
    std::vector<std::int64_t> generation;  // iteration that wrote it; kUnwritten before
  };
  // A tensor as declared. One that spans ranks is held in equal parts, rank after rank.
  struct Bound {
    tile::TensorSpec spec;
    HostTensor* host = nullptr;  // of the first rank
    std::int64_t part_rows = 0;  // 0: one tensor holds all
  };
  // A row of a bound tensor: where its elements begin.
  struct Row {
    HostTensor* host = nullptr;
    std::size_t first = 0;
    std::int64_t rank = 0;  // whose part it is

    [[nodiscard]] std::size_t at(std::int64_t col) const {
      return first + static_cast<std::size_t>(col);
    }
  };
  // A rectangle of a buffer's slot.
  struct View {
    Storage* buffer = nullptr;
    std::size_t origin = 0;
    std::int64_t stride = 0;
    std::int64_t rows = 0;
    std::int64_t cols = 0;
    std::int64_t generation = 0;

    [[nodiscard]] std::size_t at(std::int64_t r, std::int64_t c) const {
      return origin + static_cast<std::size_t>(r * stride + c);
    }
    // Scale applied.
    [[nodiscard]] float value(std::int64_t r, std::int64_t c) const {
      const std::size_t i = at(r, c);
      return buffer->elements[i] * buffer->scales[i];
    }
    // Broadcast over a single row or column.
    [[nodiscard]] float broadcast(std::int64_t r, std::int64_t c) const {
      return value(rows == 1 ? 0 : r, cols == 1 ? 0 : c);
    }
    void put(std::int64_t r, std::int64_t c, float element, float scale) const {
      const std::size_t i = at(r, c);
      buffer->elements[i] = element;
      buffer->scales[i] = scale;
      buffer->generation[i] = generation;
    }
  };

  void run_item(const tile::Kernel& kernel, std::int64_t item);
  [[nodiscard]] Bound bound(const tile::TensorSpec& spec) const;
  [[nodiscard]] Row row_of(const Bound& t, std::int64_t row) const;
  void will_read(const Bound& t, const Row& row, std::int64_t row_number, std::int64_t col,
                 std::int64_t cols);
  void will_write(const Bound& t, const Row& row, std::int64_t row_number, std::int64_t col,
                  std::int64_t cols);
  View view(const tile::BufferRef& ref);
  View read(const tile::BufferRef& ref);  // all of it must be there
  void require_inside(const Bound& t, const tile::Block& region) const;
  tile::Block resolved(const Bound& t, const tile::Block& region) const;
  void put_rounded(const View& dst, std::int64_t r, std::int64_t c, float value) const;
  void put_rows_quantised(const View& dst, std::span<const float> values) const;
  [[nodiscard]] std::string where() const;

  std::map<std::string, HostTensor*, std::less<>> bound_;
  std::map<tile::Dtype, Quantisation> quantisation_;
  std::vector<Bound> tensors_;
  std::vector<Storage> buffers_;
  std::size_t next_tensor_ = 0;
  std::size_t next_buffer_ = 0;
  std::map<std::int64_t, std::int64_t> flags_;
  RankedMachines* ranks_ = nullptr;  // where this is one rank of several
  std::int64_t rank_ = 0;
  const tile::Kernel* kernel_ = nullptr;
  std::int64_t item_ = 0;
  std::int64_t steps_ = 0;
};

}  // namespace foretoken::hwmodels::value
