// One counter starts the workers, one counter ends the round, one lets threads pass that meet within a round, and all
// are futex words.
//
// start:  the caller stores the job, sets `pending` and increments `round`; workers wait for `round` to change.
// end:    each worker decrements `pending`; the caller waits for it to become 0.
// meet:   each thread increments `arrived`; the last sets it back to 0 and increments `meeting`, for which the others
//         wait to change. Nobody can arrive at the next meeting before that.
//
// A waiter first spins (a kernel call takes tens of microseconds, a sleep and a wake-up about as long), then counts
// itself as a sleeper and calls FUTEX_WAIT. No wake-up is lost: the waiter increments its sleeper count and then reads
// the word; the waker changes the word and then reads the sleeper count; all four are sequentially consistent, so at
// least one of them sees the other, and the kernel compares the word once more before it sleeps. A wake-up too many
// only makes the waiter look again. With more threads than CPUs a spinning thread holds the CPU that a working one
// needs, so then nobody spins; and where other processes leave too few CPUs for the threads, a long spin offers its CPU
// after kSpin, which costs nothing where nobody wants it.
#include "runtime/base/thread_pool.h"

#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <chrono>
#include <climits>
#include <new>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

namespace bitnet {
namespace {

constexpr int kMaxThreads = 1024;
constexpr std::chrono::microseconds kSpin{20};
// Within a round the others are at work and come: a sleep and a wake-up would cost more than the wait.
constexpr std::chrono::microseconds kMeetingSpin{1000};
constexpr std::chrono::microseconds kNoSpin{0};
constexpr int kPausesPerClockRead = 32;

using Word = std::atomic<std::uint32_t>;
static_assert(sizeof(Word) == sizeof(std::uint32_t) && Word::is_always_lock_free);

void pause_cpu() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__) || defined(__arm__)
  __asm__ __volatile__("yield");
#endif
}

void futex_wait(Word& word, std::uint32_t expected) {
  // EAGAIN, EINTR and a wake-up all mean the same to the caller: look again.
  syscall(SYS_futex, reinterpret_cast<std::uint32_t*>(&word), FUTEX_WAIT_PRIVATE, expected, nullptr, nullptr, 0);
}

void futex_wake_all(Word& word) {
  syscall(SYS_futex, reinterpret_cast<std::uint32_t*>(&word), FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0);
}

int usable_cpus() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) == 0) return CPU_COUNT(&set);
  return static_cast<int>(std::thread::hardware_concurrency());  // more than 1024 CPUs; 0 if unknown: no spinning
}

// Returns the first value of `word` for which done(value) holds.
template <typename Done>
std::uint32_t wait_until(Word& word, Word& sleepers, std::chrono::microseconds spin, const Done& done) {
  std::uint32_t value = word.load(std::memory_order_acquire);
  if (done(value)) return value;
  if (spin.count() != 0) {
    const auto begin = std::chrono::steady_clock::now();
    for (auto now = begin; now < begin + spin; now = std::chrono::steady_clock::now()) {
      if (now >= begin + kSpin) sched_yield();
      for (int i = 0; i < kPausesPerClockRead; ++i) {
        pause_cpu();
        value = word.load(std::memory_order_acquire);
        if (done(value)) return value;
      }
    }
  }
  sleepers.fetch_add(1, std::memory_order_seq_cst);
  value = word.load(std::memory_order_seq_cst);
  while (!done(value)) {
    futex_wait(word, value);
    value = word.load(std::memory_order_seq_cst);
  }
  sleepers.fetch_sub(1, std::memory_order_relaxed);
  return value;
}

}  // namespace

// One cache line for what the caller writes at the start, one for what the workers write at the end.
struct ThreadPool::State {
  alignas(64) Word round{0};
  Word idle_sleepers{0};
  void (*fn)(void*, int) = nullptr;
  void* context = nullptr;
  bool stop = false;
  alignas(64) Word pending{0};
  Word caller_sleeping{0};
  alignas(64) Word arrived{0};
  alignas(64) Word meeting{0};
  Word meeting_sleepers{0};
  alignas(64) bool spin = true;
  std::vector<std::thread> workers;

