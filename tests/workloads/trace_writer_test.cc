#include "workloads/trace_writer.h"

#include <gtest/gtest.h>

#include <sstream>
#include <string>
#include <vector>

#include "tests/workloads/test_support.h"

namespace foretoken::workloads {
namespace {

using base::ConfigTree;

struct Case {
  const ModelSpec& model;
  Batch batch;
  ParallelPlan plan;
};

std::vector<Case> cases() {
  return {
      {flash(), {.sequences = 3, .context = 4'096, .draft_tokens = 2}, {}},
      {v32(), {.phase = Phase::kPrefill, .sequences = 1, .context = 100, .new_tokens = 100}, {}},
      {v41(), {.sequences = 2, .context = 999, .draft_tokens = 5}, {.tp = 2, .ep = 2}},
      {pro(), {.sequences = 8, .context = 128}, {.dp = 2, .pp = 3, .ep = 2}}};
}

std::string trace_of(const Case& c, std::string_view name) {
  OpGraph graph;
  build_graph(c.model, release_precision(c.model), c.plan, c.batch, 0, graph);
  std::ostringstream out;
  write_trace({.model = name, .plan = c.plan, .batch = c.batch, .rank = 0}, graph, out);
  return out.str();
}

std::vector<ConfigTree> lines_of(const std::string& trace) {
  std::vector<ConfigTree> out;
  std::istringstream in(trace);
  for (std::string line; std::getline(in, line);) {
    out.push_back(base::parse_json("line", line).root);
  }
  return out;
}

std::string text(const ConfigTree& line, std::string_view key) {
  const ConfigTree* const value = line.find(key);
  if (value == nullptr) {
    ADD_FAILURE() << "no " << key;
    return "";
  }
  return value->scalar;
}
std::int64_t number(const ConfigTree& line, std::string_view key) {
  return std::stoll(text(line, key));
}

TEST(TraceWriter, StartsWithAHeaderThatSaysWhatWasRun) {
  const auto lines = lines_of(trace_of(cases()[3], "deepseek-v4-pro"));
  EXPECT_EQ(text(lines[0], "schema"), "foretoken.op_trace/1");
  EXPECT_EQ(text(lines[0], "model"), "deepseek-v4-pro");
  EXPECT_EQ(text(lines[0], "phase"), "decode");
  EXPECT_EQ(number(lines[0], "sequences"), 8);
  EXPECT_EQ(number(lines[0], "context"), 128);
  EXPECT_EQ(number(lines[0], "new_tokens"), 1);
  EXPECT_EQ(text(lines[0], "plan"), "DP2 PP3 EP2");
  EXPECT_EQ(number(lines[0], "rank"), 0);
}

TEST(TraceWriter, NumbersOperatorsInOrderAndDependsOnEarlierOnes) {
  for (const Case& c : cases()) {
    const auto lines = lines_of(trace_of(c, c.model.name));
    for (std::size_t i = 1; i < lines.size(); ++i) {
      const auto id = static_cast<std::int64_t>(i) - 1;
      ASSERT_EQ(number(lines[i], "id"), id);
      const ConfigTree* const deps = lines[i].find("deps");
      ASSERT_NE(deps, nullptr);
      ASSERT_EQ(deps->items.empty(), id == 0) << c.model.name << " " << id;
      for (const ConfigTree& d : deps->items) {
        const std::int64_t dep = std::stoll(d.scalar);
        ASSERT_GE(dep, 0);
        ASSERT_LT(dep, id);
      }
    }
  }
}

TEST(TraceWriter, SumsEqualTheCountOfTheGraph) {
  for (const Case& c : cases()) {
    OpGraph graph;
    build_graph(c.model, release_precision(c.model), c.plan, c.batch, 0, graph);
    const WorkCount total = count_graph(graph).total();
    WorkCount sum;
    std::int64_t flops = 0;
    const auto lines = lines_of(trace_of(c, c.model.name));
    for (std::size_t i = 1; i < lines.size(); ++i) {
      flops += number(lines[i], "flops");
      sum.vector_ops += number(lines[i], "vector_ops");
      sum.weight_bytes += number(lines[i], "weight_bytes");
      sum.input_bytes += number(lines[i], "input_bytes");
      sum.output_bytes += number(lines[i], "output_bytes");
      sum.kv_read_bytes += number(lines[i], "kv_read_bytes");
      sum.kv_write_bytes += number(lines[i], "kv_write_bytes");
      sum.sent_bytes += number(lines[i], "sent_bytes");
    }
    EXPECT_EQ(flops, total.total_flops()) << c.model.name;
    EXPECT_EQ(sum.vector_ops, total.vector_ops + total.special_ops);
    EXPECT_EQ(sum.weight_bytes, total.weight_bytes);
    EXPECT_EQ(sum.input_bytes, total.input_bytes);
    EXPECT_EQ(sum.output_bytes, total.output_bytes);
    EXPECT_EQ(sum.kv_read_bytes, total.kv_read_bytes);
    EXPECT_EQ(sum.kv_write_bytes, total.kv_write_bytes);
    EXPECT_EQ(sum.sent_bytes, total.sent_bytes);
  }
}

TEST(TraceWriter, WritesEveryLayerInOrder) {
  for (const Case& c : cases()) {
    std::vector<std::int64_t> layers;
    const auto lines = lines_of(trace_of(c, c.model.name));
    for (std::size_t i = 1; i < lines.size(); ++i) {
      if (lines[i].find("layer") == nullptr) continue;
      const std::int64_t layer = number(lines[i], "layer");
      if (layers.empty() || layers.back() != layer) layers.push_back(layer);
    }
    ASSERT_EQ(layers.size(), c.model.layers.size());
    for (std::size_t i = 0; i < layers.size(); ++i) {
      EXPECT_EQ(layers[i], static_cast<std::int64_t>(i));
    }
  }
}

TEST(TraceWriter, WritesShapesFromWhichTheWorkFollows) {
  const auto lines = lines_of(trace_of(cases()[0], "m"));
  bool grouped = false;
  for (std::size_t i = 1; i < lines.size(); ++i) {
    const ConfigTree& l = lines[i];
    const std::string kind = text(l, "kind");
    if (kind == "gemm") {
      EXPECT_EQ(number(l, "flops"),
                2 * number(l, "m") * number(l, "n") * number(l, "k") * number(l, "batch"));
    } else if (kind == "grouped_gemm") {
      grouped = true;
      EXPECT_EQ(number(l, "flops"), 2 * number(l, "rows") * number(l, "n") * number(l, "k"));
      EXPECT_EQ(text(l, "weight"), "fp4");
      EXPECT_EQ(text(l, "compute"), "fp8");
    } else if (kind == "attention") {
      EXPECT_EQ(number(l, "flops"), 2 * number(l, "heads") * number(l, "keys") *
                                        (number(l, "qk_width") + number(l, "v_width")));
    } else if (kind == "index_logits") {
      EXPECT_EQ(number(l, "flops"),
                2 * number(l, "heads") * number(l, "width") * number(l, "entries"));
    }
  }
  EXPECT_TRUE(grouped);
}

TEST(TraceWriter, KeepsLinesWholeWhateverTheModelIsCalled) {
  const Case c = cases()[3];
  for (const std::string& name :
       {std::string("a\"b\\c\nd\te\x01"), std::string("x\",\"rank\":9,\"y\":\""), std::string("\\"),
        std::string(), std::string("{}[]"), std::string("mod\xC3\xA8le"),
        std::string("nul\0byte", 8)}) {
    const std::string trace = trace_of(c, name);
    const ConfigTree header = base::parse_json("header", trace.substr(0, trace.find('\n'))).root;
    EXPECT_EQ(number(header, "rank"), 0) << name;
    EXPECT_NE(header.find("model"), nullptr);
  }
  EXPECT_EQ(text(lines_of(trace_of(c, "a\"b\\c"))[0], "model"), "a\"b\\c");
}

// A folder's name can be any bytes; JSON has to be valid UTF-8.
TEST(TraceWriter, WritesValidJsonForANameThatIsNotUtf8) {
  const std::string trace = trace_of(cases()[3], "mod\xE8le");
  EXPECT_NO_THROW((void)base::parse_json("header", trace.substr(0, trace.find('\n'))));
}

}  // namespace
}  // namespace foretoken::workloads
