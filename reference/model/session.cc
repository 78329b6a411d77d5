#include "reference/model/session.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numeric>
#include <optional>
#include <span>
#include <system_error>

#include "reference/model/file_sink.h"
#include "sim/base/config.h"
#include "sim/base/error.h"
#include "sim/base/progress.h"
#include "workloads/config_spelling.h"
#include "workloads/trace_writer.h"

namespace foretoken::reference {

namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// SplitMix64: one 64-bit state, the same on every machine.
double uniform(std::uint64_t& state) {
  state += 0x9e3779b97f4a7c15u;
  std::uint64_t z = state;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  z ^= z >> 31;
  return static_cast<double>(z >> 11) * 0x1.0p-53;
}

// "mtp.*" asks for the MTP blocks; a pattern such as "*" that could match them too takes them
// where there are any.
bool needs_drafts(const std::vector<std::string>& patterns, const LoadedCheckpoint& loaded) {
  constexpr std::string_view kPrefix = "mtp.";
  const bool there = loaded.checkpoint.find("mtp.0.e_proj.weight") != nullptr &&
                     !loaded.model.draft_layers.empty();
  return std::any_of(patterns.begin(), patterns.end(), [&](const std::string& p) {
    if (p.starts_with(kPrefix)) return true;
    const std::size_t star = p.find('*');
    return there && star < kPrefix.size() && p.substr(0, star) == kPrefix.substr(0, star);
  });
}

// The weights that are read must not be what is written.
void refuse_own_files(const Checkpoint& checkpoint, const std::filesystem::path& out) {
  std::error_code error;
  if (!std::filesystem::exists(out, error)) return;
  bool own = std::filesystem::equivalent(out, checkpoint.config_path(), error);
  const SafetensorsFile* last = nullptr;
  for (const std::string& name : checkpoint.names()) {
    const SafetensorsFile* file = checkpoint.find(name)->file;
    if (file == last) continue;
    last = file;
    own = own || std::filesystem::equivalent(out, file->path(), error);
  }
  if (own) throw base::UsageError("--out names a file of the checkpoint: " + out.string());
}

}  // namespace

LoadedCheckpoint load_checkpoint(const std::filesystem::path& folder) {
  Checkpoint checkpoint(folder);
  const base::ConfigFile file = workloads::read_model_config(checkpoint.config_path());
  std::string name = std::filesystem::absolute(folder).lexically_normal().filename().string();
  if (name.empty()) name = std::filesystem::absolute(folder).parent_path().filename().string();
  workloads::ModelSpec model = workloads::read_model(file, name);
  Mathematics mathematics = read_mathematics(file, model);
  std::vector<std::int64_t> eos;
  base::ConfigReader reader(file);
  reader.ignore_unknown_keys();
  const base::ConfigTree* ends = file.root.find("eos_token_id");
  if (ends != nullptr && ends->kind == base::ConfigTree::Kind::kList) {
    reader.integers({"eos_token_id", ""}, eos, {.min = 0}, {.min = 0, .max = 1024});
  } else {
    std::int64_t one = -1;
    reader.integer({"eos_token_id", "", base::Need::kOptional}, one, {.min = 0});
    eos.push_back(one);
  }
  reader.finish();
  return {std::move(checkpoint), std::move(model), mathematics, eos};
}

std::int32_t sample(const std::vector<double>& logits, const Sampling& sampling,
                    std::uint64_t& state) {
  const auto best = std::max_element(logits.begin(), logits.end());
  if (sampling.temperature <= 0.0) return static_cast<std::int32_t>(best - logits.begin());
  std::vector<std::int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](std::int32_t a, std::int32_t b) {
    return logits[static_cast<std::size_t>(a)] > logits[static_cast<std::size_t>(b)];
  });
  std::vector<double> weight(logits.size());
  double sum = 0.0;
  for (std::size_t i = 0; i < order.size(); ++i) {
    const double z = logits[static_cast<std::size_t>(order[i])];
    sum += weight[i] = std::exp((z - *best) / sampling.temperature);
  }
  // The smallest set of likeliest tokens with at least top_p of the probability.
  double kept = 0.0;
  std::size_t count = 0;
  while (count < weight.size() && (count == 0 || kept < sampling.top_p * sum)) {
    kept += weight[count++];
  }
  double at = uniform(state) * kept;
  for (std::size_t i = 0; i + 1 < count; ++i) {
    if (at < weight[i]) return order[i];
    at -= weight[i];
  }
  return order[count - 1];
}

