// The program: parses the command line, calls one command, turns errors into one line and an exit
// code.
#include <CLI/CLI.hpp>

#include <unistd.h>
#include <cmath>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <iostream>

#include "analysis/cli/commands.h"
#include "analysis/version.h"
#include "sim/base/output.h"
#include "sim/base/quantity.h"

namespace {

namespace fs = std::filesystem;
namespace cli = foretoken::analysis::cli;
using foretoken::base::ConfigError;
using foretoken::base::ExitCode;
using foretoken::base::UnsupportedError;
using foretoken::base::UsageError;
using foretoken::hwmodels::FabricRouting;
using foretoken::workloads::Phase;

extern "C" void on_signal(int signal) {
  foretoken::base::remove_temporaries_on_signal();
  _exit(signal == SIGINT ? static_cast<int>(ExitCode::kInterrupted) : 128 + signal);
}

// The configurations: --configs, else $FORETOKEN_CONFIGS, else a `configs` folder in the working
// directory, else the one of the source tree that the program was built in.
fs::path find_configs(const std::string& given) {
  std::error_code error;
  if (!given.empty()) {
    if (!fs::is_directory(given, error)) throw ConfigError({given, 0, 0}, "is not a folder");
    return given;
  }
  if (const char* variable = std::getenv("FORETOKEN_CONFIGS"); variable != nullptr) {
    if (!fs::is_directory(variable, error)) {
      throw ConfigError({variable, 0, 0}, "FORETOKEN_CONFIGS does not name a folder");
    }
    return variable;
  }
  if (fs::is_directory("configs/models", error)) return "configs";
  fs::path folder = fs::read_symlink("/proc/self/exe", error).parent_path();
  for (int up = 0; up < 4 && !folder.empty(); ++up, folder = folder.parent_path()) {
    if (fs::is_directory(folder / "configs" / "models", error)) return folder / "configs";
  }
  throw UsageError("no configs folder found; name it with --configs");
}

std::int64_t count_value(const std::string& option, const std::string& text, std::int64_t least) {
  constexpr std::int64_t kMost = std::int64_t{1} << 31;
  std::int64_t value = 0;
  try {
    value = foretoken::base::parse_count(text);
  } catch (const std::invalid_argument& error) {
    throw UsageError(option + ": " + error.what());
  }
  if (value < least || value > kMost) {
    throw UsageError(option + ": " + text + " is not between " + std::to_string(least) + " and " +
                     std::to_string(kMost));
  }
  return value;
}

std::vector<std::int64_t> count_list(const std::string& option, const std::string& text) {
  std::vector<std::int64_t> values;
  std::size_t begin = 0;
  while (begin <= text.size()) {
    const std::size_t comma = std::min(text.find(',', begin), text.size());
    values.push_back(count_value(option, text.substr(begin, comma - begin), 1));
    begin = comma + 1;
  }
  return values;
}

// "bf16=2,fp8=1,fp4_fp8=1,fp4=0.5"
foretoken::workloads::PrecisionWeights weight_list(const std::string& text) {
  foretoken::workloads::PrecisionWeights weights = foretoken::workloads::kFp8Equivalent;
  std::size_t begin = 0;
  while (begin < text.size()) {
    const std::size_t comma = std::min(text.find(',', begin), text.size());
    const std::string item = text.substr(begin, comma - begin);
    begin = comma + 1;
    const std::size_t equals = item.find('=');
    const auto& names = foretoken::workloads::kPrecisionNames;
    const auto found = std::find(names.begin(), names.end(), item.substr(0, equals));
    if (equals == std::string::npos || found == names.end()) {
      throw UsageError("--weights: '" + item + "' is not one of bf16=, fp8=, fp4_fp8=, fp4=");
    }
    double value = 0.0;
    try {
      value = foretoken::base::parse_quantity(item.substr(equals + 1),
                                              foretoken::base::UnitKind::kNumber);
    } catch (const std::invalid_argument& error) {
      throw UsageError(std::string("--weights: ") + error.what());
    }
    if (value < 0.0) throw UsageError("--weights: '" + item + "' is negative");
    weights[static_cast<std::size_t>(found - names.begin())] = value;
  }
  return weights;
}

struct StepText {
  std::string batch = "1";
  std::string context;
  std::string cached = "0";
  std::string draft = "0";
  std::string phase = "decode";
  std::string evaluator = "estimate";
  std::string devices = "class";
  std::string routing;
  std::string instances = "1";
  std::string placement = "packed";
  std::string cache_to;
  std::string timeline_devices = "8";
};

void add_step_options(CLI::App& app, cli::StepOptions& o, StepText& text) {
  app.add_option("--model", o.model, "name in configs/models, or a config.json")->required();
  app.add_option("--phase", text.phase, "decode or prefill")
      ->check(CLI::IsMember({"decode", "prefill"}));
  app.add_option("--batch", text.batch, "sequences over all ranks");
  app.add_option("--context", text.context,
                 "visible positions at the end of the step, such as 128K")
      ->required();
  app.add_option("--cached", text.cached, "prefill: tokens of the context already cached");
  app.add_option("--draft", text.draft, "decode: draft tokens verified and proposed per step");
  app.add_option("--plan", o.plan, "such as tp=8 or dp=64,ep=64,overlap=waves");
  app.add_option("--precision", o.precision, "a file in configs/precision");
}

void finish_step(cli::StepOptions& o, const StepText& text) {
  o.batch = count_value("--batch", text.batch, 1);
  o.context = count_value("--context", text.context, 1);
  o.cached = count_value("--cached", text.cached, 0);
  o.draft_tokens = count_value("--draft", text.draft, 0);
  if (o.draft_tokens > 64) throw UsageError("--draft: at most 64");
  o.phase = text.phase == "decode" ? Phase::kDecode : Phase::kPrefill;
  o.simulate = text.evaluator == "simulate";
  o.all_devices = text.devices == "all";
  if (!text.routing.empty()) {
    o.routing = text.routing == "direct"     ? FabricRouting::kDirect
                : text.routing == "two_path" ? FabricRouting::kTwoPath
                                             : FabricRouting::kAllPath;
  }
  o.instances = count_value("--instances", text.instances, 1);
  o.strided = text.placement == "strided";
  if (!text.cache_to.empty()) o.cache_to = count_value("--cache-to", text.cache_to, 1);
  o.timeline_devices = count_value("--timeline-devices", text.timeline_devices, 1);
  if (o.all_devices) {
    if (!o.simulate) throw UsageError("--devices all needs --evaluator simulate");
    if (o.cache_to && o.phase != Phase::kPrefill) {
      throw UsageError("--cache-to: only prompts hand over their cache");
    }
    return;
  }
  if (o.instances > 1 || o.strided || o.cache_to || !o.timeline.empty()) {
    throw UsageError(
        "--instances, --placement, --cache-to and --timeline need --devices all and --evaluator "
        "simulate");
  }
}

struct ReferenceText {
  std::string carrier = "f64";
  std::string arithmetic = "exact";
  std::string cache_quantisation = "auto";
  std::string activation_quantisation = "auto";
  std::string index_scores = "f32";
  std::string output_groups = "bf16";
  std::string shared_clamp = "on";
  std::string logits = "all";
  std::string prefill = "0";
  std::string generate = "0";
  std::string seed = "0";
  std::vector<std::string> dump;
  std::string study;
  bool ignore_eos = false;
};

void add_reference_options(CLI::App& app, cli::ReferenceCommand& o, ReferenceText& text) {
  app.add_option("--checkpoint", o.checkpoint, "folder with config.json and *.safetensors")
      ->required();
  app.add_option("--tokens", o.tokens, "JSON list of token ids, or an object with input_ids")
      ->required();
  app.add_option("--out", o.session.out, "safetensors file with the logits and what --dump names");
  app.add_option("--prefill", text.prefill,
                 "tokens in the first step (default all); the rest one by one");
  app.add_option("--carrier", text.carrier,
                 "storage between operators: f64, f32 or bf16 as released")
      ->check(CLI::IsMember({"f64", "f32", "bf16"}));
  app.add_option("--arithmetic", text.arithmetic,
                 "exact: FP64 inside operators; hardware: FP32 in the kernels' order")
      ->check(CLI::IsMember({"exact", "hardware"}));
  app.add_option("--cache-quantisation", text.cache_quantisation,
                 "FP8 entries, FP4 index: auto = as the checkpoint is")
      ->check(CLI::IsMember({"auto", "on", "off"}));
  app.add_option("--activation-quantisation", text.activation_quantisation,
                 "FP8 inputs of products: auto = where weights are FP8 or FP4")
      ->check(CLI::IsMember({"auto", "on", "off"}));
  app.add_option("--index-scores", text.index_scores, "f32, or bf16 as serving keeps them")
      ->check(CLI::IsMember({"f32", "bf16"}));
  app.add_option("--output-groups", text.output_groups,
                 "inputs of the grouped output projection: bf16 as released, fp8 as served")
      ->check(CLI::IsMember({"bf16", "fp8"}));
  app.add_option("--shared-clamp", text.shared_clamp,
                 "clamp in the shared expert: on (current release) or off (first release)")
      ->check(CLI::IsMember({"on", "off"}));
  app.add_option("--dump", text.dump, "further tensors: NAME[,NAME...], * matches anything")
      ->delimiter(',');
  app.add_option("--logits", text.logits, "of the prefill: all tokens or the last")
      ->check(CLI::IsMember({"all", "last"}));
  app.add_option("--generate", text.generate, "further tokens to produce");
  app.add_option("--temperature", o.session.sampling.temperature, "0 = greedy")
      ->check(CLI::Range(0.0, 100.0));
  app.add_option("--top-p", o.session.sampling.top_p, "share of probability to draw from")
      ->check(CLI::Range(0.0, 1.0));
  app.add_option("--seed", text.seed, "of the draws");
  app.add_flag("--ignore-eos", text.ignore_eos, "do not stop at eos_token_id");
  app.add_option("--study", text.study,
                 "instead of a run, what quantising costs: index-precision, kv-precision, "
                 "expert-precision")
      ->check(CLI::IsMember(std::vector<std::string>(foretoken::reference::kStudyNames.begin(),
                                                     foretoken::reference::kStudyNames.end())));
  app.add_option("--report", o.report, "Markdown file of the study");
  app.add_option("--trace", o.trace, "file for the executed operators, - for standard output");
}

void finish_reference(cli::ReferenceCommand& o, const ReferenceText& text) {
  namespace r = foretoken::reference;
  const auto switch_of = [](const std::string& s) {
    return s == "auto" ? r::Switch::kAuto : s == "on" ? r::Switch::kOn : r::Switch::kOff;
  };
  r::ReferenceOptions& options = o.session.reference;
  options.carrier = text.carrier == "f64"   ? r::Carrier::kF64
                    : text.carrier == "f32" ? r::Carrier::kF32
                                            : r::Carrier::kBf16;
  options.arithmetic =
      text.arithmetic == "exact" ? r::Arithmetic::kExact : r::Arithmetic::kHardware;
  options.kv_quantisation = switch_of(text.cache_quantisation);
  options.index_quantisation = options.kv_quantisation;
  options.activation_quantisation = switch_of(text.activation_quantisation);
  options.bf16_index_scores = text.index_scores == "bf16";
  options.quantised_output_groups = text.output_groups == "fp8";
  options.clamp_shared_expert = text.shared_clamp == "on";
  // CLI::Range lets a NaN pass.
  if (std::isnan(o.session.sampling.temperature))
    throw UsageError("--temperature: nan is no number");
  if (std::isnan(o.session.sampling.top_p)) throw UsageError("--top-p: nan is no number");
  o.session.prefill = count_value("--prefill", text.prefill, 0);
  o.session.generate = count_value("--generate", text.generate, 0);
  o.session.sampling.seed = static_cast<std::uint64_t>(count_value("--seed", text.seed, 0));
  o.session.all_logits = text.logits == "all";
  o.session.stop_at_eos = !text.ignore_eos;
  o.session.dump = text.dump;
  if (!text.study.empty()) {
    const auto& names = r::kStudyNames;
    o.study =
        static_cast<r::Study>(std::find(names.begin(), names.end(), text.study) - names.begin());
    if (!o.session.out.empty() || !o.trace.empty() || o.session.generate > 0 ||
        !o.session.dump.empty()) {
      throw UsageError("--study goes without --out, --dump, --trace and --generate");
    }
    return;
  }
  if (!o.report.empty()) throw UsageError("--report goes with --study");
  if (o.session.out.empty() && !o.session.dump.empty()) {
    throw UsageError("--dump needs --out, a file to write to");
  }
  if (o.session.out.empty() && o.session.generate == 0 && o.trace.empty()) {
    throw UsageError("nothing to do: give --out, --generate, --trace or --study");
  }
}

struct CheckpointText {
  std::string seed;
  std::vector<std::string> quantise;
  std::string dequantise;
  std::string shard_size = "2 GB";
};

void add_checkpoint_options(CLI::App& app, cli::CheckpointCommand& o, CheckpointText& text) {
  CLI::Option* model = app.add_option(
      "--model", o.model, "random weights for it: name in configs/models, or a config.json");
  app.add_option("--seed", text.seed, "of the random weights; default 0")->needs(model);
  CLI::Option* from =
      app.add_option("--from", o.from.folder, "checkpoint to convert")->excludes(model);
  CLI::Option* quantise =
      app.add_option("--quantise", text.quantise,
                     "experts=mxfp4|mxfp4-floor|fp8|none,linear=fp8|none; left out = none")
          ->delimiter(',')
          ->needs(from);
  app.add_option("--dequantise", text.dequantise, "FP8 and FP4 weights to f32 or bf16")
      ->check(CLI::IsMember({"f32", "bf16"}))
      ->needs(from)
      ->excludes(quantise);
  app.add_option("--config", o.from.config, "config.json to start from in place of the folder's")
      ->needs(from);
  app.add_option("--out", o.target.folder, "folder to write")->required();
  app.add_option("--shard-size", text.shard_size, "largest file, such as 2GB; default 2 GB");
  app.add_flag("--force", o.target.overwrite, "replace a checkpoint that is there");
}

// "experts=mxfp4" or "linear=fp8"
void read_quantise(const std::string& item, foretoken::reference::QuantiseFormats& formats) {
  using To = foretoken::reference::QuantiseTo;
  const std::size_t equals = std::min(item.find('='), item.size());
  const std::string what = item.substr(0, equals);
  const std::string to = item.substr(std::min(equals + 1, item.size()));
  const bool experts = what == "experts";
  if (to == "none" || to == "fp8") {
    (experts ? formats.experts : formats.linear) = to == "fp8" ? To::kFp8 : To::kNone;
  } else if (experts && (to == "mxfp4" || to == "mxfp4-floor")) {
    formats.experts = to == "mxfp4" ? To::kMxfp4 : To::kMxfp4Floor;
  } else {
    throw UsageError("--quantise: '" + item +
                     "' is not one of experts=mxfp4|mxfp4-floor|fp8|none, linear=fp8|none");
  }
  if (!experts && what != "linear") {
    throw UsageError("--quantise: '" + item + "' names neither experts nor linear");
  }
}

void finish_checkpoint(cli::CheckpointCommand& o, const CheckpointText& text) {
  using To = foretoken::reference::QuantiseTo;
  if (o.model.empty() && o.from.folder.empty()) {
    throw UsageError("checkpoint: give --model for random weights, or --from to convert");
  }
  if (!text.seed.empty()) {
    o.seed = static_cast<std::uint64_t>(count_value("--seed", text.seed, 0));
  }
  for (const std::string& item : text.quantise) read_quantise(item, o.quantise);
  if (!text.dequantise.empty()) {
    o.dequantise = text.dequantise == "f32" ? foretoken::workloads::Dtype::kFp32
                                            : foretoken::workloads::Dtype::kBf16;
  }
  if (o.model.empty() && !o.dequantise && o.quantise.experts == To::kNone &&
      o.quantise.linear == To::kNone) {
    throw UsageError("checkpoint: nothing to convert; give --quantise or --dequantise");
  }
  double bytes = 0.0;
  try {
    bytes = foretoken::base::parse_quantity(text.shard_size, foretoken::base::UnitKind::kBytes);
  } catch (const std::invalid_argument& error) {
    throw UsageError(std::string("--shard-size: ") + error.what());
  }
  if (!(bytes >= 1.0 && bytes <= 1e15)) {
    throw UsageError("--shard-size: " + text.shard_size + " is not between 1 B and 1 PB");
  }
  o.target.shard_bytes = static_cast<std::uint64_t>(bytes);
}

std::string joined(const std::vector<std::string>& items, const char* between) {
  std::string out;
  for (const std::string& item : items) out += (out.empty() ? "" : between) + item;
  return out;
}

// As typed, in one order.
std::string calibrate_command(const cli::CalibrateOptions& o) {
  std::string out = "foretoken calibrate --chip " + joined(o.chips, ",");
  const auto add = [&](const char* option, const std::string& value) {
    if (!value.empty()) out += std::string(" ") + option + " " + value;
  };
  add("--fit", joined(o.fitted, ","));
  add("--holdout", o.held_out);
  add("--out", o.out);
  add("--errors", o.errors);
  add("--report", o.report);
  add("--data", joined(o.data, " "));
  return out;
}

// "2%" or "0.02"
double tolerance_value(const std::string& text) {
  const bool percent = text.ends_with('%');
  double value = 0.0;
  try {
    value = foretoken::base::parse_quantity(percent ? text.substr(0, text.size() - 1) : text,
                                            foretoken::base::UnitKind::kNumber);
  } catch (const std::invalid_argument& error) {
    throw UsageError(std::string("--tolerance: ") + error.what());
  }
  if (percent) value /= 100.0;
  if (!(value >= 0.0 && value <= 10.0)) {
    throw UsageError("--tolerance: " + text + " is not between 0 and 1000%");
  }
  return value;
}

struct KernelText {
  cli::KernelRunOptions run;
  cli::KernelVerifyOptions verify;
  cli::KernelCheckOptions check;
  std::string evaluator = "estimate";
  std::string tolerance = "2%";
};

void add_kernel_commands(CLI::App& app, KernelText& text,
                         std::function<ExitCode(const cli::Context&)>& action) {
  CLI::App* kernel = app.add_subcommand("kernel", "tile programs: time, verify and gate designs");
  kernel->require_subcommand(1);
  kernel->fallthrough();
  kernel->add_subcommand("list", "the designs that are there")->callback([&action] {
    action = [](const cli::Context& context) { return cli::kernel_list(context); };
  });

  CLI::App* run = kernel->add_subcommand("run", "times one design on one chip");
  run->add_option("design", text.run.design, "a name in configs/designs, or a file")->required();
  run->add_option("--chip", text.run.chip, "a name in configs/chips")->required();
  run->add_option("--case", text.run.shape_name,
                  "one of the design's real shapes; default the first");
  run->add_option("--shape", text.run.shape, "key=value[,...], such as m=64,format=bf16")
      ->delimiter(',')
      ->allow_extra_args(false);
  run->add_option("--evaluator", text.evaluator, "estimate (closed form) or simulate (SystemC)")
      ->check(CLI::IsMember({"estimate", "simulate"}));
  run->add_option("--timeline", text.run.timeline, "file for the simulated steps, for Perfetto");
  run->add_flag("--show-steps", text.run.steps, "every step of the recorded programs");
  run->callback([&text, &action] {
    action = [&text](const cli::Context& context) {
      text.run.simulate = text.evaluator == "simulate";
      return cli::kernel_run(context, text.run);
    };
  });

  CLI::App* verify = kernel->add_subcommand("verify", "runs designs on real numbers");
  verify->add_option("designs", text.verify.designs, "names or files; default all");
  verify->add_option("--chip", text.verify.chip, "default one of each family");
  verify->add_option("--pair", text.verify.pair, "a second design to compare with, bit by bit");
  verify->callback([&text, &action] {
    action = [&text](const cli::Context& context) {
      return cli::kernel_verify(context, text.verify);
    };
  });

  CLI::App* check =
      kernel->add_subcommand("check", "verifies and times designs, against a baseline");
  check->add_option("designs", text.check.designs, "a folder, files or names")->required();
  check->add_option("--baseline", text.check.baseline, "JSON file of earlier times")->required();
  check->add_option("--tolerance", text.tolerance, "how much slower is allowed; default 2%");
  check->add_flag("--update", text.check.update, "rewrite the baseline");
  check->add_option("--chip", text.check.chips, "these chips alone")
      ->delimiter(',')
      ->allow_extra_args(false);
  check->callback([&text, &action] {
    action = [&text](const cli::Context& context) {
      text.check.tolerance = tolerance_value(text.tolerance);
      return cli::kernel_check(context, text.check);
    };
  });
}

ExitCode dispatch(int argc, char** argv) {
  CLI::App app{"What serving DeepSeek models costs, on hardware one may not own"};
  app.name("foretoken");
  app.require_subcommand(1);
  app.fallthrough();
  app.set_version_flag("--version", std::string(foretoken::analysis::kVersion));
  std::string configs;
  std::string format = "table";
  app.add_option("--configs", configs, "folder with models, chips, systems, ...");
  app.add_option("--format", format, "table, json or csv")
      ->check(CLI::IsMember({"table", "json", "csv"}));
  std::function<ExitCode(const cli::Context&)> action;

  cli::CountOptions count;
  std::string contexts;
  std::string count_phase = "decode";
  std::string weights;
  CLI::App* count_app = app.add_subcommand("count", "exact parameters, FLOPs and KV bytes");
  count_app->add_option("--model", count.model, "name in configs/models, or a config.json")
      ->required();
  count_app->add_option("--context", contexts, "visible positions: N[,N...]")->required();
  count_app->add_option("--phase", count_phase, "decode (one token) or prefill (a whole prompt)")
      ->check(CLI::IsMember({"decode", "prefill"}));
  count_app->add_option("--precision", count.precision,
                        "KV and weight formats: a file in configs/precision");
  count_app->add_option("--weights", weights,
                        "of FP8-equivalent FLOPs: bf16=2,fp8=1,fp4_fp8=1,fp4=0.5");
  count_app->callback([&] {
    action = [&](const cli::Context& context) {
      count.contexts = count_list("--context", contexts);
      count.phase = count_phase == "decode" ? Phase::kDecode : Phase::kPrefill;
      count.weights = weight_list(weights);
      return cli::count(context, count);
    };
  });

  cli::StepOptions step;
  StepText step_text;
  CLI::App* step_app = app.add_subcommand("step", "time of one engine step and where it goes");
  add_step_options(*step_app, step, step_text);
  step_app->add_option("--system", step.system, "name in configs/systems, or a file")->required();
  step_app->add_option("--stack", step.stack,
                       "which operators share a kernel: a file in configs/stacks");
  step_app
      ->add_option("--memory-share", step.memory_share, "of device memory for weights and cache")
      ->check(CLI::Range(0.01, 1.0));
  step_app
      ->add_option("--evaluator", step_text.evaluator,
                   "estimate (closed form) or simulate (SystemC)")
      ->check(CLI::IsMember({"estimate", "simulate"}));
  step_app
      ->add_option("--devices", step_text.devices,
                   "class (one device stands for all) or all, simulated together")
      ->check(CLI::IsMember({"class", "all"}));
  step_app
      ->add_option("--routing", step_text.routing,
                   "ways through meshes (default: as the system's file says)")
      ->check(CLI::IsMember({"direct", "two_path", "all_path"}));
  step_app->add_option("--instances", step_text.instances,
                       "all devices: copies of the plan, each with the batch");
  step_app
      ->add_option("--placement", step_text.placement,
                   "of copies: packed one after another, or strided")
      ->check(CLI::IsMember({"packed", "strided"}));
  step_app->add_option("--cache-to", step_text.cache_to,
                       "prefill: first device of the pool that takes over the cache");
  step_app
      ->add_option("--tolerance", step.tolerance,
                   "all devices: share of the time by which links may react late (default 0)")
      ->check(CLI::Range(0.0, 0.1));
  step_app->add_option("--timeline", step.timeline, "file for the simulated step, for Perfetto");
  step_app->add_option("--timeline-devices", step_text.timeline_devices,
                       "how many devices it shows (default 8)");
  step_app->callback([&] {
    action = [&](const cli::Context& context) {
      finish_step(step, step_text);
      return cli::step(context, step);
    };
  });

  cli::TraceOptions trace;
  StepText trace_text;
  std::string rank;
  CLI::App* trace_app =
      app.add_subcommand("trace", "the operator trace of one rank's step, JSON lines");
  add_step_options(*trace_app, trace.step, trace_text);
  trace_app->add_option("--rank", rank, "rank of a pipeline stage; default the one with most work");
  trace_app->add_option("--out", trace.file, "file to write, - for standard output")->required();
  trace_app->callback([&] {
    action = [&](const cli::Context& context) {
      finish_step(trace.step, trace_text);
      if (!rank.empty()) trace.rank = count_value("--rank", rank, 0);
      return cli::trace(context, trace);
    };
  });

  cli::RunOptions run;
  CLI::App* run_app = app.add_subcommand("run", "runs a scenario and writes its report");
  run_app->add_option("scenario", run.scenario, "a scenario file, or a name in configs/scenarios")
      ->required();
  run_app->add_option("--out", run.folder, "output folder; default out/<scenario>");
  run_app->add_option("--set", run.overrides, "key.path=value, overriding the file")
      ->allow_extra_args(false);
  run_app->add_flag("--print-config", run.print_config, "print the resolved scenario and stop");
  run_app->callback([&] {
    action = [&](const cli::Context& context) {
      run.command = "foretoken run " + run.scenario;
      for (const std::string& o : run.overrides) run.command += " --set " + o;
      return cli::run(context, run);
    };
  });

  cli::ReferenceCommand reference;
  ReferenceText reference_text;
  CLI::App* reference_app =
      app.add_subcommand("reference", "runs the functional model on a checkpoint");
  add_reference_options(*reference_app, reference, reference_text);
  reference_app->callback([&] {
    action = [&](const cli::Context& context) {
      finish_reference(reference, reference_text);
      reference.command = "foretoken reference --study " + reference_text.study;
      reference.command += " --checkpoint " + reference.checkpoint;
      reference.command += " --tokens " + reference.tokens;
      if (reference_text.arithmetic != "exact") {
        reference.command += " --arithmetic " + reference_text.arithmetic;
      }
      if (reference_text.carrier != "f64")
        reference.command += " --carrier " + reference_text.carrier;
      return cli::run_reference(context, reference);
    };
  });

  cli::CheckpointCommand checkpoint;
  CheckpointText checkpoint_text;
  CLI::App* checkpoint_app =
      app.add_subcommand("checkpoint", "writes a checkpoint: random weights, or other formats");
  add_checkpoint_options(*checkpoint_app, checkpoint, checkpoint_text);
  checkpoint_app->callback([&] {
    action = [&](const cli::Context& context) {
      finish_checkpoint(checkpoint, checkpoint_text);
      return cli::write_checkpoint(context, checkpoint);
    };
  });

  KernelText kernel;
  add_kernel_commands(app, kernel, action);

  std::string what;
  CLI::App* list_app = app.add_subcommand("list", "what is there");
  list_app->add_option("what", what, "models, chips, systems, scenarios, precision, stacks")
      ->required()
      ->check(CLI::IsMember({"models", "chips", "systems", "scenarios", "precision", "stacks",
                             "calibration", "prices", "specdec", "designs"}));
  list_app->callback(
      [&] { action = [&](const cli::Context& context) { return cli::list(context, what); }; });

  cli::ValidateOptions validate;
  CLI::App* validate_app = app.add_subcommand("validate", "predictions against measurements");
  validate_app->add_option(
      "files", validate.files,
      "tables such as configs/measurements/end-to-end-decode.csv, known by their "
      "columns; default all of configs/measurements");
  validate_app->add_option("--out", validate.folder,
                           "folder for report.md, results.json and results.csv");
  validate_app->callback([&] {
    action = [&](const cli::Context& context) {
      validate.command = "foretoken validate";
      for (const std::string& file : validate.files) validate.command += " " + file;
      return cli::validate(context, validate);
    };
  });

  cli::CalibrateOptions calibrate;
  CLI::App* calibrate_app =
      app.add_subcommand("calibrate", "fits constants of a calibration to measurements");
  calibrate_app->add_option("--chip", calibrate.chips, "C[,C...]: chips that share the constants")
      ->delimiter(',')
      ->required();
  calibrate_app->add_option("--data", calibrate.data,
                            "tables as validate reads them; default all of configs/measurements");
  calibrate_app
      ->add_option("--fit", calibrate.fitted,
                   "NAME[,NAME...] such as efficiency.memory, or none; default all that the "
                   "data settle")
      ->delimiter(',');
  calibrate_app->add_option("--holdout", calibrate.held_out,
                            "of the chips, one to predict from a fit on the others");
  calibrate_app->add_option("--out", calibrate.out,
                            "calibration file to write; with several chips a folder of them");
  calibrate_app->add_option("--errors", calibrate.errors,
                            "file of errors on left-out chips, each left out in turn");
  calibrate_app->add_option("--report", calibrate.report, "Markdown file of the same");
  calibrate_app->callback([&] {
    action = [&](const cli::Context& context) {
      calibrate.command = calibrate_command(calibrate);
      return cli::calibrate(context, calibrate);
    };
  });

  std::string schema_folder;
  CLI::App* schema_app =
      app.add_subcommand("schema", "writes JSON Schemas of the configuration files");
  schema_app->add_option("--out", schema_folder, "folder")->required();
  schema_app->callback([&] {
    action = [&](const cli::Context& context) { return cli::schema(context, schema_folder); };
  });

  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp& help) {
    app.exit(help);
    return ExitCode::kOk;
  } catch (const CLI::CallForVersion& version) {
    app.exit(version);
    return ExitCode::kOk;
  } catch (const CLI::ParseError& error) {
    throw UsageError(std::string(error.what()) + "; see foretoken --help");
  }
  const cli::Context context{find_configs(configs),
                             format == "json"  ? cli::Format::kJson
                             : format == "csv" ? cli::Format::kCsv
                                               : cli::Format::kTable,
                             std::cout, std::cerr};
  const ExitCode code = action(context);
  std::cout.flush();
  if (!std::cout) throw ConfigError({"standard output", 0, 0}, "cannot be written");
  return code;
}

}  // namespace

int main(int argc, char** argv) {
  std::signal(SIGINT, on_signal);
  std::signal(SIGTERM, on_signal);
  try {
    return static_cast<int>(dispatch(argc, argv));
  } catch (const UsageError& error) {
    std::cerr << "foretoken: " << error.what() << "\n";
    return static_cast<int>(ExitCode::kUsage);
  } catch (const ConfigError& error) {
    std::cerr << error.what() << "\n";
    return static_cast<int>(ExitCode::kBadInput);
  } catch (const UnsupportedError& error) {
    std::cerr << "foretoken: " << error.what() << "\n";
    return static_cast<int>(ExitCode::kUnsupported);
  } catch (const std::exception& error) {
    std::cerr << "foretoken: internal error: " << error.what() << "\n";
    return static_cast<int>(ExitCode::kInternal);
  }
}
