// The tensors of a model by their release names: which there have to be, and each as a matrix ready
// to be multiplied with.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "reference/checkpoint/checkpoint.h"
#include "reference/kernels/matmul.h"
#include "workloads/dtype.h"
#include "workloads/model_spec.h"

namespace foretoken::reference {

// A weight matrix mapped into memory for as long as this lives.
struct Linear {
  MappedBytes data;
  MappedBytes scale_data;
  std::vector<float> owned;  // the elements, where they are not the file's
  WeightView view;
  workloads::Dtype dtype = workloads::Dtype::kFp32;  // as stored
  bool narrow = false;                               // FP8 or FP4: its input may be quantised first

  // Rows [first, first + count) as a view; scale blocks must not be cut (see aligned()).
  [[nodiscard]] WeightView rows(std::int64_t first, std::int64_t count) const;
  [[nodiscard]] bool aligned(std::int64_t first) const {
    return view.scale == WeightView::Scale::kNone || first % view.scale_rows == 0;
  }
};

class Weights {
 public:
  // Checks that every tensor the model needs is there with the right shape and a dtype that can be
  // read, before any is used. Throws ConfigError naming folder (or file) and tensor.
  Weights(const Checkpoint& checkpoint, const workloads::ModelSpec& model);

  [[nodiscard]] const Checkpoint& checkpoint() const { return checkpoint_; }

  // A matrix [rows, columns]; its scale is the tensor beside it (".scale", ".weight_scale_inv").
  [[nodiscard]] Linear linear(std::string_view name, std::int64_t rows, std::int64_t columns) const;
  // Rows [first, first + count) of a plain matrix only, for tables too large to map whole.
  [[nodiscard]] Linear linear_rows(std::string_view name, std::int64_t columns, std::int64_t first,
                                   std::int64_t count) const;
  // A small tensor as FP32, whatever it is stored in.
  [[nodiscard]] std::vector<float> vector(std::string_view name, std::int64_t elements) const;
  // Row `row` of an integer matrix [rows, columns]; values checked against [0, limit).
  [[nodiscard]] std::vector<std::int32_t> integer_row(std::string_view name, std::int64_t row,
                                                      std::int64_t columns,
                                                      std::int64_t limit) const;
  [[nodiscard]] bool has(std::string_view name) const;

 private:
  struct Found {
    const StoredTensor* tensor = nullptr;
    std::int64_t first_row = 0;  // of a fused tensor
  };
  [[nodiscard]] Found locate(std::string_view name) const;
  [[nodiscard]] Found locate_scale(std::string_view name) const;
  void check(const std::string& name, std::int64_t rows, std::int64_t columns, bool matrix) const;

  const Checkpoint& checkpoint_;
  std::int64_t fp8_block_ = 128;
  std::int64_t experts_ = 0;
  std::int64_t expert_inner_ = 0;
  bool transformers_ = false;  // names as Hugging Face's model has them
};

// The name that Hugging Face's V4 model gives a release tensor; fused expert tensors map to the
// tensor that holds them. Empty where it has none (MTP).
std::string transformers_name(std::string_view release_name);

}  // namespace foretoken::reference
