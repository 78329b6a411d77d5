#include <gtest/gtest.h>

#include <random>
#include <string>

#include "sim/base/config_tree.h"
#include "tests/sim/base/test_support.h"

namespace foretoken::base {
namespace {

using Kind = ConfigTree::Kind;

ConfigTree read(std::string_view text) { return parse_json("f.json", text).root; }
std::string refusal(std::string_view text) {
  return config_error([&] { parse_json("f.json", text); });
}

constexpr std::string_view kSample = R"({
  "architectures": ["DeepseekV4"],
  "hidden_size": 7168,
  "rope_theta": 1.0e+4, "scale":-2.5,
  "tie": false, "use": true,
  "rope_scaling": null,
  "nested": {"a": [1, 2, {"b": "\u00e9\n"}], "empty": [], "none": {}}
}
)";

TEST(JsonReader, RemembersWhereEachValueStands) {
  const ConfigTree root = read(kSample);
  ASSERT_EQ(root.kind, Kind::kMap);
  EXPECT_EQ(root.line, 1);
  EXPECT_EQ(root.column, 1);
  const ConfigTree& size = *root.find("hidden_size");
  EXPECT_EQ(size.scalar, "7168");
  EXPECT_FALSE(size.quoted);
  EXPECT_EQ(size.line, 3);
  EXPECT_EQ(size.column, 18);
  EXPECT_EQ(root.key_positions[1], (std::pair{3, 3}));
  EXPECT_EQ(root.find("rope_theta")->scalar, "1.0e+4");
  EXPECT_EQ(root.find("scale")->scalar, "-2.5");
  EXPECT_EQ(root.find("scale")->column, 33);
  EXPECT_EQ(root.find("tie")->scalar, "false");
  EXPECT_EQ(root.find("use")->scalar, "true");
  EXPECT_EQ(root.find("use")->column, 24);
  EXPECT_EQ(root.find("rope_scaling")->kind, Kind::kNull);
  EXPECT_EQ(root.find("rope_scaling")->column, 19);
  const ConfigTree& item = root.find("architectures")->items.at(0);
  EXPECT_TRUE(item.quoted);
  EXPECT_EQ(item.scalar, "DeepseekV4");
  const ConfigTree& nested = *root.find("nested");
  EXPECT_EQ(nested.find("a")->items.at(2).find("b")->scalar, "é\n");
  EXPECT_EQ(nested.find("a")->items.at(2).column, 26);
  EXPECT_EQ(nested.find("empty")->kind, Kind::kList);
  EXPECT_EQ(nested.find("none")->kind, Kind::kMap);
  EXPECT_EQ(nested.find("none")->line, 7);
}

TEST(JsonReader, PlacesNumbersThatTouchTheirNeighbours) {
  const ConfigTree root = read("[1,-2,3.5e1,4]");
  ASSERT_EQ(root.items.size(), 4U);
  EXPECT_EQ(root.items[1].scalar, "-2");
  EXPECT_EQ(root.items[1].column, 4);
  EXPECT_EQ(root.items[2].scalar, "3.5e1");
  EXPECT_EQ(root.items[3].column, 13);
  EXPECT_EQ(read("17").scalar, "17");
}

TEST(JsonReader, RefusesADuplicateKeyAndNamesTheFirst) {
  EXPECT_EQ(refusal("{\"a\": 1,\n \"b\": 2,\n \"a\": 3}"),
            "f.json:3:2: error: duplicate key 'a'; first on line 1");
  EXPECT_EQ(refusal("{\"x\": {\"a\": 1, \"\\u0061\": 3}}"),
            "f.json:1:16: error: duplicate key 'a'; first on line 1");
}

TEST(JsonReader, SaysWhatIsWrongInOneClearLine) {
  EXPECT_EQ(refusal("{\"a\": 1,}"), "f.json:1:9: error: a comma before '}'");
  EXPECT_EQ(refusal("[1,\n]"), "f.json:2:1: error: a comma before ']'");
  EXPECT_EQ(refusal("{\"a\": NaN}"), "f.json:1:7: error: invalid literal 'NaN'");
  EXPECT_EQ(refusal("{\"a\": Infinity}"), "f.json:1:7: error: invalid literal 'Infinity'");
  EXPECT_EQ(refusal("{\"a\": -Infinity}").substr(0, 17), "f.json:1:7: error");
  EXPECT_EQ(refusal("[1e999999]"), "f.json:1:2: error: number too large: '1e999999'");
  EXPECT_EQ(refusal("{ // x\n}"), "f.json:1:3: error: JSON has no comments");
  EXPECT_EQ(refusal("{'a': 1}"), "f.json:1:2: error: JSON text stands in double quotes");
  EXPECT_EQ(refusal("{\"a\" 1}"), "f.json:1:6: error: unexpected number literal; expected ':'");
  EXPECT_EQ(refusal("{\"a\":: 1}").substr(0, 36), "f.json:1:6: error: unexpected ':'; e");
  EXPECT_EQ(refusal("[1 2]"), "f.json:1:4: error: unexpected number literal; expected ']'");
  EXPECT_EQ(refusal("{} x"), "f.json:1:4: error: invalid literal 'x'");
  EXPECT_EQ(refusal("{} {}"), "f.json:1:4: error: unexpected '{'; expected end of input");
  EXPECT_EQ(refusal("[01]"), "f.json:1:3: error: unexpected number literal; expected ']'");
  EXPECT_EQ(refusal("{\"a\": [1,"),
            "f.json:1:10: error: the file ends within the list that starts on line 1");
  EXPECT_EQ(refusal("{\n\"a\""),
            "f.json:2:4: error: the file ends within the map that starts on line 1");
  for (const char* text : {"[1.]", "[+1]", "[.5]", "[\"\\q\"]", "[\"\\ud800\"]", "[\"a\nb\"]",
                           "[\"a", "[tru]", "]", "}", ",", ":", "\"", "[\"\t\"]", "nul", "-"}) {
    const std::string message = refusal(text);
    EXPECT_NE(message, "") << text;
    EXPECT_EQ(message.find("json.exception"), std::string::npos) << message;
    EXPECT_EQ(message.find('\n'), std::string::npos) << message;
  }
}

