// Lanes: the 16 running sums of kernel_abi.h as xsimd registers (4 x SSE2, 2 x AVX2), and the loads, the tree and the
// exp that the dense kernels share. Included only by the translation units of the built-in kernels, which define
// BITNET_XSIMD_ARCH and rename the namespace xsimd, so that no inline function built with ISA flags can be merged with
// the baseline's; for the same reason everything here has internal linkage.
//
// Why blocks of 16 with zero-filled tails keep the bits: lane = i mod 16 because every block starts at a multiple of
// 16, and a lane that starts from +0 is never -0, so that adding the +0 of a padded product changes nothing.
#pragma once

#include <cstdint>
#include <cstring>
#include <xsimd/xsimd.hpp>

#include "runtime/kernels/kernel_abi.h"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace bitnet_kernels::xsimd_dense {
namespace {

using Arch = BITNET_XSIMD_ARCH;
using Reg = xsimd::batch<float, Arch>;
using IntReg = xsimd::batch<std::int32_t, Arch>;

constexpr std::int64_t kLanes = 16;
constexpr int kWidth = static_cast<int>(Reg::size);
constexpr int kRegs = static_cast<int>(kLanes) / kWidth;
static_assert(kWidth == 4 || kWidth == 8, "16 lanes are 4 registers of 4 or 2 of 8");

struct Lanes {
  Reg v[kRegs];

  static Lanes broadcast(float value) {
    Lanes out;
    for (int r = 0; r < kRegs; ++r) out.v[r] = Reg(value);
    return out;
  }
};

template <typename Fn>
[[gnu::always_inline]] inline Lanes map(const Lanes& a, Fn fn) {
  Lanes out;
  for (int r = 0; r < kRegs; ++r) out.v[r] = fn(a.v[r]);
  return out;
}
template <typename Fn>
[[gnu::always_inline]] inline Lanes map(const Lanes& a, const Lanes& b, Fn fn) {
  Lanes out;
  for (int r = 0; r < kRegs; ++r) out.v[r] = fn(a.v[r], b.v[r]);
  return out;
}
[[gnu::always_inline]] inline Lanes operator+(const Lanes& a, const Lanes& b) {
  return map(a, b, [](Reg x, Reg y) { return x + y; });
}
[[gnu::always_inline]] inline Lanes operator*(const Lanes& a, const Lanes& b) {
  return map(a, b, [](Reg x, Reg y) { return x * y; });
}
// Rounded as IEEE 754 has it: xsimd's own division on NEON multiplies by an estimate of the reciprocal.
[[gnu::always_inline]] inline Reg divide(Reg x, Reg y) {
#if defined(__aarch64__)
  return Reg(vdivq_f32(x, y));
#else
  return x / y;
#endif
}
[[gnu::always_inline]] inline Lanes operator/(const Lanes& a, const Lanes& b) {
  return map(a, b, [](Reg x, Reg y) { return divide(x, y); });
}

// How much of a block of 16 exists: all of it, or the first `count` elements.
struct Full {};
struct Tail {
  std::int64_t count;
};

// Calls body(i, Full) for each whole block and body(i, Tail) for the rest.
template <typename Body>
[[gnu::always_inline]] inline void for_blocks(std::int64_t k, Body body) {
  std::int64_t i = 0;
  for (; i + kLanes <= k; i += kLanes) body(i, Full{});
  if (i < k) body(i, Tail{k - i});
}

[[gnu::always_inline]] inline Lanes load(const float* p, Full) {
  Lanes out;
  for (int r = 0; r < kRegs; ++r) out.v[r] = Reg::load_unaligned(p + r * kWidth);
  return out;
}
[[gnu::always_inline]] inline void store(float* p, const Lanes& a, Full) {
  for (int r = 0; r < kRegs; ++r) a.v[r].store_unaligned(p + r * kWidth);
}

// Eight or four binary16 values as float. F16C where the unit is built for it, integer arithmetic elsewhere: the
// exponent and fraction are moved into place and the bias is mended by an exact multiplication, which also normalises
// subnormals.
[[gnu::always_inline]] inline Reg half_register(const std::uint16_t* p) {
#if defined(__F16C__)
  return Reg(_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
#else
#if defined(__SSE2__)
  const IntReg bits(_mm_unpacklo_epi16(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)), _mm_setzero_si128()));
#else
  std::int32_t wide[kWidth];
  for (int i = 0; i < kWidth; ++i) wide[i] = p[i];
  const IntReg bits = IntReg::load_unaligned(wide);
#endif
  const IntReg magnitude = (bits & IntReg(0x7FFF)) << 13;
  const IntReg sign = (bits & IntReg(0x8000)) << 16;
  const Reg scaled = xsimd::bitwise_cast<Reg>(magnitude) * Reg(0x1p112F);
  const auto special = magnitude > IntReg(0x0F7FFFFF);  // infinity or NaN
  const IntReg exponent = xsimd::select(special, IntReg(0x7F800000), IntReg(0));
  return xsimd::bitwise_cast<Reg>(xsimd::bitwise_cast<IntReg>(scaled) | exponent | sign);
#endif
}
[[gnu::always_inline]] inline Lanes load(const std::uint16_t* p, Full) {
  Lanes out;
  for (int r = 0; r < kRegs; ++r) out.v[r] = half_register(p + r * kWidth);
  return out;
}

