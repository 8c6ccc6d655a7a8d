// Inside of the self-test: input patterns and the testers of the two groups of operations.
#pragma once

#include <cstdint>
#include <string>

#include "runtime/base/buffer.h"
#include "runtime/base/result.h"
#include "runtime/kernels/kernel.h"

namespace bitnet::self_test_detail {

// splitmix64: small, seeded, the same on every machine.
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}
  std::uint64_t next() {
    std::uint64_t z = (state_ += 0x9E3779B97F4A7C15ULL);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL;
    return z ^ (z >> 31);
  }
  // Uniform in [-1, 1), 24 bits.
  float symmetric() { return static_cast<float>(next() >> 40) * 0x1p-23F - 1.0F; }

 private:
  std::uint64_t state_;
};

// Sizes for kernels that take any: not multiples of 16 or 64, so that tails run.
inline constexpr std::int64_t kAnyN = 200;
inline constexpr std::int64_t kAnyK = 203;

// "kernel NAME: WHERE: expected E, found F" as kVerification.
[[nodiscard]] Error mismatch(const Kernel& kernel, const std::string& where, const std::string& expected,
                             const std::string& found);

// The kernels of one K of op gemv and gemm; all of `kernels` are of these ops, k already resolved.
[[nodiscard]] Status test_ternary(std::span<const Kernel* const> kernels, std::int64_t k);
// Every other op.
[[nodiscard]] Status test_dense(const Kernel& kernel);

}  // namespace bitnet::self_test_detail
