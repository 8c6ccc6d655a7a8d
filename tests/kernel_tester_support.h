// Parts of the kernel tester: guarded memory, guarded calls, values, and the collection of failures.
#pragma once

#include <bit>
#include <csetjmp>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "runtime/kernels/kernel.h"
#include "runtime/kernels/kernel_abi.h"
#include "tests/kernel_tester.h"

namespace bitnet::test {

// Anonymous memory between two inaccessible pages. place() puts an array at its very end, so that one element too far
// is a fault; the bytes around it hold a pattern that intact() looks for.
class Region {
 public:
  explicit Region(std::size_t capacity);
  ~Region();
  Region(const Region&) = delete;
  Region& operator=(const Region&) = delete;

  // `count` elements whose end is the end of the memory, rounded down to `alignment` (a power of two, >= alignof(T)).
  // All bytes, those of the array included, hold the pattern 0xA5. The previous array is gone.
  template <typename T>
  T* place(std::int64_t count, std::size_t alignment = alignof(T)) {
    return static_cast<T*>(place_bytes(static_cast<std::size_t>(count) * sizeof(T), alignment));
  }
  // Whether the bytes before and behind the array still hold the pattern.
  [[nodiscard]] bool intact() const;

 private:
  void* place_bytes(std::size_t bytes, std::size_t alignment);
  std::byte* mapping_ = nullptr;
  std::size_t mapping_size_ = 0;
  std::byte* limit_ = nullptr;  // first byte of the inaccessible page behind
  std::byte* begin_ = nullptr;
  std::size_t bytes_ = 0;
};
inline constexpr std::uint8_t kPattern = 0xA5;
inline constexpr std::int32_t kPatternInt = std::bit_cast<std::int32_t>(0xA5A5A5A5U);

// Calls the kernel; false if it touched inaccessible memory. Needs a FaultGuard.
class FaultGuard {
 public:
  FaultGuard();
  ~FaultGuard();
  FaultGuard(const FaultGuard&) = delete;
  FaultGuard& operator=(const FaultGuard&) = delete;
};
[[nodiscard]] sigjmp_buf& fault_escape();
void arm_fault_escape(bool armed);

template <typename Args>
[[nodiscard]] bool call(const Kernel& kernel, const Args& args) {
  if (sigsetjmp(fault_escape(), 0) != 0) {
    arm_fault_escape(false);
    return false;
  }
  arm_fault_escape(true);
  kernel(args);
  arm_fault_escape(false);
  return true;
}

// Argument structs start from a pattern, so that padding holds no accidental zero.
template <typename Args>
[[nodiscard]] Args poisoned_args() {
  Args args;
  std::memset(&args, kPattern, sizeof args);
  return args;
}

class Failures {
 public:
  Failures(const Kernel& kernel, const TestPlan& plan) : name_(kernel.name()), limit_(plan.max_failures) {}
  void add(const std::string& where, const std::string& what) { list_.push_back(name_ + ": " + where + ": " + what); }
  [[nodiscard]] bool full() const { return list_.size() >= limit_; }
  [[nodiscard]] std::vector<std::string> take() { return std::move(list_); }

 private:
  std::string name_;
  std::size_t limit_;
  std::vector<std::string> list_;
};

// "expected 1.5 (0x3fc00000), found ..." for the first element that differs in its bits; two NaNs are equal.
// Returns whether all are equal. `where` is completed with "index i".
bool same_floats(const float* expected, const float* found, std::int64_t count, const std::string& where,
                 Failures& failures);

// Kinds of float rows.
enum class FloatKind { kNormal, kZero, kDenormal, kHuge, kMixed, kConstant, kHalfway };
inline constexpr FloatKind kFloatKinds[] = {FloatKind::kNormal, FloatKind::kZero,  FloatKind::kDenormal,
                                            FloatKind::kHuge,   FloatKind::kMixed, FloatKind::kConstant,
                                            FloatKind::kHalfway};
[[nodiscard]] const char* to_string(FloatKind kind);
void fill_floats(FloatKind kind, std::mt19937& random, float* out, std::int64_t count);
// Finite binary16 values; kHuge goes up to 65504, kDenormal is subnormal.
void fill_halves(FloatKind kind, std::mt19937& random, std::uint16_t* out, std::int64_t count);

void test_dense(const Kernel& kernel, const TestPlan& plan, Failures& failures);  // the other operations

}  // namespace bitnet::test
