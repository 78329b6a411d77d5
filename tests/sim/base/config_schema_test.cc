#include "sim/base/config_schema.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>

#include "sim/base/config_tree.h"
#include "tests/sim/base/sample_config.h"

namespace foretoken::base {
namespace {

class Schema : public ::testing::Test {
 protected:
  const ConfigTree& at(std::initializer_list<std::string_view> path) const {
    const ConfigTree* node = &file_.root;
    for (const std::string_view key : path) {
      const ConfigTree* next = node->find(key);
      if (next == nullptr) {
        ADD_FAILURE() << "no " << key;
        return *node;
      }
      node = next;
    }
    return *node;
  }
  static bool has(const ConfigTree& list, std::string_view text) {
    return std::ranges::any_of(list.items,
                               [&](const ConfigTree& item) { return item.scalar == text; });
  }

  ConfigFile file_ = parse_json("schema.json", schema_of<sample::Chip>("A \"chip\""));
};

TEST_F(Schema, IsValidJsonOfTheRightDraft) {
  EXPECT_EQ(at({"$schema"}).scalar, "https://json-schema.org/draft/2020-12/schema");
  EXPECT_EQ(at({"title"}).scalar, "A \"chip\"");
  EXPECT_EQ(at({"type"}).scalar, "object");
}

TEST_F(Schema, RefusesUnknownKeysEverywhere) {
  EXPECT_EQ(at({"additionalProperties"}).scalar, "false");
  EXPECT_EQ(at({"properties", "unit", "additionalProperties"}).scalar, "false");
  EXPECT_EQ(at({"properties", "memory", "items", "additionalProperties"}).scalar, "false");
}

TEST_F(Schema, ListsRequiredKeys) {
  EXPECT_TRUE(has(at({"required"}), "name"));
  EXPECT_TRUE(has(at({"required"}), "memory"));
  EXPECT_FALSE(has(at({"required"}), "note"));
  EXPECT_TRUE(has(at({"properties", "memory", "items", "required"}), "capacity"));
  EXPECT_FALSE(has(at({"properties", "memory", "items", "required"}), "latency"));
}

TEST_F(Schema, CarriesWhatEachKeyMeans) {
  EXPECT_EQ(at({"properties", "cores", "description"}).scalar, "with a matrix unit each");
  EXPECT_EQ(at({"properties", "unit", "description"}).scalar, "the matrix unit");
  EXPECT_EQ(at({"properties", "memory", "description"}).scalar, "from far to near");
  EXPECT_EQ(at({"properties", "unit", "properties", "m", "description"}).scalar,
            "rows of one instruction");
}

TEST_F(Schema, StatesRangesChoicesAndPatterns) {
  const ConfigTree& cores = at({"properties", "cores", "anyOf"});
  EXPECT_EQ(cores.items.at(0).find("minimum")->scalar, "1");
  EXPECT_EQ(cores.items.at(0).find("maximum")->scalar, "1024");
  EXPECT_EQ(at({"properties", "share", "exclusiveMinimum"}).scalar, "0");
  EXPECT_EQ(at({"properties", "share", "maximum"}).scalar, "1");
  EXPECT_TRUE(has(at({"properties", "policy", "enum"}), "shortest_first"));
  EXPECT_EQ(at({"properties", "clock", "pattern"}).scalar, pattern_of(UnitKind::kHertz));
  EXPECT_EQ(at({"properties", "memory", "minItems"}).scalar, "1");
  EXPECT_EQ(at({"properties", "memory", "maxItems"}).scalar, "4");
  const ConfigTree& peak = at({"properties", "peak", "anyOf"});
  EXPECT_EQ(peak.items.at(0).find("pattern")->scalar, pattern_of(UnitKind::kFlopsPerSecond));
  EXPECT_TRUE(has(*peak.items.at(1).find("required"), "value"));
}

TEST_F(Schema, DescribesTablesByTheirEntries) {
  const ConfigTree& entry = at({"properties", "links", "additionalProperties"});
  EXPECT_EQ(entry.find("type")->scalar, "object");
  EXPECT_NE(entry.find("properties")->find("bandwidth"), nullptr);
  EXPECT_EQ(at({"properties", "links", "maxProperties"}).scalar, "3");
}

}  // namespace
}  // namespace foretoken::base
