// Which operators share a kernel: the files that say so, and the mistakes in them.
#include "hwmodels/stack.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "hwmodels/designs.h"
#include "hwmodels/kernel_set.h"
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
  explicit StackFile(const std::string& fused, const std::string& name = "mine",
                     const std::string& more = "") {
    std::filesystem::create_directories(folder_ / "stacks");
    folder_.write("stacks/mine.yaml",
                  "name: " + name + "\ntitle: t\nsource: assumed\nfused:\n" + fused + more);
  }
  [[nodiscard]] Stack read() const { return load_stack("mine", folder_.path()); }
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

StackFile with(const std::string& more) {
  return StackFile("  attn_norm: hc_attn_pre\n", "mine", more);
}

TEST(Stack, SmallKernelsAndDesignsAreReadAndNothingWithoutThem) {
  const Stack none = with("").read();
  EXPECT_TRUE(none.designs.empty());
  EXPECT_TRUE(none.design_families.empty());
  EXPECT_EQ(none.expert_kernels_fp4, 0);
  EXPECT_EQ(none.expert_kernels, 0);
  EXPECT_TRUE(none.scale_families.empty());
  EXPECT_EQ(none.scale_kernels, 0);
  const Stack all = with(
                        "designs:\n"
                        "  families: [hopper]\n"
                        "  use:\n"
                        "    - { kind: decode_top_k, design: vllm_top_k }\n"
                        "    - { kind: route, design: route }\n"
                        "experts: { kernels_fp4: 2, kernels: 8 }\n"
                        "scale_layout: { families: [blackwell], kernels: 3, per_weight_row: 0.5 ns "
                        "}\n")
                        .read();
  EXPECT_THAT(all.designs, testing::ElementsAre(testing::Pair("decode_top_k", "vllm_top_k"),
                                                testing::Pair("route", "route")));
  EXPECT_THAT(all.design_families, testing::ElementsAre("hopper"));
  EXPECT_EQ(all.expert_kernels_fp4, 2);
  EXPECT_EQ(all.expert_kernels, 8);
  EXPECT_THAT(all.scale_families, testing::ElementsAre("blackwell"));
  EXPECT_EQ(all.scale_kernels, 3);
  EXPECT_DOUBLE_EQ(all.scale_seconds_per_row, 0.5e-9);
}

TEST(Stack, WhatEnginesLoseIsReadAndNothingWithoutIt) {
  const Stack none = with("").read();
  EXPECT_EQ(none.fp4_expert_rate.value, 1.0);
  EXPECT_EQ(none.waiting.value, 0.0);
  EXPECT_EQ(none.stage_host.value, 0.0);
  const Stack all = with(
                        "engine:\n"
                        "  fp4_expert_rate: { value: 0.5, low: 0.4, high: 1 }\n"
                        "  waiting: { value: 0.1, low: 0, high: 0.2 }\n"
                        "  stage_host: 2 ms\n"
                        "  source: assumed\n")
                        .read();
  EXPECT_EQ(all.fp4_expert_rate.value, 0.5);
  EXPECT_EQ(all.waiting.high, 0.2);
  EXPECT_DOUBLE_EQ(all.stage_host.value, 2e-3);
  EXPECT_EQ(all.engine_source, "assumed");
  EXPECT_THAT(with("engine: { waiting: 1, source: assumed }\n").error(),
              testing::MatchesRegex("stacks/mine.yaml:6:[0-9]+: error: .*waiting.*"));
  EXPECT_THAT(with("engine: { fp4_expert_rate: 0, source: assumed }\n").error(),
              testing::MatchesRegex("stacks/mine.yaml:6:[0-9]+: error: .*fp4_expert_rate.*"));
  EXPECT_THAT(with("engine: { waiting: 0.1 }\n").error(), testing::HasSubstr("source"));
}

TEST(Stack, LossesMoveToTheEndsOfTheirRanges) {
  Stack s;
  s.fp4_expert_rate = {0.5, 0.4, 1.0};
  s.waiting = {0.1, 0.05, 0.2};
  s.stage_host = {2e-3, 1e-3, 3e-3};
  Stack shortest = s;
  move_losses(shortest, -1);
  EXPECT_EQ(shortest.fp4_expert_rate.value, 1.0);
  EXPECT_EQ(shortest.waiting.value, 0.05);
  EXPECT_EQ(shortest.stage_host.value, 1e-3);
  Stack longest = s;
  move_losses(longest, 1);
  EXPECT_EQ(longest.fp4_expert_rate.value, 0.4);
  EXPECT_EQ(longest.waiting.value, 0.2);
  EXPECT_EQ(longest.stage_host.value, 3e-3);
}

TEST(Stack, MistakesInItsSmallKernelsAreReportedWhereTheyStand) {
  EXPECT_THAT(with("experts: { kernels_fp4: 2, kernel: 8 }\n").error(),
              testing::HasSubstr("unknown key 'kernel' in experts; did you mean 'kernels'?"));
  EXPECT_THAT(with("experts: { kernels_fp4: 2, kernels: 65 }\n").error(),
              testing::MatchesRegex("stacks/mine.yaml:6:[0-9]+: error: .*kernels.*"));
  EXPECT_THAT(
      with("scale_layout: { families: [blackwell], kernels: 3, per_weight_row: -1 ns }\n").error(),
      testing::MatchesRegex("stacks/mine.yaml:6:[0-9]+: error: .*per_weight_row.*"));
  EXPECT_THAT(with("scale_layout: { families: [], kernels: 3, per_weight_row: 1 ns }\n").error(),
              testing::MatchesRegex("stacks/mine.yaml:6:[0-9]+: error: .*families.*"));
  EXPECT_THAT(with("designs:\n  use:\n    - { kind: route }\n").error(),
              testing::MatchesRegex("stacks/mine.yaml:8:[0-9]+: error: .*design.*"));
}

