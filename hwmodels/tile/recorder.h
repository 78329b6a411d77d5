// Records a kernel's steps as tile programs, one per class of work items, with each step's time on
// its engine.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "hwmodels/tile/core_rates.h"
#include "hwmodels/tile/machine.h"
#include "hwmodels/tile/program.h"

namespace foretoken::hwmodels::tile {

// Reusable; storage is kept. Throws UnsupportedError when the chip lacks a dtype, or when the
// program cannot run: a memory of the core is too small for its buffers.
class Recorder final : public Machine {
 public:
  explicit Recorder(const CoreRates& rates) : rates_(&rates) {}

  // Replaces what is recorded by the kernel's programs.
  void record(const Kernel& kernel);

  [[nodiscard]] std::span<const TileProgram> programs() const { return {programs_.data(), used_}; }
  [[nodiscard]] std::span<const TensorTraffic> tensors() const { return tensors_; }
  [[nodiscard]] const Launch& launch() const { return launch_; }
  [[nodiscard]] const CoreRates& rates() const { return *rates_; }

  TensorId tensor(const TensorSpec& spec) override;
  Buffer buffer(const BufferSpec& spec) override;
  void load(const BufferRef& dst, TensorId src, const Block& region, int shared,
            double padding) override;
  void gather(const BufferRef& dst, TensorId src, const BufferRef& rows, std::int64_t col,
              std::int64_t cols, std::int64_t page, int shared) override;
  void store(TensorId dst, const Block& region, const BufferRef& src) override;
  void reduce_store(TensorId dst, const Block& region, const BufferRef& src) override;
  void scatter(TensorId dst, const BufferRef& rows, const BufferRef& src, std::int64_t col,
               std::int64_t cols) override;
  void move(const BufferRef& dst, const BufferRef& src, bool transposed) override;
  void matrix(const BufferRef& acc, const BufferRef& a, const BufferRef& b,
              const MatrixStep& step) override;
  void vector(VectorKind kind, const BufferRef& dst, std::initializer_list<BufferRef> src,
              const VectorArgs& args) override;
  void widen(const BufferRef& dst, const BufferRef& src) override;
  void top_k(const BufferRef& dst, const BufferRef& scores, std::int64_t k, std::int64_t first,
             int passes) override;
  void signal(std::int64_t flag, Home where) override;
  void wait(std::int64_t flag, std::int64_t count) override;
  void reset(std::int64_t first, std::int64_t count) override;
  void pipeline(std::int64_t count, std::span<const Phase> phases) override;

 private:
  struct Extent {
    double rows = 0.0;
    double cols = 0.0;
    [[nodiscard]] double elements() const { return rows * cols; }
  };

  Step& add(StepKind kind, Engine engine);
  void reads(Step& step, const BufferRef& ref);
  void writes(Step& step, const BufferRef& ref, bool updates = false);
  SlotUse use(const BufferRef& ref) const;
  [[nodiscard]] Extent extent(const BufferRef& ref) const;
  [[nodiscard]] Extent extent(TensorId tensor, const Block& region) const;
  [[nodiscard]] double tensor_bytes(TensorId tensor, double elements) const;
  void loaded(const Step& step);  // counts a step's traffic
  void stored(const Step& step);
  void require_room() const;

  const CoreRates* rates_;
  Launch launch_;
  std::string_view kernel_;
  std::vector<TileProgram> programs_;
  std::size_t used_ = 0;
  TileProgram* program_ = nullptr;  // being recorded
  std::vector<TensorTraffic> tensors_;
  std::vector<BufferSpec> buffers_;  // of the item
  std::size_t next_tensor_ = 0;      // where the item's next tensor stands if items declare alike
  std::int64_t iteration_ = 0;       // of the phase being recorded
  bool in_pipeline_ = false;
  double weight_ = 1.0;  // executions of the steps being recorded, per item
};

}  // namespace foretoken::hwmodels::tile
