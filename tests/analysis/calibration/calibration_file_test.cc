#include "analysis/calibration/calibration_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "sim/base/config_print.h"
#include "tests/analysis/calibration/fixtures.h"
#include "tests/sim/base/test_support.h"

namespace foretoken::analysis::calibration {
namespace {

using testing::HasSubstr;
using testing::Not;
using testing::StartsWith;

hwmodels::Calibration read(const std::string& text) {
  return base::read_config<hwmodels::Calibration>(base::parse_yaml("t.yaml", text));
}

// A fit of two constants, made up.
Fit made_up() {
  Fit f;
  f.chips = {"h200_sxm"};
  f.rows = 12;
  f.loss_before = 0.5;
  f.loss_after = 0.25;
  for (const Constant& c : constants_of({})) {
    if (c.name == "efficiency.matrix.fp8") {
      f.constants.push_back({c, {0.71234567, 0.6, 0.8}, false, 0.02, 0.03, {"h200_sxm"}, {0.85}});
    } else if (c.name == "latency.launch") {
      f.constants.push_back({c, {2.5e-6, 2e-6, 3e-6}, true, 0.01, 0.0, {"h200_sxm"}, {1.8e-6}});
    } else if (c.name == "power.static") {
      f.constants.push_back({c, {0.25, 0.2, 0.3}, false, 0.01, 0.01, {"other"}, {0.3}});
    }
  }
  return f;
}

std::string written(const std::string& chip, const std::string& file) {
  const std::filesystem::path path = kConfigs / "calibration" / file;
  return calibration_text(chip, made_up(), {"t.csv", "foretoken calibrate --chip \"x\""},
                          path.string(), base::content_of(path));
}

TEST(CalibrationFile, ReadsBackWithTheFittedConstants) {
  const hwmodels::Calibration c = read(written("h200_sxm", "h200_sxm.yaml"));
  EXPECT_EQ(c.name, "h200_sxm");
  EXPECT_EQ(c.basis, base::Basis::kCalibrated);
  EXPECT_EQ(c.command, "foretoken calibrate --chip \"x\"");
  EXPECT_THAT(c.data, StartsWith("12 rows of h200_sxm in t.csv"));
  const auto& fp8 = c.matrix_efficiency[static_cast<std::size_t>(workloads::Dtype::kFp8)];
  EXPECT_DOUBLE_EQ(fp8.value, 0.7123);
  EXPECT_DOUBLE_EQ(fp8.low, 0.6);
  EXPECT_DOUBLE_EQ(c.launch_latency.value, 2.5e-6);
}

TEST(CalibrationFile, EverythingElseStays) {
  const std::filesystem::path path = kConfigs / "calibration" / "h200_sxm.yaml";
  hwmodels::Calibration before = base::load_config<hwmodels::Calibration>(path);
  hwmodels::Calibration after = read(written("h200_sxm", "h200_sxm.yaml"));
  for (hwmodels::Calibration* c : {&before, &after}) {
    c->basis = base::Basis::kCalibrated;
    c->data = c->command = c->source = "";
    c->matrix_efficiency[static_cast<std::size_t>(workloads::Dtype::kFp8)] = {0.5, 0.5, 0.5};
    c->launch_latency = {1e-6, 1e-6, 1e-6};
  }
  EXPECT_EQ(base::print_config(after), base::print_config(before));
  // Comments of what was not fitted too.
  EXPECT_THAT(written("h200_sxm", "h200_sxm.yaml"), HasSubstr("# 8 GPUs, 537 MB"));
}

TEST(CalibrationFile, SaysWhatSupportsEachConstant) {
  const std::string text = written("h200_sxm", "h200_sxm.yaml");
  EXPECT_THAT(text, HasSubstr("the loss rises by +2.0 % and +3.0 %."));
  EXPECT_THAT(text, HasSubstr("At the bound of its"));
  EXPECT_THAT(text, HasSubstr("The data do not settle it."));
}

TEST(CalibrationFile, OfAChipThatInheritedIsItsOwn) {
  Fit f = made_up();
  for (FittedConstant& c : f.constants) c.chips = {"h100_sxm"};
  const std::filesystem::path path = kConfigs / "calibration" / "hopper.yaml";
  const std::string text =
      calibration_text("h100_sxm", f, {"t.csv", "x"}, path.string(), base::content_of(path));
  EXPECT_EQ(read(text).name, "h100_sxm");
  EXPECT_EQ(read(text).basis, base::Basis::kCalibrated);
  EXPECT_EQ(read(text).source, "derived");
}

TEST(CalibrationFile, ErrorTablesReadBack) {
  validation::ErrorTable t;
  t.name = "errors";
  t.data = "rows of a";
  t.command = "foretoken calibrate";
  t.inherited = 1.25;
  t.inherited_because = "of something";
  t.classes["dense_gemm/bf16"] = {48, 0.8, 1.25, 1.03, {"a", "b"}};
  const auto read_back = base::read_config<validation::ErrorTable>(
      base::parse_yaml("errors.yaml", error_table_text(t)));
  EXPECT_EQ(base::print_config(read_back), base::print_config(t));
}

TEST(CalibrationFile, LongTextIsWrapped) {
  EXPECT_EQ(wrapped("aa bb cc", "# ", 7), "# aa bb\n# cc\n");
  EXPECT_EQ(wrapped("aaaaaaaaaaaa b", "", 4), "aaaaaaaaaaaa\nb\n");
}

}  // namespace
}  // namespace foretoken::analysis::calibration
