// One run of a checkpoint over a token file: prefill, decode, generation, what is written down.
#pragma once

#include <cstdint>
#include <filesystem>
#include <iosfwd>
#include <string>
#include <vector>

#include "reference/model/reference_model.h"

namespace foretoken::reference {

// A checkpoint with everything its config.json says.
struct LoadedCheckpoint {
  Checkpoint checkpoint;
  workloads::ModelSpec model;
  Mathematics mathematics;
  std::vector<std::int64_t> eos;  // ids after which generation stops
};
LoadedCheckpoint load_checkpoint(const std::filesystem::path& folder);

struct Sampling {
  double temperature = 0.0;  // 0 = greedy
  double top_p = 1.0;
  std::uint64_t seed = 0;
};

// The next token from logits: the largest (lowest id on ties), or drawn. `state` is the
// generator's, advanced by a draw; the same seed gives the same tokens on every machine.
std::int32_t sample(const std::vector<double>& logits, const Sampling& sampling,
                    std::uint64_t& state);

struct SessionOptions {
  ReferenceOptions reference;
  std::int64_t prefill = 0;  // tokens in the first step; 0 = all
  std::vector<std::string> dump;
  std::filesystem::path out;  // empty = no file
  bool all_logits = true;     // of the prefill; decode steps have one each
  std::int64_t generate = 0;  // further tokens
  bool stop_at_eos = true;
  Sampling sampling;
  std::ostream* trace = nullptr;  // every step's operators, one trace after another
};

struct SessionReport {
  std::int64_t prefilled = 0;
  std::int64_t decoded = 0;  // given tokens run one by one
  std::vector<std::int32_t> generated;
  std::int32_t next = -1;  // greedy choice after the last token run
  KvHeld kv;
  double prefill_seconds = 0.0;
  double decode_seconds = 0.0;
  std::int64_t not_finite = 0;         // tokens whose logits are not all finite
  std::vector<std::string> unmatched;  // names asked for that the run did not have
};

// Throws what the checkpoint, the model and the writer throw; UsageError for a prefill beyond the
// tokens. With `out`, a safetensors file with "logits" and the dumped tensors appears at the end,
// and "generated" when tokens were.
SessionReport run_session(const LoadedCheckpoint& loaded, const std::vector<std::int32_t>& tokens,
                          const SessionOptions& options);

}  // namespace foretoken::reference
