#include "reference/model/random_checkpoint.h"
#include "reference/kernels/parallel.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <string>

#include "reference/kernels/matmul.h"
#include "reference/model/stored_format.h"
#include "reference/model/weights.h"
#include "tests/reference/model/model_fixtures.h"
#include "workloads/tensors.h"

namespace foretoken::reference {
namespace {

namespace fs = std::filesystem;
using base::content_of;
using base::ScratchFolder;
using base::thrown;
using base::UnsupportedError;
using base::UsageError;
using testing::AllOf;
using testing::Each;
using testing::HasSubstr;
using Json = nlohmann::json;

constexpr std::array<const char*, 3> kConfigs = {"tiny-v4-pro.json", "tiny-v4-flash.json",
                                                 "tiny-v3.2.json"};

fs::path write(const ScratchFolder& folder, const std::string& name, const fs::path& config,
               std::uint64_t seed = 1, std::uint64_t shard_bytes = 2'000'000'000) {
  write_random_checkpoint(config, seed, {folder / name, shard_bytes, false});
  return folder / name;
}

// A small configuration with some keys replaced (null removes one).
fs::path edited(const ScratchFolder& folder, const std::string& config, const Json& changes) {
  Json json = Json::parse(content_of(config_path(config)));
  for (const auto& [key, value] : changes.items()) {
    if (value.is_null()) {
      json.erase(key);
    } else {
      json[key] = value;
    }
  }
  return folder.write("edited-config.json", json.dump(2));
}

std::map<std::string, std::string> files_of(const fs::path& folder) {
  std::map<std::string, std::string> out;
  for (const auto& entry : fs::directory_iterator(folder)) {
    out[entry.path().filename().string()] = content_of(entry.path());
  }
  return out;
}

void expect_sensible_run(const fs::path& checkpoint) {
  const std::vector<float> logits = logits_of(checkpoint, some_tokens(43, 512), 3);
  ASSERT_EQ(logits.size(), 43U * 512U);
  EXPECT_TRUE(std::ranges::all_of(logits, [](float v) { return std::isfinite(v); }));
  EXPECT_GT(root_mean_square(logits), 0.1);
  EXPECT_LT(root_mean_square(logits), 10.0);
}

TEST(RandomCheckpoint, EveryModelRunsWithLogitsOfUsefulSize) {
  for (const char* config : kConfigs) {
    SCOPED_TRACE(config);
    const ScratchFolder folder;
    expect_sensible_run(write(folder, "c", config_path(config)));
  }
}

TEST(RandomCheckpoint, UnquantisedModelsRunToo) {
  for (const char* config : kConfigs) {
    for (const char* dtype : {"bfloat16", "float32"}) {
      SCOPED_TRACE(std::string(config) + " " + dtype);
      const ScratchFolder folder;
      const fs::path checkpoint =
          write(folder, "c",
                edited(folder, config, {{"quantization_config", nullptr}, {"torch_dtype", dtype}}));
      const Checkpoint opened(checkpoint);
      for (const std::string& name : opened.names()) {
        const StorageDtype stored = opened.find(name)->info->dtype;
        const bool single = tensor_class(name) == workloads::TensorClass::kFp32;
        if (name.ends_with("tid2eid")) {
          EXPECT_EQ(stored, StorageDtype::kI64);
        } else if (single || std::string(dtype) == "float32") {
          EXPECT_EQ(stored, StorageDtype::kF32) << name;
        } else {
          EXPECT_EQ(stored, StorageDtype::kBf16) << name;
        }
      }
      expect_sensible_run(checkpoint);
    }
  }
}

TEST(RandomCheckpoint, TheDraftModuleRuns) {
  const ScratchFolder folder;
  const LoadedCheckpoint loaded =
      load_checkpoint(write(folder, "c", config_path("tiny-v4-flash.json")));
  const std::unique_ptr<ReferenceModel> model =
      make_reference({loaded.checkpoint, loaded.model, loaded.mathematics, {}, true});
  const std::vector<std::int32_t> tokens = some_tokens(20, 512);
  model->run({.tokens = tokens});
  const std::vector<double> logits = model->draft(7, nullptr);
  ASSERT_EQ(logits.size(), 512U);
  EXPECT_THAT(logits, Each(testing::Truly([](double v) { return std::abs(v) < 20.0; })));
}

TEST(RandomCheckpoint, TensorsHaveTheFormatsOfTheRelease) {
  const ScratchFolder folder;
  const Checkpoint v4(write(folder, "v4", config_path("tiny-v4-pro.json")));
  const auto dtype = [](const Checkpoint& c, const std::string& name) {
    const StoredTensor& t = c.require(name);
    return std::string(to_string(t.info->dtype)) + testing::PrintToString(t.info->shape);
  };
  EXPECT_EQ(dtype(v4, "embed.weight"), "BF16{ 512, 256 }");
  EXPECT_EQ(dtype(v4, "layers.2.attn.wq_b.weight"), "F8_E4M3{ 512, 128 }");
  EXPECT_EQ(dtype(v4, "layers.2.attn.wq_b.scale"), "F8_E8M0{ 4, 1 }");
  EXPECT_EQ(dtype(v4, "layers.2.attn.wo_a.scale"), "F8_E8M0{ 1, 2 }");
  EXPECT_EQ(dtype(v4, "layers.2.attn.indexer.wq_b.weight"), "F8_E4M3{ 2048, 128 }");
  EXPECT_EQ(dtype(v4, "layers.2.attn.compressor.wkv.weight"), "BF16{ 256, 256 }");
  EXPECT_EQ(dtype(v4, "layers.2.attn.compressor.ape"), "F32{ 4, 256 }");
  EXPECT_EQ(dtype(v4, "layers.2.attn.indexer.weights_proj.weight"), "BF16{ 16, 256 }");
  EXPECT_EQ(dtype(v4, "layers.0.attn.compressor.ape"), "F32{ 128, 128 }");
  EXPECT_EQ(dtype(v4, "layers.0.hc_attn_fn"), "F32{ 24, 1024 }");
  EXPECT_EQ(dtype(v4, "hc_head_fn"), "F32{ 4, 1024 }");
  EXPECT_EQ(dtype(v4, "hc_head_scale"), "F32{ 1 }");
  EXPECT_EQ(dtype(v4, "layers.0.attn.attn_sink"), "F32{ 4 }");
  EXPECT_EQ(dtype(v4, "layers.0.ffn.gate.tid2eid"), "I64{ 512, 2 }");
  EXPECT_EQ(dtype(v4, "layers.3.ffn.gate.bias"), "F32{ 8 }");
  EXPECT_EQ(dtype(v4, "layers.3.ffn.gate.weight"), "BF16{ 8, 256 }");
  EXPECT_EQ(dtype(v4, "layers.3.ffn.experts.7.w2.weight"), "I8{ 256, 64 }");
  EXPECT_EQ(dtype(v4, "layers.3.ffn.experts.7.w2.scale"), "F8_E8M0{ 256, 4 }");
  EXPECT_EQ(dtype(v4, "layers.3.ffn.shared_experts.w1.weight"), "F8_E4M3{ 128, 256 }");
  EXPECT_EQ(dtype(v4, "mtp.0.e_proj.weight"), "F8_E4M3{ 256, 256 }");
  EXPECT_EQ(dtype(v4, "mtp.0.hnorm.weight"), "BF16{ 256 }");
  const Checkpoint v32(write(folder, "v32", config_path("tiny-v3.2.json")));
  EXPECT_EQ(dtype(v32, "model.layers.0.self_attn.kv_a_proj_with_mqa.weight"),
            "F8_E4M3{ 192, 256 }");
  EXPECT_EQ(dtype(v32, "model.layers.0.self_attn.kv_a_proj_with_mqa.weight_scale_inv"),
            "F32{ 2, 2 }");
  EXPECT_EQ(dtype(v32, "model.layers.0.self_attn.indexer.wk.weight"), "F8_E4M3{ 128, 256 }");
  EXPECT_EQ(dtype(v32, "model.layers.0.mlp.down_proj.weight"), "F8_E4M3{ 256, 320 }");
  EXPECT_EQ(dtype(v32, "model.layers.0.mlp.down_proj.weight_scale_inv"), "F32{ 2, 3 }");
  EXPECT_EQ(dtype(v32, "model.layers.1.mlp.experts.3.up_proj.weight"), "F8_E4M3{ 128, 256 }");
  EXPECT_EQ(dtype(v32, "model.layers.1.mlp.gate.weight"), "BF16{ 8, 256 }");
  EXPECT_EQ(dtype(v32, "model.layers.1.mlp.gate.e_score_correction_bias"), "F32{ 8 }");
}

// The other list of a model's tensors, which its parameter counts come from, agrees class by class.
TEST(RandomCheckpoint, HasAsManyElementsOfEachClassAsTheModelCounts) {
  for (const char* name : {"deepseek-v4-pro", "deepseek-v4-flash", "deepseek-v3.2"}) {
    SCOPED_TRACE(name);
    const workloads::ModelSpec model =
        workloads::load_model(name, fs::path(FORETOKEN_SOURCE_DIR) / "configs");
    std::map<workloads::TensorClass, std::int64_t> counted;
    const auto count = [&](const workloads::Tensor& t) { counted[t.storage] += t.elements(); };
    workloads::for_each_global_tensor(model, count);
    for (const workloads::LayerSpec& layer : model.layers) {
      workloads::for_each_layer_tensor(model, layer, model.experts, count);
    }
    if (model.family == workloads::Family::kDeepseekV4) {
      workloads::for_each_draft_tensor(model, count);
      for (const workloads::LayerSpec& layer : model.draft_layers) {
        workloads::for_each_layer_tensor(model, layer, model.draft_experts, count);
      }
    }
    std::map<workloads::TensorClass, std::int64_t> planned;
    for (const PlannedTensor& t : checkpoint_tensors(model)) {
      if (t.name.ends_with(".scale") || t.name.ends_with(".weight_scale_inv") ||
          t.name.ends_with("tid2eid")) {
        continue;
      }
      const auto bytes = static_cast<std::int64_t>(t.bytes());
      planned[tensor_class(t.name)] +=
          t.dtype == StorageDtype::kI8 ? 2 * bytes : bytes / element_size(t.dtype);
    }
    EXPECT_EQ(planned, counted);
  }
}

TEST(RandomCheckpoint, TheConfigurationIsCopiedByteForByte) {
  const ScratchFolder folder;
  const fs::path checkpoint = write(folder, "c", config_path("tiny-v4-pro.json"));
  EXPECT_EQ(content_of(checkpoint / "config.json"), content_of(config_path("tiny-v4-pro.json")));
}

TEST(RandomCheckpoint, TheSeedDecidesEveryByte) {
  const ScratchFolder folder;
  for (const char* config : kConfigs) {
    const fs::path path = config_path(config);
    const std::string name = config;
    const auto first = files_of(write(folder, name + "a", path, 1));
    EXPECT_EQ(files_of(write(folder, name + "b", path, 1)), first);
    write(folder, name + "c", path, 2);
    const std::vector<std::int32_t> tokens = some_tokens(8, 512);
    EXPECT_GT(largest_difference(logits_of(folder / (name + "a"), tokens, 0),
                                 logits_of(folder / (name + "c"), tokens, 0)),
              0.1);
  }
}

TEST(RandomCheckpoint, ATensorDependsOnNeitherTheOthersNorTheThreads) {
  const ScratchFolder folder;
  const Checkpoint all(write(folder, "all", config_path("tiny-v4-flash.json")));
  const int before = threads();
  set_threads(1);
  const Checkpoint few(write(folder, "few",
                             edited(folder, "tiny-v4-flash.json",
                                    {{"num_hidden_layers", 2},
                                     {"num_nextn_predict_layers", 0},
                                     {"compress_ratios", {0, 0}}})));
  set_threads(before);
  ASSERT_LT(few.names().size(), all.names().size());
  for (const std::string& name : few.names()) {
    EXPECT_EQ(values_of<std::uint8_t>(few, few.require(name)),
              values_of<std::uint8_t>(all, all.require(name)))
        << name;
  }
}

TEST(RandomCheckpoint, ShardsHoldWhatOneFileHolds) {
  const ScratchFolder folder;
  for (const char* config : kConfigs) {
    SCOPED_TRACE(config);
    const std::string name = config;
    const fs::path whole = write(folder, name + "whole", config_path(config));
    EXPECT_FALSE(fs::exists(whole / "model.safetensors.index.json"));
    const fs::path cut = write(folder, name + "cut", config_path(config), 1, 1'000'000);
    const Json index = Json::parse(content_of(cut / "model.safetensors.index.json"));
    const Checkpoint one(whole);
    const Checkpoint many(cut);
    EXPECT_EQ(one.names(), many.names());
    EXPECT_EQ(index["metadata"]["total_size"], one.bytes());
    std::set<std::string> shards;
    for (const auto& [tensor, shard] : index["weight_map"].items()) {
      shards.insert(shard.get<std::string>());
    }
    EXPECT_GT(shards.size(), 4U);
    EXPECT_EQ(*shards.begin(),
              "model-00001-of-0000" + std::to_string(shards.size()) + ".safetensors");
    for (const std::string& shard : shards) EXPECT_LT(fs::file_size(cut / shard), 1'100'000U);
    const std::vector<std::int32_t> tokens = some_tokens(20, 512);
    EXPECT_EQ(logits_of(whole, tokens, 2), logits_of(cut, tokens, 2));
  }
}

TEST(RandomCheckpoint, MatricesKeepTheSizeOfTheirInputs) {
  const ScratchFolder folder;
  const LoadedCheckpoint loaded =
      load_checkpoint(write(folder, "c", config_path("tiny-v4-pro.json")));
  const Weights weights(loaded.checkpoint, loaded.model);
  for (const auto& [name, rows, columns] :
       std::vector<std::tuple<std::string, std::int64_t, std::int64_t>>{
           {"layers.2.attn.indexer.wq_b.weight", 2048, 128},
           {"layers.2.ffn.experts.1.w1.weight", 128, 256},
           {"layers.2.attn.compressor.wkv.weight", 256, 256},
           {"head.weight", 512, 256}}) {
    std::vector<float> values(static_cast<std::size_t>(rows * columns));
    const Linear linear = weights.linear(name, rows, columns);
    decode_rows(linear.view, 0, rows, values.data());
    EXPECT_NEAR(root_mean_square(values) * std::sqrt(static_cast<double>(columns)), 1.0, 0.25)
        << name;
  }
}

TEST(RandomCheckpoint, ATokensExpertsAreDistinctAndAllAreNamed) {
  const ScratchFolder folder;
  for (const int topk : {1, 6, 8}) {
    const Checkpoint checkpoint(
        write(folder, std::to_string(topk),
              edited(folder, "tiny-v4-flash.json", {{"num_experts_per_tok", topk}})));
    const auto table =
        values_of<std::int64_t>(checkpoint, checkpoint.require("layers.0.ffn.gate.tid2eid"));
    ASSERT_EQ(table.size(), 512U * static_cast<std::size_t>(topk));
    std::set<std::int64_t> seen;
    for (std::size_t token = 0; token < 512; ++token) {
      const auto row = table.begin() + static_cast<std::ptrdiff_t>(token) * topk;
      const std::set<std::int64_t> experts(row, row + topk);
      EXPECT_EQ(experts.size(), static_cast<std::size_t>(topk));
      seen.insert(experts.begin(), experts.end());
    }
    EXPECT_EQ(seen.size(), 8U);
    EXPECT_EQ(*seen.begin(), 0);
    EXPECT_EQ(*seen.rbegin(), 7);
  }
}

TEST(RandomCheckpoint, ScalesThatAreNoPowersOfTwoAreDrawnWhereTheConfigurationHasThem) {
  const ScratchFolder folder;
  Json quantisation = Json::parse(content_of(config_path("tiny-v3.2.json")))["quantization_config"];
  quantisation.erase("scale_fmt");
  const fs::path path =
      write(folder, "c", edited(folder, "tiny-v3.2.json", {{"quantization_config", quantisation}}));
  const Checkpoint checkpoint(path);
  const auto scales = values_of<float>(
      checkpoint, checkpoint.require("model.layers.0.self_attn.q_b_proj.weight_scale_inv"));
  EXPECT_TRUE(std::ranges::any_of(
      scales, [](float s) { return std::exp2(std::round(std::log2(s))) != s; }));
  expect_sensible_run(path);
}

TEST(RandomCheckpoint, AFolderWithACheckpointIsLeftAloneUnlessForced) {
  const ScratchFolder folder;
  const fs::path config = config_path("tiny-v3.2.json");
  const fs::path target = write(folder, "c", config, 1, 1'000'000);
  const auto before = files_of(target);
  EXPECT_THAT(thrown<UsageError>([&] { write(folder, "c", config, 2); }),
              AllOf(HasSubstr((folder / "c").string()), HasSubstr("--force")));
  EXPECT_EQ(files_of(target), before);
  std::ofstream(target / "mine.safetensors") << "kept";
  write_random_checkpoint(config, 2, {target, 2'000'000'000, true});
  const auto after = files_of(target);
  EXPECT_EQ(after.size(), 3U);  // no stale shards or index
  EXPECT_EQ(after.at("mine.safetensors"), "kept");
  EXPECT_EQ(Checkpoint(target).names().size(), 184U);

  const ScratchFolder other;
  other.write("some.safetensors", "x");
  EXPECT_THAT(thrown<UsageError>([&] { write_random_checkpoint(config, 1, {other.path()}); }),
              HasSubstr("some.safetensors"));
}

TEST(RandomCheckpoint, ADiskThatIsTooSmallIsNotFilled) {
  const ScratchFolder folder;
  const fs::path pro = fs::path(FORETOKEN_SOURCE_DIR) / "configs/models/deepseek-v4-pro.json";
  const auto message =
      thrown<UnsupportedError>([&] { write_random_checkpoint(pro, 1, {folder / "pro"}); });
  EXPECT_THAT(message, AllOf(HasSubstr((folder / "pro").string()), HasSubstr("takes ")));
  EXPECT_FALSE(fs::exists(folder / "pro"));
}

TEST(RandomCheckpoint, WhatCannotBeWrittenIsRefused) {
  const ScratchFolder folder;
  EXPECT_THAT(thrown<UnsupportedError>([&] {
                write(folder, "c",
                      fs::path(FORETOKEN_SOURCE_DIR) / "configs/models/deepseek-v4.1-flash.json");
              }),
              HasSubstr("V4.1"));
  EXPECT_THAT(
      thrown<UnsupportedError>([&] {
        write(folder, "c", edited(folder, "tiny-v4-pro.json", {{"moe_intermediate_size", 136}}));
      }),
      HasSubstr("tensor 'layers.0.ffn.experts.0.w2.weight' has 136 inputs"));
  const fs::path plain = folder.write("plain", "x");
  EXPECT_THAT(base::config_error([&] { write(folder, "plain", config_path("tiny-v3.2.json")); }),
              HasSubstr("plain: error: is a file"));
  EXPECT_THAT(base::config_error([&] { write(folder, "c", folder / "none.json"); }),
              HasSubstr("none.json"));
  EXPECT_FALSE(fs::exists(folder / "c"));
}

}  // namespace
}  // namespace foretoken::reference
