#include "workloads/routing.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "sim/base/error.h"
#include "tests/workloads/test_support.h"

namespace foretoken::workloads {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string usage_error(std::string_view text) {
  return thrown<base::UsageError>([&] { (void)parse_routing(text); });
}

class RoutingFile : public ::testing::Test {
 protected:
  std::string write(const std::string& text) {
    const auto* const info = ::testing::UnitTest::GetInstance()->current_test_info();
    path_ = std::filesystem::temp_directory_path() /
            (std::string("foretoken_routing_") + info->name() + ".txt");
    std::ofstream(path_) << text;
    return path_.string();
  }
  void TearDown() override {
    std::error_code ignored;
    std::filesystem::remove(path_, ignored);
  }
  std::filesystem::path path_;
};

TEST(RoutingText, ReadsEveryKindAndPrintsItAgain) {
  for (const char* text : {"balanced", "uniform", "hash", "hash:0.75", "power_law:1.2",
                           "power_law_sampled:1.9", "zipf:0.8", "zipf:0"}) {
    EXPECT_EQ(to_string(parse_routing(text)), text);
  }
  EXPECT_EQ(parse_routing("hash").exponent, kTextExponent);
  EXPECT_EQ(parse_routing("power_law:1.2"), RoutingSpec(Routing::kPowerLaw, 1.2));
  EXPECT_EQ(parse_routing("balanced"), RoutingSpec(Routing::kBalanced));
}

TEST(RoutingText, SaysWhatIsWrong) {
  EXPECT_THAT(usage_error("skewed"),
              AllOf(HasSubstr("'skewed'"), HasSubstr("power_law:EXPONENT"), HasSubstr("hash[")));
  EXPECT_THAT(usage_error("uniform:2"), HasSubstr("no parameter"));
  for (const char* text : {"zipf", "zipf:", "zipf:x", "zipf:-1", "zipf:9", "zipf:nan", "zipf:1 "}) {
    EXPECT_THAT(usage_error(text), HasSubstr("needs an exponent from 0 to 8")) << text;
  }
  EXPECT_THAT(usage_error("popularity"), HasSubstr("popularity:FILE"));
  EXPECT_THAT(thrown<base::ConfigError>([] { (void)parse_routing("recorded:/no/such"); }),
              HasSubstr("/no/such: error: no such file"));
}

TEST(RoutingText, KnowsTheNamesOfMeasurementTables) {
  EXPECT_EQ(routing_distribution(""), RoutingSpec(Routing::kBalanced));
  EXPECT_EQ(routing_distribution("balanced"), RoutingSpec(Routing::kBalanced));
  EXPECT_EQ(routing_distribution("power_law_1.01"), RoutingSpec(Routing::kPowerLaw, 1.01));
  EXPECT_EQ(routing_distribution("power_law_sampled_1.9"),
            RoutingSpec(Routing::kPowerLawSampled, 1.9));
  for (const char* name : {"power_law_", "power_law_x", "power_law_-1", "lognormal_1"}) {
    EXPECT_THAT(thrown<base::UnsupportedError>([&] { (void)routing_distribution(name); }),
                HasSubstr(name));
  }
}

TEST_F(RoutingFile, HoldsPopularityByExpert) {
  const RoutingSpec spec =
      parse_routing("popularity:" + write("# by expert\n3\n0 # never\n\n1.5\n"));
  EXPECT_THAT(spec.data->popularity, ElementsAre(3.0, 0.0, 1.5));
  EXPECT_EQ(to_string(spec), "popularity:" + path_.string());
}

TEST_F(RoutingFile, HoldsTheChoicesOfTokens) {
  const RoutingSpec spec = parse_routing("recorded:" + write("3, 1\n0 2\n"));
  EXPECT_EQ(spec.data->topk, 2);
  EXPECT_THAT(spec.data->choices, ElementsAre(3, 1, 0, 2));
}

TEST_F(RoutingFile, NamesTheMistake) {
  const auto popularity = [&](const std::string& text) {
    return thrown<base::ConfigError>([&] { (void)read_popularity(write(text)); });
  };
  EXPECT_THAT(popularity("1\n -2\n"), HasSubstr(":2:2: error: '-2' is no popularity"));
  EXPECT_THAT(popularity("0\n0\n"), HasSubstr("no expert is ever chosen"));
  EXPECT_THAT(popularity(""), HasSubstr("no expert is ever chosen"));
  const auto choices = [&](const std::string& text) {
    return thrown<base::ConfigError>([&] { (void)read_choices(write(text)); });
  };
  EXPECT_THAT(choices("1 2\n3 3\n"), HasSubstr(":2:3: error: expert 3 is chosen twice"));
  EXPECT_THAT(choices("1 2\n3\n"), HasSubstr(":2:1: error: 1 experts where the first token has 2"));
  EXPECT_THAT(choices("1 x\n"), HasSubstr(":1:3: error: 'x' is no expert number"));
  EXPECT_THAT(choices("-1\n"), HasSubstr("no expert number"));
  EXPECT_THAT(choices("# nothing\n"), HasSubstr("no token"));
}

}  // namespace
}  // namespace foretoken::workloads
