// What a router chose in a run of the reference, as the load of ranks is drawn from it.
#pragma once

#include <filesystem>
#include <string_view>

#include "workloads/routing.h"

namespace foretoken::reference {

// The tensor `name` ("layers.3.ffn.gate.indices") of a file that `foretoken reference --dump`
// wrote: [tokens, topk] expert numbers. Throws ConfigError when it is missing, of another shape, or
// holds what is no choice: fractions, negative numbers, an expert twice for a token.
workloads::RoutingSpec recorded_choices(const std::filesystem::path& path, std::string_view name);

}  // namespace foretoken::reference
