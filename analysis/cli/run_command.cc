#include <fmt/format.h>

#include <ostream>
#include <utility>
#include <variant>

#include "analysis/cli/commands.h"
#include "analysis/context_sweep.h"
#include "analysis/expert_study.h"
#include "analysis/reports/context_sweep_report.h"
#include "analysis/reports/expert_report.h"
#include "analysis/reports/html/html_report.h"
#include "analysis/reports/sweep_json.h"
#include "analysis/sources.h"
#include "analysis/validation/error_table.h"
#include "hwmodels/designs.h"
#include "sim/base/config_print.h"
#include "sim/base/config_schema.h"
#include "sim/base/output.h"

namespace foretoken::analysis::cli {

namespace fs = std::filesystem;

namespace {

// A folder that cannot be written is found before the work, not after.
fs::path output_folder(const RunOptions& o, const std::string& name) {
  fs::path folder = o.folder.empty() ? fs::path("out") / name : fs::path(o.folder);
  std::error_code error;
  if (fs::exists(folder, error) && !fs::is_directory(folder, error)) {
    throw base::ConfigError({folder.string(), 0, 0}, "is not a folder");
  }
  return folder;
}

base::ExitCode run_expert_waves(const Context& context, const RunOptions& o) {
  const ExpertStudy study = load_expert_study(o.scenario, context.configs, o.overrides);
  if (o.print_config) {
    context.out << base::print_config(study);
    return base::ExitCode::kOk;
  }
  const fs::path folder = output_folder(o, study.name);
  ExpertStudyResult result = run_expert_study(study, context.configs);
  result.command = o.command;
  base::OutputSet files(folder);
  files.add("results.json", expert_json(result));
  files.add("results.csv", expert_csv(result));
  files.add("report.md", expert_markdown(result));
  files.add("report.html", expert_html(result));
  files.commit();
  switch (context.format) {
    case Format::kJson:
      context.out << expert_json(result);
      break;
    case Format::kCsv:
      context.out << expert_csv(result);
      break;
    case Format::kTable:
      context.out << to_text(speedup_table(result)) << "\n"
                  << to_text(solution_table(result)) << "\n"
                  << to_text(hardware_table(result)) << "\n"
                  << "report: " << (folder / "report.html").string() << "\n";
      break;
  }
  return base::ExitCode::kOk;
}

}  // namespace

base::ExitCode run(const Context& context, const RunOptions& o) {
  if (is_expert_study(o.scenario, context.configs)) return run_expert_waves(context, o);
  const LoadedScenario loaded = load_scenario(o.scenario, context.configs, o.overrides);
  if (o.print_config) {
    context.out << base::print_config(loaded.scenario);
    return base::ExitCode::kOk;
  }
  const fs::path folder = output_folder(o, loaded.scenario.name);
  SweepResult result = run_context_sweep(loaded.scenario, context.configs);
  result.command = o.command;
  const std::string json = sweep_json(result, load_sources(context.configs));
  base::OutputSet files(folder);
  files.add("results.json", json);
  files.add("results.csv", sweep_csv(result));
  files.add("report.md", sweep_markdown(result));
  files.add("report.html", render_html(json));
  files.commit();
  switch (context.format) {
    case Format::kJson:
      context.out << json;
      break;
    case Format::kCsv:
      context.out << sweep_csv(result);
      break;
    case Format::kTable:
      context.out << to_text(answer_table(result)) << "\n"
                  << to_text(point_table(result)) << "\n"
                  << "report: " << (folder / "report.html").string() << "\n";
      break;
  }
  return base::ExitCode::kOk;
}

base::ExitCode list(const Context& context, const std::string& what) {
  std::vector<std::string> names;
  if (what == "models") {
    names = workloads::list_models(context.configs);
  } else {
    names = hwmodels::list_configs(context.configs, what);
  }
  if (context.format == Format::kJson) {
    context.out << "[";
    for (std::size_t i = 0; i < names.size(); ++i) {
      context.out << (i > 0 ? "," : "") << "\"" << names[i] << "\"";
    }
    context.out << "]\n";
    return base::ExitCode::kOk;
  }
  for (const std::string& name : names) context.out << name << "\n";
  return base::ExitCode::kOk;
}

namespace {

template <std::size_t kIndex>
hwmodels::DesignFile design_of() {
  hwmodels::DesignFile file;
  if (file.design.index() != kIndex) file.design.emplace<kIndex>();
  return file;
}

// One schema per kernel: a design file's schedule depends on it.
template <std::size_t... kKernel>
void add_design_schemas(base::OutputSet& files, std::index_sequence<kKernel...>) {
  const auto add = [&]<std::size_t kIndex>(std::integral_constant<std::size_t, kIndex>) {
    const std::string kernel(design_of<kIndex>().kernel());
    files.add(fmt::format("design-{}.schema.json", kernel),
              base::write_schema(fmt::format("Design of {}", kernel), [](base::ConfigVisitor& v) {
                hwmodels::DesignFile file = design_of<kIndex>();
                describe(v, file);
              }));
  };
  (add(std::integral_constant<std::size_t, kKernel>{}), ...);
}

}  // namespace

base::ExitCode schema(const Context& context, const std::string& folder) {
  base::OutputSet files(folder);
  files.add("chip.schema.json", base::schema_of<hwmodels::ChipSpec>("Chip"));
  files.add("system.schema.json", base::schema_of<hwmodels::SystemSpec>("System"));
  files.add("calibration.schema.json", base::schema_of<hwmodels::Calibration>("Calibration"));
  files.add("errors.schema.json",
            base::schema_of<validation::ErrorTable>("Errors by kernel class"));
  files.add("precision.schema.json",
            base::schema_of<workloads::PrecisionRecipe>("Precision recipe"));
  files.add("scenario.schema.json", base::schema_of<Scenario>("Scenario"));
  files.add("expert-waves.schema.json", base::schema_of<ExpertStudy>("Study of expert waves"));
  files.add("design-expert_layer.schema.json",
            base::schema_of<hwmodels::ExpertLayerDesign>("Exchange of a fused expert layer"));
  files.add("hardware-prices.schema.json", base::schema_of<HardwarePrices>("Hardware prices"));
  files.add("list-prices.schema.json", base::schema_of<ListPrices>("List prices"));
  files.add("specdec.schema.json", base::schema_of<AcceptanceTable>("Acceptance lengths"));
  files.add("sources.schema.json", base::schema_of<Sources>("Sources"));
  add_design_schemas(
      files,
      std::make_index_sequence<std::variant_size_v<decltype(hwmodels::DesignFile::design)>>());
  files.commit();
  context.err << "wrote " << folder << "\n";
  return base::ExitCode::kOk;
}

}  // namespace foretoken::analysis::cli
