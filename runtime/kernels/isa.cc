// probe_isa: a target is executable where its instructions have run once and computed the right thing. What the CPU
// claims is not enough: in virtual machines and emulators the two can differ. The run is guarded, so that a lie costs
// an answer of "no" and not the process.
#include <pthread.h>

#include <array>
#include <csetjmp>
#include <csignal>

#include "runtime/kernels/isa_probe.h"

namespace bitnet {
namespace isa_detail {
namespace {

// The handler needs static state: which thread is being probed, and where it goes on. Written by the one probing
// thread.
volatile std::sig_atomic_t g_probing = 0;
pthread_t g_probing_thread;
sigjmp_buf g_escape;
struct sigaction g_previous;

void on_illegal_instruction(int) {
  if (g_probing != 0 && pthread_equal(pthread_self(), g_probing_thread) != 0) siglongjmp(g_escape, 1);
  // Another thread's own fault: put its handler back; the instruction runs again and reaches it.
  sigaction(SIGILL, &g_previous, nullptr);
}

}  // namespace

bool guarded(bool (*run)()) {
  struct sigaction action = {};
  action.sa_handler = on_illegal_instruction;
  sigemptyset(&action.sa_mask);
  g_probing_thread = pthread_self();
  if (sigaction(SIGILL, nullptr, &g_previous) != 0 || sigaction(SIGILL, &action, nullptr) != 0) return false;
  volatile bool executes = false;
  if (sigsetjmp(g_escape, 1) == 0) {
    g_probing = 1;
    executes = run();
  }
  g_probing = 0;
  sigaction(SIGILL, &g_previous, nullptr);
  return executes;
}

#if !defined(__x86_64__) && !defined(__aarch64__)
bool probe(Isa isa) { return isa == Isa::kScalar; }
#endif

}  // namespace isa_detail

bool probe_isa(Isa isa) {
  // Signal dispositions belong to the process: all probes run once, one after the other.
  static const auto answers = [] {
    std::array<bool, 16> result{};
    for (const Isa each : all_isas()) result[static_cast<std::size_t>(each)] = isa_detail::probe(each);
    return result;
  }();
  return answers[static_cast<std::size_t>(isa)];
}

}  // namespace bitnet
