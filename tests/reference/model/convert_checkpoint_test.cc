#include "reference/model/convert_checkpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

#include "reference/formats/block_formats.h"
#include "reference/formats/float_formats.h"
#include "reference/model/random_checkpoint.h"
#include "reference/model/stored_format.h"
#include "tests/reference/model/model_fixtures.h"

namespace foretoken::reference {
namespace {

namespace fs = std::filesystem;
using base::content_of;
using base::ScratchFolder;
using base::thrown;
using base::UnsupportedError;
using base::UsageError;
using testing::AllOf;
using testing::HasSubstr;
using workloads::Dtype;
using workloads::TensorClass;
using Json = nlohmann::ordered_json;

constexpr std::array<const char*, 3> kConfigs = {"tiny-v4-pro.json", "tiny-v4-flash.json",
                                                 "tiny-v3.2.json"};
constexpr QuantiseFormats kRelease{QuantiseTo::kMxfp4, QuantiseTo::kFp8};
constexpr ReferenceOptions kPlainArithmetic{.kv_quantisation = Switch::kOff,
                                            .index_quantisation = Switch::kOff,
                                            .activation_quantisation = Switch::kOff};

bool is_v4(const std::string& config) { return config.find("v4") != std::string::npos; }

QuantiseFormats as_released(const std::string& config) {
  return {is_v4(config) ? QuantiseTo::kMxfp4 : QuantiseTo::kFp8, QuantiseTo::kFp8};
}

fs::path random_checkpoint(const ScratchFolder& folder, const std::string& name,
                           const fs::path& config) {
  write_random_checkpoint(config, 3, {folder / name});
  return folder / name;
}

// The configuration without its quantisation; weights come out as `dtype`.
fs::path unquantised(const ScratchFolder& folder, const std::string& config,
                     const std::string& dtype, const Json& changes = {}) {
  Json json = Json::parse(content_of(config_path(config)));
  json.erase("quantization_config");
  json.erase("expert_dtype");
  json["torch_dtype"] = dtype;
  for (const auto& [key, value] : changes.items()) json[key] = value;
  return folder.write("unquantised-" + config, json.dump(2));
}

TEST(ConvertCheckpoint, QuantisingTheDecodedWeightsGivesTheSameFile) {
  for (const std::string config : kConfigs) {
    for (const Dtype between : {Dtype::kFp32, Dtype::kBf16}) {
      SCOPED_TRACE(config + " through " + std::string(workloads::to_string(between)));
      const ScratchFolder folder;
      const fs::path original = random_checkpoint(folder, "original", config_path(config));
      dequantise_checkpoint({original, {}}, between, {folder / "plain"});
      quantise_checkpoint({folder / "plain", {}}, as_released(config), {folder / "again"});
      EXPECT_EQ(content_of(folder / "again" / "model.safetensors"),
                content_of(original / "model.safetensors"));
    }
  }
}

TEST(ConvertCheckpoint, ValuesThatWereQuantisedOnceStayAsTheyAre) {
  for (const std::string dtype : {"float32", "bfloat16"}) {
    const ScratchFolder folder;
    random_checkpoint(folder, "plain", unquantised(folder, "tiny-v4-pro.json", dtype));
    quantise_checkpoint({folder / "plain", {}}, kRelease, {folder / "q1"});
    dequantise_checkpoint({folder / "q1", {}}, Dtype::kFp32, {folder / "d1"});
    quantise_checkpoint({folder / "d1", {}}, kRelease, {folder / "q2"});
    dequantise_checkpoint({folder / "q2", {}}, Dtype::kFp32, {folder / "d2"});
    EXPECT_EQ(content_of(folder / "d1" / "model.safetensors"),
              content_of(folder / "d2" / "model.safetensors"));
    quantise_checkpoint({folder / "d2", {}}, kRelease, {folder / "q3"});
    EXPECT_EQ(content_of(folder / "q2" / "model.safetensors"),
              content_of(folder / "q3" / "model.safetensors"));
  }
}

TEST(ConvertCheckpoint, DecodedExpertsEqualTheirBlocks) {
  const ScratchFolder folder;
  const fs::path original = random_checkpoint(folder, "c", config_path("tiny-v4-flash.json"));
  dequantise_checkpoint({original, {}}, Dtype::kFp32, {folder / "plain"});
  const Checkpoint quantised(original);
  const Checkpoint plain(folder / "plain");
  const std::string name = "layers.3.ffn.experts.5.w1";
  const auto codes = values_of<std::uint8_t>(quantised, quantised.require(name + ".weight"));
  const auto scales = values_of<std::uint8_t>(quantised, quantised.require(name + ".scale"));
  const auto values = values_of<float>(plain, plain.require(name + ".weight"));
  EXPECT_EQ(plain.find(name + ".scale"), nullptr);
  ASSERT_EQ(values.size(), codes.size() * 2);
  for (std::size_t b = 0; b < scales.size(); ++b) {
    Mxfp4Block block;
    std::copy_n(codes.begin() + static_cast<std::ptrdiff_t>(b * 16), 16, block.codes.begin());
    block.scale = scales[b];
    std::array<float, 32> expected{};
    decode_mxfp4(block, expected);
    ASSERT_TRUE(std::ranges::equal(expected, std::span(values).subspan(b * 32, 32))) << b;
  }
}

TEST(ConvertCheckpoint, BothRulesGiveTheBlocksOfTheirEncoder) {
  const ScratchFolder folder;
  random_checkpoint(folder, "plain", unquantised(folder, "tiny-v4-flash.json", "float32"));
  const Checkpoint plain(folder / "plain");
  const std::string name = "mtp.0.ffn.experts.0.w2";
  const auto values = values_of<float>(plain, plain.require(name + ".weight"));
  std::size_t different = 0;
  std::vector<std::uint8_t> first_scales;
  for (const auto& [to, rule] : {std::pair(QuantiseTo::kMxfp4, ScaleRule::kDeepseek),
                                 std::pair(QuantiseTo::kMxfp4Floor, ScaleRule::kMx)}) {
    const fs::path out = folder / (rule == ScaleRule::kMx ? "floor" : "ceil");
    quantise_checkpoint({folder / "plain", {}}, {to, QuantiseTo::kNone}, {out});
    const Checkpoint quantised(out);
    const auto codes = values_of<std::uint8_t>(quantised, quantised.require(name + ".weight"));
    const auto scales = values_of<std::uint8_t>(quantised, quantised.require(name + ".scale"));
    ASSERT_EQ(values.size(), scales.size() * 32);
    for (std::size_t b = 0; b < scales.size(); ++b) {
      const Mxfp4Block block = encode_mxfp4(std::span(values).subspan(b * 32, 32), rule);
      ASSERT_EQ(scales[b], block.scale);
      ASSERT_TRUE(std::ranges::equal(block.codes, std::span(codes).subspan(b * 16, 16)));
      if (!first_scales.empty() && first_scales[b] != scales[b]) ++different;
    }
    first_scales = scales;
    // The linears stay.
    EXPECT_EQ(quantised.require("layers.0.attn.wq_a.weight").info->dtype, StorageDtype::kF32);
  }
  EXPECT_GT(different, 0U);
}

// By hand: the block's largest magnitude over 448, up to the next power of two.
TEST(ConvertCheckpoint, Fp8BlocksFollowTheReleasesRule) {
  const ScratchFolder folder;
  random_checkpoint(folder, "plain", unquantised(folder, "tiny-v3.2.json", "float32"));
  quantise_checkpoint({folder / "plain", {}}, {QuantiseTo::kFp8, QuantiseTo::kFp8}, {folder / "q"});
  const Checkpoint plain(folder / "plain");
  const Checkpoint quantised(folder / "q");
  constexpr std::size_t kRows = 256;  // a last block 64 wide
  constexpr std::size_t kColumns = 320;
  const std::string name = "model.layers.0.mlp.down_proj.weight";
  const auto values = values_of<float>(plain, plain.require(name));
  const auto codes = values_of<std::uint8_t>(quantised, quantised.require(name));
  const auto scales = values_of<float>(quantised, quantised.require(name + "_scale_inv"));
  ASSERT_EQ(values.size(), kRows * kColumns);
  ASSERT_EQ(scales.size(), 2U * 3U);
  for (std::size_t i = 0; i < 2; ++i) {
    for (std::size_t j = 0; j < 3; ++j) {
      float amax = 0.0F;
      for (std::size_t r = i * 128; r < (i + 1) * 128; ++r) {
        for (std::size_t c = j * 128; c < std::min((j + 1) * 128, kColumns); ++c) {
          amax = std::max(amax, std::abs(values[r * kColumns + c]));
        }
      }
      const float scale = scales[i * 3 + j];
      EXPECT_EQ(scale, std::exp2(std::ceil(std::log2(amax / 448.0F))));
      for (std::size_t r = i * 128; r < (i + 1) * 128; ++r) {
        for (std::size_t c = j * 128; c < std::min((j + 1) * 128, kColumns); ++c) {
          const std::size_t at = r * kColumns + c;
          ASSERT_EQ(codes[at], encode_e4m3(values[at] / scale));
        }
      }
    }
  }
}

TEST(ConvertCheckpoint, TheDecodedModelEqualsTheQuantisedOneWithoutQuantisers) {
  const std::vector<std::int32_t> tokens = some_tokens(43, 512);
  for (const std::string config : kConfigs) {
    SCOPED_TRACE(config);
    const ScratchFolder folder;
    random_checkpoint(folder, "plain", unquantised(folder, config, "float32"));
    quantise_checkpoint({folder / "plain", {}}, as_released(config), {folder / "q"});
    dequantise_checkpoint({folder / "q", {}}, Dtype::kBf16, {folder / "d"});
    const std::vector<float> quantised = logits_of(folder / "q", tokens, 3, kPlainArithmetic);
    const std::vector<float> plain = logits_of(folder / "d", tokens, 3);
    EXPECT_LE(largest_difference(quantised, plain), 1e-5);
    // The quantisers do something, and the weights are not what they were.
    EXPECT_GT(largest_difference(logits_of(folder / "q", tokens, 3), plain), 1e-3);
    EXPECT_GT(largest_difference(logits_of(folder / "plain", tokens, 3), plain), 1e-3);
  }
}

TEST(ConvertCheckpoint, TheConfigurationSaysWhatTheWeightsAre) {
  const ScratchFolder folder;
  const fs::path config = unquantised(folder, "tiny-v4-pro.json", "bfloat16");
  random_checkpoint(folder, "plain", config);
  const auto config_in = [&](const std::string& name) {
    return Json::parse(content_of(folder / name / "config.json"));
  };
  const Json before = config_in("plain");
  struct Case {
    std::string name;
    QuantiseFormats formats;
    std::string expert_dtype;
  };
  for (const Case& c : {Case{"fp4", kRelease, "fp4"},
                        Case{"floor", {QuantiseTo::kMxfp4Floor, QuantiseTo::kFp8}, "fp4"},
                        Case{"fp8", {QuantiseTo::kFp8, QuantiseTo::kFp8}, "fp8"},
                        Case{"linear", {QuantiseTo::kNone, QuantiseTo::kFp8}, "bf16"}}) {
    SCOPED_TRACE(c.name);
    quantise_checkpoint({folder / "plain", {}}, c.formats, {folder / c.name});
    Json after = config_in(c.name);
    EXPECT_EQ(after["expert_dtype"], c.expert_dtype);
    EXPECT_EQ(after["quantization_config"],
              Json::parse(R"({"activation_scheme": "dynamic", "fmt": "e4m3",
                              "quant_method": "fp8", "scale_fmt": "ue8m0",
                              "weight_block_size": [128, 128]})"));
    const LoadedCheckpoint loaded = load_checkpoint(folder / c.name);
    EXPECT_TRUE(loaded.mathematics.quantised);
    const std::string expert = "layers.0.ffn.experts.0.w1.weight";
    const StorageDtype stored = loaded.checkpoint.require(expert).info->dtype;
    EXPECT_EQ(stored, c.expert_dtype == "fp4"   ? StorageDtype::kI8
                      : c.expert_dtype == "fp8" ? StorageDtype::kF8E4M3
                                                : StorageDtype::kBf16);
    after.erase("expert_dtype");
    after.erase("quantization_config");
    EXPECT_EQ(after, before);  // ordered: same keys in the same order
    dequantise_checkpoint({folder / c.name, {}}, Dtype::kBf16, {folder / (c.name + "-back")});
    EXPECT_EQ(config_in(c.name + "-back"), before);
  }
}

TEST(ConvertCheckpoint, WhatIsNotConvertedIsCopied) {
  const ScratchFolder folder;
  random_checkpoint(folder, "plain", unquantised(folder, "tiny-v4-flash.json", "bfloat16"));
  quantise_checkpoint({folder / "plain", {}}, kRelease, {folder / "q", 1'000'000});
  const Checkpoint plain(folder / "plain");
  const Checkpoint quantised(folder / "q");
  EXPECT_TRUE(fs::exists(folder / "q" / "model.safetensors.index.json"));
  for (const std::string& name : plain.names()) {
    const TensorClass kind = tensor_class(name);
    if (kind == TensorClass::kLinear || kind == TensorClass::kExpert) {
      EXPECT_NE(quantised.find(scale_name(name)), nullptr) << name;
      continue;
    }
    EXPECT_EQ(quantised.require(name).info->dtype, plain.require(name).info->dtype);
    EXPECT_EQ(values_of<std::uint8_t>(quantised, quantised.require(name)),
              values_of<std::uint8_t>(plain, plain.require(name)))
        << name;
  }
}

TEST(ConvertCheckpoint, AnotherConfigurationCanBeTheStart) {
  const ScratchFolder folder;
  const fs::path config = unquantised(folder, "tiny-v4-flash.json", "bfloat16");
  random_checkpoint(folder, "plain", config);
  Json other = Json::parse(content_of(config));
  other["note"] = "other";
  const fs::path path = folder.write("other.json", other.dump());
  quantise_checkpoint({folder / "plain", path}, kRelease, {folder / "q"});
  EXPECT_EQ(Json::parse(content_of(folder / "q" / "config.json"))["note"], "other");
  other["hidden_size"] = 512;
  folder.write("other.json", other.dump());
  EXPECT_THAT(
      base::config_error([&] {
        quantise_checkpoint({folder / "plain", path}, kRelease, {folder / "q2"});
      }),
      AllOf(HasSubstr("model.safetensors: error: tensor 'embed.weight'"), HasSubstr("[512, 512]")));
  EXPECT_FALSE(fs::exists(folder / "q2"));
}

TEST(ConvertCheckpoint, RowsThatFp4CannotCutAreRefused) {
  const ScratchFolder folder;
  random_checkpoint(
      folder, "plain",
      unquantised(folder, "tiny-v4-flash.json", "bfloat16", {{"moe_intermediate_size", 144}}));
  EXPECT_THAT(thrown<UnsupportedError>([&] {
                quantise_checkpoint({folder / "plain", {}}, kRelease, {folder / "q"});
              }),
              HasSubstr("tensor 'layers.0.ffn.experts.0.w2.weight' has 144 inputs a row"));
  EXPECT_FALSE(fs::exists(folder / "q"));
  // FP8 blocks may be cut.
  quantise_checkpoint({folder / "plain", {}}, {QuantiseTo::kFp8, QuantiseTo::kFp8}, {folder / "q"});
  const std::vector<float> logits = logits_of(folder / "q", some_tokens(6, 512), 0);
  EXPECT_TRUE(std::ranges::all_of(logits, [](float v) { return std::isfinite(v); }));
}

TEST(ConvertCheckpoint, MistakesLeaveNothingBehind) {
  const ScratchFolder folder;
  const fs::path quantised = random_checkpoint(folder, "c", config_path("tiny-v4-flash.json"));
  EXPECT_THAT(thrown<UnsupportedError>([&] {
                quantise_checkpoint({quantised, {}}, kRelease, {folder / "q"});
              }),
              AllOf(HasSubstr("tensor 'layers.0.attn.wkv.weight' is F8_E4M3 already")));
  EXPECT_THAT(
      thrown<UsageError>([&] {
        dequantise_checkpoint({quantised, {}}, Dtype::kFp32, {quantised, 2'000'000'000, true});
      }),
      HasSubstr("--out names the folder that is read"));
  EXPECT_THAT(base::config_error([&] {
                dequantise_checkpoint({folder / "none", {}}, Dtype::kFp32, {folder / "q"});
              }),
              HasSubstr("none: error: no such folder"));
  EXPECT_FALSE(fs::exists(folder / "q"));
}

// Scales of V3.2's first releases: 28 significant bits fit neither format.
TEST(ConvertCheckpoint, NumbersThatDoNotFitExactlyAreRefused) {
  const ScratchFolder folder;
  Json json = Json::parse(content_of(config_path("tiny-v3.2.json")));
  json["quantization_config"].erase("scale_fmt");
  random_checkpoint(folder, "c", folder.write("c.json", json.dump()));
  EXPECT_THAT(thrown<UnsupportedError>([&] {
                dequantise_checkpoint({folder / "c", {}}, Dtype::kBf16, {folder / "d"});
              }),
              AllOf(HasSubstr("tensor 'model.layers."), HasSubstr("BF16 cannot hold exactly")));
  EXPECT_EQ(fs::exists(folder / "d" / "config.json"), false);
  EXPECT_TRUE(fs::is_empty(folder / "d"));
}

TEST(ConvertCheckpoint, WeightsThatAreNotFiniteAreRefused) {
  const ScratchFolder folder;
  const fs::path plain =
      random_checkpoint(folder, "plain", unquantised(folder, "tiny-v4-flash.json", "bfloat16"));
  std::uint64_t at = 0;
  {
    const Checkpoint checkpoint(plain);
    at = checkpoint.require("layers.1.ffn.experts.2.w3.weight").info->begin;
  }
  std::fstream file(plain / "model.safetensors", std::ios::in | std::ios::out | std::ios::binary);
  file.seekp(static_cast<std::streamoff>(at));
  file.write("\xc0\x7f", 2);
  file.close();
  EXPECT_THAT(
      base::config_error([&] {
        quantise_checkpoint({plain, {}}, kRelease, {folder / "q"});
      }),
      HasSubstr("model.safetensors: error: tensor 'layers.1.ffn.experts.2.w3.weight' has a NaN at "
                "element 0"));
  EXPECT_FALSE(fs::exists(folder / "q" / "model.safetensors"));
}

}  // namespace
}  // namespace foretoken::reference
