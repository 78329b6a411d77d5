// results.json, results.csv and report.md: complete, well formed, and saying the same.
#include "analysis/reports/sweep_json.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "analysis/reports/context_sweep_report.h"
#include "tests/analysis/fixtures.h"

namespace foretoken::analysis {
namespace {

using Json = nlohmann::json;
using test_support::configs;

// All four statuses: one that runs, one that is too slow, one too large, one without the dtype.
const SweepResult& every_status() {
  static const SweepResult result = [] {
    Scenario s = test_support::small_scenario();
    s.models = {"deepseek-v4-flash", "deepseek-v4-pro"};
    s.contexts = {8192, 1048576};
    s.systems = {{"atlas_950_cabinet", "ascend-950"},
                 {"hgx_h100", "fp8-index"},
                 {"hgx_h200", "release"},
                 {"mlu690_x8", "bf16"}};
    return run_context_sweep(s, configs());
  }();
  return result;
}

const SweepResult& too_slow() {
  static const SweepResult result = [] {
    Scenario s = test_support::small_scenario();
    s.models = {"deepseek-v4-flash"};
    s.contexts = {8192};
    s.rules.tpot_limit = base::Seconds{1e-6};
    return run_context_sweep(s, configs());
  }();
  return result;
}

Json json_of(const SweepResult& r) { return Json::parse(sweep_json(r, load_sources(configs()))); }

bool is_interval(const Json& j) {
  return j.is_object() && j.size() == 3 && j.contains("low") && j.contains("value") &&
         j.contains("high");
}

void expect_plain(const Json& j, const std::string& path) {
  EXPECT_FALSE(j.is_null()) << path;  // what NaN and infinity would be written as
  if (is_interval(j)) {
    EXPECT_LE(j["low"].get<double>(), j["value"].get<double>()) << path;
    EXPECT_LE(j["value"].get<double>(), j["high"].get<double>()) << path;
  }
  if (j.is_structured()) {
    for (const auto& [key, value] : j.items()) {
      expect_plain(value, std::string(path).append(".").append(key));
    }
  }
}

TEST(SweepJson, HoldsNoNullAndOrderedIntervalsOnly) {
  expect_plain(json_of(every_status()), "");
  expect_plain(json_of(too_slow()), "");
}

TEST(SweepJson, HasTheDocumentedTopLevel) {
  const Json j = json_of(every_status());
  for (const char* key : {"schema", "scenario", "title", "version", "config_hash", "command",
                          "answer", "contexts", "tpot_limit_ms", "models", "systems", "curves",
                          "points", "list_prices", "assumptions", "sources"}) {
    EXPECT_TRUE(j.contains(key)) << key;
  }
  EXPECT_EQ(j["schema"], "foretoken.context_sweep/1");
  EXPECT_EQ(j["config_hash"].get<std::string>().size(), 16U);
  EXPECT_EQ(j["tpot_limit_ms"].get<double>(), 50.0);
  for (const Json& s : j["systems"]) {
    for (const char* key : {"name", "title", "vendor", "chip", "chip_title", "devices",
                            "devices_per_package", "status", "precision", "hbm_capacity_bytes",
                            "hbm_bandwidth_bytes_per_s", "peak_flops_per_s"}) {
      EXPECT_TRUE(s.contains(key)) << key;
    }
  }
  for (const Json& c : j["curves"]) {
    for (const char* key : {"model", "context", "flops_per_token", "fp8_equivalent_flops_per_token",
                            "kv_bytes_held", "kv_bytes_global", "kv_bytes_read_per_token"}) {
      EXPECT_TRUE(c.contains(key)) << key;
    }
  }
  for (const Json& row : j["answer"]["rows"]) {
    for (const char* key : {"model", "model_title", "context", "system", "system_title",
                            "cost_usd_per_mtok_output", "certainty"}) {
      EXPECT_TRUE(row.contains(key)) << key;
    }
    EXPECT_EQ(row.contains("runner_up"), row["certainty"] != "only");
  }
  for (const Json& s : j["sources"]) EXPECT_NE(s["title"].get<std::string>(), "") << s["id"];
}

const std::vector<std::string> kRunning = {"plan",
                                           "devices",
                                           "draft_tokens",
                                           "mean_acceptance_length",
                                           "weight_bytes_per_device",
                                           "max_batch_per_device",
                                           "batch_per_device",
                                           "max_batch",
                                           "batch",
                                           "tpot_ms",
                                           "step_ms",
                                           "output_throughput",
                                           "tput_per_gpu",
                                           "tput_per_user",
                                           "decode_bound",
                                           "decode_shares",
                                           "arithmetic_intensity_flops_per_byte",
                                           "achieved_flops_per_s_per_device"};
const std::vector<std::string> kPrefill = {"prefill_tput_per_gpu", "prefill_ttft_ms",
                                           "prefill_bound"};
const std::vector<std::string> kPriced = {"cost_usd_per_mtok_cached_input",
                                          "cost_usd_per_mtok_output",
                                          "cost_cny_per_mtok_cached_input",
                                          "cost_cny_per_mtok_output",
                                          "energy_j_per_token_output",
                                          "energy_kwh_per_mtok_output",
                                          "usd_per_device_hour"};
const std::vector<std::string> kPricedPrefill = {
    "cost_usd_per_mtok_input", "cost_cny_per_mtok_input", "energy_j_per_token_input",
    "energy_kwh_per_mtok_input"};

TEST(SweepJson, EveryPointHasTheFieldsThatItsStatusGivesAMeaningAndNoOthers) {
  std::set<std::string> statuses;
  for (const SweepResult* r : {&every_status(), &too_slow()}) {
    const Json points = json_of(*r)["points"];
    for (const Json& p : points) {
      SCOPED_TRACE(p.dump().substr(0, 200));
      const std::string status = p["status"];
      statuses.insert(status);
      const bool runs = status == "ok" || status == "misses_tpot";
      const bool prefill = p["prefill_status"] == "ok";
      const bool priced = runs && !p.contains("price_problem");
      const auto expect = [&](const std::vector<std::string>& keys, bool present) {
        for (const std::string& key : keys) EXPECT_EQ(p.contains(key), present) << key;
      };
      expect(
          {"model", "system", "context", "precision", "flops_per_token",
           "fp8_equivalent_flops_per_token", "kv_bytes_held", "kv_bytes_read_per_token", "basis"},
          true);
      expect(kRunning, runs);
      expect(kPrefill, prefill);
      expect(kPriced, priced);
      expect(kPricedPrefill, priced && prefill);
      EXPECT_EQ(p.contains("reason"), status != "ok");
      EXPECT_EQ(p.contains("break_even_usd_per_device_hour"),
                p.contains("list_price_usd_per_mtok_output"));
      if (!runs) continue;
      double sum = 0.0;
      for (const auto& [bound, share] : p["decode_shares"].items()) sum += share.get<double>();
      EXPECT_NEAR(sum, 1.0, 1e-9);
      EXPECT_NEAR(p["output_throughput"]["value"].get<double>(),
                  p["tput_per_gpu"]["value"].get<double>() * p["devices"].get<double>(), 1e-6);
      EXPECT_NEAR(p["tput_per_user"]["value"].get<double>() * p["tpot_ms"]["value"].get<double>(),
                  1000.0, 1e-6);
      EXPECT_NEAR(p["step_ms"]["value"].get<double>(),
                  p["tpot_ms"]["value"].get<double>() * p["mean_acceptance_length"].get<double>(),
                  1e-9);
      if (priced) {
        EXPECT_NEAR(p["energy_kwh_per_mtok_output"]["value"].get<double>(),
                    p["energy_j_per_token_output"]["value"].get<double>() / 3.6, 1e-9);
      }
    }
  }
  EXPECT_EQ(statuses, (std::set<std::string>{"ok", "misses_tpot", "does_not_fit", "unsupported"}));
}

// RFC 4180 records.
std::vector<std::vector<std::string>> parse_csv(const std::string& text) {
  std::vector<std::vector<std::string>> records(1);
  std::string cell;
  bool quoted = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (quoted) {
      if (c == '"' && i + 1 < text.size() && text[i + 1] == '"') {
        cell += text[++i];
      } else if (c == '"') {
        quoted = false;
      } else {
        cell += c;
      }
    } else if (c == '"' && cell.empty()) {
      quoted = true;
    } else if (c == ',' || c == '\n') {
      records.back().push_back(cell);
      cell.clear();
      if (c == '\n') records.emplace_back();
    } else {
      cell += c;
    }
  }
  EXPECT_FALSE(quoted);
  records.pop_back();
  return records;
}

TEST(SweepCsv, IsRectangularAndEqualsTheJson) {
  for (const SweepResult* r : {&every_status(), &too_slow()}) {
    const auto records = parse_csv(sweep_csv(*r));
    const Json points = json_of(*r)["points"];
    ASSERT_EQ(records.size(), points.size() + 1);
    const auto& header = records.front();
    EXPECT_EQ(std::set<std::string>(header.begin(), header.end()).size(), header.size());
    for (std::size_t i = 0; i < points.size(); ++i) {
      ASSERT_EQ(records[i + 1].size(), header.size());
      for (std::size_t c = 0; c < header.size(); ++c) {
        std::string key = header[c];
        const std::string& cell = records[i + 1][c];
        std::string end = "value";
        for (const std::string suffix : {"low", "high"}) {
          if (key.ends_with("_" + suffix)) {
            key.resize(key.size() - suffix.size() - 1);
            end = suffix;
          }
        }
        Json value;
        if (const std::string shares = "decode_share_"; key.starts_with(shares)) {
          if (points[i].contains("decode_shares")) {
            value = points[i]["decode_shares"][key.substr(shares.size())];
          }
        } else if (points[i].contains(key)) {
          value = points[i][key];
        }
        if (value.is_null()) {
          EXPECT_EQ(cell, "") << header[c];
          continue;
        }
        if (is_interval(value)) value = value[end];
        if (value.is_string()) {
          EXPECT_EQ(cell, value.get<std::string>()) << header[c];
        } else {
          EXPECT_DOUBLE_EQ(std::stod(cell), value.get<double>()) << header[c];
        }
      }
    }
  }
}

TEST(SweepMarkdown, EveryTableHasAsManyCellsInEachRowAsInItsHeader) {
  for (const SweepResult* r : {&every_status(), &too_slow()}) {
    std::istringstream lines(sweep_markdown(*r));
    std::ptrdiff_t cells = 0;
    int tables = 0;
    for (std::string line; std::getline(lines, line);) {
      if (line.empty() || line.front() != '|') {
        cells = 0;
        continue;
      }
      std::ptrdiff_t bars = 0;
      for (std::size_t i = 0; i < line.size(); ++i) {
        if (line[i] == '|' && (i == 0 || line[i - 1] != '\\')) ++bars;
      }
      if (cells == 0) {
        cells = bars;
        ++tables;
      }
      EXPECT_EQ(bars, cells) << line;
      EXPECT_EQ(line.back(), '|');
    }
    EXPECT_EQ(tables, 4);  // answers, counts, list prices, points
  }
}

TEST(SweepMarkdown, SaysWhyAPointDoesNotRun) {
  const std::string text = sweep_markdown(every_status());
  EXPECT_THAT(text, testing::HasSubstr("## What does not run, and why"));
  EXPECT_THAT(text, testing::HasSubstr("h200_sxm has no fp4 peak"));
}

TEST(SweepJson, AListPriceOfNothingBreaksNoNumber) {
  SweepResult r = too_slow();
  Scenario s = r.scenario;
  s.list_prices = "free";
  const base::ScratchFolder folder;
  std::filesystem::copy(configs(), folder / "configs", std::filesystem::copy_options::recursive);
  folder.write("configs/prices/free.yaml",
               "date: \"2026\"\nsource: assumed\nprices:\n  - { model: deepseek-v4-flash, "
               "currency: USD, input: 0, output: 0 }\n");
  expect_plain(json_of(run_context_sweep(s, folder / "configs")), "");
}

}  // namespace
}  // namespace foretoken::analysis
