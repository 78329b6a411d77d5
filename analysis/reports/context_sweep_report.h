// A context sweep as tables, Markdown and CSV.
#pragma once

#include <string>

#include "analysis/context_sweep.h"
#include "analysis/reports/table.h"

namespace foretoken::analysis {

// Which system serves which model cheapest at which context.
Table answer_table(const SweepResult& result);
// Models with a list price: modelled cost beside it, and what a device-hour may cost to break even.
Table list_price_table(const SweepResult& result);
// Every point, numbers rounded for people.
Table point_table(const SweepResult& result);
// FLOPs and KV bytes against context, at the scenario's contexts.
Table count_table(const SweepResult& result);
// Every field of every point at full precision, intervals flattened to name, name_low, name_high.
std::string sweep_csv(const SweepResult& result);
std::string sweep_markdown(const SweepResult& result);

}  // namespace foretoken::analysis
