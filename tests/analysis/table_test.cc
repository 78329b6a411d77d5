// Plain tables and their three writers.
#include "analysis/reports/table.h"

#include <gtest/gtest.h>

namespace foretoken::analysis {
namespace {

const Table kTable{{{"name"}, {"value", true}}, {{"a", "1"}, {"longer – name", "1,000"}}};

TEST(Table, TextAlignsNumbersRightAndCountsCodePoints) {
  EXPECT_EQ(to_text(kTable),
            "name           value\n"
            "-------------  -----\n"
            "a                  1\n"
            "longer – name  1,000\n");
}

TEST(Table, MarkdownHasOneCellPerColumnAndEscapesBars) {
  EXPECT_EQ(to_markdown({{{"a|b"}, {"n", true}}, {{"x|y\nz", "2"}}}),
            "| a\\|b | n |\n|---|---:|\n| x\\|y z | 2 |\n");
}

TEST(Table, CsvQuotesWhatRfc4180Wants) {
  EXPECT_EQ(to_csv({{{"a"}, {"b"}}, {{"x,y", "say \"hi\""}, {"two\nlines", "plain"}}}),
            "a,b\n\"x,y\",\"say \"\"hi\"\"\"\n\"two\nlines\",plain\n");
}

TEST(Table, WithoutRowsIsItsHeader) {
  EXPECT_EQ(to_csv({{{"a"}, {"b"}}, {}}), "a,b\n");
  EXPECT_EQ(to_markdown({{{"a"}}, {}}), "| a |\n|---|\n");
}

}  // namespace
}  // namespace foretoken::analysis
