#include "tests/kernel_tester_support.h"

#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <limits>

#include "runtime/base/half.h"
#include "runtime/base/math.h"

namespace bitnet::test {
namespace {

constexpr std::size_t kGuardBytes = 256;

struct sigaction g_previous_segv;
struct sigaction g_previous_bus;
thread_local sigjmp_buf t_escape;
thread_local volatile std::sig_atomic_t t_armed = 0;

void on_fault(int signal) {
  if (t_armed != 0) siglongjmp(t_escape, 1);
  // A fault of the tester itself: let it happen again under the previous handler.
  sigaction(signal, signal == SIGSEGV ? &g_previous_segv : &g_previous_bus, nullptr);
}

[[noreturn]] void give_up(const char* what) {
  std::perror(what);
  std::exit(1);
}

}  // namespace

Region::Region(std::size_t capacity) {
  const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  const std::size_t usable = round_up(capacity + 2 * kGuardBytes, page);
  mapping_size_ = usable + 2 * page;
  void* mapping = mmap(nullptr, mapping_size_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapping == MAP_FAILED) give_up("kernel tester: mmap");
  mapping_ = static_cast<std::byte*>(mapping);
  limit_ = mapping_ + page + usable;
  if (mprotect(mapping_ + page, usable, PROT_READ | PROT_WRITE) != 0) give_up("kernel tester: mprotect");
}

Region::~Region() { munmap(mapping_, mapping_size_); }

void* Region::place_bytes(std::size_t bytes, std::size_t alignment) {
  const auto end = reinterpret_cast<std::uintptr_t>(limit_);
  begin_ = limit_ - (end - ((end - bytes) & ~(std::uintptr_t{alignment} - 1)));
  bytes_ = bytes;
  std::memset(begin_ - kGuardBytes, kPattern, static_cast<std::size_t>(limit_ - begin_) + kGuardBytes);
  return begin_;
}

bool Region::intact() const {
  if (begin_ == nullptr) return true;  // nothing was placed
  const auto is_pattern = [](std::byte b) { return b == std::byte{kPattern}; };
  return std::all_of(begin_ - kGuardBytes, begin_, is_pattern) && std::all_of(begin_ + bytes_, limit_, is_pattern);
}

FaultGuard::FaultGuard() {
  struct sigaction action = {};
  action.sa_handler = on_fault;
  action.sa_flags = SA_NODEFER;  // siglongjmp leaves the handler without restoring the mask
  sigemptyset(&action.sa_mask);
  if (sigaction(SIGSEGV, &action, &g_previous_segv) != 0) give_up("kernel tester: sigaction");
  if (sigaction(SIGBUS, &action, &g_previous_bus) != 0) give_up("kernel tester: sigaction");
}

FaultGuard::~FaultGuard() {
  sigaction(SIGSEGV, &g_previous_segv, nullptr);
  sigaction(SIGBUS, &g_previous_bus, nullptr);
}

sigjmp_buf& fault_escape() { return t_escape; }
void arm_fault_escape(bool armed) { t_armed = armed ? 1 : 0; }

bool same_floats(const float* expected, const float* found, std::int64_t count, const std::string& where,
                 Failures& failures) {
  for (std::int64_t i = 0; i < count; ++i) {
    const auto e = std::bit_cast<std::uint32_t>(expected[i]);
    const auto f = std::bit_cast<std::uint32_t>(found[i]);
    if (e == f || (std::isnan(expected[i]) && std::isnan(found[i]))) continue;
    char text[160];
    std::snprintf(text, sizeof text, "index %lld: expected %.9g (0x%08x), found %.9g (0x%08x)",
                  static_cast<long long>(i), static_cast<double>(expected[i]), e, static_cast<double>(found[i]), f);
    failures.add(where, text);
    return false;
  }
  return true;
}

const char* to_string(FloatKind kind) {
  switch (kind) {
    case FloatKind::kNormal:
      return "normal";
    case FloatKind::kZero:
      return "zero";
    case FloatKind::kDenormal:
      return "denormal";
    case FloatKind::kHuge:
      return "huge";
    case FloatKind::kMixed:
      return "mixed";
    case FloatKind::kConstant:
      return "constant";
    case FloatKind::kHalfway:
      return "halfway";
  }
  return "?";
}

void fill_floats(FloatKind kind, std::mt19937& random, float* out, std::int64_t count) {
  std::normal_distribution<float> normal;
  for (std::int64_t i = 0; i < count; ++i) {
    const float g = normal(random);
    switch (kind) {
      case FloatKind::kNormal:
        out[i] = g;
        break;
      case FloatKind::kZero:
        out[i] = (random() & 1) != 0 ? 0.0F : -0.0F;
        break;
      case FloatKind::kDenormal:
        out[i] = g * 1e-40F;
        break;
      case FloatKind::kHuge:
        out[i] = std::clamp(g, -3.0F, 3.0F) * (std::numeric_limits<float>::max() / 4);
        break;
      case FloatKind::kMixed:
        out[i] = std::ldexp(g, static_cast<int>(random() % 40) - 30);
        break;
      case FloatKind::kConstant:
        out[i] = 0.7F;
        break;
      // With the largest value 127 the scale is exactly 1, and these lie exactly between two integers.
      case FloatKind::kHalfway:
        out[i] = i == 0 ? 127.0F : static_cast<float>(random() % 253) - 126.5F;
        break;
    }
  }
}

void fill_halves(FloatKind kind, std::mt19937& random, std::uint16_t* out, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) {
    const auto sign = static_cast<std::uint16_t>((random() & 1) << 15);
    switch (kind) {
      case FloatKind::kZero:
        out[i] = sign;
        break;
      case FloatKind::kDenormal:
        out[i] = static_cast<std::uint16_t>(sign | (random() & 0x3FF));
        break;
      case FloatKind::kHuge:
        out[i] = static_cast<std::uint16_t>(sign | (0x7BFF - random() % 0x400));
        break;
      case FloatKind::kMixed:
        out[i] = static_cast<std::uint16_t>(sign | random() % 0x7C00);
        break;
      default: {
        float value = 0.0F;
        fill_floats(kind, random, &value, 1);
        out[i] = float_to_half(value);
      }
    }
  }
}

}  // namespace bitnet::test
