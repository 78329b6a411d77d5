// Reads every #include of the project and fails on an arrow that points the wrong way.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <filesystem>
#include <fstream>
#include <map>
#include <regex>
#include <set>
#include <string>
#include <vector>

namespace fs = std::filesystem;

namespace {

// A folder includes from itself and from folders of a lower level only (design: sim <- workloads <-
// reference <- hwmodels <- analysis; inside sim: base <- task <- engine).
const std::vector<std::pair<std::string, int>> kLevels = {
    {"sim/base/", 0},  {"sim/task/", 1}, {"sim/engine/", 2}, {"workloads/", 3},
    {"reference/", 4}, {"hwmodels/", 5}, {"analysis/", 6}};

// Heavy or foreign headers and the only folders (or files) that may include them.
const std::vector<std::pair<std::string, std::vector<std::string>>> kOnlyIn = {
    {"systemc", {"sim/engine/", "hwmodels/machine/"}},
    {"Eigen/", {"reference/", "hwmodels/value/", "analysis/calibrate"}},
    {"yaml-cpp/", {"sim/base/yaml_reader.cc"}},
    {"CLI/", {"analysis/cli/main.cc"}},
};

int level_of(const std::string& path) {
  for (const auto& [prefix, level] : kLevels) {
    if (path.rfind(prefix, 0) == 0) return level;
  }
  return -1;
}

struct Include {
  std::string file;
  std::string header;
};

std::vector<Include> includes_under(const fs::path& root) {
  static const std::regex include_line(R"re(^\s*#\s*include\s*[<"]([^>"]+)[>"])re");
  std::vector<Include> found;
  for (const auto& [prefix, level] : kLevels) {
    if (!fs::exists(root / prefix)) continue;
    for (const auto& entry : fs::recursive_directory_iterator(root / prefix)) {
      const std::string extension = entry.path().extension();
      if (extension != ".h" && extension != ".cc") continue;
      std::ifstream in(entry.path());
      std::string line;
      while (std::getline(in, line)) {
        std::smatch match;
        if (std::regex_search(line, match, include_line)) {
          found.push_back({fs::relative(entry.path(), root).string(), match[1]});
        }
      }
    }
  }
  return found;
}

std::vector<std::string> violations(const std::vector<Include>& includes) {
  std::vector<std::string> wrong;
  for (const Include& i : includes) {
    const int to = level_of(i.header);
    if (to > level_of(i.file)) wrong.push_back(i.file + " includes " + i.header);
    for (const auto& [prefix, allowed] : kOnlyIn) {
      if (i.header.rfind(prefix, 0) != 0) continue;
      bool ok = false;
      for (const std::string& place : allowed) ok = ok || i.file.rfind(place, 0) == 0;
      if (!ok) wrong.push_back(i.file + " includes " + i.header);
    }
  }
  return wrong;
}

}  // namespace

TEST(Layering, EveryIncludePointsToALowerLayer) {
  const auto includes = includes_under(FORETOKEN_SOURCE_DIR);
  ASSERT_GT(includes.size(), 100u);  // the scan found the sources
  EXPECT_THAT(violations(includes), testing::IsEmpty());
}

TEST(Layering, AnArrowTheWrongWayIsFound) {
  EXPECT_THAT(violations({{"sim/base/units.h", "workloads/op.h"},
                          {"workloads/op.h", "sim/base/units.h"},
                          {"analysis/step.cc", "systemc"},
                          {"hwmodels/lower.cc", "yaml-cpp/yaml.h"},
                          {"sim/base/yaml_reader.cc", "yaml-cpp/yaml.h"}}),
              testing::UnorderedElementsAre("sim/base/units.h includes workloads/op.h",
                                            "analysis/step.cc includes systemc",
                                            "hwmodels/lower.cc includes yaml-cpp/yaml.h"));
}
