#include "analysis/sources.h"

#include <algorithm>

namespace foretoken::analysis {

const Source* Sources::find(const std::string& id) const {
  const auto found =
      std::find_if(sources.begin(), sources.end(), [&](const Source& s) { return s.id == id; });
  return found == sources.end() ? nullptr : &*found;
}

void describe(base::ConfigVisitor& v, Sources& s) {
  base::list(v, {"sources", "every source id used in configs"}, s.sources,
             [](base::ConfigVisitor& w, Source& source) {
               w.text({"id", "what other files write after 'source:'"}, source.id);
               w.text({"title", "what it is"}, source.title);
               w.text({"where", "where it can be found"}, source.where);
               w.text({"note", "reservations", base::Need::kOptional}, source.note);
             },
             {.min = 1, .max = 10'000});
}

Sources load_sources(const std::filesystem::path& configs) {
  return base::load_config<Sources>(configs / "sources.yaml");
}

}  // namespace foretoken::analysis
