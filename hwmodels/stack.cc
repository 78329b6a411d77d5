#include "hwmodels/stack.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "sim/base/error.h"

namespace foretoken::hwmodels {

namespace fs = std::filesystem;
using workloads::kRoleNames;
using workloads::Role;

namespace {

std::optional<Role> find_role(std::string_view name) {
  const auto found = std::find(kRoleNames.begin(), kRoleNames.end(), name);
  if (found == kRoleNames.end()) return std::nullopt;
  return static_cast<Role>(found - kRoleNames.begin());
}

}  // namespace

Stack load_stack(const std::string& name, const fs::path& configs) {
  const fs::path path = configs / "stacks" / (name + ".yaml");
  const base::ConfigFile file = base::read_config_file(path);
  Stack stack;
  for (std::size_t i = 0; i < stack.host.size(); ++i) stack.host[i] = static_cast<Role>(i);
  base::ConfigReader v(file);
  v.text({"name", "equals the file's name"}, stack.name);
  v.check(stack.name == name, "name",
          fmt::format("'name' is '{}' but the file is called '{}'", stack.name, name));
  v.text({"title", "what it is"}, stack.title);
  v.text({"source", "id in configs/sources.yaml"}, stack.source);
  // Optional keys, one per operator: a misspelt operator is an unknown key with the nearest named.
  base::group(v, {"fused", "operator: the operator whose kernel it joins"}, [&] {
    for (std::size_t i = 0; i < kRoleNames.size(); ++i) {
      std::string host_name;
      v.text({kRoleNames[i], "joins this operator's kernel", base::Need::kOptional}, host_name);
      if (host_name.empty()) continue;
      const std::optional<Role> host = find_role(host_name);
      v.check(host.has_value(), kRoleNames[i],
              fmt::format("no operator is called '{}'", host_name));
      v.check(*host != static_cast<Role>(i), kRoleNames[i],
              fmt::format("'{}' cannot join itself", host_name));
      stack.host[i] = *host;
    }
    for (std::size_t i = 0; i < kRoleNames.size(); ++i) {
      const Role host = stack.host[i];
      if (host == static_cast<Role>(i)) continue;
      v.check(stack.host[workloads::index_of(host)] == host, kRoleNames[i],
              fmt::format("'{}' is fused itself; name the kernel it joins",
                          kRoleNames[workloads::index_of(host)]));
    }
  });
  base::group(v, {"designs", "designs in place of a family's own", base::Need::kOptional}, [&] {
    v.texts({"families", "chip families they are for; none: all", base::Need::kOptional},
            stack.design_families, {.min = 0, .max = 32});
    std::vector<std::pair<std::string, std::string>> use;
    base::list(v, {"use", "kinds of kernels and their designs"}, use, [](auto& w, auto& one) {
      w.text({"kind", "a key of configs/designs/sets"}, one.first);
      w.text({"design", "a file in configs/designs"}, one.second);
    });
    stack.designs = {use.begin(), use.end()};
  });
  base::group(v, {"experts", "small kernels around a layer's products", base::Need::kOptional},
              [&] {
                v.integer({"kernels_fp4", "where products take FP4"}, stack.expert_kernels_fp4,
                          {.max = 64});
                v.integer({"kernels", "elsewhere"}, stack.expert_kernels, {.max = 64});
              });
  base::group(v, {"scale_layout", "of a stand-alone FP8 product", base::Need::kOptional}, [&] {
    v.texts({"families", "chip families"}, stack.scale_families, {.min = 1, .max = 32});
    v.integer({"kernels", "launched"}, stack.scale_kernels, {.max = 16});
    v.real({"per_weight_row", "time"}, stack.scale_seconds_per_row, base::UnitKind::kSeconds,
           base::kNonNegative);
  });
  base::group(v, {"engine", "what it loses against kernels alone", base::Need::kOptional}, [&] {
    v.ranged({"fp4_expert_rate", "share of their rate alone that unfused FP4 experts reach",
              base::Need::kOptional},
             stack.fp4_expert_rate, base::UnitKind::kNumber, base::kFraction);
    v.ranged({"waiting", "share of a decode step spent at barriers between cores",
              base::Need::kOptional},
             stack.waiting, base::UnitKind::kNumber, {.max = 0.9, .open_low = false});
    v.ranged(
        {"stage_host", "host time every stage of a pipeline adds to a step", base::Need::kOptional},
        stack.stage_host, base::UnitKind::kSeconds, base::kNonNegative);
    v.text({"source", "id in configs/sources.yaml"}, stack.engine_source);
  });
  v.finish();
  return stack;
}

void move_losses(Stack& stack, int side) {
  const auto longer = [side](base::Ranged& r) { r.value = side < 0 ? r.low : r.high; };
  longer(stack.waiting);
  longer(stack.stage_host);
  stack.fp4_expert_rate.value = side < 0 ? stack.fp4_expert_rate.high : stack.fp4_expert_rate.low;
}

void apply(const Stack& stack, Hardware& hardware, const fs::path& configs) {
  const auto& families = stack.design_families;
  if (stack.designs.empty()) return;
  if (!families.empty() &&
      std::find(families.begin(), families.end(), hardware.chip.family) == families.end()) {
    return;
  }
  hardware.kernels = load_kernel_set(hardware.chip.family, configs, stack.designs);
}

}  // namespace foretoken::hwmodels
