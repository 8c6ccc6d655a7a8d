// Rows of floats rounded to float16, in the instructions of each built-in unit: to nearest, ties to even; overflow
// gives infinity, a NaN becomes quiet and keeps the top of its payload. The same bits everywhere (runtime/base/half.h).
//
// Included by builtin_family.h only.
#pragma once

#if defined(__F16C__)
#include <immintrin.h>
#endif

#include <stdint.h>

namespace bitnet::builtin {
namespace {

// Without F16C no branches, so that the compiler makes vector code of the loops: all three cases are computed and one
// is selected. Normal halves round the mantissa as an integer (a carry raises the exponent), subnormal ones are rounded
// by adding 0.5, whose last place is 2^-24, and from 65520 on the result is infinite.
constexpr uint32_t kSign = 0x80000000U;
constexpr uint32_t kInfinity = 0x7F800000U;
constexpr uint32_t kOverflow = 0x477FF000U;        // 65520
constexpr uint32_t kSmallestNormal = 0x38800000U;  // 2^-14

[[gnu::always_inline]] inline uint32_t rounded_bits(float value) {
  const uint32_t bits = __builtin_bit_cast(uint32_t, value);
  const uint32_t magnitude = bits & ~kSign;
  const uint32_t normal = (magnitude + 0xFFFU + (magnitude >> 13 & 1U)) & ~0x1FFFU;
  const uint32_t small = __builtin_bit_cast(uint32_t, (__builtin_bit_cast(float, magnitude) + 0.5F) - 0.5F);
  uint32_t result = magnitude < kSmallestNormal ? small : normal;
  result = magnitude >= kOverflow ? kInfinity : result;
  result = magnitude > kInfinity ? (magnitude & ~0x1FFFU) | 0x400000U : result;
  return result | (bits & kSign);
}

// Of a float that is a half already.
[[gnu::always_inline]] inline uint16_t half_bits(uint32_t rounded) {
  const uint32_t magnitude = rounded & ~kSign;
  const uint32_t normal = (magnitude - (112U << 23)) >> 13;
  const uint32_t small = __builtin_bit_cast(uint32_t, __builtin_bit_cast(float, magnitude) + 0.5F) & 0x7FFFFFU;
  uint32_t result = magnitude < kSmallestNormal ? small : normal;
  result = magnitude >= kInfinity ? 0x7C00U | (magnitude >> 13 & 0x3FFU) : result;
  return static_cast<uint16_t>(result | (rounded & kSign) >> 16);
}

#if defined(__F16C__)
constexpr long long kHalves = 8;  // of one conversion

[[gnu::always_inline]] inline __m128i halves_of(const float* x) {
  return _mm256_cvtps_ph(_mm256_loadu_ps(x), _MM_FROUND_TO_NEAREST_INT);
}
#endif

// x[i] = the float16 nearest to it, as a float.
void round_to_half(float* x, long long count) noexcept {
  long long i = 0;
#if defined(__F16C__)
  for (; i + kHalves <= count; i += kHalves) _mm256_storeu_ps(x + i, _mm256_cvtph_ps(halves_of(x + i)));
#endif
  for (; i < count; ++i) x[i] = __builtin_bit_cast(float, rounded_bits(x[i]));
}

// out[i] = the bits of the float16 nearest to x[i].
void convert_to_half(const float* x, uint16_t* out, long long count) noexcept {
  long long i = 0;
#if defined(__F16C__)
  for (; i + kHalves <= count; i += kHalves) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + i), halves_of(x + i));
  }
#endif
  for (; i < count; ++i) out[i] = half_bits(rounded_bits(x[i]));
}

}  // namespace
}  // namespace bitnet::builtin
