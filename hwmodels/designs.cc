#include "hwmodels/designs.h"

#include <array>

#include "sim/base/named_config.h"

namespace foretoken::hwmodels {

namespace fs = std::filesystem;

namespace {
// In the order of the variant.
constexpr std::array<std::string_view, 10> kKernelNames = {
    "gemm",         "attention", "row",        "hyper", "expert_rows",
    "index_logits", "top_k",     "compressor", "route", "expert_waves"};

template <std::size_t I = 0>
void choose_kernel(decltype(DesignFile::design)& design, std::size_t index) {
  if constexpr (I < std::variant_size_v<decltype(DesignFile::design)>) {
    if (index == I) {
      if (design.index() != I) design.emplace<I>();
      return;
    }
    choose_kernel<I + 1>(design, index);
  }
}
}  // namespace

std::string_view DesignFile::kernel() const { return kKernelNames[design.index()]; }

void describe(base::ConfigVisitor& v, DesignFile& file) {
  v.text({"name", "the name other files use; equals the file's name"}, file.name);
  v.text({"title", "what it is modelled on"}, file.title);
  v.text({"source", "id in configs/sources.yaml"}, file.source);
  v.texts({"families", "of chips it is written for"}, file.families, {.min = 1, .max = 32});
  int kernel = static_cast<int>(file.design.index());
  v.choice({"kernel", "which kernel it schedules"}, kernel, kKernelNames);
  choose_kernel(file.design, static_cast<std::size_t>(kernel));
  base::group(v, {"design", "the schedule"},
              [&] { std::visit([&](auto& d) { describe(v, d); }, file.design); });
}

DesignFile load_design(const std::string& name_or_path, const fs::path& configs) {
  const bool is_path =
      name_or_path.find('/') != std::string::npos || name_or_path.ends_with(".yaml");
  const fs::path path =
      is_path ? fs::path(name_or_path) : configs / "designs" / (name_or_path + ".yaml");
  DesignFile file = base::load_named<DesignFile>(path);
  std::visit([&](auto& d) { d.name = file.name; }, file.design);
  return file;
}

}  // namespace foretoken::hwmodels
