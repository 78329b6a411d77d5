// The program as its users run it: exit codes, the one line of an error, and what it leaves behind.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>
#include <string>
#include <thread>

#include "tests/cli/shell.h"

namespace foretoken {
namespace {

namespace fs = std::filesystem;
using base::content_of;
using base::ScratchFolder;
using testing::AllOf;
using testing::HasSubstr;
using testing::MatchesRegex;
using testing::StartsWith;
using Json = nlohmann::json;

const fs::path kConfigs = source_configs();

const std::string kSmall =
    "run v4-context-length --set name=small --set 'models=[deepseek-v4-flash]' "
    "--set 'contexts=[8K]' --set 'systems=[{name: hgx_h200, precision: fp8-index}]' ";

TEST(Cli, WrongCommandLinesEndWithTwo) {
  const Shell foretoken;
  for (const char* line :
       {"", "frobnicate", "count", "count --model deepseek-v4-pro",
        "count --model deepseek-v4-pro --context", "count --model deepseek-v4-pro --contxt 8K",
        "list nothing", "step --model deepseek-v4-pro --context 8K",
        "count --model deepseek-v4-pro --context 8K --format xml", "schema",
        "run v4-context-length --nonsense"}) {
    expect_refused(foretoken(line), 2, StartsWith("foretoken: "));
  }
}

TEST(Cli, ContextsThatAreNoCountsAreUsageErrors) {
  const Shell foretoken;
  for (const char* context : {"0", "-1", "8X", "8K,,16K", "8K,", "''", "1e6", "nan", "inf", "0x10",
                              "9999999999999999999999", "3G", "' '"}) {
    expect_refused(foretoken("count --model deepseek-v4-flash --context=" + std::string(context)),
                   2, StartsWith("foretoken: --context"));
  }
}

TEST(Cli, PlansThatCannotBeReadAreUsageErrors) {
  const Shell foretoken;
  for (const char* plan : {"tp", "tp=", "tp=0", "tp=-1", "tp=x", "zz=2", "tp=99999999999",
                           "overlap=some", "routing=x", "tp=1048576,dp=1048576"}) {
    expect_refused(foretoken("step --model deepseek-v4-flash --system hgx_h200 --context 8K "
                             "--precision fp8-index --plan=" +
                             std::string(plan)),
                   2, StartsWith("foretoken: plan: "));
  }
}

TEST(Cli, PlansThatAreNotPossibleHereEndWithFour) {
  const Shell foretoken;
  const std::string step =
      "step --model deepseek-v4-flash --system hgx_h200 --context 8K --precision fp8-index --plan ";
  expect_refused(foretoken(step + "tp=3"), 4, HasSubstr("deepseek-v4-flash cannot run as TP3"));
  expect_refused(foretoken(step + "dp=16"), 4,
                 HasSubstr("hgx_h200 has 8 devices; the plan needs 16"));
}

TEST(Cli, AModelThatDoesNotFitEndsWithFourAndSaysWhatIsMissing) {
  const Shell foretoken;
  expect_refused(foretoken("step --model deepseek-v4-pro --system hgx_h100 --context 8K "
                           "--precision fp8-index --batch 8"),
                 4,
                 AllOf(HasSubstr("deepseek-v4-pro as DP8 EP8 does not fit on hgx_h100"),
                       HasSubstr("are usable")));
}

TEST(Cli, ADtypeTheChipLacksEndsWithFourAndNamesBoth) {
  const Shell foretoken;
  expect_refused(
      foretoken("step --model deepseek-v4-flash --system hgx_h200 --context 8K --batch 8"), 4,
      StartsWith("foretoken: h200_sxm has no fp4 peak"));
  expect_refused(foretoken("step --model deepseek-v4-flash --system cloudmatrix384 --context 8K "
                           "--batch 64"),
                 4, HasSubstr("ascend_910c has no "));
}

TEST(Cli, UnknownNamesEndWithThree) {
  const Shell foretoken;
  expect_refused(foretoken("count --model deepseek-v9 --context 8K"), 3, HasSubstr("deepseek-v9"));
  expect_refused(foretoken("step --model deepseek-v4-pro --system hgx_h1000 --context 8K"), 3,
                 StartsWith("hgx_h1000: error: no such system; known: "));
  expect_refused(foretoken("run v5"), 3, StartsWith("v5: error: no such scenario; known: "));
  expect_refused(foretoken("run missing.yaml"), 3, StartsWith("missing.yaml: error: "));
  expect_refused(foretoken("count --model ./none/config.json --context 8K"), 3,
                 HasSubstr("none/config.json"));
  expect_refused(foretoken("step --model deepseek-v4-flash --system hgx_h200 --context 8K "
                           "--precision no-such"),
                 3, HasSubstr("precision/no-such.yaml"));
  expect_refused(foretoken("step --model deepseek-v4-flash --system hgx_h200 --context 8K "
                           "--stack no-such"),
                 3, HasSubstr("stacks/no-such.yaml"));
  expect_refused(foretoken("--configs /none list models"), 3, HasSubstr("/none"));
}

TEST(Cli, AVeryLongNameIsABadInputToo) {
  const Shell foretoken;
  const std::string name(5000, 'x');
  expect_refused(foretoken("step --context 8K --model deepseek-v4-flash --system " + name), 3,
                 StartsWith(name));
  expect_refused(foretoken("run " + name), 3, StartsWith(name));
  expect_refused(foretoken(kSmall + "--out " + name), 3, HasSubstr(name));
}

// The catalogue asks the file system and takes its answer for an internal error.
TEST(Cli, AVeryLongModelNameIsABadInputToo) {
  const Shell foretoken;
  const std::string name(5000, 'x');
  expect_refused(foretoken("count --model " + name + " --context 8K"), 3, StartsWith(name));
}

TEST(Cli, MistakesInFilesAreReportedWithTheirPlace) {
  struct Mistake {
    const char* file;
    const char* from;
    const char* to;
    const char* message;
  };
  for (const Mistake& m : std::vector<Mistake>{
           {"chips/h200_sxm.yaml", "    bandwidth: 4.8 TB/s", "    bandwith: 4.8 TB/s",
            "configs/chips/h200_sxm.yaml:[0-9]+:5: error: unknown key 'bandwith' in memory\\[0\\]; "
            "did you mean 'bandwidth'\\?\n"},
           {"chips/h200_sxm.yaml", "4.8 TB/s", "4.8 TB",
            "configs/chips/h200_sxm.yaml:[0-9]+:16: error: 'bandwidth' in memory\\[0\\]: "
            ".*B/s.*\n"},
           {"chips/h200_sxm.yaml", "capacity: 141 GB", "capacity: -141 GB",
            "configs/chips/h200_sxm.yaml:[0-9]+:15: error: 'capacity' in memory\\[0\\].*\n"},
           {"systems/hgx_h200.yaml", "chip: ", "chp: ",
            "configs/systems/hgx_h200.yaml:[0-9]+:1: error: unknown key 'chp'; did you mean "
            "'chip'\\?\n"},
           {"systems/hgx_h200.yaml", "topology: switch", "topology: swich",
            "configs/systems/hgx_h200.yaml:[0-9]+:15: error: .*switch.*\n"},
           {"systems/atlas_950_cabinet.yaml", "routing: two_path", "routing: two_pth",
            "configs/systems/atlas_950_cabinet.yaml:[0-9]+:10: error: .*two_path.*\n"},
           {"systems/atlas_950_cabinet.yaml", "    size: 8\n", "    size: 8\n    rails: true\n",
            "configs/systems/atlas_950_cabinet.yaml:[0-9]+:5: error: a full mesh has no "
            "rails\n"},
           {"systems/hgx_h200.yaml", "scale_up: true", "scale_up: true\n    shares_ports: true",
            "configs/systems/hgx_h200.yaml:[0-9]+:[0-9]+: error: .*shares_ports needs a switched "
            "dimension without rails just inside\n"},
           {"scenarios/v4-context-length.yaml", "tpot_limit", "tpot_limt",
            "configs/scenarios/v4-context-length.yaml:[0-9]+:3: error: unknown key 'tpot_limt' in "
            "serving; did you mean 'tpot_limit'\\?\n"},
           {"scenarios/v4-context-length.yaml", "tpot_limit: 50 ms", "tpot_limit: 50",
            "configs/scenarios/v4-context-length.yaml:[0-9]+:15: error: .*tpot_limit.*\n"},
           {"prices/hardware-2026-11.yaml", "pue: {", "pu: {",
            "configs/prices/hardware-2026-11.yaml:[0-9]+:1: error: unknown key 'pu'.*\n"},
       }) {
    Shell foretoken;
    foretoken.copy_configs();
    foretoken.edit(m.file, m.from, m.to);
    const Outcome o = foretoken("run v4-context-length --out result");
    EXPECT_EQ(o.code, 3) << m.to;
    EXPECT_THAT(foretoken.relative(o.err), MatchesRegex(m.message));
    EXPECT_FALSE(fs::exists(foretoken.folder / "result"));
  }
}

TEST(Cli, ABadPlanInAScenarioIsABadInputWithItsPlace) {
  Shell foretoken;
  foretoken.copy_configs();
  foretoken.edit("scenarios/v4-context-length.yaml", "plans: []", "plans: [\"dp=x\"]");
  const Outcome o = foretoken("run v4-context-length --out result");
  EXPECT_EQ(o.code, 3);
  EXPECT_THAT(foretoken.relative(o.err),
              MatchesRegex("configs/scenarios/v4-context-length.yaml:[0-9]+:[0-9]+: error: .*\n"));
}

TEST(Cli, HostileModelConfigurationsAreRefusedInOneLine) {
  const Shell foretoken;
  const std::string good = content_of(kConfigs / "models/deepseek-v4-flash.json");
  const auto changed = [&](const std::string& from, const std::string& to) {
    std::string text = good;
    const std::size_t at = text.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    return text.replace(at, from.size(), to);
  };
  const std::vector<std::string> texts = {
      "",
      "{",
      good.substr(0, good.size() / 2),
      "[]",
      "null",
      std::string("{\"a\": \0}", 8),
      std::string(100'000, '['),
      "{\"a\":" + std::string(10'000, '{'),
      changed("\"hidden_size\": 4096", "\"hidden_size\": 1e999"),
      changed("\"hidden_size\": 4096", "\"hidden_size\": -4096"),
      changed("\"hidden_size\": 4096", "\"hidden_size\": 9223372036854775807"),
      changed("\"hidden_size\": 4096", "\"hidden_size\": 4096.5"),
      changed("\"hidden_size\": 4096", "\"hidden_size\": \"4096\""),
      changed("\"hidden_size\": 4096", "\"hidden_size\": [4096]"),
      changed("\"hidden_size\": 4096", "\"hidden_size\": null"),
      changed("\"hidden_size\": 4096", "\"hidden_size\": 4096, \"hidden_size\": 4096"),
      changed("\"n_routed_experts\": 256", "\"n_routed_experts\": 0"),
      changed("\"num_experts_per_tok\": 6", "\"num_experts_per_tok\": 600"),
      changed("\"num_hidden_layers\": 43", "\"num_hidden_layers\": 4300000000"),
      changed("\"model_type\": \"deepseek_v4\"", "\"model_type\": \"llama\""),
      changed("\"hidden_size\": 4096,", ""),
      changed("\"quantization_config\": {", "\"quantization_config\": 7, \"x\": {"),
  };
  for (std::size_t i = 0; i < texts.size(); ++i) {
    foretoken.folder.write("config.json", texts[i]);
    SCOPED_TRACE(texts[i].substr(0, 60) + " (" + std::to_string(i) + ")");
    expect_refused(foretoken("count --model ./config.json --context 8K"), 3,
                   StartsWith("./config.json"));
  }
}

// Divides by a size that was never read.
TEST(Cli, AnEmptyModelConfigurationIsRefusedInOneLine) {
  const Shell foretoken;
  foretoken.folder.write("config.json", "{}");
  expect_refused(foretoken("count --model ./config.json --context 8K"), 3,
                 StartsWith("./config.json"));
}

TEST(Cli, CountsNeverOverflowSilently) {
  const Shell foretoken;
  for (const char* model :
       {"deepseek-v4-pro", "deepseek-v4-flash", "deepseek-v3.2", "deepseek-v4.1-flash"}) {
    for (const char* context : {"1M", "16M", "256M", "2147483648"}) {
      for (const char* phase : {"decode", "prefill"}) {
        const Outcome o = foretoken(std::string("count --format json --model ") + model +
                                    " --context " + context + " --phase " + phase);
        SCOPED_TRACE(std::string(model) + " " + context + " " + phase);
        if (o.code != 0) {
          expect_refused(o, o.code, HasSubstr("context"));
          continue;
        }
        const Json row = Json::parse(o.out)["rows"][0];
        double sum = 0.0;
        for (const auto& [name, flops] : row["flops"]["by_component"].items()) {
          EXPECT_GE(flops.get<double>(), 0.0) << name;
          sum += flops.get<double>();
        }
        EXPECT_NEAR(row["flops"]["total"].get<double>(), sum, 1e-9 * sum);
        EXPECT_GT(row["kv_bytes"]["total"].get<double>(), 0.0);
      }
    }
  }
}

std::set<std::string> keys(const Json& object) {
  std::set<std::string> out;
  for (const auto& [key, value] : object.items()) out.insert(key);
  return out;
}

TEST(Cli, CountPrintsTheDocumentedJson) {
  const Shell foretoken;
  const Outcome o = foretoken("count --model deepseek-v4-flash --context 8K,1M --format json");
  ASSERT_EQ(o.code, 0);
  EXPECT_EQ(o.err, "");
  const Json j = Json::parse(o.out);
  EXPECT_EQ(j["model"], "deepseek-v4-flash");
  EXPECT_NEAR(j["parameters"]["total"].get<double>(), 284e9, 1e9);
  EXPECT_NEAR(j["parameters"]["active"].get<double>(), 13e9, 0.5e9);
  ASSERT_EQ(j["rows"].size(), 2U);
  for (const Json& row : j["rows"]) {
    EXPECT_EQ(keys(row), (std::set<std::string>{"context", "flops", "kv_bytes"}));
    EXPECT_EQ(keys(row["flops"]),
              (std::set<std::string>{"total", "fp8_equivalent", "by_component", "by_precision"}));
    EXPECT_EQ(keys(row["flops"]["by_precision"]),
              (std::set<std::string>{"bf16", "fp8", "fp4_fp8", "fp4"}));
    EXPECT_EQ(keys(row["kv_bytes"]),
              (std::set<std::string>{"global", "window", "tail", "total", "read_per_token"}));
    const Json& p = row["flops"]["by_precision"];
    const double total = p["bf16"].get<double>() + p["fp8"].get<double>() +
                         p["fp4_fp8"].get<double>() + p["fp4"].get<double>();
    EXPECT_EQ(row["flops"]["total"].get<double>(), total);
    EXPECT_NEAR(row["flops"]["fp8_equivalent"].get<double>(),
                total + p["bf16"].get<double>() - 0.5 * p["fp4"].get<double>(), 1.0);
    const Json& kv = row["kv_bytes"];
    EXPECT_EQ(kv["total"].get<double>(),
              kv["global"].get<double>() + kv["window"].get<double>() + kv["tail"].get<double>());
  }
  EXPECT_EQ(j["rows"][0]["context"], 8192);
  EXPECT_EQ(j["rows"][1]["context"], 1048576);
  for (const char* key : {"model", "parameters", "rows"}) EXPECT_TRUE(j.contains(key));
}

TEST(Cli, WeightsOfFp8EquivalentFlopsAreOptions) {
  const Shell foretoken;
  const auto equivalent = [&](const std::string& weights) {
    const Outcome o = foretoken(
        "count --model deepseek-v4-flash --context 8K --format json --weights=" + weights);
    EXPECT_EQ(o.code, 0) << o.err;
    return Json::parse(o.out)["rows"][0]["flops"];
  };
  const Json same = equivalent("bf16=1,fp4=1");
  EXPECT_EQ(same["fp8_equivalent"].get<double>(), same["total"].get<double>());
  for (const char* bad : {"bf17=2", "bf16", "bf16=-1", "bf16=x", "bf16=nan"}) {
    expect_refused(
        foretoken("count --model deepseek-v4-flash --context 8K --weights=" + std::string(bad)), 2,
        StartsWith("foretoken: --weights"));
  }
}

TEST(Cli, EveryCommandsFormatsParseAndStandardOutputHoldsResultsOnly) {
  const Shell foretoken;
  for (const std::string& line : std::vector<std::string>{
           "count --model deepseek-v3.2 --context 8K,64K",
           "step --model deepseek-v4-flash --system hgx_h200 --precision fp8-index --context 8K "
           "--batch 64",
           "step --model deepseek-v4-flash --system hgx_h200 --precision fp8-index --context 8K "
           "--batch 64 --evaluator simulate",
           "list models", "list systems", kSmall + "--out o"}) {
    SCOPED_TRACE(line);
    const Outcome json = foretoken(line + " --format json");
    ASSERT_EQ(json.code, 0) << json.err;
    EXPECT_TRUE(Json::accept(json.out)) << json.out.substr(0, 200);
    EXPECT_EQ(json.err, "");
    const Outcome csv = foretoken(line + " --format csv");
    ASSERT_EQ(csv.code, 0) << csv.err;
    // Rectangular: no cell here holds a comma except in quotes.
    std::set<std::ptrdiff_t> widths;
    std::istringstream lines(csv.out);
    for (std::string text; std::getline(lines, text);) {
      bool quoted = false;
      std::ptrdiff_t commas = 0;
      for (const char c : text) {
        if (c == '"') quoted = !quoted;
        if (c == ',' && !quoted) ++commas;
      }
      widths.insert(commas);
    }
    EXPECT_EQ(widths.size(), 1U);
    EXPECT_EQ(csv.err, "");
    EXPECT_EQ(foretoken(line).code, 0);
  }
}

TEST(Cli, SimulateIsNeverBelowEstimateAndEqualWithoutOverlap) {
  const Shell foretoken;
  const auto step = [&](const std::string& more) {
    const Outcome o = foretoken(
        "step --model deepseek-v4-flash --system hgx_h200 --precision "
        "fp8-index --context 8K --batch 256 --format json " +
        more);
    EXPECT_EQ(o.code, 0) << o.err;
    return Json::parse(o.out)["step_latency_us"].get<double>();
  };
  const double quick = step("--plan dp=8,overlap=none");
  EXPECT_NEAR(step("--plan dp=8,overlap=none --evaluator simulate"), quick, 1e-9 * quick);
  EXPECT_GE(step("--plan dp=8,overlap=waves --evaluator simulate"),
            step("--plan dp=8,overlap=waves") * (1.0 - 1e-9));
}

std::map<std::string, std::string> files_of(const fs::path& folder) {
  std::map<std::string, std::string> out;
  for (const auto& entry : fs::directory_iterator(folder)) {
    out[entry.path().filename().string()] = content_of(entry.path());
  }
  return out;
}

TEST(Cli, AllDevicesAnswerAsOneAndSayWhatTheirLinksDid) {
  const Shell foretoken;
  const std::string step =
      "step --model deepseek-v4-pro --system atlas_950_cabinet --precision ascend-950 --context 8K "
      "--batch 1024 --plan dp=64,overlap=waves --evaluator simulate --format json ";
  const Outcome one = foretoken(step);
  const Outcome all = foretoken(step + "--devices all --timeline step.json --timeline-devices 2");
  ASSERT_EQ(all.code, 0) << all.err;
  EXPECT_EQ(all.err, "wrote step.json\n");
  const Json a = Json::parse(all.out);
  EXPECT_NEAR(a["step_latency_us"].get<double>(),
              Json::parse(one.out)["step_latency_us"].get<double>(), 1e-2);
  EXPECT_EQ(a["simulated_devices"], 64);
  EXPECT_GT(a["link_utilisation"]["board_mesh"]["busiest"].get<double>(), 0.0);
  EXPECT_TRUE(
      Json::parse(base::content_of(foretoken.folder / "step.json")).contains("traceEvents"));
  // Part of the traffic takes the Clos.
  const Outcome detour = foretoken(step + "--devices all --routing all_path");
  EXPECT_GT(Json::parse(detour.out)["link_utilisation"]["clos"]["mean"].get<double>(), 0.0);
}

TEST(Cli, WhatNeedsAllDevicesSaysSo) {
  const Shell foretoken;
  const std::string step =
      "step --model deepseek-v4-flash --system hgx_b200 --context 8K --batch 8 ";
  expect_refused(foretoken(step + "--devices all"), 2,
                 HasSubstr("--devices all needs --evaluator simulate"));
  expect_refused(foretoken(step + "--evaluator simulate --instances 2"), 2,
                 HasSubstr("need --devices all"));
  expect_refused(foretoken(step + "--evaluator simulate --devices all --cache-to 8"), 2,
                 HasSubstr("only prompts hand over their cache"));
  expect_refused(foretoken(step + "--plan dp=8 --evaluator simulate --devices all --instances 2"),
                 4, HasSubstr("hgx_b200 has 8 devices; 16 are needed"));
}

TEST(Cli, ASecondRunOverTheFirstLeavesIdenticalFiles) {
  const Shell foretoken;
  ASSERT_EQ(foretoken(kSmall + "--out o").code, 0);
  const auto first = files_of(foretoken.folder / "o");
  EXPECT_THAT(first, testing::UnorderedElementsAre(
                         testing::Key("results.json"), testing::Key("results.csv"),
                         testing::Key("report.md"), testing::Key("report.html")));
  ASSERT_EQ(foretoken(kSmall + "--out o").code, 0);
  EXPECT_EQ(files_of(foretoken.folder / "o"), first);
}

TEST(Cli, TheDefaultFolderIsNamedAfterTheScenario) {
  const Shell foretoken;
  ASSERT_EQ(foretoken(kSmall).code, 0);
  EXPECT_TRUE(fs::exists(foretoken.folder / "out/small/results.json"));
}

TEST(Cli, OutputThatCannotBeWrittenEndsWithThreeAndNamesThePath) {
  const Shell foretoken;
  foretoken.folder.write("plain", "kept");
  for (const char* folder : {"plain", "plain/below", "plain/far/below", "/proc/none"}) {
    expect_refused(foretoken(kSmall + "--out " + folder), 3,
                   AllOf(HasSubstr(folder), HasSubstr(": error: ")));
  }
  EXPECT_EQ(content_of(foretoken.folder / "plain"), "kept");
  expect_refused(foretoken("schema --out plain"), 3, HasSubstr("plain: error: "));
  expect_refused(foretoken("trace --model deepseek-v4-flash --context 8K --out plain/x"), 3,
                 HasSubstr("plain: error: "));
  // A full device: results that cannot be printed are an error too.
  const std::string line = "'" FORETOKEN_PROGRAM "' --configs '" + kConfigs.string() +
                           "' count --model deepseek-v4-flash --context 8K > /dev/full 2>/dev/null";
  const int status = std::system(line.c_str());
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 3);
}

TEST(Cli, OverridesChangeTheRunAndPrintConfigCanBeReadAgain) {
  const Shell foretoken;
  const Outcome printed =
      foretoken("run v4-context-length --set 'serving.tpot_limit=20 ms' --print-config");
  ASSERT_EQ(printed.code, 0);
  EXPECT_THAT(printed.out, HasSubstr("tpot_limit: 20 ms"));
  EXPECT_FALSE(fs::exists(foretoken.folder / "out"));
  foretoken.folder.write("again.yaml", printed.out);
  EXPECT_EQ(foretoken("run again.yaml --print-config").out, printed.out);
  for (const char* bad : {"nonsense", "=3"}) {
    expect_refused(foretoken("run v4-context-length --set " + std::string(bad)), 2,
                   StartsWith("foretoken: "));
  }
  expect_refused(foretoken("run v4-context-length --set servin.tpot_limit=3ms"), 3,
                 HasSubstr("servin"));
  expect_refused(foretoken("run v4-context-length --set serving.tpot_limit=fast"), 3,
                 HasSubstr("tpot_limit"));
}

TEST(Cli, AnInterruptedRunLeavesWholeFilesOrNone) {
  for (const int milliseconds : {5, 20, 60, 150, 300, 600, 1000, 1200, 1300, 1400}) {
    const ScratchFolder folder;
    const std::string out = (folder / "o").string();
    const std::string configs = kConfigs.string();
    const pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      const int null = ::open("/dev/null", O_WRONLY);
      ::dup2(null, 1);
      ::dup2(null, 2);
      ::execl(FORETOKEN_PROGRAM, "foretoken", "--configs", configs.c_str(), "run",
              "v4-context-length", "--out", out.c_str(), nullptr);
      ::_exit(99);
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds));
    ::kill(child, SIGINT);
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    if (WIFSIGNALED(status)) {
      // Before main() had set its handler.
      EXPECT_EQ(WTERMSIG(status), SIGINT);
      EXPECT_LT(milliseconds, 60);
    } else {
      EXPECT_TRUE(WEXITSTATUS(status) == 130 || WEXITSTATUS(status) == 0) << WEXITSTATUS(status);
    }
    if (!fs::exists(out)) continue;
    for (const auto& [name, content] : files_of(out)) {
      EXPECT_THAT(name, testing::AnyOf("results.json", "results.csv", "report.md", "report.html"));
      if (name == "results.json") {
        EXPECT_TRUE(Json::accept(content));
      }
      if (name == "report.html") {
        EXPECT_THAT(content, HasSubstr("</html>"));
      }
    }
  }
}

TEST(Cli, SchemasAreJsonAndThoseInConfigsAreCurrent) {
  const Shell foretoken;
  ASSERT_EQ(foretoken("schema --out s").code, 0);
  const auto written = files_of(foretoken.folder / "s");
  EXPECT_GE(written.size(), 9U);
  for (const auto& [name, content] : written) {
    EXPECT_THAT(name, testing::EndsWith(".schema.json"));
    ASSERT_TRUE(Json::accept(content)) << name;
    EXPECT_EQ(Json::parse(content)["$schema"], "https://json-schema.org/draft/2020-12/schema");
  }
  if (fs::exists(kConfigs / "schemas")) {
    EXPECT_EQ(files_of(kConfigs / "schemas"), written);
  }
}

TEST(Cli, ListNamesTheFilesOfAFolder) {
  const Shell foretoken;
  EXPECT_EQ(foretoken("list scenarios").out, "expert-waves\nv4-context-length\n");
  EXPECT_THAT(foretoken("list models").out, HasSubstr("deepseek-v4-pro\n"));
  EXPECT_THAT(foretoken("list chips").out, HasSubstr("h100_sxm\n"));
}

TEST(Cli, RunsAStudyOfExpertWaves) {
  const Shell foretoken;
  const Outcome o = foretoken("run expert-waves --set 'practice.tokens=[8]' --out study");
  ASSERT_EQ(o.code, 0) << o.err;
  EXPECT_THAT(o.out, HasSubstr("deepseek-v4-pro    atlas_950_cabinet  64"));
  for (const char* name : {"results.json", "results.csv", "report.md", "report.html"}) {
    EXPECT_TRUE(fs::exists(foretoken.folder / "study" / name)) << name;
  }
  const Outcome wrong = foretoken("run expert-waves --set 'practice.tokens=[0]'");
  EXPECT_EQ(wrong.code, 3);
  EXPECT_THAT(wrong.err, HasSubstr("practice"));
  const Outcome many =
      foretoken("run expert-waves --set 'practice.systems=[{name: hgx_b200, ranks: [64]}]'");
  EXPECT_EQ(many.code, 4);
}

TEST(Cli, HelpAndVersionGoToStandardOutput) {
  const Shell foretoken;
  for (const char* line : {"--help", "run --help", "--version"}) {
    const Outcome o = foretoken(line);
    EXPECT_EQ(o.code, 0);
    EXPECT_NE(o.out, "");
    EXPECT_EQ(o.err, "");
  }
}

TEST(Cli, AModelFileStandsForItsName) {
  const Shell foretoken;
  const std::string path = (kConfigs / "models/deepseek-v4-flash.json").string();
  const Json by_path =
      Json::parse(foretoken("count --context 8K --format json --model '" + path + "'").out);
  const Json by_name =
      Json::parse(foretoken("count --context 8K --format json --model deepseek-v4-flash").out);
  EXPECT_EQ(by_path["rows"], by_name["rows"]);
}

}  // namespace
}  // namespace foretoken
