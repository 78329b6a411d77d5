#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

#include "tests/workloads/test_support.h"
#include "workloads/count.h"
#include "workloads/precision.h"

namespace foretoken::workloads {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

std::filesystem::path data_folder() {
  return std::filesystem::path(FORETOKEN_SOURCE_DIR) / "tests" / "workloads" / "data";
}

std::string error_of(const std::string& text) {
  return thrown<base::ConfigError>([&] { (void)read_text(text); });
}
std::string error_of(const std::string& name, Edits edits) {
  return error_of(edited(config_text(name), edits));
}

std::int64_t layers_of(const ModelSpec& m, AttentionKind kind) {
  std::int64_t n = 0;
  for (const LayerSpec& l : m.layers) n += l.attention == kind ? 1 : 0;
  return n;
}

TEST(ReadModel, SeesTheLayersOfTheReleasedModels) {
  EXPECT_EQ(layers_of(pro(), AttentionKind::kCsa), 30);
  EXPECT_EQ(layers_of(pro(), AttentionKind::kHca), 31);
  EXPECT_EQ(layers_of(pro(), AttentionKind::kWindow), 0);
  EXPECT_EQ(layers_of(flash(), AttentionKind::kWindow), 2);
  EXPECT_EQ(layers_of(flash(), AttentionKind::kCsa), 21);
  EXPECT_EQ(layers_of(flash(), AttentionKind::kHca), 20);
  EXPECT_EQ(layers_of(v32(), AttentionKind::kMlaDsa), 61);
  EXPECT_EQ(layers_of(v41(), AttentionKind::kWindow), 2);
  EXPECT_EQ(layers_of(v41(), AttentionKind::kShared), 38);
  for (std::size_t i = 0; i < 61; ++i) {
    EXPECT_EQ(pro().layers[i].hash_routing, i < 3) << i;
    EXPECT_EQ(v32().layers[i].ffn == FfnKind::kDense, i < 3) << i;
  }
  ASSERT_EQ(pro().draft_layers.size(), 1u);
  EXPECT_EQ(pro().draft_layers[0], LayerSpec{});
  EXPECT_EQ(v41().draft_layers.size(), 3u);
  EXPECT_EQ(v41().draft_experts, 128);
  EXPECT_EQ(v41().draft_experts_per_token, 3);
  EXPECT_EQ(v41().draft_block, 5);
}

TEST(ReadModel, SeesWhichV41LayersOwnIndexAndReuse) {
  EXPECT_EQ(v41().index_candidates, 16'384);
  EXPECT_EQ(v41().first_decoder_layer(), 20u);
  for (std::size_t i = 0; i < 40; ++i) {
    const LayerSpec& l = v41().layers[i];
    const bool full = i == 2 || i == 8 || i == 14 || i == 20;
    const bool reindex = i == 24 || i == 28 || i == 32 || i == 36;
    EXPECT_EQ(l.owns_cache, full) << i;
    EXPECT_EQ(l.index, i < 2     ? IndexMode::kNone
                       : full    ? IndexMode::kAll
                       : reindex ? IndexMode::kCandidates
                                 : IndexMode::kReuse)
        << i;
    EXPECT_EQ(l.engram, i == 1 || i == 14) << i;
    EXPECT_EQ(l.ratio, i < 2 ? 0 : i < 20 ? 2 : 1) << i;
    EXPECT_EQ(l.decoder, i >= 20) << i;
  }
}

TEST(ReadModel, GroupsEqualLayersIntoClasses) {
  for (const ModelSpec* m : all_models()) {
    ASSERT_EQ(m->class_of.size(), m->layers.size());
    std::vector<std::int64_t> seen(m->classes.size());
    for (std::size_t i = 0; i < m->layers.size(); ++i) {
      ASSERT_LT(m->class_of[i], m->classes.size());
      EXPECT_EQ(m->classes[m->class_of[i]].spec, m->layers[i]);
      ++seen[m->class_of[i]];
    }
    for (std::size_t c = 0; c < seen.size(); ++c) EXPECT_EQ(seen[c], m->classes[c].count);
  }
  EXPECT_EQ(pro().classes.size(), 4u);  // CSA and HCA, with and without hash routing
}

TEST(ReadModel, BoundsTheParametersFromAbove) {
  for (const ModelSpec* m : all_models()) {
    const ModelParameters p = count_parameters(*m);
    EXPECT_GE(m->parameter_bound, static_cast<double>(p.total + p.draft + p.engram_tables));
    EXPECT_LT(m->parameter_bound, 1e14);
  }
}

TEST(ReadModel, ReadsAnUnquantisedTinyModel) {
  const ModelSpec m = load_model((data_folder() / "fp32_mixed.config.json").string(), "");
  EXPECT_FALSE(m.storage.quantised);
  EXPECT_EQ(m.storage.linear, Dtype::kFp32);
  EXPECT_EQ(m.storage.expert, Dtype::kFp32);
  EXPECT_EQ(m.storage.plain, Dtype::kFp32);
  EXPECT_EQ(m.layers.size(), 6u);
  EXPECT_EQ(layers_of(m, AttentionKind::kCsa), 3);
  EXPECT_EQ(layers_of(m, AttentionKind::kHca), 2);
  const Precision p = release_precision(m);
  EXPECT_EQ(p.main_entry_bytes, 4 * 32);
  EXPECT_EQ(p.index_entry_bytes, 4 * 16);
  const FlopCount f = count_decode(m, 500);
  EXPECT_EQ(f.total(), f.precision(PrecisionClass::kBf16));
  const ModelParameters n = count_parameters(m);
  const WeightBytes w = count_weight_bytes(m, p);
  EXPECT_EQ(w.checkpoint(), 4 * (n.total + n.draft));
}

TEST(ReadModel, ReadsAQuantisedTinyModel) {
  const ModelSpec m =
      load_model((data_folder() / "quant_fp8_fp4_f32carrier.config.json").string(), "");
  EXPECT_TRUE(m.storage.quantised);
  EXPECT_EQ(m.storage.linear, Dtype::kFp8);
  EXPECT_EQ(m.storage.expert, Dtype::kFp4);
  EXPECT_EQ(m.storage.plain, Dtype::kBf16);
  EXPECT_EQ(m.storage.fp8_block, 128);
  EXPECT_EQ(release_precision(m).main_entry_bytes, 64 + 128 + 8);
  EXPECT_EQ(release_precision(m).index_entry_bytes, 68);
}

TEST(ReadModel, TreatsAReleaseWithoutExpertDtypeAsFp4) {
  EXPECT_EQ(edited_model("deepseek-v4-flash", {{"expert_dtype", ""}}).storage.expert, Dtype::kFp4);
  EXPECT_EQ(edited_model("deepseek-v4-flash", {{"expert_dtype", "\"fp8\""}}).storage.expert,
            Dtype::kFp8);
}

TEST(ReadModel, NamesAMissingKey) {
  EXPECT_THAT(error_of("deepseek-v4-pro", {{"hidden_size", ""}}),
              AllOf(HasSubstr("model.json:"), HasSubstr("missing key 'hidden_size'")));
  EXPECT_THAT(error_of("deepseek-v4.1-flash", {{"index_topk", ""}}),
              AllOf(HasSubstr("'index_topk'"), HasSubstr("text_config")));
  EXPECT_THAT(error_of("deepseek-v4-pro", {{"compress_ratios", ""}}), HasSubstr("compress_ratios"));
  EXPECT_THAT(error_of("deepseek-v3.2", {{"intermediate_size", ""}}),
              HasSubstr("intermediate_size"));
  EXPECT_THAT(error_of("deepseek-v4-pro", {{"model_type", ""}}), HasSubstr("model_type"));
  EXPECT_THAT(error_of("deepseek-v4-pro", {{"quant_method", ""}}), HasSubstr("quant_method"));
}

// While a key is missing no other check fails, so more layers than ratios are seen.
TEST(ReadModel, NamesAMissingKeyBeforeAWrongNumberOfLayers) {
  EXPECT_THAT(error_of("deepseek-v4.1-flash", {{"index_topk", ""}, {"num_hidden_layers", "4096"}}),
              HasSubstr("missing key 'index_topk' in text_config"));
}

TEST(ReadModel, PointsAtAMistypedOrOutOfRangeValue) {
  // "hidden_size" stands in line 15 of the released file.
  EXPECT_THAT(error_of("deepseek-v4-pro", {{"hidden_size", "\"wide\""}}),
              AllOf(HasSubstr("model.json:15:18: error:"), HasSubstr("hidden_size")));
  for (const char* value : {"-1", "0", "1.5", "null", "[7168]", "{}", "true",
                            "99999999999999999999999999", "9223372036854775807", "1048577"}) {
    EXPECT_THAT(error_of("deepseek-v4-pro", {{"hidden_size", value}}), HasSubstr("hidden_size"))
        << value;
  }
  EXPECT_THAT(error_of("deepseek-v4-pro", {{"num_hidden_layers", "-61"}}),
              HasSubstr("num_hidden_layers"));
  EXPECT_THAT(error_of("deepseek-v4-pro", {{"sliding_window", "0"}}), HasSubstr("sliding_window"));
  EXPECT_THAT(error_of("deepseek-v4-pro", {{"n_shared_experts", "-1"}}),
              HasSubstr("n_shared_experts"));
  EXPECT_THAT(error_of("deepseek-v4-pro", {{"torch_dtype", "\"int3\""}}), HasSubstr("torch_dtype"));
  EXPECT_THAT(error_of("deepseek-v4-pro", {{"expert_dtype", "\"fp3\""}}),
              HasSubstr("expert_dtype"));
  EXPECT_THAT(error_of("deepseek-v4-pro", {{"quant_method", "\"awq\""}}), HasSubstr("awq"));
  EXPECT_THAT(error_of("deepseek-v4-pro", {{"quant_method", R"("a\nwq")"}}),
              HasSubstr(R"('a\nwq' is not known)"));  // on one line
  EXPECT_THAT(error_of("deepseek-v4-pro", {{"torch_dtype", R"("a\u001bb")"}}),
              HasSubstr(R"('a\x1bb' is not known)"));
  EXPECT_THAT(error_of("deepseek-v4-pro", {{"weight_block_size", "[128]"}}),
              HasSubstr("weight_block_size"));
  EXPECT_THAT(error_of("deepseek-v4-pro", {{"weight_block_size", "[128, 64]"}}),
              HasSubstr("square"));
}

TEST(ReadModel, RejectsContradictions) {
  EXPECT_THAT(error_of("deepseek-v4-pro", {{"compress_ratios", "[4, 128, 0]"}}),
              HasSubstr("has 3 entries; 61 layers and 1 MTP blocks need 62"));
  EXPECT_THAT(error_of("deepseek-v4-pro", {{"compress_ratios", "[]"}}),
              HasSubstr("compress_ratios"));
  EXPECT_THAT(error_of("deepseek-v4-pro", {{"num_hidden_layers", "60"}}), HasSubstr("need 61"));
  EXPECT_THAT(error_of("deepseek-v4-pro", {{"num_experts_per_tok", "385"}}),
              HasSubstr("only 384 experts"));
  EXPECT_THAT(error_of("deepseek-v4-pro", {{"o_groups", "3"}}), HasSubstr("does not divide"));
  EXPECT_THAT(error_of("deepseek-v4-pro", {{"qk_rope_head_dim", "512"}}), HasSubstr("smaller"));
  EXPECT_THAT(error_of("deepseek-v3.2", {{"first_k_dense_replace", "62"}}), HasSubstr("exceeds"));
  EXPECT_THAT(error_of("deepseek-v4.1-flash", {{"kv_source_layer_ids", "[2,8,14,40]"}}),
              HasSubstr("kv_source_layer_ids"));
  EXPECT_THAT(error_of("deepseek-v4.1-flash", {{"kv_source_layer_ids", "[]"}}),
              HasSubstr("kv_source_layer_ids"));
  EXPECT_THAT(error_of("deepseek-v4.1-flash", {{"kv_source_layer_ids", "[1,2,8,14,20]"}}),
              HasSubstr("layer 1"));
  EXPECT_THAT(error_of("deepseek-v4.1-flash", {{"kv_source_layer_ids", "[2,8,14,21]"}}),
              HasSubstr("owns a cache but no indexer"));
  EXPECT_THAT(error_of("deepseek-v4.1-flash", {{"engram_num_embeddings", "[1]"}}),
              HasSubstr("one entry per layer"));
  EXPECT_THAT(error_of("deepseek-v4.1-flash", {{"dspark_num_experts_per_tok", "129"}}),
              HasSubstr("dspark"));
}

// The reading order of a shared cache: somebody has to own it before somebody reads it.
TEST(ReadModel, RejectsAV41LayerThatReadsACacheNobodyOwnsYet) {
  EXPECT_NE(error_of("deepseek-v4.1-flash", {{"kv_source_layer_ids", "[8,14,20]"}}), "");
}

TEST(ReadModel, KnowsOnlyItsFamilies) {
  EXPECT_THAT(error_of("deepseek-v4-pro", {{"model_type", "\"llama\""}}),
              AllOf(HasSubstr("model_type"), HasSubstr("deepseek_v4")));
  EXPECT_NE(error_of("{}"), "");
  EXPECT_NE(error_of("[]"), "");
  EXPECT_NE(error_of("null"), "");
  EXPECT_NE(error_of("3"), "");
  EXPECT_NE(error_of(""), "");
}

TEST(ReadModel, RefusesSizesThatCannotBeCountedExactly) {
  EXPECT_THAT(error_of("deepseek-v4-pro", {{"moe_intermediate_size", "1048576"},
                                           {"hidden_size", "1048576"},
                                           {"n_routed_experts", "1048576"}}),
              HasSubstr("10^16"));
  EXPECT_THAT(
      error_of("deepseek-v4.1-flash", {{"engram_num_embeddings", "[1099511627776, 1099511627776]"},
                                       {"engram_head_dim", "1048576"}}),
      HasSubstr("10^16"));
}

TEST(ReadModel, SurvivesDeepNestingAndDuplicateKeys) {
  const std::string deep(100'000, '[');
  EXPECT_NE(error_of("{\"model_type\": " + deep), "");
  EXPECT_NE(error_of("{\"model_type\": " + deep + std::string(100'000, ']') + "}"), "");
  EXPECT_NE(error_of("{\"model_type\": \"deepseek_v4\", \"model_type\": \"deepseek_v32\"}"), "");
}

TEST(ReadModel, AnswersTruncatedFilesWithAConfigErrorAtEveryByte) {
  for (const char* name : {"deepseek-v4-flash", "deepseek-v4.1-flash", "deepseek-v3.2"}) {
    const std::string text = config_text(name);
    const std::size_t last_brace = text.rfind('}');
    for (std::size_t n = 0; n <= last_brace; ++n) {
      ASSERT_NE(error_of(text.substr(0, n)), "") << name << n;
    }
  }
}

TEST(ReadModel, LetsOnlyConfigErrorsEscapeFromDamagedFiles) {
  std::mt19937_64 random(11);
  const std::string alphabet = "0123456789-.eE,:\"[]{}nulltrue \\\xff\x01";
  for (const char* name : {"deepseek-v4-flash", "deepseek-v4.1-flash", "deepseek-v3.2"}) {
    const std::string whole = config_text(name);
    for (int trial = 0; trial < 700; ++trial) {
      std::string text = whole;
      for (int i = 0; i < 1 + trial % 3; ++i) {
        text[random() % text.size()] = alphabet[random() % alphabet.size()];
      }
      try {
        const ModelSpec m = read_text(text);
        const Precision p = release_precision(m);
        EXPECT_GT(count_parameters(m).total, 0);
        EXPECT_GT(count_weight_bytes(m, p).checkpoint(), 0);
        EXPECT_GT(count_decode(m, 1 << 20).total(), 0);
        EXPECT_GE(count_kv(m, p, 1 << 20).total, 0);
      } catch (const base::ConfigError&) {
      } catch (const base::UnsupportedError&) {
      }
    }
  }
}

// Every accepted size is countable: extreme but legal dimensions, one at a time.
TEST(ReadModel, CountsOrRefusesExtremeButLegalDimensions) {
  for (const char* name : {"deepseek-v4-flash", "deepseek-v3.2", "deepseek-v4.1-flash"}) {
    for (const char* key :
         {"hidden_size", "vocab_size", "num_attention_heads", "q_lora_rank", "index_n_heads",
          "index_head_dim", "index_topk", "n_routed_experts", "moe_intermediate_size",
          "max_position_embeddings", "num_experts_per_tok", "head_dim", "o_lora_rank",
          "sliding_window", "kv_lora_rank"}) {
      const std::string text = config_text(name);
      if (text.find('"' + std::string(key) + '"') == std::string::npos) continue;
      for (const char* value : {"1", "3", "1048576", "16777216"}) {
        try {
          const ModelSpec m = read_text(edited(text, key, value));
          EXPECT_GT(count_parameters(m).total, 0) << name << key << value;
          EXPECT_GT(count_decode(m, 1 << 20).total(), 0) << name << key << value;
          EXPECT_GT(count_kv(m, release_precision(m), 1 << 20).total, 0) << name << key << value;
        } catch (const base::ConfigError&) {
        } catch (const base::UnsupportedError&) {
        }
      }
    }
  }
}

}  // namespace
}  // namespace foretoken::workloads
