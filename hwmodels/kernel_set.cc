#include "hwmodels/kernel_set.h"

#include <fmt/format.h>

#include "hwmodels/designs.h"
#include "sim/base/error.h"
#include "sim/base/text.h"

namespace foretoken::hwmodels {

namespace fs = std::filesystem;

KernelSet load_kernel_set(const std::string& family, const fs::path& configs,
                          const std::map<std::string, std::string>& instead) {
  KernelSet set;
  const fs::path path = configs / "designs" / "sets" / (family + ".yaml");
  const base::ConfigFile file = base::read_config_file(path);
  base::ConfigReader v(file);
  v.text({"name", "of the chip family; equals the file's name"}, set.name);
  v.check(set.name == family, "name",
          fmt::format("'name' is {} but the file is called {}", base::quote(set.name),
                      base::quote(family)));
  std::map<std::string, std::string> unused = instead;
  const auto use = [&](const char* kind, auto& design) {
    std::string name;
    v.text({kind, "design"}, name);
    const auto other = unused.find(kind);
    if (other != unused.end()) {
      name = other->second;
      unused.erase(other);
    }
    if (name.empty()) return;  // a key that is missing is reported at the end
    const DesignFile read = load_design(name, configs);
    using Design = std::remove_reference_t<decltype(design)>;
    const Design* found = std::get_if<Design>(&read.design);
    v.check(found != nullptr, kind,
            fmt::format("{} is a design of the kernel {}", base::quote(name), read.kernel()));
    design = *found;
  };
  use("gemm_bf16", set.gemm_bf16);
  use("gemm_fp8", set.gemm_fp8);
  use("gemm_fp8_block", set.gemm_fp8_block);
  use("gemm_fp4", set.gemm_fp4);
  use("gemm_fp4_fp8", set.gemm_fp4_fp8);
  use("grouped_fp8", set.grouped_fp8);
  use("grouped_fp4", set.grouped_fp4);
  use("grouped_fp4_fp8", set.grouped_fp4_fp8);
  use("decode_attention", set.decode_attention);
  use("prefill_attention", set.prefill_attention);
  use("decode_index", set.decode_index);
  use("prefill_index", set.prefill_index);
  use("decode_top_k", set.decode_top_k);
  use("prefill_top_k", set.prefill_top_k);
  use("short_compressor", set.short_compressor);
  use("long_compressor", set.long_compressor);
  use("route", set.route);
  use("row", set.row);
  use("hyper", set.hyper);
  use("expert_rows", set.expert_rows);
  use("expert_waves", set.expert_waves);
  std::string layer;
  v.text({"expert_layer", "a file in configs/designs/expert_layer"}, layer);
  const auto other = unused.find("expert_layer");
  if (other != unused.end()) {
    layer = other->second;
    unused.erase(other);
  }
  if (!layer.empty()) set.expert_layer = load_expert_layer(layer, configs);
  v.finish();
  if (!unused.empty()) {
    throw base::ConfigError({path.string(), 0, 0}, fmt::format("no kind of kernel is called {}",
                                                               base::quote(unused.begin()->first)));
  }
  return set;
}

}  // namespace foretoken::hwmodels