  void start_round() {
    round.fetch_add(1, std::memory_order_seq_cst);
    if (idle_sleepers.load(std::memory_order_seq_cst) != 0) futex_wake_all(round);
  }

  void work(int thread) {
    std::uint32_t seen = 0;
    for (;;) {
      seen =
          wait_until(round, idle_sleepers, spin ? kSpin : kNoSpin, [seen](std::uint32_t now) { return now != seen; });
      if (stop) return;
      fn(context, thread);
      if (pending.fetch_sub(1, std::memory_order_seq_cst) == 1 &&
          caller_sleeping.load(std::memory_order_seq_cst) != 0) {
        futex_wake_all(pending);
      }
    }
  }

  void stop_and_join() {
    stop = true;
    start_round();
    for (std::thread& worker : workers) worker.join();
    workers.clear();
  }
};

Result<std::unique_ptr<ThreadPool>> ThreadPool::create(int threads) {
  if (threads < 1 || threads > kMaxThreads) {
    return Error{ErrorCode::kUsage, "number of threads: expected 1 to " + std::to_string(kMaxThreads) + ", found " +
                                        std::to_string(threads)};
  }
  std::unique_ptr<ThreadPool> pool;
  try {
    pool.reset(new ThreadPool());
    pool->state_ = std::make_unique<State>();
    pool->size_ = threads;
    State& state = *pool->state_;
    state.spin = threads <= usable_cpus();
    state.workers.reserve(static_cast<std::size_t>(threads - 1));
    for (int thread = 1; thread < threads; ++thread) {
      state.workers.emplace_back([&state, thread] { state.work(thread); });
    }
  } catch (const std::system_error& failure) {
    // The threads that were started are stopped and joined by the pool's destructor.
    return Error{ErrorCode::kMemory,
                 "cannot start thread " + std::to_string(pool->state_->workers.size() + 2) + " of " +
                     std::to_string(threads) + ": " + failure.what() +
                     "; use fewer threads, or raise the limits on processes and memory (ulimit -u, -v)"};
  } catch (const std::bad_alloc&) {
    return Error{ErrorCode::kMemory, "not enough memory for a pool of " + std::to_string(threads) + " threads"};
  }
  return pool;
}

ThreadPool::~ThreadPool() {
  if (state_ != nullptr) state_->stop_and_join();
}

void ThreadPool::meet_others() {
  State& state = *state_;
  const std::uint32_t meeting = state.meeting.load(std::memory_order_relaxed);
  if (state.arrived.fetch_add(1, std::memory_order_acq_rel) + 1 == static_cast<std::uint32_t>(size_)) {
    state.arrived.store(0, std::memory_order_relaxed);
    state.meeting.fetch_add(1, std::memory_order_seq_cst);
    if (state.meeting_sleepers.load(std::memory_order_seq_cst) != 0) futex_wake_all(state.meeting);
    return;
  }
  wait_until(state.meeting, state.meeting_sleepers, state.spin ? kMeetingSpin : kNoSpin,
             [meeting](std::uint32_t now) { return now != meeting; });
}

void ThreadPool::run_erased(void (*fn)(void*, int), void* context) {
  if (size_ == 1) {
    fn(context, 0);
    return;
  }
  State& state = *state_;
  state.fn = fn;
  state.context = context;
  state.pending.store(static_cast<std::uint32_t>(size_ - 1), std::memory_order_relaxed);
  state.start_round();
  fn(context, 0);
  wait_until(state.pending, state.caller_sleeping, state.spin ? kMeetingSpin : kNoSpin,
             [](std::uint32_t left) { return left == 0; });
}

}  // namespace bitnet
