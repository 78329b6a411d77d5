#include "sim/base/text.h"

#include <gtest/gtest.h>

#include <array>
#include <vector>

#include "tests/sim/base/test_support.h"

namespace foretoken::base {
namespace {

TEST(Text, QuotesOnOneLineAndShortens) {
  EXPECT_EQ(quote("a\nb\x1b[31m\xff"), "'a\\nb\\x1b[31m\\xff'");
  EXPECT_EQ(quote(std::string(1000, 'x')), "'" + std::string(60, 'x') + "...'");
  EXPECT_EQ(quote("é"), "'é'");
  EXPECT_EQ(quote(std::string(59, 'x') + "é"), "'" + std::string(59, 'x') + "...'");
}

TEST(Text, EscapesForJson) { EXPECT_EQ(quote_json("a\"\\\n\x01é"), "\"a\\\"\\\\\\n\\u0001é\""); }

TEST(Text, SuggestsTheNearestWord) {
  const std::vector<std::string> words = {"capacity", "bandwidth", "name"};
  EXPECT_EQ(did_you_mean("bandwith", words), "; did you mean 'bandwidth'?");
  EXPECT_EQ(did_you_mean("anme", words), "; did you mean 'name'?");
  EXPECT_EQ(did_you_mean("latency", words), "");
  EXPECT_EQ(did_you_mean("", words), "");
  EXPECT_EQ(did_you_mean(std::string(1'000'000, 'a'), words), "");
  const std::array<std::string_view, 2> names = {"fcfs", "sjf"};
  EXPECT_EQ(did_you_mean("fcsf", names), "; did you mean 'fcfs'?");
}

TEST(Text, DoesNotSuggestAWordThatSharesNothing) {
  const std::vector<std::string> words = {"m", "n"};
  EXPECT_EQ(did_you_mean("k", words), "");
}

TEST(Text, RefusesWhatIsNotUtf8) {
  const auto message = [](std::string_view text) {
    return config_error([&] { check_characters("f", text); });
  };
  EXPECT_EQ(message("ok é € 😀\t\r\n"), "");
  EXPECT_EQ(message("a\nb\xff"), "f:2:2: error: invalid UTF-8 byte 0xFF");
  EXPECT_EQ(message("\xc0\x80"), "f:1:1: error: invalid UTF-8 byte 0xC0");          // overlong
  EXPECT_EQ(message("\xe0\x80\x80"), "f:1:1: error: invalid UTF-8 byte 0xE0");      // overlong
  EXPECT_EQ(message("\xed\xa0\x80"), "f:1:1: error: invalid UTF-8 byte 0xED");      // surrogate
  EXPECT_EQ(message("\xf4\x90\x80\x80"), "f:1:1: error: invalid UTF-8 byte 0xF4");  // > U+10FFFF
  EXPECT_EQ(message("\xe2\x82"), "f:1:1: error: invalid UTF-8 byte 0xE2");          // cut off
  EXPECT_EQ(message(std::string_view("a\0b", 3)),
            "f:1:2: error: NUL byte; this is not a text file");
  EXPECT_EQ(message("a\x1b"), "f:1:2: error: control character 0x1B");
  EXPECT_EQ(message("a\x7f"), "f:1:2: error: control character 0x7F");
  EXPECT_EQ(message("a\xc2\x9b"), "f:1:2: error: control character U+009B");
}

}  // namespace
}  // namespace foretoken::base
