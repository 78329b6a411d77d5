#include <algorithm>
#include <array>
#include <filesystem>
#include <ostream>
#include <system_error>

#include "analysis/cli/commands.h"
#include "analysis/cli/tables.h"
#include "analysis/validation/engine_predictor.h"
#include "analysis/validation/error_table.h"
#include "analysis/validation/expert_predictor.h"
#include "analysis/validation/kernel_predictor.h"
#include "analysis/validation/report.h"
#include "analysis/validation/validation.h"
#include "sim/base/csv.h"
#include "sim/base/output.h"

namespace foretoken::analysis::cli {

namespace v = validation;

// By name, so that the order of a folder does not matter.
std::vector<std::string> all_tables(const std::filesystem::path& configs) {
  std::vector<std::string> files;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(configs / "measurements", error)) {
    if (entry.path().extension() == ".csv") files.push_back(entry.path().string());
  }
  std::sort(files.begin(), files.end());
  if (files.empty()) {
    throw base::ConfigError({(configs / "measurements").string(), 0, 0}, "holds no tables");
  }
  return files;
}

base::ExitCode validate(const Context& context, const ValidateOptions& options) {
  std::vector<base::CsvTable> tables;
  for (const std::string& file :
       options.files.empty() ? all_tables(context.configs) : options.files) {
    tables.push_back(base::read_csv(file));
  }
  v::KernelPredictor kernels(context.configs);
  v::ExpertPredictor experts(context.configs);
  v::EnginePredictor engines(context.configs);
  const v::ErrorTable errors = v::load_error_table(context.configs);
  v::ObservedIntervals observed(kernels, errors);
  v::ObservedIntervals observed_experts(experts, errors);
  const std::array<v::Predictor*, 3> predictors = {&observed, &observed_experts, &engines};
  const v::Validation result = v::validate(tables, context.configs, predictors);
  if (!options.folder.empty()) {
    base::OutputSet files(options.folder);
    files.add("results.json", v::to_json(result));
    files.add("results.csv", v::to_csv(result));
    files.add("report.md", v::to_markdown(result, options.command));
    files.commit();
  }
  switch (context.format) {
    case Format::kJson:
      context.out << v::to_json(result);
      break;
    case Format::kCsv:
      context.out << v::to_csv(result);
      break;
    case Format::kTable:
      context.out << v::to_text(result);
      break;
  }
  return base::ExitCode::kOk;
}

}  // namespace foretoken::analysis::cli