TEST(Stack, ItsDesignsTakeTheFamilysPlacesOnChipsTheyAreFor) {
  Stack s;
  s.designs = {{"prefill_top_k", "vllm_top_k"}};
  s.design_families = {"hopper", "blackwell"};
  Hardware h200 = test_support::hardware("hgx_h200");
  const std::string own = h200.kernels.prefill_top_k.name;
  EXPECT_NE(own, "vllm_top_k");
  apply(s, h200, configs());
  EXPECT_EQ(h200.kernels.prefill_top_k.name, "vllm_top_k");
  EXPECT_EQ(h200.kernels.decode_top_k.name, own);
  EXPECT_EQ(h200.kernels.name, "hopper");
  Hardware ascend = test_support::hardware("atlas_950_cabinet");
  apply(s, ascend, configs());
  EXPECT_EQ(ascend.kernels.prefill_top_k.name, "ascend_top_k");
  // Without families they are for all.
  s.design_families.clear();
  apply(s, ascend, configs());
  EXPECT_EQ(ascend.kernels.prefill_top_k.name, "vllm_top_k");
}

TEST(Stack, EveryShippedStackCanBeAppliedToEveryFamily) {
  for (const std::string& stack : list_configs(configs(), "stacks")) {
    for (const char* system : {"hgx_a100", "hgx_h200", "hgx_b200", "vr_nvl72", "cloudmatrix384",
                               "atlas_950_cabinet", "mlu590_x8"}) {
      SCOPED_TRACE(stack + " on " + system);
      Hardware h = test_support::hardware(system);
      apply(load_stack(stack, configs()), h, configs());
      EXPECT_EQ(h.kernels.name, h.chip.family);
    }
  }
}

TEST(KernelSet, EveryFamilyHasOneOfTheDesignsWrittenForIt) {
  for (const std::string& family : list_configs(configs(), "designs/sets")) {
    SCOPED_TRACE(family);
    const KernelSet set = load_kernel_set(family, configs());
    EXPECT_EQ(set.name, family);
    for (const std::string& name :
         {set.gemm_bf16.name, set.gemm_fp8_block.name, set.grouped_fp8.name,
          set.decode_attention.name, set.prefill_index.name, set.decode_top_k.name, set.hyper.name,
          set.route.name, set.row.name, set.short_compressor.name, set.expert_rows.name}) {
      EXPECT_NO_THROW(load_design(name, configs())) << name;
    }
  }
}

TEST(KernelSet, AKindThatDoesNotExistIsRefused) {
  EXPECT_THAT(
      config_error([] {
        load_kernel_set("hopper", configs(), {{"gem_bf16", "route"}});
      }),
      testing::AllOf(testing::HasSubstr("designs/sets/hopper.yaml: error: no kind of kernel "
                                        "is called 'gem_bf16'")));
}

TEST(KernelSet, ADesignOfAnotherKernelIsRefusedWhereItIsUsed) {
  EXPECT_THAT(
      config_error([] {
        load_kernel_set("hopper", configs(), {{"gemm_bf16", "route"}});
      }),
      testing::ContainsRegex("designs/sets/hopper.yaml:[0-9]+:[0-9]+: error: 'route' is a design "
                             "of the kernel route"));
}

TEST(KernelSet, ADesignThatDoesNotExistIsRefused) {
  EXPECT_THAT(config_error([] {
                load_kernel_set("hopper", configs(), {{"route", "rout"}});
              }),
              testing::HasSubstr("designs/rout.yaml"));
}

TEST(KernelSet, MistakesInItsFileAreReportedWithTheirPosition) {
  const base::ScratchFolder folder;
  std::filesystem::copy(configs() / "designs", folder.path() / "designs",
                        std::filesystem::copy_options::recursive);
  const auto error_of = [&](const std::string& text) {
    folder.write("designs/sets/mine.yaml", text);
    const std::string error = config_error([&] { load_kernel_set("mine", folder.path()); });
    const std::string prefix = folder.path().string() + "/";
    return error.starts_with(prefix) ? error.substr(prefix.size()) : error;
  };
  const std::string hopper = base::content_of(configs() / "designs/sets/hopper.yaml");
  const auto edited = [&](const std::string& from, const std::string& to) {
    std::string text = hopper;
    text.replace(text.find("name: hopper"), 12, "name: mine");
    const std::size_t at = text.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    return text.replace(at, from.size(), to);
  };
  EXPECT_EQ(error_of(hopper),
            "designs/sets/mine.yaml:2:1: error: 'name' is 'hopper' but the file is called 'mine'");
  EXPECT_THAT(error_of(edited("gemm_fp8: hopper_gemm_fp8\n", "gem_fp8: hopper_gemm_fp8\n")),
              testing::MatchesRegex("designs/sets/mine.yaml:4:1: error: unknown key 'gem_fp8'.*"));
  EXPECT_THAT(error_of(edited("route: route\n", "")), testing::HasSubstr("'route'"));
  EXPECT_THAT(
      error_of(edited("route: route\n", "route: row\n")),
      testing::MatchesRegex("designs/sets/mine.yaml:[0-9]+:[0-9]+: error: 'row' is a design "
                            "of the kernel row"));
}

TEST(KernelSet, AFamilyWithoutAFileIsABadInput) {
  EXPECT_THAT(config_error([] { load_kernel_set("hooper", configs()); }),
              testing::HasSubstr("designs/sets/hooper.yaml"));
}

TEST(Stack, AMissingFileIsABadInput) {
  EXPECT_THAT(config_error([] { load_stack("none", configs()); }),
              testing::HasSubstr("stacks/none.yaml"));
}

}  // namespace
}  // namespace foretoken::hwmodels