SessionReport run_session(const LoadedCheckpoint& loaded, const std::vector<std::int32_t>& tokens,
                          const SessionOptions& options) {
  const auto total = static_cast<std::int64_t>(tokens.size());
  const std::int64_t prefill = options.prefill == 0 ? total : options.prefill;
  if (prefill > total) {
    throw base::UsageError(
        fmt::format("--prefill {} is more than the {} tokens given", prefill, total));
  }
  std::optional<SafetensorsWriter> writer;
  std::optional<FileSink> sink;
  if (!options.out.empty()) {
    refuse_own_files(loaded.checkpoint, options.out);
    writer.emplace(options.out);
    std::vector<std::string> patterns = options.dump;
    patterns.emplace_back("logits");
    sink.emplace(*writer, std::move(patterns));
  }
  const std::unique_ptr<ReferenceModel> model =
      make_reference({loaded.checkpoint, loaded.model, loaded.mathematics, options.reference,
                      needs_drafts(options.dump, loaded)});

  SessionReport report;
  workloads::OpGraph graph;
  const auto step = [&](std::span<const std::int32_t> ids, bool all_logits) {
    std::optional<Recorder> recorder;
    if (options.trace != nullptr) recorder.emplace(graph);
    RunRequest request;
    request.tokens = ids;
    request.all_logits = all_logits;
    request.sink = sink ? &*sink : nullptr;
    request.recorder = recorder ? &*recorder : nullptr;
    RunResult result = model->run(request);
    report.not_finite += result.not_finite;
    if (options.trace != nullptr) {
      workloads::TraceHeader header;
      header.model = loaded.model.name;
      header.batch.phase = model->length() == static_cast<std::int64_t>(ids.size())
                               ? workloads::Phase::kPrefill
                               : workloads::Phase::kDecode;
      header.batch.context = model->length();
      header.batch.new_tokens = static_cast<std::int64_t>(ids.size());
      workloads::write_trace(header, graph, *options.trace);
    }
    return result;
  };

  report.prefilled = prefill;
  Clock::time_point start = Clock::now();
  const std::span<const std::int32_t> all(tokens);
  RunResult result = step(all.first(static_cast<std::size_t>(prefill)), options.all_logits);
  report.prefill_seconds = seconds_since(start);
  start = Clock::now();
  {
    base::Progress progress("decode", static_cast<std::size_t>(total - prefill + options.generate));
    for (std::int64_t t = prefill; t < total; ++t) {
      result = step(all.subspan(static_cast<std::size_t>(t), 1), true);
      ++report.decoded;
      progress.advance();
    }
    std::uint64_t state = options.sampling.seed;
    for (std::int64_t i = 0; i < options.generate; ++i) {
      const std::int32_t next = sample(result.last, options.sampling, state);
      report.generated.push_back(next);
      if (options.stop_at_eos && std::ranges::find(loaded.eos, next) != loaded.eos.end()) break;
      // The last token is not run: nobody asks what comes after it.
      if (i + 1 == options.generate) break;
      result = step(std::span<const std::int32_t>(&next, 1), true);
      progress.advance();
    }
  }
  report.decode_seconds = seconds_since(start);
  report.next = result.best.empty() ? -1 : result.best.back();
  report.kv = model->kv_held();
  if (sink) {
    if (!report.generated.empty()) {
      const std::size_t tensor = writer->add("generated", StorageDtype::kI32);
      writer->append(tensor, std::as_bytes(std::span<const std::int32_t>(report.generated)));
      writer->finish(tensor, {static_cast<std::int64_t>(report.generated.size())});
    }
    report.unmatched = sink->finish();
    writer->commit();
  }
  return report;
}

}  // namespace foretoken::reference
