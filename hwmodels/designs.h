// Designs as files: schedules of kernels, and which of them a chip family uses where. Files:
// configs/designs/<name>.yaml and configs/designs/sets/<family>.yaml.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <variant>
#include <vector>

#include "hwmodels/kernels/attention.h"
#include "hwmodels/kernels/compressor.h"
#include "hwmodels/kernels/expert_waves.h"
#include "hwmodels/kernels/gemm.h"
#include "hwmodels/kernels/hyper.h"
#include "hwmodels/kernels/index_logits.h"
#include "hwmodels/kernels/moe_rows.h"
#include "hwmodels/kernels/route.h"
#include "hwmodels/kernels/row.h"
#include "hwmodels/kernels/top_k.h"
#include "sim/base/config.h"

namespace foretoken::hwmodels {

// One schedule of one kernel.
struct DesignFile {
  std::string name;
  std::string title;
  std::string source;
  std::vector<std::string> families;  // of chips it is written for
  std::variant<kernels::GemmDesign, kernels::AttentionDesign, kernels::RowDesign,
               kernels::HyperDesign, kernels::MoeRowsDesign, kernels::IndexLogitsDesign,
               kernels::TopKDesign, kernels::CompressorDesign, kernels::RouteDesign,
               kernels::ExpertWavesDesign>
      design;

  [[nodiscard]] std::string_view kernel() const;
};
void describe(base::ConfigVisitor& v, DesignFile& file);

// Reads configs/designs/<name>.yaml, or the path of a file. Throws ConfigError.
DesignFile load_design(const std::string& name_or_path, const std::filesystem::path& configs);

}  // namespace foretoken::hwmodels
