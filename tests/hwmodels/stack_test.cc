// Which operators share a kernel: the files that say so, and the mistakes in them.
#include "hwmodels/stack.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/hwmodels/fixtures.h"
#include "tests/sim/base/test_support.h"

namespace foretoken::hwmodels {
namespace {

using base::config_error;
using test_support::configs;
using workloads::index_of;
using workloads::Role;

TEST(Stack, TheUnfusedOneLeavesEveryOperatorAlone) {
  const Stack s = load_stack("unfused", configs());
  for (std::size_t i = 0; i < s.host.size(); ++i) EXPECT_EQ(s.host[i], static_cast<Role>(i));
}

TEST(Stack, TheServingOneFusesWhatItsFileLists) {
  const Stack s = load_stack("serving", configs());
  EXPECT_EQ(s.host[index_of(Role::kAttnNorm)], Role::kHcAttnPre);
  EXPECT_EQ(s.host[index_of(Role::kExpertSwiglu)], Role::kExpertGateUp);
  EXPECT_EQ(s.host[index_of(Role::kAttention)], Role::kAttention);
}

class StackFile {
 public:
  explicit StackFile(const std::string& fused, const std::string& name = "mine") {
    std::filesystem::create_directories(folder_ / "stacks");
    folder_.write("stacks/mine.yaml",
                  "name: " + name + "\ntitle: t\nsource: assumed\nfused:\n" + fused);
  }
  [[nodiscard]] std::string error() const {
    const std::string text = config_error([&] { load_stack("mine", folder_.path()); });
    const std::string prefix = folder_.path().string() + "/";
    return text.starts_with(prefix) ? text.substr(prefix.size()) : text;
  }

 private:
  base::ScratchFolder folder_;
};

TEST(Stack, AMisspeltOperatorIsReportedWithTheNearestName) {
  EXPECT_EQ(StackFile("  attn_nrom: hc_attn_pre\n").error(),
            "stacks/mine.yaml:5:3: error: unknown key 'attn_nrom' in fused; did you mean "
            "'attn_norm'?");
}

TEST(Stack, AHostThatIsNoOperatorIsReportedWhereItStands) {
  EXPECT_THAT(StackFile("  attn_norm: hc_atn_pre\n").error(),
              testing::StartsWith("stacks/mine.yaml:5:3: error: no operator is called "
                                  "'hc_atn_pre'"));
}

TEST(Stack, AHostThatIsFusedItselfIsRefused) {
  EXPECT_EQ(StackFile("  attn_norm: quant_x\n  quant_x: wq_a\n").error(),
            "stacks/mine.yaml:5:3: error: 'quant_x' is fused itself; name the kernel it joins");
  EXPECT_THAT(StackFile("  attn_norm: attn_norm\n").error(),
              testing::HasSubstr("'attn_norm' cannot join itself"));
}

TEST(Stack, AFileIsNamedAfterItsName) {
  EXPECT_THAT(StackFile("  attn_norm: hc_attn_pre\n", "other").error(),
              testing::StartsWith("stacks/mine.yaml:1:1: error: 'name' is 'other'"));
}

TEST(Stack, AMissingFileIsABadInput) {
  EXPECT_THAT(config_error([] { load_stack("none", configs()); }),
              testing::HasSubstr("stacks/none.yaml"));
}

}  // namespace
}  // namespace foretoken::hwmodels
