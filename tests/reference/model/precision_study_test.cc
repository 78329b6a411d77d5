#include "reference/study/precision_study.h"

#include <gtest/gtest.h>

#include "sim/base/error.h"
#include "tests/reference/model/test_support.h"

namespace foretoken::reference::testing {
namespace {

StudyResult study_of(Study study, const std::string& model, std::size_t tokens) {
  const LoadedCheckpoint loaded = load_checkpoint(golden_folder(model));
  auto ids = read_tokens(golden_folder(model) / "tokens.json", loaded.model.vocab);
  ids.resize(std::min(ids.size(), tokens));
  return run_study(study, loaded, ids, {});
}

double value(const StudyResult& result, const std::string& variant, std::size_t measure) {
  for (const StudyRow& row : result.rows) {
    if (row.variant == variant) return row.values.at(measure);
  }
  ADD_FAILURE() << "no variant " << variant;
  return -1.0;
}

TEST(PrecisionStudy, CoarserIndexFormatsRecallLess) {
  const StudyResult result = study_of(Study::kIndex, "fp32_mixed", 523);
  const double scores = value(result, "BF16 scores", 0);
  const double keys = value(result, "FP4 keys", 0);
  const double both = value(result, "FP4 queries and keys", 0);
  EXPECT_LE(scores, 1.0);
  EXPECT_GT(scores, keys);
  EXPECT_GT(keys, both);
  EXPECT_GT(both, 0.5);
  for (const StudyRow& row : result.rows) EXPECT_LE(row.values[1], row.values[0]) << row.variant;
}

TEST(PrecisionStudy, CoarserExpertsAreFurtherOff) {
  const StudyResult result = study_of(Study::kExperts, "fp32_mixed", 150);
  const double fp8 = value(result, "FP8 experts", 0);
  EXPECT_GT(fp8, 1e-3);
  EXPECT_GT(value(result, "MXFP4 experts, scale rounded up", 0), fp8);
  EXPECT_GT(value(result, "MXFP4 experts, MX scale rule", 0), fp8);
}

TEST(PrecisionStudy, QuantisedWeightsAreTheBaselineWhereTheyAreAllThereIs) {
  const StudyResult result = study_of(Study::kExperts, "quant_fp8_fp4_f32carrier", 150);
  ASSERT_EQ(result.rows.size(), 1u);
  EXPECT_GT(result.rows[0].values[0], 1e-3);
  EXPECT_EQ(result.notes.size(), 2u);
}

TEST(PrecisionStudy, CacheQuantisersChangeAttention) {
  const StudyResult result = study_of(Study::kKv, "fp32_mixed", 150);
  const double entries = value(result, "FP8 cache entries", 0);
  EXPECT_GT(entries, 1e-3);
  EXPECT_LT(entries, 0.3);
  EXPECT_NE(value(result, "FP8 cache entries, FP4 index", 0), entries);
}

TEST(PrecisionStudy, APromptThatSelectsEverythingSaysNothing) {
  EXPECT_THROW(study_of(Study::kIndex, "fp32_mixed", 20), base::UnsupportedError);
}

}  // namespace
}  // namespace foretoken::reference::testing
