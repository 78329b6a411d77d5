#include <gtest/gtest.h>

#include <random>
#include <string>

#include "sim/base/config_tree.h"
#include "tests/sim/base/test_support.h"

namespace foretoken::base {
namespace {

using Kind = ConfigTree::Kind;

ConfigTree read(std::string_view text) { return parse_yaml("f.yaml", text).root; }
std::string refusal(std::string_view text) {
  return config_error([&] { parse_yaml("f.yaml", text); });
}

constexpr std::string_view kSample = R"(# a chip
name: h200_sxm
matrix_unit:
  peak: { bf16: 989 TFLOP/s, fp8: "1979 TFLOP/s" }   # dense
memory:
  - { name: hbm, capacity: 141 GB }
  - name: l2
    sizes: [1, 'two', ~]
note: |
  two
  lines
)";

TEST(YamlReader, RemembersWhereEachValueStands) {
  const ConfigTree root = read(kSample);
  ASSERT_EQ(root.kind, Kind::kMap);
  EXPECT_EQ(root.line, 2);
  EXPECT_EQ(root.column, 1);
  const ConfigTree& peak = *root.find("matrix_unit")->find("peak");
  EXPECT_EQ(peak.line, 4);
  EXPECT_EQ(peak.column, 9);
  EXPECT_EQ(peak.find("bf16")->scalar, "989 TFLOP/s");
  EXPECT_FALSE(peak.find("bf16")->quoted);
  EXPECT_EQ(peak.find("bf16")->column, 17);
  EXPECT_TRUE(peak.find("fp8")->quoted);
  EXPECT_EQ(peak.key_positions[1], (std::pair{4, 30}));
  const ConfigTree& sizes = *root.find("memory")->items.at(1).find("sizes");
  ASSERT_EQ(sizes.items.size(), 3U);
  EXPECT_EQ(sizes.items[0].scalar, "1");
  EXPECT_TRUE(sizes.items[1].quoted);
  EXPECT_EQ(sizes.items[2].kind, Kind::kNull);
  EXPECT_EQ(root.find("note")->scalar, "two\nlines\n");
  EXPECT_EQ(root.find("absent"), nullptr);
}

TEST(YamlReader, PlacesAnAbsentValueAtItsKey) {
  const ConfigTree root = read("a: 1\nb:\n\n\nc: 2\n");
  EXPECT_EQ(root.find("b")->kind, Kind::kNull);
  EXPECT_EQ(root.find("b")->line, 2);
  EXPECT_EQ(root.find("b")->column, 1);
}

TEST(YamlReader, AcceptsAByteOrderMarkAndWindowsLineEnds) {
  const ConfigTree root = read(
      "\xEF\xBB\xBF"
      "a: 1\r\nb: x\r\n");
  EXPECT_EQ(root.find("a")->scalar, "1");
  EXPECT_EQ(root.find("b")->scalar, "x");
  EXPECT_EQ(root.find("b")->line, 2);
}

TEST(YamlReader, RefusesADuplicateKeyAndNamesTheFirst) {
  EXPECT_EQ(refusal("a: 1\nb: 2\na: 3\n"), "f.yaml:3:1: error: duplicate key 'a'; first on line 1");
  EXPECT_EQ(refusal("m: {x: 1, \"x\": 2}"),
            "f.yaml:1:11: error: duplicate key 'x'; first on line 1");
}

TEST(YamlReader, RefusesAnchorsAliasesAndTags) {
  EXPECT_EQ(refusal("a: &x 1\n"), "f.yaml:1:4: error: anchors (&name) are not accepted");
  EXPECT_EQ(refusal("a: &x\n"), "f.yaml:1:4: error: anchors (&name) are not accepted");
  EXPECT_EQ(refusal("a: *x\n"), "f.yaml:1:4: error: aliases (*name) are not accepted");
  EXPECT_EQ(refusal("a: !!int 3\n"), "f.yaml:1:4: error: tags (!name) are not accepted");
  EXPECT_EQ(refusal("a: ! x\n"), "f.yaml:1:4: error: tags (!name) are not accepted");
  EXPECT_EQ(refusal("a: !t [1]\n"), "f.yaml:1:4: error: tags (!name) are not accepted");
  EXPECT_EQ(refusal("a: !t {b: 1}\n"), "f.yaml:1:4: error: tags (!name) are not accepted");
}

TEST(YamlReader, RefusesASecondDocument) {
  EXPECT_EQ(refusal("a: 1\n---\nb: 2\n"), "f.yaml:2:1: error: a second document; a file holds one");
  EXPECT_EQ(refusal("- a\nb\n"),
            "f.yaml:2:1: error: text after the end of the document; check indentation");
}

TEST(YamlReader, RefusesKeysThatAreNotText) {
  EXPECT_EQ(refusal("? [a]\n: 1\n"), "f.yaml:1:3: error: a key must be text, not a list or a map");
  EXPECT_EQ(refusal("{a: 1}: 1\n"), "f.yaml:1:1: error: a key must be text, not a list or a map");
  EXPECT_EQ(refusal("a: 1\n: 2\n"),
            "f.yaml:2:1: error: a key is missing; an empty key is not accepted");
}

TEST(YamlReader, RefusesAnEmptyFile) {
  EXPECT_EQ(refusal(""), "f.yaml: error: the file is empty");
  EXPECT_EQ(refusal("# only this\n"), "f.yaml: error: the file is empty");
  EXPECT_EQ(refusal("---\n"), "f.yaml: error: the file is empty");
  EXPECT_EQ(refusal("\xEF\xBB\xBF"), "f.yaml: error: the file is empty");
}

TEST(YamlReader, SaysWhereTheSyntaxIsWrong) {
  EXPECT_EQ(refusal("a: b: c\n"),
            "f.yaml:1:5: error: invalid YAML: illegal map value (two ':' in one line, or wrong "
            "indentation?)");
  EXPECT_EQ(refusal("a: \"\\q\"\n"),
            "f.yaml:1:7: error: invalid YAML: unknown escape character: q");
  EXPECT_EQ(refusal("x: 1\na: [1, 2"), "f.yaml:2:4: error: this list is not closed with ']'");
  EXPECT_EQ(refusal("[1, 2"), "f.yaml:1:1: error: this list is not closed with ']'");
  EXPECT_EQ(refusal("x: 1\na: {b: 2"), "f.yaml:2:4: error: this map is not closed with '}'");
  EXPECT_EQ(refusal("a: 'x"), "f.yaml:1:6: error: invalid YAML: illegal EOF in scalar");
  EXPECT_EQ(refusal("a: @x"), "f.yaml:1:4: error: invalid YAML: unknown token");
}

TEST(YamlReader, RefusesNulAndControlCharactersAndBrokenUtf8) {
  EXPECT_EQ(refusal(std::string_view("a: x\0y", 6)),
            "f.yaml:1:5: error: NUL byte; this is not a text file");
  EXPECT_EQ(refusal("a: \"x\\0y\""), "f.yaml:1:4: error: a value with a NUL character");
  EXPECT_EQ(refusal("a: \x1b[31m"), "f.yaml:1:4: error: control character 0x1B");
  EXPECT_EQ(refusal("a: \xff"), "f.yaml:1:4: error: invalid UTF-8 byte 0xFF");
  EXPECT_EQ(refusal("\xff\xfe"
                    "a"),
            "f.yaml:1:1: error: invalid UTF-8 byte 0xFF");
}

TEST(YamlReader, KeepsItsLimitsTightly) {
  const ConfigLimits limits{.file_bytes = 20, .depth = 3, .nodes = 4};
  const auto message = [&](std::string_view text) {
    return config_error([&] { parse_yaml("f.yaml", text, limits); });
  };
  EXPECT_EQ(message("a: [[1]]"), "");
  EXPECT_EQ(message("a: [[[]]]"), "f.yaml:1:6: error: nested deeper than 3 levels");
  EXPECT_EQ(message("- 1\n- 2\n- 3\n"), "");
  EXPECT_EQ(message("- 1\n- 2\n- 3\n- 4\n"), "f.yaml:4:3: error: more than 4 values");
  EXPECT_EQ(message(std::string(20, '1')), "");
  EXPECT_EQ(message(std::string(21, '1')),
            "f.yaml: error: the file has 21 bytes; at most 20 are read");
}

TEST(YamlReader, RefusesHostileNestingQuickly) {
  for (const char* unit : {"[", "{", "{a: ", "[a, ", "? ", "- ", "a: ", "[\n", "{? "}) {
    std::string text;
    while (text.size() < 10'000'000) text += unit;
    EXPECT_NE(refusal(text), "") << unit;
  }
  std::string deep;
  for (int i = 0; i < 100; ++i) deep += std::string(static_cast<std::size_t>(i), ' ') + "a:\n";
  EXPECT_EQ(refusal(deep + std::string(100, ' ') + "b"),
            "f.yaml:65:65: error: nested deeper than 64 levels");
  const std::string lists = std::string(100, '[') + std::string(100, ']');
  EXPECT_EQ(refusal(lists), "f.yaml:1:65: error: nested deeper than 64 levels");
}

TEST(YamlReader, RefusesTooLargeATextAtOnce) {
  EXPECT_EQ(refusal(std::string((16U << 20) + 1, 'a')),
            "f.yaml: error: the file has 16777217 bytes; at most 16777216 are read");
}

TEST(YamlReader, KeepsHugeNumbersAsText) {
  EXPECT_EQ(read("a: 1e999999").find("a")->scalar, "1e999999");
}

// Whatever the bytes, either a tree or a ConfigError of one line.
void expect_tree_or_error(const std::string& text) {
  try {
    parse_yaml("f.yaml", text);
  } catch (const ConfigError& error) {
    EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos) << error.what();
  }
}

