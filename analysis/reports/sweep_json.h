// A context sweep as the JSON that docs/results-format.md describes.
#pragma once

#include <string>

#include "analysis/context_sweep.h"
#include "analysis/sources.h"

namespace foretoken::analysis {

std::string sweep_json(const SweepResult& result, const Sources& sources);

}  // namespace foretoken::analysis
