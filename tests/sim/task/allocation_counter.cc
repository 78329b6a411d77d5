#include "tests/sim/task/allocation_counter.h"

#include <atomic>
#include <cstddef>
#include <cstdlib>
#include <new>

namespace {

std::atomic<std::int64_t> g_made{0};
std::atomic<std::int64_t> g_deleted{0};

void* allocate(std::size_t size) {
  void* const memory = std::malloc(size == 0 ? 1 : size);
  if (memory == nullptr) throw std::bad_alloc();
  ++g_made;
  return memory;
}

void release(void* memory) noexcept {
  if (memory == nullptr) return;
  ++g_deleted;
  std::free(memory);
}

}  // namespace

namespace foretoken::test_support {

Allocations allocations() { return {.made = g_made, .live = g_made - g_deleted}; }

}  // namespace foretoken::test_support

void* operator new(std::size_t size) { return allocate(size); }
void* operator new[](std::size_t size) { return allocate(size); }
void operator delete(void* memory) noexcept { release(memory); }
void operator delete[](void* memory) noexcept { release(memory); }
void operator delete(void* memory, std::size_t /*size*/) noexcept { release(memory); }
void operator delete[](void* memory, std::size_t /*size*/) noexcept { release(memory); }
