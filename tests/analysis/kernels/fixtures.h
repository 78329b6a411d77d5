// What the tests of this folder share: shipped designs and chips by name.
#pragma once

#include <string>

#include "analysis/kernels/kernel_timing.h"
#include "tests/hwmodels/fixtures.h"

namespace foretoken::analysis::kernels {

inline hwmodels::DesignFile design(const std::string& name) {
  return find_design(name, test_support::configs());
}
inline KernelChip chip(const std::string& name) {
  return load_kernel_chip(name, test_support::configs());
}

}  // namespace foretoken::analysis::kernels
