#include "sim/base/error.h"

#include <gtest/gtest.h>

namespace foretoken::base {
namespace {

TEST(Error, PutsThePositionBeforeTheMessage) {
  const ConfigError error({"configs/chips/a.yaml", 6, 36}, "unknown key 'bandwith'");
  EXPECT_STREQ(error.what(), "configs/chips/a.yaml:6:36: error: unknown key 'bandwith'");
  EXPECT_EQ(error.message(), "unknown key 'bandwith'");
  EXPECT_EQ(error.position().line, 6);
  EXPECT_EQ(error.position().column, 36);
}

TEST(Error, LeavesOutThePositionOfAWholeFile) {
  EXPECT_STREQ(ConfigError({"a.yaml", 0, 0}, "the file is empty").what(),
               "a.yaml: error: the file is empty");
  EXPECT_EQ(to_string(Position{"a.yaml", 0, 7}), "a.yaml");
}

}  // namespace
}  // namespace foretoken::base
