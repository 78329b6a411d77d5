// The program as a subprocess, for tests of what it prints and how it ends.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include "tests/sim/base/test_support.h"

namespace foretoken {

inline const std::filesystem::path& source_configs() {
  static const std::filesystem::path path = std::filesystem::path(FORETOKEN_SOURCE_DIR) / "configs";
  return path;
}

struct Outcome {
  int code = -1;
  std::string out;
  std::string err;
};

// Arguments as typed in a shell, in a folder of its own.
class Shell {
 public:
  Outcome operator()(const std::string& arguments) const {
    const std::string line = "cd '" + folder.path().string() + "' && FORETOKEN_CONFIGS='" +
                             configs.string() + "' '" FORETOKEN_PROGRAM "' " + arguments + " >'" +
                             (folder / ".out").string() + "' 2>'" + (folder / ".err").string() +
                             "'";
    const int status = std::system(line.c_str());
    return {WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status),
            base::content_of(folder / ".out"), base::content_of(folder / ".err")};
  }
  // A copy of configs/ whose files may be edited.
  void copy_configs() {
    configs = folder / "configs";
    std::filesystem::copy(source_configs(), configs, std::filesystem::copy_options::recursive);
  }
  void edit(const std::string& file, const std::string& from, const std::string& to) const {
    std::string text = base::content_of(configs / file);
    const std::size_t at = text.find(from);
    ASSERT_NE(at, std::string::npos) << file << " lacks " << from;
    text.replace(at, from.size(), to);
    std::ofstream(configs / file, std::ios::binary) << text;
  }
  // The line of stderr, with the scratch folder's name cut off.
  [[nodiscard]] std::string relative(std::string text) const {
    const std::string prefix = folder.path().string() + "/";
    for (std::size_t at; (at = text.find(prefix)) != std::string::npos;) {
      text.erase(at, prefix.size());
    }
    return text;
  }

  base::ScratchFolder folder;
  std::filesystem::path configs = source_configs();
};

inline bool one_line(const std::string& text) {
  return !text.empty() && text.find('\n') == text.size() - 1;
}

inline void expect_refused(const Outcome& o, int code,
                           const testing::Matcher<std::string>& message) {
  EXPECT_EQ(o.code, code) << o.err;
  EXPECT_EQ(o.out, "");
  EXPECT_TRUE(one_line(o.err)) << o.err;
  EXPECT_THAT(o.err, message);
}

}  // namespace foretoken
