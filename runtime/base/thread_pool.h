// ThreadPool: fork-join over a fixed set of threads, made once per model, and a barrier inside of a run.
//
// run() calls fn(0) on the caller and fn(1..size-1) on the workers and returns when all are done. Waiting, there and in
// meet(), spins up to 1 ms, offering its CPU to others after 20 us, and then sleeps on a futex, so that more threads
// than cores stays correct and does not burn the core that the others need. run() allocates nothing and takes no lock;
// one caller at a time.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <type_traits>
#include <utility>

#include "runtime/base/result.h"

namespace bitnet {

class ThreadPool {
 public:
  // 1 <= threads <= 1024 (else kUsage). Threads inherit the process affinity.
  [[nodiscard]] static Result<std::unique_ptr<ThreadPool>> create(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  [[nodiscard]] int size() const { return size_; }

  template <typename Fn>
  void run(Fn&& fn) {
    using F = std::remove_reference_t<Fn>;
    run_erased([](void* context, int thread) { (*static_cast<F*>(context))(thread); },
               const_cast<void*>(static_cast<const void*>(&fn)));
  }

  // In a run(): returns when every thread has called it, all of them the same number of times. What a thread wrote
  // before is seen by all of them after.
  void meet() {
    if (size_ > 1) meet_others();
  }

  // Splits [0, count) into size() contiguous parts whose borders are multiples of `granule`, and calls
  // fn(begin, end, thread) for the non-empty ones.
  template <typename Fn>
  void parallel_for(std::int64_t count, std::int64_t granule, Fn&& fn) {
    const std::int64_t units = (count + granule - 1) / granule;
    if (size_ == 1 || units <= 1) {
      if (count > 0) fn(std::int64_t{0}, count, 0);
      return;
    }
    run([&](int thread) {
      const std::int64_t begin = units * thread / size_ * granule;
      const std::int64_t limit = units * (thread + 1) / size_ * granule;
      const std::int64_t end = limit < count ? limit : count;
      if (begin < end) fn(begin, end, thread);
    });
  }

 private:
  struct State;
  ThreadPool() = default;
  void run_erased(void (*fn)(void*, int), void* context);
  void meet_others();
  int size_ = 1;
  std::unique_ptr<State> state_;
};

}  // namespace bitnet
