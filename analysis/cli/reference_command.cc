#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <ostream>
#include <sstream>
#include <stdexcept>

#include "analysis/cli/commands.h"
#include "analysis/reports/table.h"
#include "reference/kernels/matmul.h"
#include "reference/model/token_file.h"
#include "sim/base/error.h"
#include "sim/base/output.h"
#include "sim/base/quantity.h"

namespace foretoken::analysis::cli {

namespace {

using Json = nlohmann::ordered_json;

std::string rate(std::int64_t tokens, double seconds) {
  return seconds > 0.0 && tokens > 0 ? fmt::format("{:.3g}", static_cast<double>(tokens) / seconds)
                                     : "-";
}

Table study_table(const reference::StudyResult& result) {
  Table table{{{"variant"}, {"context", true}, {"queries", true}}, {}};
  for (const std::string& m : result.measures) table.columns.push_back({m, true});
  for (const reference::StudyRow& row : result.rows) {
    std::vector<std::string> cells = {row.variant, base::format_count(row.context),
                                      std::to_string(row.queries)};
    for (const double v : row.values) cells.push_back(fmt::format("{:.5f}", v));
    table.rows.push_back(std::move(cells));
  }
  return table;
}

Json study_json(const reference::StudyResult& result) {
  Json rows = Json::array();
  for (const reference::StudyRow& row : result.rows) {
    Json values = Json::object();
    for (std::size_t i = 0; i < row.values.size(); ++i) values[result.measures[i]] = row.values[i];
    rows.push_back(Json{{"variant", row.variant},
                        {"context", row.context},
                        {"queries", row.queries},
                        {"values", values}});
  }
  return Json{{"title", result.title}, {"rows", rows}, {"notes", result.notes}};
}

base::ExitCode run_study(const Context& context, const ReferenceCommand& options,
                         const reference::LoadedCheckpoint& loaded,
                         const std::vector<std::int32_t>& tokens) {
  const reference::StudyResult result =
      reference::run_study(*options.study, loaded, tokens, options.session.reference);
  const Table table = study_table(result);
  if (!options.report.empty()) {
    std::string text = fmt::format("# {}\n\nModel: {}, {} tokens. Written by\n\n    {}\n\n",
                                   result.title, loaded.model.name, tokens.size(), options.command);
    text += to_markdown(table) + "\n";
    for (const std::string& note : result.notes) text += note + "\n";
    base::write_file(options.report, text);
  }
  switch (context.format) {
    case Format::kJson:
      context.out << study_json(result).dump(2) << "\n";
      break;
    case Format::kCsv:
      context.out << to_csv(table);
      break;
    case Format::kTable:
      context.out << to_text(table);
      for (const std::string& note : result.notes) context.out << "\n" << note << "\n";
      break;
  }
  return base::ExitCode::kOk;
}

}  // namespace

base::ExitCode run_reference(const Context& context, const ReferenceCommand& options) {
  try {
    static_cast<void>(reference::simd());
  } catch (const std::invalid_argument& error) {  // FORETOKEN_SIMD
    throw base::UsageError(error.what());
  }
  reference::SessionOptions session = options.session;
  const reference::LoadedCheckpoint loaded = reference::load_checkpoint(options.checkpoint);
  const std::vector<std::int32_t> tokens =
      reference::read_tokens(options.tokens, loaded.model.vocab);
  std::ostringstream trace;
  if (options.study) return run_study(context, options, loaded, tokens);
  if (!options.trace.empty()) session.trace = &trace;
  const reference::SessionReport report = reference::run_session(loaded, tokens, session);
  for (const std::string& name : report.unmatched) {
    context.err << fmt::format("foretoken: --dump: this run has no tensor '{}'\n", name);
  }
  if (report.not_finite > 0) {
    context.err << fmt::format("foretoken: {} tokens have logits that are no finite numbers\n",
                               report.not_finite);
  }
  if (options.trace == "-") {
    context.out << trace.str();
    return base::ExitCode::kOk;
  }
  if (!options.trace.empty()) base::write_file(options.trace, trace.str());

  const auto decoded = report.decoded + static_cast<std::int64_t>(report.generated.size());
  if (context.format == Format::kJson) {
    const Json json{{"model", loaded.model.name},
                    {"prefill_tokens", report.prefilled},
                    {"decode_tokens", report.decoded},
                    {"generated", report.generated},
                    {"next_token", report.next},
                    {"kv_bytes", Json{{"global", report.kv.global},
                                      {"window", report.kv.window},
                                      {"tail", report.kv.tail},
                                      {"total", report.kv.total()}}},
                    {"prefill_s", report.prefill_seconds},
                    {"decode_s", report.decode_seconds},
                    {"out", session.out.string()}};
    context.out << json.dump(2) << "\n";
    return base::ExitCode::kOk;
  }
  const auto bytes = [](std::int64_t n) {
    return base::format_quantity(static_cast<double>(n), base::UnitKind::kBytes);
  };
  Table table{{{"quantity"}, {"value", true}}, {}};
  table.rows.push_back({"model", loaded.model.name});
  table.rows.push_back({"prefill, tokens", std::to_string(report.prefilled)});
  table.rows.push_back({"prefill, tokens/s", rate(report.prefilled, report.prefill_seconds)});
  table.rows.push_back({"decode, tokens", std::to_string(decoded)});
  table.rows.push_back({"decode, tokens/s", rate(decoded, report.decode_seconds)});
  table.rows.push_back({"KV cache, growing", bytes(report.kv.global)});
  table.rows.push_back({"KV cache, windows", bytes(report.kv.window)});
  table.rows.push_back({"KV cache, compressor state", bytes(report.kv.tail)});
  table.rows.push_back({"likeliest next token", std::to_string(report.next)});
  if (!report.generated.empty()) {
    table.rows.push_back({"generated", fmt::format("{}", fmt::join(report.generated, " "))});
  }
  if (!session.out.empty()) table.rows.push_back({"written to", session.out.string()});
  context.out << (context.format == Format::kCsv ? to_csv(table) : to_text(table));
  return base::ExitCode::kOk;
}

}  // namespace foretoken::analysis::cli
