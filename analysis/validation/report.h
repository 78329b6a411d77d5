// Writers for validation results: tables, JSON, CSV, Markdown.
#pragma once

#include <string>

#include "analysis/reports/table.h"
#include "analysis/validation/validation.h"

namespace foretoken::analysis::validation {

Table summary_table(const Validation& v);
// Reasons for which rows were skipped, by file and class, with their number.
Table skip_table(const Validation& v);
Table row_table(const Validation& v);

// Of a table of engine steps: per system, and per row.
Table engine_summary_table(const EndToEndResult& r);
Table engine_row_table(const EndToEndResult& r);
std::string engine_overhead_line(const EndToEndResult& r);

// What a terminal shows: summary and reasons, and for engine steps every row.
std::string to_text(const Validation& v);
// {"rows": [...], "summary": [...]}, with "engines" where engine steps were compared. Statistics of
// a class without a comparison are null.
std::string to_json(const Validation& v);
std::string to_csv(const Validation& v);  // every row, numbers in full
// With the command that made it.
std::string to_markdown(const Validation& v, const std::string& command);

}  // namespace foretoken::analysis::validation
