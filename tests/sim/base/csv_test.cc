#include "sim/base/csv.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace foretoken::base {
namespace {

std::string error_of(std::string_view text) {
  try {
    parse_csv("t.csv", text);
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "";
}

TEST(Csv, ReadsQuotedCellsCommentsAndCarriageReturns) {
  const CsvTable t =
      parse_csv("t.csv", "# note, \"1\"\na,b\r\n1,\"x, \"\"y\"\"\nz\"\n\n# more\n,2\n");
  EXPECT_THAT(t.columns, testing::ElementsAre("a", "b"));
  ASSERT_EQ(t.rows.size(), 2u);
  EXPECT_EQ(t.cell(t.rows[0], "b"), "x, \"y\"\nz");
  EXPECT_EQ(t.rows[0].line, 3);
  EXPECT_EQ(t.cell(t.rows[1], "a"), "");
  EXPECT_EQ(t.rows[1].line, 7);
}

TEST(Csv, NamesThePlaceOfWhatIsWrong) {
  EXPECT_EQ(error_of("a,b\n1\n"), "t.csv:2:1: error: 1 cells where the header has 2");
  EXPECT_EQ(error_of("a,b\n1,\"x\n"), "t.csv:2:3: error: a quoted cell does not end");
  EXPECT_EQ(error_of("a,b\n\"1\"2,3\n"),
            "t.csv:2:4: error: text after the closing quote of a cell");
  EXPECT_EQ(error_of(""), "t.csv:1:1: error: has no header row");
  EXPECT_EQ(error_of(std::string_view("a\0b\n", 4)),
            "t.csv:1:2: error: NUL byte; this is not a text file");
  EXPECT_EQ(error_of("a,b\n1,\xff\n"), "t.csv:2:3: error: invalid UTF-8 byte 0xFF");
  EXPECT_EQ(error_of("a,b,a\n"), "t.csv:1:5: error: two columns are called 'a'");
}

TEST(Csv, KnowsWhereEveryCellStarts) {
  const CsvTable t = parse_csv("t.csv",
                               "\xef\xbb\xbf"
                               "a,b\n\"x\ny\",2\n3,4\n");
  EXPECT_EQ(t.columns.front(), "a");
  EXPECT_EQ(to_string(t.position(t.rows[0], "a")), "t.csv:2:1");
  EXPECT_EQ(to_string(t.position(t.rows[0], "b")), "t.csv:3:4");
  EXPECT_EQ(to_string(t.position(t.rows[1], "b")), "t.csv:4:3");
  EXPECT_THROW((void)t.position(t.rows[1], "c"), ConfigError);
}

TEST(Csv, AMissingColumnIsAnError) {
  const CsvTable t = parse_csv("t.csv", "a\n1\n");
  EXPECT_TRUE(t.has("a"));
  EXPECT_FALSE(t.has("b"));
  EXPECT_THROW((void)t.cell(t.rows[0], "b"), ConfigError);
}

}  // namespace
}  // namespace foretoken::base
