// Counts what a test binary takes from the heap, by replacing its operator new.
#pragma once

#include <cstdint>

namespace foretoken::test_support {

struct Allocations {
  std::int64_t made = 0;  // calls of operator new so far
  std::int64_t live = 0;  // those not deleted yet
};

Allocations allocations();

}  // namespace foretoken::test_support
