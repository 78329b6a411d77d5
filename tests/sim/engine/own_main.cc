// What a program needs for `simulate`: nothing but the call.
#include <array>
#include <cstdio>

#include "sim/engine/simulate.h"

int main() {
  using foretoken::base::Seconds;
  foretoken::task::TaskGraph graph({"memory"}, 2);
  graph.begin_segment(0, 1);
  const std::array demands{foretoken::task::Demand{0, Seconds{1e-6}}};
  graph.add(0, 0, {}, demands, {});
  graph.add(0, 1, {}, demands, {});
  foretoken::task::Timeline timeline;
  for (int i = 0; i < 3; ++i) foretoken::engine::simulate(graph, timeline);
  std::printf("total %.9g us\n", timeline.total.value() * 1e6);
}
