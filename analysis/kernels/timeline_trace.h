// Simulated kernels as Chrome trace events, which Perfetto and chrome://tracing open.
#pragma once

#include <string>

#include "analysis/kernels/kernel_timing.h"

namespace foretoken::analysis::kernels {

// One process per launch and group of alike cores, one thread per engine; times in microseconds.
// The timing must hold spans.
std::string timeline_json(const KernelTiming& timing, const std::string& title);

}  // namespace foretoken::analysis::kernels