TEST(JsonReader, PlacesAnErrorInsideAText) {
  EXPECT_EQ(refusal("[\"ab\\q\"]").substr(0, 17), "f.json:1:6: error");
  EXPECT_EQ(refusal("[\"\\ud800\"]").substr(0, 9), "f.json:1:");
}

TEST(JsonReader, RefusesAnEmptyFile) {
  EXPECT_EQ(refusal(""), "f.json: error: the file is empty");
  EXPECT_EQ(refusal(" \n"), "f.json: error: the file is empty");
  EXPECT_EQ(refusal("\xEF\xBB\xBF"), "f.json: error: the file is empty");
}

TEST(JsonReader, AcceptsAByteOrderMark) {
  EXPECT_EQ(read("\xEF\xBB\xBF{\"a\": 1}").find("a")->scalar, "1");
}

TEST(JsonReader, RefusesNulAndBrokenUtf8) {
  EXPECT_EQ(refusal(std::string_view("[\"a\0\"]", 6)),
            "f.json:1:4: error: NUL byte; this is not a text file");
  EXPECT_EQ(refusal("[\"\\u0000\"]"), "f.json:1:2: error: a value with a NUL character");
  EXPECT_EQ(refusal("{\"\\u0000\": 1}"), "f.json:1:2: error: a value with a NUL character");
  EXPECT_EQ(refusal("[\"\xff\"]"), "f.json:1:3: error: invalid UTF-8 byte 0xFF");
}

TEST(JsonReader, KeepsItsLimitsTightly) {
  const ConfigLimits limits{.file_bytes = 20, .depth = 3, .nodes = 4};
  const auto message = [&](std::string_view text) {
    return config_error([&] { parse_json("f.json", text, limits); });
  };
  EXPECT_EQ(message("[[[1]]]"), "");
  EXPECT_EQ(message("[[[[]]]]"), "f.json:1:4: error: nested deeper than 3 levels");
  EXPECT_EQ(message("[1,2,3]"), "");
  EXPECT_EQ(message("[1,2,3,4]"), "f.json:1:8: error: more than 4 values");
  EXPECT_EQ(message(std::string(21, '1')),
            "f.json: error: the file has 21 bytes; at most 20 are read");
}

TEST(JsonReader, RefusesHostileNestingQuickly) {
  std::string text;
  text.resize(10'000'000, '[');
  EXPECT_EQ(refusal(text), "f.json:1:65: error: nested deeper than 64 levels");
  text.clear();
  while (text.size() < 10'000'000) text += "{\"a\":";
  EXPECT_EQ(refusal(text), "f.json:1:321: error: nested deeper than 64 levels");
}

TEST(JsonReader, RefusesMillionsOfValues) {
  std::string text = "[1";
  while (text.size() < 8'000'000) text += ",1";
  EXPECT_EQ(refusal(text), "f.json:1:2000000: error: more than 1000000 values");
}

TEST(JsonReader, KeepsLongNumbersAsWritten) {
  const std::string digits(5000, '7');
  EXPECT_EQ(read("[0." + digits + "]").items.at(0).scalar, "0." + digits);
  EXPECT_EQ(read("[1e-999999]").items.at(0).scalar, "1e-999999");
  EXPECT_EQ(read("[123456789012345678901234567890]").items.at(0).scalar,
            "123456789012345678901234567890");
}

void expect_tree_or_error(const std::string& text) {
  try {
    parse_json("f.json", text);
  } catch (const ConfigError& error) {
    const std::string message = error.what();
    EXPECT_EQ(message.find('\n'), std::string::npos) << message;
    EXPECT_EQ(message.find("json.exception"), std::string::npos) << message;
  }
}

TEST(JsonReader, RefusesTheSampleCutAtEveryByte) {
  const std::string_view sample = kSample.substr(0, kSample.size() - 1);
  for (std::size_t size = 0; size < sample.size(); ++size) {
    EXPECT_NE(refusal(sample.substr(0, size)), "") << size;
  }
}

TEST(JsonReader, SurvivesRandomBytes) {
  std::mt19937_64 random(13);
  const std::string tokens = "[]{},:\"\\ 0123456789.eE+-truefalsnul\nab";
  for (int i = 0; i < 10'000; ++i) {
    std::string text(random() % 40, ' ');
    for (char& c : text) {
      c = i % 4 == 0 ? static_cast<char>(random()) : tokens[random() % tokens.size()];
    }
    expect_tree_or_error(text);
  }
}

TEST(JsonReader, SurvivesRandomChangesOfTheSample) {
  std::mt19937_64 random(14);
  const std::string tokens = "[]{},:\"\\ 01.e-tn\xff";
  for (int i = 0; i < 5000; ++i) {
    std::string text(kSample);
    const std::size_t at = random() % text.size();
    if (random() % 2 == 0) {
      text[at] = tokens[random() % tokens.size()];
    } else {
      text.erase(at, random() % 4 + 1);
    }
    expect_tree_or_error(text);
  }
}

}  // namespace
}  // namespace foretoken::base
