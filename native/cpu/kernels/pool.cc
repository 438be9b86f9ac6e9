/**
 * The thread pool: workers spin briefly for the next job and then sleep. Ranges are handed out by a
 * counter, so which thread runs a range varies, but the ranges themselves do not.
 */
#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <new>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "internal.h"

namespace tessera {
namespace {

inline void relax() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

struct Job {
  RangeFunction function = nullptr;
  void* context = nullptr;
  i64 n = 0, step = 1;
};

int available_cores() {
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
#endif
  const long n = sysconf(_SC_NPROCESSORS_ONLN);
  return n > 0 ? static_cast<int>(n) : 1;
}

thread_local bool inside = false;
thread_local int self = 0;

class Pool {
 public:
  ~Pool() { stop(); }

  void resize(int count) {
    stop();
    wanted_ = count > 0 ? count : available_cores();
  }
  int size() {
    if (wanted_ == 0) wanted_ = available_cores();
    return wanted_;
  }

  void run(const Job& job) {
    if (getpid() != process_) abandon();
    if (static_cast<int>(workers_.size()) + 1 < size()) start();
    job_ = job;
    next_.store(0, std::memory_order_relaxed);
    running_.store(static_cast<int>(workers_.size()), std::memory_order_relaxed);
    epoch_.fetch_add(1, std::memory_order_seq_cst);
    if (sleeping_.load(std::memory_order_seq_cst) > 0) {
      std::lock_guard<std::mutex> lock(mutex_);
      wake_.notify_all();
    }
    work(0);
    int spins = 0;
    while (running_.load(std::memory_order_acquire) > 0) {
      if (++spins < 20000) {
        relax();
      } else {
        sched_yield();
      }
    }
  }

 private:
  void work(int thread) {
    const Job job = job_;
    inside = true;
    self = thread;
    for (;;) {
      const i64 begin = next_.fetch_add(job.step, std::memory_order_relaxed);
      if (begin >= job.n) break;
      job.function(job.context, begin, begin + job.step < job.n ? begin + job.step : job.n, thread);
    }
    inside = false;
    self = 0;
  }

  void start() {
    process_ = getpid();
    const unsigned epoch = epoch_.load();
    while (static_cast<int>(workers_.size()) + 1 < wanted_) {
      const int thread = static_cast<int>(workers_.size()) + 1;
      workers_.emplace_back([this, thread, epoch] { loop(thread, epoch); });
    }
  }

  void loop(int thread, unsigned seen) {
    for (;;) {
      int spins = 0;
      while (epoch_.load(std::memory_order_acquire) == seen) {
        if (++spins < 4000) {
          relax();
          continue;
        }
        std::unique_lock<std::mutex> lock(mutex_);
        sleeping_.fetch_add(1, std::memory_order_seq_cst);
        wake_.wait(lock, [&] { return epoch_.load(std::memory_order_seq_cst) != seen; });
        sleeping_.fetch_sub(1, std::memory_order_seq_cst);
      }
      seen = epoch_.load(std::memory_order_acquire);
      if (stop_.load()) return;
      work(thread);
      running_.fetch_sub(1, std::memory_order_release);
    }
  }

  void stop() {
    if (workers_.empty()) return;
    if (getpid() != process_) return abandon();
    stop_.store(true);
    {
      std::lock_guard<std::mutex> lock(mutex_);
      epoch_.fetch_add(1, std::memory_order_seq_cst);
      wake_.notify_all();
    }
    for (auto& worker : workers_) worker.join();
    workers_.clear();
    stop_.store(false);
  }

  /** After a fork the threads are not there any more. */
  void abandon() {
    for (auto& worker : workers_) worker.detach();
    workers_.clear();
    sleeping_.store(0);
    process_ = getpid();
  }

  std::vector<std::thread> workers_;
  Job job_;
  int wanted_ = 0;
  pid_t process_ = getpid();
  alignas(64) std::atomic<i64> next_{0};
  alignas(64) std::atomic<int> running_{0};
  alignas(64) std::atomic<unsigned> epoch_{0};
  std::atomic<int> sleeping_{0};
  std::atomic<bool> stop_{false};
  std::mutex mutex_;
  std::condition_variable wake_;
};

Pool& pool() {
  static Pool instance;
  return instance;
}

struct Buffer {
  float* data = nullptr;
  std::size_t bytes = 0;
};
constexpr int kMaxThreads = 256;
constexpr std::size_t kLargePage = 2 << 20;
Buffer buffers[kMaxThreads + 1][kScratchSlots];
std::atomic<std::size_t> held{0};

float* grow(Buffer& buffer, std::size_t bytes) {
  if (buffer.bytes < bytes) {
    std::free(buffer.data);
    held -= buffer.bytes;
    buffer = {};
    // Large pages where there are some: transforms touch hundreds of small ones at a time.
    const std::size_t page = bytes >= kLargePage / 4 ? kLargePage : 4096;
    const std::size_t size = (bytes + bytes / 8 + page - 1) / page * page;
    void* data = nullptr;
    if (posix_memalign(&data, page, size) != 0) throw std::bad_alloc();
#if defined(MADV_HUGEPAGE)
    if (page == kLargePage) madvise(data, size, MADV_HUGEPAGE);
#endif
    buffer = {static_cast<float*>(data), size};
    held += size;
  }
  return buffer.data;
}

}  // namespace

void set_threads(int count) { pool().resize(count < kMaxThreads ? count : kMaxThreads); }
int threads() { return pool().size(); }
bool in_parallel() { return inside; }
int current_thread() { return self; }

void parallel_ranges(i64 n, i64 grain, RangeFunction function, void* context) {
  if (n <= 0) return;
  const int count = pool().size();
  if (grain < 1) grain = 1;
  if (inside || count == 1 || n <= grain) {
    function(context, 0, n, self);
    return;
  }
  // About four ranges a thread even out what the machine does besides.
  i64 step = (n + 4 * count - 1) / (4 * count);
  if (step < grain) step = grain;
  pool().run({function, context, n, step});
}

float* thread_scratch(int thread, int slot, i64 floats) {
  return grow(buffers[thread + 1][slot], static_cast<std::size_t>(floats) * 4);
}
float* shared_scratch(int slot, i64 floats) {
  return grow(buffers[0][slot], static_cast<std::size_t>(floats) * 4);
}

std::size_t scratch_bytes() { return held.load(); }
void release_scratch() {
  for (auto& row : buffers) {
    for (auto& buffer : row) {
      std::free(buffer.data);
      held -= buffer.bytes;
      buffer = {};
    }
  }
}

}  // namespace tessera
