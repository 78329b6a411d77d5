#include "reference/kernels/parallel.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <exception>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

namespace foretoken::reference {

namespace {

constexpr int kMostThreads = 256;

thread_local bool inside = false;

int clamped(int count) { return std::clamp(count, 1, kMostThreads); }

int default_threads() {
  if (const char* text = std::getenv("FORETOKEN_THREADS")) {
    const int count = static_cast<int>(std::strtol(text, nullptr, 10));
    if (count > 0) return clamped(count);
  }
  return clamped(static_cast<int>(std::thread::hardware_concurrency()));
}

// Threads that sleep between loops. Starting them anew for each would throw their scratch memory
// away as well, which products keep per thread.
class Pool {
 public:
  explicit Pool(int workers) {
    for (; workers > 0; workers /= 2) {
      try {
        for (int i = 0; i < workers; ++i) workers_.emplace_back([this] { serve(); });
        return;
      } catch (const std::system_error&) {
        // The machine gives no more threads; half as many leave room for what they work on.
        stop();
      }
    }
  }
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;
  ~Pool() { stop(); }

  void run(std::int64_t n, const std::function<void(std::int64_t)>& body) {
    {
      const std::lock_guard lock(mutex_);
      body_ = &body;
      count_ = n;
      next_.store(0);
      busy_ = workers_.size();
      error_ = nullptr;
      ++generation_;
    }
    start_.notify_all();
    work();
    std::unique_lock lock(mutex_);
    done_.wait(lock, [this] { return busy_ == 0; });
    if (error_) std::rethrow_exception(error_);
  }

 private:
  void stop() {
    {
      const std::lock_guard lock(mutex_);
      stop_ = true;
    }
    start_.notify_all();
    for (std::thread& t : workers_) t.join();
    workers_.clear();
    stop_ = false;
  }

  void serve() {
    std::uint64_t seen = 0;
    for (;;) {
      {
        std::unique_lock lock(mutex_);
        start_.wait(lock, [&] { return stop_ || generation_ != seen; });
        if (stop_) return;
        seen = generation_;
      }
      work();
      const std::lock_guard lock(mutex_);
      if (--busy_ == 0) done_.notify_one();
    }
  }

  void work() {
    inside = true;
    try {
      for (;;) {
        const std::int64_t i = next_.fetch_add(1);
        if (i >= count_) break;
        (*body_)(i);
      }
    } catch (...) {
      next_.store(count_);
      const std::lock_guard lock(mutex_);
      if (!error_) error_ = std::current_exception();
    }
    inside = false;
  }

  std::mutex mutex_;
  std::condition_variable start_;
  std::condition_variable done_;
  const std::function<void(std::int64_t)>* body_ = nullptr;
  std::int64_t count_ = 0;
  std::atomic<std::int64_t> next_{0};
  std::size_t busy_ = 0;
  std::uint64_t generation_ = 0;
  std::exception_ptr error_;
  bool stop_ = false;
  std::vector<std::thread> workers_;
};

// The one pool of the process, made when a loop first needs it. Loops of different threads take
// turns.
struct Threads {
  std::mutex mutex;
  std::atomic<int> count{default_threads()};
  std::unique_ptr<Pool> pool;
  int pool_threads = 0;
};

Threads& shared() {
  static Threads threads;
  return threads;
}

}  // namespace

int threads() { return shared().count.load(); }

void set_threads(int count) { shared().count.store(clamped(count)); }

bool in_parallel() { return inside; }

void parallel_for(std::int64_t n, std::int64_t work,
                  const std::function<void(std::int64_t)>& body) {
  Threads& all = shared();
  const int count = all.count.load();
  if (n <= 1 || work < kParallelWork || count == 1 || inside) {
    for (std::int64_t i = 0; i < n; ++i) body(i);
    return;
  }
  const std::lock_guard lock(all.mutex);
  if (!all.pool || all.pool_threads != count) {
    all.pool.reset();
    all.pool = std::make_unique<Pool>(count - 1);
    all.pool_threads = count;
  }
  all.pool->run(n, body);
}

}  // namespace foretoken::reference
