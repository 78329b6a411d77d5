#include "hwmodels/expert_layer_design.h"

#include "sim/base/named_config.h"

namespace foretoken::hwmodels {

void describe(base::ConfigVisitor& v, ExpertLayerDesign& d) {
  using base::Need;
  using base::UnitKind;
  v.text({"name", "of the file"}, d.name);
  v.text({"title", "what it is modelled on"}, d.title);
  v.text({"source", "id in configs/sources.yaml"}, d.source);
  v.integer({"communication_cores", "that move tokens and do not multiply", Need::kOptional},
            d.communication_cores, {.min = 0, .max = 1024});
  v.ranged({"handshake", "one exchange of all ranks beyond its bytes"}, d.handshake,
           UnitKind::kSeconds, base::kNonNegative);
  v.ranged({"short_row", "share of memory's rate for rows of weights shorter than a line",
            Need::kOptional},
           d.short_row, UnitKind::kNumber, base::kFraction);
  v.real({"interference", "norm by which times of memory and cache add up", Need::kOptional},
         d.interference, UnitKind::kNumber, {.min = 1.0, .max = 64.0, .open_low = false});
}

ExpertLayerDesign load_expert_layer(const std::string& name_or_path,
                                    const std::filesystem::path& configs) {
  const bool is_path =
      name_or_path.find('/') != std::string::npos || name_or_path.ends_with(".yaml");
  return base::load_named<ExpertLayerDesign>(is_path ? std::filesystem::path(name_or_path)
                                                     : configs / "designs" / "expert_layer" /
                                                           (name_or_path + ".yaml"));
}

}  // namespace foretoken::hwmodels
