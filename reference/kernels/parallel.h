// Loops spread over the processor's cores.
#pragma once

#include <cstdint>
#include <functional>

namespace foretoken::reference {

// Operations (multiply-adds, say) below which a second thread costs more than it saves.
inline constexpr std::int64_t kParallelWork = 1'000'000;

// Calls body(i) for every i in [0, n), on all threads when `work`, the loop's operations in total,
// reaches kParallelWork, else in order on this one. Indices are dealt one by one, so that uneven
// ones even out; which thread runs which is left open, so `body` may write to what belongs to i
// only. Inside another parallel loop it runs in order. An exception ends the loop and is thrown
// here. Threads wait asleep, not spinning: machines are shared.
void parallel_for(std::int64_t n, std::int64_t work, const std::function<void(std::int64_t)>& body);

// Threads in use: the machine's, or what the environment variable FORETOKEN_THREADS or set_threads
// says (at least 1, at most 256).
int threads();
void set_threads(int count);

// True inside the body of a parallel loop that really is spread over threads.
bool in_parallel();

}  // namespace foretoken::reference
