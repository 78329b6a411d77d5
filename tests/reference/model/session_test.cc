#include "reference/model/session.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <sstream>

#include "reference/model/file_sink.h"
#include "sim/base/error.h"
#include "tests/reference/model/test_support.h"

namespace foretoken::reference::testing {
namespace {

namespace fs = std::filesystem;

class Session : public ::testing::Test {
 protected:
  Session()
      : loaded_(load_checkpoint(golden_folder("fp32_swiglu_clamp"))),
        tokens_(
            read_tokens(golden_folder("fp32_swiglu_clamp") / "tokens.json", loaded_.model.vocab)) {
    folder_ =
        fs::path(::testing::TempDir()) /
        ("session_" + std::string(::testing::UnitTest::GetInstance()->current_test_info()->name()));
    fs::remove_all(folder_);
    fs::create_directories(folder_);
  }
  ~Session() override { fs::remove_all(folder_); }

  LoadedCheckpoint loaded_;
  std::vector<std::int32_t> tokens_;
  fs::path folder_;
};

TEST_F(Session, GreedyGenerationIsTheArgmaxStepByStep) {
  SessionOptions options;
  options.generate = 12;
  options.stop_at_eos = false;
  tokens_.resize(20);
  const SessionReport report = run_session(loaded_, tokens_, options);
  ASSERT_EQ(report.generated.size(), 12u);
  std::vector<std::int32_t> all = tokens_;
  for (const std::int32_t next : report.generated) {
    const auto model = make_model(loaded_, {});
    RunRequest request;
    request.tokens = all;
    EXPECT_EQ(model->run(request).best.back(), next);
    all.push_back(next);
  }
}

TEST_F(Session, GenerationStopsAtTheEndOfText) {
  SessionOptions options;
  options.generate = 400;
  options.sampling.temperature = 50.0;  // all 64 tokens about equally likely: the end comes soon
  options.sampling.seed = 3;
  const SessionReport report = run_session(loaded_, tokens_, options);
  ASSERT_LT(report.generated.size(), 400u);
  EXPECT_EQ(report.generated.back(), loaded_.eos.at(0));
}

TEST_F(Session, DrawsFollowTheSeedAndTheProbabilities) {
  const std::vector<double> logits = {0.0, std::log(3.0), -50.0, std::log(4.0)};
  const Sampling sampling{1.0, 1.0, 0};
  std::uint64_t state = 11;
  std::uint64_t again = 11;
  std::vector<int> hits(4, 0);
  for (int i = 0; i < 20'000; ++i) {
    const std::int32_t drawn = sample(logits, sampling, state);
    EXPECT_EQ(drawn, sample(logits, sampling, again));
    ++hits[static_cast<std::size_t>(drawn)];
  }
  EXPECT_NEAR(hits[0], 2'500, 200);
  EXPECT_NEAR(hits[1], 7'500, 300);
  EXPECT_EQ(hits[2], 0);
  // The likeliest alone has half of the probability.
  for (int i = 0; i < 100; ++i) EXPECT_EQ(sample(logits, {1.0, 0.5, 0}, state), 3);
  EXPECT_EQ(sample({1.0, 5.0, 5.0}, {}, state), 1) << "greedy: the lowest on ties";
}

TEST_F(Session, WritesWhatItWasAskedFor) {
  SessionOptions options;
  options.prefill = 100;
  options.out = folder_ / "out.safetensors";
  options.dump = {"layers.*.hidden", "layers.0.attn.indexer.*", "mtp.0.shift1.logits", "nothing"};
  options.generate = 3;
  options.stop_at_eos = false;
  const SessionReport report = run_session(loaded_, tokens_, options);
  EXPECT_THAT(report.unmatched, ::testing::ElementsAre("nothing"));
  EXPECT_EQ(report.prefilled, 100);
  EXPECT_EQ(report.decoded, 31);
  const auto written = read_tensors(options.out);
  using Shape = std::vector<std::int64_t>;
  // 131 given tokens and two of the three generated ones were run.
  EXPECT_EQ(written.at("logits").shape, (Shape{133, 64}));
  EXPECT_EQ(written.at("layers.2.hidden").shape, (Shape{133, 4, 64}));
  EXPECT_EQ(written.at("hidden_positions").shape, (Shape{133}));
  EXPECT_EQ(written.at("layers.0.attn.indexer.score").shape, (Shape{133, 33}));
  EXPECT_EQ(written.at("layers.0.attn.indexer.topk").shape, (Shape{133, 8}));
  EXPECT_EQ(written.at("layers.0.attn.indexer.compressor.kv").shape, (Shape{33, 16}));
  EXPECT_EQ(written.at("mtp.0.shift1.logits").shape, (Shape{132, 64}));
  EXPECT_EQ(written.at("generated").shape, (Shape{3}));
  EXPECT_EQ(written.at("layers.0.attn.indexer.score").data[1], -3e38) << "not there yet";
  EXPECT_EQ(written.at("layers.0.attn.indexer.topk").data[0], -1.0);
}

TEST_F(Session, AFailedRunLeavesTheEarlierFileAlone) {
  const fs::path out = folder_ / "out.safetensors";
  std::ofstream(out) << "earlier";
  SessionOptions options;
  options.out = out;
  options.prefill = 1'000;
  EXPECT_THROW(run_session(loaded_, tokens_, options), base::UsageError);
  std::ostringstream text;
  text << std::ifstream(out).rdbuf();
  EXPECT_EQ(text.str(), "earlier");
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_), fs::directory_iterator()), 1);
}

TEST_F(Session, HardwareArithmeticHasNoFp64Carrier) {
  ReferenceOptions options;
  options.arithmetic = Arithmetic::kHardware;
  EXPECT_THROW(make_model(loaded_, options), base::UnsupportedError);
}

TEST(FileSink, StarsMatchAnything) {
  EXPECT_TRUE(matches("layers.*.attn.out", "layers.12.attn.out"));
  EXPECT_TRUE(matches("*", "anything"));
  EXPECT_TRUE(matches("a*", "a"));
  EXPECT_TRUE(matches("*a*b", "xxaybzab"));
  EXPECT_FALSE(matches("layers.*.attn.out", "layers.12.attn.in"));
  EXPECT_FALSE(matches("logits", "logits2"));
  EXPECT_FALSE(matches("a*c", "ab"));
}

class TokenFile : public Session {
 protected:
  std::string error_of(const std::string& text, const char* name = "t.json") {
    std::ofstream(folder_ / name) << text;
    try {
      read_tokens(folder_ / name, 64);
    } catch (const base::ConfigError& e) {
      return std::string(e.what()).substr(folder_.string().size() + 1);
    }
    return "no error";
  }
};

TEST_F(TokenFile, AcceptsAListOrAnObject) {
  EXPECT_EQ(error_of("[1, 2, 63]"), "no error");
  EXPECT_EQ(error_of("{\"input_ids\": [0], \"more\": 1}"), "no error");
}

TEST_F(TokenFile, NamesThePlaceOfWhatIsWrong) {
  EXPECT_EQ(error_of("[1,\n 64]"),
            "t.json:2:2: error: token id 64 is outside the vocabulary of 64");
  EXPECT_EQ(error_of("[-1]"), "t.json:1:2: error: token id -1 is outside the vocabulary of 64");
  EXPECT_EQ(error_of("[1.5]"), "t.json:1:2: error: a token id has to be an integer");
  EXPECT_EQ(error_of("[\"1\"]"), "t.json:1:2: error: a token id has to be an integer");
  EXPECT_EQ(error_of("[99999999999999999999]"),
            "t.json:1:2: error: a token id has to be an integer");
  EXPECT_EQ(error_of("[[1]]"), "t.json:1:2: error: a token id has to be an integer");
  EXPECT_EQ(error_of("[]"), "t.json:1:1: error: the list of token ids is empty");
  EXPECT_EQ(error_of("{\"ids\": [1]}"),
            "t.json:1:1: error: missing key 'input_ids', a list of token ids");
  EXPECT_EQ(error_of("{\"input_ids\": 7}"), "t.json:1:15: error: token ids have to be a list");
  EXPECT_THAT(error_of(""), ::testing::StartsWith("t.json"));
  EXPECT_THAT(error_of("[1, 2"), ::testing::StartsWith("t.json:1:"));
}

}  // namespace
}  // namespace foretoken::reference::testing
