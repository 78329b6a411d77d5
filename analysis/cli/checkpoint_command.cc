#include <fmt/format.h>

#include <chrono>
#include <nlohmann/json.hpp>
#include <ostream>

#include "analysis/cli/commands.h"
#include "analysis/reports/table.h"
#include "reference/model/random_checkpoint.h"
#include "sim/base/quantity.h"

namespace foretoken::analysis::cli {

namespace {

void print(const Context& context, const CheckpointCommand& options,
           const reference::WrittenCheckpoint& written, double seconds) {
  const std::string folder = options.target.folder.string();
  if (context.format == Format::kJson) {
    const nlohmann::ordered_json json{{"tensors", written.tensors},
                                      {"bytes", written.bytes},
                                      {"files", written.files},
                                      {"seconds", seconds},
                                      {"out", folder}};
    context.out << json.dump(2) << "\n";
    return;
  }
  Table table{{{"quantity"}, {"value", true}}, {}};
  table.rows.push_back({"tensors", std::to_string(written.tensors)});
  table.rows.push_back(
      {"size", base::format_quantity(static_cast<double>(written.bytes), base::UnitKind::kBytes)});
  table.rows.push_back({"files", std::to_string(written.files)});
  table.rows.push_back({"time", base::format_quantity(seconds, base::UnitKind::kSeconds)});
  table.rows.push_back({"written to", folder});
  context.out << (context.format == Format::kCsv ? to_csv(table) : to_text(table));
}

}  // namespace

base::ExitCode write_checkpoint(const Context& context, const CheckpointCommand& options) {
  const auto start = std::chrono::steady_clock::now();
  reference::WrittenCheckpoint written;
  if (!options.model.empty()) {
    written = reference::write_random_checkpoint(
        workloads::find_model(options.model, context.configs), options.seed, options.target);
  } else if (options.dequantise) {
    written = reference::dequantise_checkpoint(options.from, *options.dequantise, options.target);
  } else {
    written = reference::quantise_checkpoint(options.from, options.quantise, options.target);
  }
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  print(context, options, written, seconds.count());
  return base::ExitCode::kOk;
}

}  // namespace foretoken::analysis::cli
