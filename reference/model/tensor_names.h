// Every tensor a model needs, by its release name and shape.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "workloads/model_spec.h"

namespace foretoken::reference {

struct TensorNeed {
  enum class Kind : std::uint8_t {
    kMatrix,   // may be FP8 or packed FP4 with a scale tensor beside it
    kVector,   // plain floats; any shape with this many elements
    kInteger,  // token ids to experts
  };
  std::string name;
  std::int64_t rows = 0;
  std::int64_t columns = 0;
  Kind kind = Kind::kMatrix;
};

void for_each_needed_tensor(const workloads::ModelSpec& model,
                            const std::function<void(const TensorNeed&)>& f);

// "layers.3", or "mtp.0" for the draft block 0 (V3.2: "model.layers.3").
std::string layer_prefix(const workloads::ModelSpec& model, std::int64_t layer);
std::string draft_prefix(std::int64_t block);

}  // namespace foretoken::reference