TEST(YamlReader, SurvivesTheSampleCutAtEveryByte) {
  for (std::size_t size = 0; size <= kSample.size(); ++size) {
    expect_tree_or_error(std::string(kSample.substr(0, size)));
  }
}

TEST(YamlReader, SurvivesRandomBytes) {
  std::mt19937_64 random(11);
  const std::string indicators = "abc12 \n\n  --:?,[]{}#&*!|>'\"%@`~\t.\\";
  for (int i = 0; i < 6000; ++i) {
    std::string text(random() % 60, ' ');
    for (char& c : text) {
      c = i % 4 == 0 ? static_cast<char>(random()) : indicators[random() % indicators.size()];
    }
    expect_tree_or_error(text);
  }
}

TEST(YamlReader, SurvivesRandomChangesOfTheSample) {
  std::mt19937_64 random(12);
  const std::string indicators = "a1 \n-:?,[]{}#&*!|>'\"%@`~\t\xff";
  for (int i = 0; i < 4000; ++i) {
    std::string text(kSample);
    for (std::size_t change = 0; change <= random() % 4; ++change) {
      const std::size_t at = random() % text.size();
      const char c = indicators[random() % indicators.size()];
      switch (random() % 3) {
        case 0:
          text[at] = c;
          break;
        case 1:
          text.insert(at, 1, c);
          break;
        default:
          text.erase(at, random() % 5);
      }
      if (text.empty()) break;
    }
    expect_tree_or_error(text);
  }
}

}  // namespace
}  // namespace foretoken::base
