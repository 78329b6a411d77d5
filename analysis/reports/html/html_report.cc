#include "analysis/reports/html/html_report.h"

#include <fmt/core.h>

#include <array>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

// The page's parts, placed in the library by foretoken_embed_file.
extern "C" {
// NOLINTBEGIN(readability-identifier-naming)
extern const char foretoken_page_html_begin[], foretoken_page_html_end[];
extern const char foretoken_page_css_begin[], foretoken_page_css_end[];
extern const char foretoken_page_js_begin[], foretoken_page_js_end[];
extern const char foretoken_echarts_js_begin[], foretoken_echarts_js_end[];
// NOLINTEND(readability-identifier-naming)
}

namespace foretoken::analysis {
namespace {

using Json = nlohmann::json;

constexpr std::string_view kDash = "–";

std::string_view between(const char* begin, const char* end) {
  return {begin, static_cast<std::size_t>(end - begin)};
}

std::string escaped(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (const char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      case '\'':
        out += "&#39;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

// In JSON a `<` can stand only inside a string, where \u003c means the same. Without any `<` the
// data can neither close its script element nor open a comment in it.
std::string script_safe(std::string_view json) {
  std::string out;
  out.reserve(json.size());
  for (const char c : json) {
    if (c == '<') {
      out += "\\u003c";
    } else {
      out += c;
    }
  }
  return out;
}

// Readers that take what is there and leave the rest to the caller: a report shows gaps as dashes.
const Json* member(const Json& object, std::string_view key) {
  if (!object.is_object()) {
    return nullptr;
  }
  const auto it = object.find(key);
  return it == object.end() ? nullptr : &*it;
}

std::optional<std::string> text(const Json& object, std::string_view key) {
  const Json* found = member(object, key);
  if (found == nullptr || !found->is_string() || found->get_ref<const std::string&>().empty()) {
    return std::nullopt;
  }
  return found->get<std::string>();
}

std::optional<double> number(const Json& object, std::string_view key) {
  const Json* found = member(object, key);
  if (found == nullptr || !found->is_number()) {
    return std::nullopt;
  }
  return found->get<double>();
}

std::span<const Json> items(const Json& object, std::string_view key) {
  const Json* found = member(object, key);
  if (found == nullptr || !found->is_array()) {
    return {};
  }
  return found->get_ref<const Json::array_t&>();
}

std::string text_or_dash(const std::optional<std::string>& value) {
  return value ? escaped(*value) : std::string(kDash);
}

std::string with_thousands(double value) {
  const std::string digits = fmt::format("{:.0f}", value);
  std::string out;
  for (std::size_t i = 0; i < digits.size(); ++i) {
    if (i != 0 && (digits.size() - i) % 3 == 0 && digits[i - 1] != '-') {
      out += ',';
    }
    out += digits[i];
  }
  return out;
}

// Three significant digits; the exponent is read after rounding, so that 0.9996 becomes 1.00.
std::string dollars(double value) {
  if (value == 0.0) {
    return "$0";
  }
  const std::string rounded = fmt::format("{:.2e}", value);
  const long exponent = std::strtol(rounded.c_str() + rounded.find('e') + 1, nullptr, 10);
  if (exponent >= 3) {
    return fmt::format("${}", with_thousands(std::strtod(rounded.c_str(), nullptr)));
  }
  return fmt::format("${:.{}f}", value, 2 - exponent);
}

std::string cost_range(const Json& row, std::string_view key) {
  const Json* interval = member(row, key);
  if (interval == nullptr) {
    return {};
  }
  const auto low = number(*interval, "low");
  const auto high = number(*interval, "high");
  return low && high ? fmt::format("{} to {}", dollars(*low), dollars(*high)) : std::string();
}

std::string cost_value(const Json& row, std::string_view key) {
  const Json* interval = member(row, key);
  const auto value = interval == nullptr ? std::nullopt : number(*interval, "value");
  return value ? dollars(*value) : std::string(kDash);
}

constexpr std::int64_t kKi = 1024;
constexpr double kLongestContext = 1e15;  // tokens; beyond it a value is no context length

// 128K is 131,072 and 1M is 1,048,576; other lengths are written out.
std::string context_name(std::optional<double> tokens) {
  if (!tokens || !(*tokens > 0.0) || *tokens > kLongestContext) {
    return std::string(kDash);
  }
  const auto n = std::llround(*tokens);
  if (n % (kKi * kKi) == 0) {
    return fmt::format("{}M", n / (kKi * kKi));
  }
  return n % kKi == 0 ? fmt::format("{}K", n / kKi) : with_thousands(static_cast<double>(n));
}

struct Certainty {
  std::string_view word;
  std::string_view mark;  // a shape, so that the word is not told by colour alone
  std::string_view meaning;
};
constexpr std::array<Certainty, 4> kCertainties = {{
    {"clear", "●", "the first is cheaper with a probability of 95 % or more"},
    {"likely", "◐", "with 80 % or more"},
    {"open", "○", "with less: either could be cheaper"},
    {"only", "◇", "no other system compared can serve this case"},
}};

std::string certainty_cell(const std::optional<std::string>& word) {
  for (const Certainty& c : kCertainties) {
    if (word == c.word) {
      return fmt::format("<span aria-hidden=\"true\">{}</span> {}", c.mark, c.word);
    }
  }
  return text_or_dash(word);
}

std::string certainty_key() {
  std::string out;
  for (const Certainty& c : kCertainties) {
    out += fmt::format("<div><dt><span aria-hidden=\"true\">{}</span> {}</dt><dd>{}</dd></div>\n",
                       c.mark, c.word, c.meaning);
  }
  return out;
}

std::optional<std::string> title_of(const Json& row, std::string_view title,
                                    std::string_view name) {
  const auto found = text(row, title);
  return found ? found : text(row, name);
}

// Consecutive rows of one model share its cell.
std::string answer_rows(std::span<const Json> rows) {
  std::string out;
  std::size_t group_end = 0;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const Json& row = rows[i];
    const auto model = title_of(row, "model_title", "model");
    const bool starts_group = i == group_end;
    out += starts_group ? "<tr class=\"model\">" : "<tr>";
    if (starts_group) {
      while (group_end < rows.size() &&
             title_of(rows[group_end], "model_title", "model") == model) {
        ++group_end;
      }
      out += fmt::format("<th scope=\"rowgroup\" rowspan=\"{}\">{}</th>", group_end - i,
                         text_or_dash(model));
    }
    out += fmt::format(
        "<td class=\"num\">{}</td><td>{}</td>"
        "<td class=\"num\"><strong>{}</strong> <span class=\"range\">{}</span></td>"
        "<td>{}</td><td class=\"num\">{} <span class=\"range\">{}</span></td><td>{}</td></tr>\n",
        context_name(number(row, "context")), text_or_dash(title_of(row, "system_title", "system")),
        cost_value(row, "cost_usd_per_mtok_output"), cost_range(row, "cost_usd_per_mtok_output"),
        text_or_dash(title_of(row, "runner_up_title", "runner_up")),
        cost_value(row, "runner_up_cost_usd_per_mtok_output"),
        cost_range(row, "runner_up_cost_usd_per_mtok_output"),
        certainty_cell(text(row, "certainty")));
  }
  return out;
}

std::string answer(const Json& results) {
  const Json* found = member(results, "answer");
  const Json given = found == nullptr ? Json::object() : *found;
  std::string out = fmt::format(
      "<p class=\"lead\">{}</p>\n",
      escaped(text(given, "paragraph").value_or("These results hold no summary paragraph.")));
  const auto rows = items(given, "rows");
  if (rows.empty()) {
    return out +
           "<p class=\"empty\">No system can be named: the results hold no answer rows.</p>\n";
  }
  out +=
      "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"Cheapest system table\">\n"
      "<table class=\"answer\">\n"
      "<caption>Cheapest system for each model and context length, in US dollars per million "
      "output "
      "tokens. The small figures are the 90&nbsp;% range of the prediction.</caption>\n"
      "<thead><tr><th scope=\"col\">Model</th><th scope=\"col\" class=\"num\">Context</th>"
      "<th scope=\"col\">Cheapest system</th><th scope=\"col\" class=\"num\">Cost</th>"
      "<th scope=\"col\">Runner-up</th><th scope=\"col\" class=\"num\">Its cost</th>"
      "<th scope=\"col\">Certainty</th></tr></thead>\n<tbody>\n";
  out += answer_rows(rows);
  out +=
      "</tbody>\n</table>\n</div>\n<dl class=\"key\" aria-label=\"What the certainty words "
      "mean\">\n";
  return out + certainty_key() + "</dl>\n";
}

std::string assumptions(const Json& results) {
  std::string out;
  for (const Json& line : items(results, "assumptions")) {
    if (line.is_string()) {
      out += fmt::format("<li>{}</li>\n", escaped(line.get<std::string>()));
    }
  }
  return out.empty() ? "<p class=\"empty\">None stated.</p>\n" : "<ul>\n" + out + "</ul>\n";
}

std::string sources(const Json& results) {
  std::string out;
  for (const Json& source : items(results, "sources")) {
    out += fmt::format("<tr><td><code>{}</code></td><td>{}</td><td class=\"where\">{}</td></tr>\n",
                       text_or_dash(text(source, "id")), text_or_dash(text(source, "title")),
                       text_or_dash(text(source, "where")));
  }
  if (out.empty()) {
    return "<p class=\"empty\">None named.</p>\n";
  }
  return "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"Sources table\">\n"
         "<table>\n<thead><tr><th scope=\"col\">Id</th><th scope=\"col\">Title</th>"
         "<th scope=\"col\">Where</th></tr></thead>\n<tbody>\n" +
         out + "</tbody>\n</table>\n</div>\n";
}

std::string provenance(const Json& results) {
  std::string out = fmt::format("Foretoken {}", text_or_dash(text(results, "version")));
  if (const auto scenario = text(results, "scenario")) {
    out += fmt::format(" · scenario {}", escaped(*scenario));
  }
  if (const auto hash = text(results, "config_hash")) {
    out += fmt::format(" · configuration <code>{}</code>", escaped(*hash));
  }
  if (const auto command = text(results, "command")) {
    out += fmt::format("<br>Made by <code>{}</code>", escaped(*command));
  }
  return out;
}

struct Part {
  std::string_view placeholder;
  std::string_view content;
};

// One pass, so that a placeholder's name inside a part stays text.
std::string fill(std::string_view page, std::span<const Part> parts) {
  std::string out;
  while (!page.empty()) {
    const std::size_t open = page.find("{{");
    const std::size_t close = page.find("}}", open);
    out += page.substr(0, open);
    if (open == std::string_view::npos || close == std::string_view::npos) {
      break;
    }
    const std::string_view name = page.substr(open + 2, close - open - 2);
    for (const Part& part : parts) {
      if (part.placeholder == name) {
        out += part.content;
      }
    }
    page.remove_prefix(close + 2);
  }
  return out;
}

}  // namespace

std::string render_html(std::string_view results_json) {
  const Json results = Json::parse(results_json, nullptr, /*allow_exceptions=*/false);
  if (!results.is_object()) {
    throw std::invalid_argument("render_html: the results are not a JSON object");
  }
  const std::string title =
      escaped(text(results, "title").value_or(text(results, "scenario").value_or("Context sweep")));
  const std::string answer_html = answer(results);
  const std::string assumptions_html = assumptions(results);
  const std::string sources_html = sources(results);
  const std::string provenance_html = provenance(results);
  const std::string data = script_safe(results_json);
  const std::array<Part, 9> parts = {{
      {"title", title},
      {"css", between(foretoken_page_css_begin, foretoken_page_css_end)},
      {"answer", answer_html},
      {"assumptions", assumptions_html},
      {"sources", sources_html},
      {"provenance", provenance_html},
      {"data", data},
      {"echarts", between(foretoken_echarts_js_begin, foretoken_echarts_js_end)},
      {"js", between(foretoken_page_js_begin, foretoken_page_js_end)},
  }};
  return fill(between(foretoken_page_html_begin, foretoken_page_html_end), parts);
}

}  // namespace foretoken::analysis
