// Renders the results of a context sweep as one HTML page that opens offline.
#pragma once

#include <string>
#include <string_view>

namespace foretoken::analysis {

// `results_json` is the text of a results.json (docs/results-format.md). The page holds the answer
// as static HTML, the same JSON, and the scripts that draw charts from it; it loads nothing. Names
// in the results are treated as text, whatever they contain. Missing fields show as a dash. Throws
// std::invalid_argument when the text is not a JSON object.
std::string render_html(std::string_view results_json);

}  // namespace foretoken::analysis