// The first `count` values, then +0. Reads and writes nothing beyond them.
template <typename T>
[[gnu::always_inline]] inline Lanes load(const T* p, Tail tail) {
  alignas(64) T block[kLanes] = {};
  std::memcpy(block, p, static_cast<std::size_t>(tail.count) * sizeof(T));
  return load(block, Full{});
}
[[gnu::always_inline]] inline void store(float* p, const Lanes& a, Tail tail) {
  alignas(64) float block[kLanes];
  store(block, a, Full{});
  std::memcpy(p, block, static_cast<std::size_t>(tail.count) * sizeof(float));
}

#if defined(__SSE2__)
// Lanes l + (l+8), then l + (l+4): four sums left.
[[gnu::always_inline]] inline __m128 fold(const Lanes& a) {
#if defined(__AVX__)
  static_assert(kWidth == 8);
  const __m256 half = _mm256_add_ps(a.v[0], a.v[1]);
  return _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
#else
  static_assert(kWidth == 4);
  return _mm_add_ps(_mm_add_ps(a.v[0], a.v[2]), _mm_add_ps(a.v[1], a.v[3]));
#endif
}
#endif

// The fixed tree of kernel_abi.h.
[[gnu::always_inline]] inline float tree(const Lanes& a) {
#if defined(__SSE2__)
  const __m128 four = fold(a);
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
#else
  float s[kLanes];
  store(s, a, Full{});
  for (int distance = 8; distance > 0; distance /= 2) {
    for (int l = 0; l < distance; ++l) s[l] += s[l + distance];
  }
  return s[0];
#endif
}

// 16 int32 in [-128, 127] as bytes.
[[gnu::always_inline]] inline void store_bytes(const IntReg (&a)[kRegs], std::int8_t* p) {
#if defined(__AVX2__)
  const __m128i low = _mm_packs_epi32(_mm256_castsi256_si128(a[0]), _mm256_extracti128_si256(a[0], 1));
  const __m128i high = _mm_packs_epi32(_mm256_castsi256_si128(a[1]), _mm256_extracti128_si256(a[1], 1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm_packs_epi16(low, high));
#elif defined(__SSE2__)
  const __m128i low = _mm_packs_epi32(a[0], a[1]);
  const __m128i high = _mm_packs_epi32(a[2], a[3]);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm_packs_epi16(low, high));
#else
  std::int32_t wide[kLanes];
  for (int r = 0; r < kRegs; ++r) a[r].store_unaligned(wide + r * kWidth);
  for (int l = 0; l < kLanes; ++l) p[l] = static_cast<std::int8_t>(wide[l]);
#endif
}

// exp as in runtime/reference/reference.h, the same operations in the same order. x finite.
[[gnu::always_inline]] inline Reg exp_register(Reg x) {
  x = xsimd::min(xsimd::max(x, Reg(-87.33654F)), Reg(88.72283F));
  const IntReg power = xsimd::nearbyint_as_int(x * Reg(1.44269504088896341F));
  const Reg n = xsimd::to_float(power);
  const Reg r = (x - n * Reg(0.693359375F)) - n * Reg(-2.12194440e-4F);
  Reg p(1.9875691500e-4F);
  p = p * r + Reg(1.3981999507e-3F);
  p = p * r + Reg(8.3334519073e-3F);
  p = p * r + Reg(4.1665795894e-2F);
  p = p * r + Reg(1.6666665459e-1F);
  p = p * r + Reg(5.0000001201e-1F);
  const Reg y = ((p * (r * r)) + r) + Reg(1.0F);
  const IntReg first = power >> 1;
  const auto power_of_two = [](IntReg e) { return xsimd::bitwise_cast<Reg>((e + IntReg(127)) << 23); };
  return (y * power_of_two(first)) * power_of_two(power - first);
}
[[gnu::always_inline]] inline Lanes exp(const Lanes& a) {
  return map(a, [](Reg x) { return exp_register(x); });
}
[[gnu::always_inline]] inline float exp(float x) { return exp_register(Reg(x)).get(0); }

}  // namespace
}  // namespace bitnet_kernels::xsimd_dense
