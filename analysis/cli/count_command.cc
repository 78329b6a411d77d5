#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <ostream>

#include "analysis/cli/commands.h"
#include "analysis/reports/table.h"
#include "sim/base/config.h"
#include "sim/base/quantity.h"

namespace foretoken::analysis::cli {

namespace w = workloads;
using Json = nlohmann::ordered_json;

namespace {

struct Row {
  std::int64_t context;
  w::FlopCount flops;
  w::KvBytes kv;
};

// Components that count something for this model.
bool used(const std::vector<Row>& rows, w::Component c) {
  for (const Row& r : rows) {
    if (r.flops.component(c) > 0) return true;
  }
  return false;
}

Json row_json(const Row& r, const std::vector<Row>& rows, const w::PrecisionWeights& weights) {
  Json components = Json::object();
  for (int c = 0; c < w::kComponents; ++c) {
    const auto component = static_cast<w::Component>(c);
    if (used(rows, component)) {
      components[std::string(w::kComponentNames[static_cast<std::size_t>(c)])] =
          r.flops.component(component);
    }
  }
  Json precisions = Json::object();
  for (int p = 0; p < w::kPrecisionClasses; ++p) {
    precisions[std::string(w::kPrecisionNames[static_cast<std::size_t>(p)])] =
        r.flops.precision(static_cast<w::PrecisionClass>(p));
  }
  return Json{{"context", r.context},
              {"flops", Json{{"total", r.flops.total()},
                             {"fp8_equivalent", w::weighted(r.flops, weights)},
                             {"by_component", components},
                             {"by_precision", precisions}}},
              {"kv_bytes", Json{{"global", r.kv.global},
                                {"window", r.kv.window},
                                {"tail", r.kv.tail},
                                {"total", r.kv.total},
                                {"read_per_token", r.kv.read_per_token}}}};
}

void print_json(const Context& context, const w::ModelSpec& model, const w::Precision& precision,
                const std::vector<Row>& rows, const CountOptions& options) {
  const w::ModelParameters p = w::count_parameters(model);
  const w::WeightBytes b = w::count_weight_bytes(model, precision);
  Json parameters{{"total", p.total},
                  {"active", p.active},
                  {"draft", p.draft},
                  {"embedding", p.embedding},
                  {"head", p.head},
                  {"routed_total", p.routed_total},
                  {"routed_active", p.routed_active}};
  if (p.engram_tables > 0) parameters["engram_tables"] = p.engram_tables;
  Json out{{"model", model.name},
           {"phase", options.phase == w::Phase::kDecode ? "decode" : "prefill"},
           {"parameters", parameters},
           {"weight_bytes", Json{{"checkpoint", b.checkpoint()},
                                 {"routed_experts", b.routed},
                                 {"other", b.split + b.replicated},
                                 {"draft", b.draft_routed + b.draft_split + b.draft_replicated},
                                 {"host_tables", b.host},
                                 {"one_expert", b.one_expert}}},
           {"kv_bytes_per_token", w::kv_bytes_per_token(model, precision)}};
  Json list = Json::array();
  for (const Row& r : rows) list.push_back(row_json(r, rows, options.weights));
  out["rows"] = list;
  context.out << out.dump(2) << "\n";
}

Table flop_table(const std::vector<Row>& rows, const w::PrecisionWeights& weights, bool exact) {
  Table t;
  t.columns = {{"context", true}};
  const auto amount = [&](std::int64_t flops) {
    return exact ? fmt::format("{}", flops)
                 : fmt::format("{:.4f}", static_cast<double>(flops) * 1e-9);
  };
  const std::string unit = exact ? "" : " [GFLOP]";
  t.columns.push_back({(exact ? "flops_total" : "total" + unit), true});
  t.columns.push_back({(exact ? "flops_fp8_equivalent" : "FP8-equivalent" + unit), true});
  std::vector<w::Component> components;
  for (int c = 0; c < w::kComponents; ++c) {
    const auto component = static_cast<w::Component>(c);
    if (!used(rows, component)) continue;
    components.push_back(component);
    t.columns.push_back({std::string(w::kComponentNames[static_cast<std::size_t>(c)]), true});
  }
  for (const std::string_view name :
       {"kv_global", "kv_window", "kv_tail", "kv_total", "kv_read_per_token"}) {
    t.columns.push_back({std::string(name), true});
  }
  for (const Row& r : rows) {
    std::vector<std::string> cells = {
        exact ? fmt::format("{}", r.context) : base::format_count(r.context),
        amount(r.flops.total()),
        exact ? fmt::format("{}", w::weighted(r.flops, weights))
              : fmt::format("{:.4f}", w::weighted(r.flops, weights) * 1e-9)};
    for (const w::Component c : components) cells.push_back(amount(r.flops.component(c)));
    for (const std::int64_t bytes :
         {r.kv.global, r.kv.window, r.kv.tail, r.kv.total, r.kv.read_per_token}) {
      cells.push_back(
          exact ? fmt::format("{}", bytes)
                : base::format_quantity(static_cast<double>(bytes), base::UnitKind::kBytes));
    }
    t.rows.push_back(std::move(cells));
  }
  return t;
}

// One column per context, one line per part: what people compare.
Table upright(const Table& wide) {
  Table t;
  t.columns = {{wide.columns.front().name}};
  for (const auto& row : wide.rows) t.columns.push_back({row.front(), true});
  for (std::size_t c = 1; c < wide.columns.size(); ++c) {
    std::vector<std::string> cells = {wide.columns[c].name};
    for (const auto& row : wide.rows) cells.push_back(row[c]);
    t.rows.push_back(std::move(cells));
  }
  return t;
}

}  // namespace

base::ExitCode count(const Context& context, const CountOptions& options) {
  const w::ModelSpec model = w::load_model(options.model, context.configs);
  const w::Precision precision =
      options.precision.empty()
          ? w::release_precision(model)
          : w::resolve(base::load_config<w::PrecisionRecipe>(context.configs / "precision" /
                                                             (options.precision + ".yaml")),
                       model);
  std::vector<Row> rows;
  for (const std::int64_t n : options.contexts) {
    rows.push_back({n,
                    options.phase == w::Phase::kDecode ? w::count_decode(model, n)
                                                       : w::count_prefill(model, n),
                    w::count_kv(model, precision, n)});
  }
  if (context.format == Format::kJson) {
    print_json(context, model, precision, rows, options);
  } else if (context.format == Format::kCsv) {
    context.out << to_csv(flop_table(rows, options.weights, true));
  } else {
    const w::ModelParameters p = w::count_parameters(model);
    const w::WeightBytes b = w::count_weight_bytes(model, precision);
    context.out << fmt::format(
        "{}: {:.1f} B parameters, {:.2f} B active per token; checkpoint {}; {:.2f} B of growing KV "
        "cache per token\n\n",
        model.title, static_cast<double>(p.total) * 1e-9, static_cast<double>(p.active) * 1e-9,
        base::format_quantity(static_cast<double>(b.checkpoint()), base::UnitKind::kBytes),
        w::kv_bytes_per_token(model, precision));
    context.out << (options.phase == w::Phase::kDecode
                        ? "One decoded token, by visible positions:\n"
                        : "A whole prompt, by its length:\n");
    context.out << to_text(upright(flop_table(rows, options.weights, false)));
  }
  return base::ExitCode::kOk;
}

}  // namespace foretoken::analysis::cli
