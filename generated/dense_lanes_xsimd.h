// Lanes for any xsimd architecture: 16 floats at once, and what the dense operations do with them.
//
// GENERATED from templates/dense_lanes.h.j2 and templates/dict/xsimd/dense.j2
// by templates/render.py. DO NOT EDIT: change the templates and run templates/render.py again.
//
// Every dense operation is written once, over blocks of 16 elements with the 16 running sums of
// runtime/kernels/kernel_abi.h; a target only says what it does with one block:
// 16 floats are four or two registers; tails go through a zero-filled block on the stack. Where xsimd has no word for
// an operation, or another meaning of it, stand the few intrinsics of x86-64 and AArch64, and plain C++ for the rest.
// Included only by the translation units of the built-in kernels, which define BITNET_XSIMD_ARCH and rename the
// namespace xsimd, so that no inline function built with ISA flags can be merged with the baseline's.
//
// Why blocks of 16 with zero-filled tails keep the bits: lane = i mod 16 because every block starts at a multiple of
// 16, and a lane that starts from +0 is never -0, so that adding the +0 of a padded product changes nothing.
#ifndef BITNET_GENERATED_DENSE_LANES_XSIMD_H_
#define BITNET_GENERATED_DENSE_LANES_XSIMD_H_

#include <stddef.h>
#include <stdint.h>

#include <xsimd/xsimd.hpp>

#include "runtime/kernels/kernel_abi.h"

namespace bitnet_kernels::xsimd_family {
namespace {
namespace dense_detail {

constexpr long long kLanes = 16;

// Elements of 16 bits, told apart by their types.
struct Half {
  uint16_t bits;
};
struct Bfloat {
  uint16_t bits;
};

// 32 int8 behind the bits of a float16 factor.
struct Q8Block {
  uint8_t factor[2];
  int8_t values[32];
};

// How much of a block of 16 exists: all of it, or the first `count` elements.
struct Full {};
struct Tail {
  long long count;
};

using Arch = BITNET_XSIMD_ARCH;
using Reg = xsimd::batch<float, Arch>;
using IntReg = xsimd::batch<int32_t, Arch>;

constexpr int kWidth = static_cast<int>(Reg::size);
constexpr int kRegs = static_cast<int>(kLanes) / kWidth;
static_assert(kWidth == 4 || kWidth == 8, "16 lanes are 4 registers of 4 or 2 of 8");

struct Lanes {
  Reg v[kRegs];
};
struct IntLanes {
  IntReg v[kRegs];
};

// Registers: 16, so four rows of two or two rows of four. Rows x keys, and rows x blocks of values, of attention;
// rows of the head read side by side.
constexpr int kRowTile = kWidth == 8 ? 4 : 2;
constexpr int kDotTile = kRowTile;
constexpr int kValueTile = kRowTile;
constexpr int kHeadStreams = kWidth == 8 ? 4 : 2;
// Tokens that head_screen works on at once, and sums (rows x tokens) that it keeps in registers.
constexpr int kScreenTokens = kWidth == 8 ? 4 : 2;
constexpr int kScreenSums = kWidth == 8 ? 8 : 4;

// The same on each register.
template <typename Fn>
[[gnu::always_inline]] inline Lanes each(Fn fn) {
  Lanes out;
  for (int r = 0; r < kRegs; ++r) out.v[r] = fn(r);
  return out;
}
template <typename Fn>
[[gnu::always_inline]] inline IntLanes each_int(Fn fn) {
  IntLanes out;
  for (int r = 0; r < kRegs; ++r) out.v[r] = fn(r);
  return out;
}

// Rounded as IEEE 754 has it: xsimd's own division on NEON multiplies by an estimate of the reciprocal.
[[gnu::always_inline]] inline Reg divide(Reg a, Reg b) {
#if defined(__aarch64__)
  return Reg(vdivq_f32(a, b));
#else
  return a / b;
#endif
}

[[gnu::always_inline]] inline Lanes broadcast(float x) {
  return each([=](int) { return Reg(x); });
}
[[gnu::always_inline]] inline Lanes operator+(const Lanes& a, const Lanes& b) {
  return each([&](int r) { return a.v[r] + b.v[r]; });
}
[[gnu::always_inline]] inline Lanes operator-(const Lanes& a, const Lanes& b) {
  return each([&](int r) { return a.v[r] - b.v[r]; });
}
[[gnu::always_inline]] inline Lanes operator*(const Lanes& a, const Lanes& b) {
  return each([&](int r) { return a.v[r] * b.v[r]; });
}
[[gnu::always_inline]] inline Lanes operator/(const Lanes& a, const Lanes& b) {
  return each([&](int r) { return divide(a.v[r], b.v[r]); });
}
[[gnu::always_inline]] inline Lanes maximum(const Lanes& a, const Lanes& b) {
  return each([&](int r) { return xsimd::max(a.v[r], b.v[r]); });
}
[[gnu::always_inline]] inline Lanes minimum(const Lanes& a, const Lanes& b) {
  return each([&](int r) { return xsimd::min(a.v[r], b.v[r]); });
}
[[gnu::always_inline]] inline Lanes magnitude(const Lanes& a) {
  return each([&](int r) { return xsimd::abs(a.v[r]); });
}
[[gnu::always_inline]] inline Lanes negative(const Lanes& a) {
  return each([&](int r) { return -a.v[r]; });
}

// sum + a * b for products that are exact: fused or not, the bits are the same.
[[gnu::always_inline]] inline Lanes add_exact_product(const Lanes& sum, const Lanes& a, const Lanes& b) {
  return sum + a * b;
}
// Rounded to 13 significant bits, ties away from zero.
[[gnu::always_inline]] inline Lanes thirteen_bits(const Lanes& a) {
  return each([&](int r) {
    return xsimd::bitwise_cast<Reg>((xsimd::bitwise_cast<IntReg>(a.v[r]) + IntReg(0x400)) & IntReg(~0x7FF));
  });
}

[[gnu::always_inline]] inline Lanes load(const float* p, Full) {
  return each([=](int r) { return Reg::load_unaligned(p + r * kWidth); });
}
[[gnu::always_inline]] inline void store(float* p, const Lanes& a, Full) {
  for (int r = 0; r < kRegs; ++r) a.v[r].store_unaligned(p + r * kWidth);
}
[[gnu::always_inline]] inline Lanes load(const int32_t* p, Full) {
  return each([=](int r) { return xsimd::to_float(IntReg::load_unaligned(p + r * kWidth)); });
}

// kWidth elements of 8 or 16 bits as int32, the former with their signs.
[[gnu::always_inline]] inline IntReg widen(const int8_t* p) {
#if defined(__AVX2__)
  return IntReg(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
#else
  int32_t wide[kWidth];
  for (int i = 0; i < kWidth; ++i) wide[i] = p[i];
  return IntReg::load_unaligned(wide);
#endif
}
[[gnu::always_inline]] inline IntReg widen_bits(const void* p) {
#if defined(__AVX2__)
  return IntReg(_mm256_cvtepu16_epi32(_mm_loadu_si128(static_cast<const __m128i*>(p))));
#elif defined(__SSE2__)
  return IntReg(_mm_unpacklo_epi16(_mm_loadl_epi64(static_cast<const __m128i*>(p)), _mm_setzero_si128()));
#else
  int32_t wide[kWidth];
  for (int i = 0; i < kWidth; ++i) wide[i] = static_cast<const Half*>(p)[i].bits;
  return IntReg::load_unaligned(wide);
#endif
}
// binary16 as float. F16C where the unit is built for it, integer arithmetic elsewhere: exponent and fraction are
// moved into place and the bias is mended by an exact multiplication, which also normalises subnormals.
[[gnu::always_inline]] inline Reg from_halves(const Half* p) {
#if defined(__F16C__)
  return Reg(_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
#elif defined(__aarch64__)
  return Reg(vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(&p->bits))));
#else
  const IntReg bits = widen_bits(p);
  const IntReg magnitude_bits = (bits & IntReg(0x7FFF)) << 13;
  const IntReg sign = (bits & IntReg(0x8000)) << 16;
  const Reg scaled = xsimd::bitwise_cast<Reg>(magnitude_bits) * Reg(0x1p112F);
  const auto special = magnitude_bits > IntReg(0x0F7FFFFF);  // infinity or NaN
  const IntReg exponent = xsimd::select(special, IntReg(0x7F800000), IntReg(0));
  return xsimd::bitwise_cast<Reg>(xsimd::bitwise_cast<IntReg>(scaled) | exponent | sign);
#endif
}
[[gnu::always_inline]] inline Lanes load(const Half* p, Full) {
  return each([=](int r) { return from_halves(p + r * kWidth); });
}
#if defined(__F16C__)
[[gnu::always_inline]] inline Lanes broadcast_half(Half h) {
  return each([=](int) { return Reg(_mm256_cvtph_ps(_mm_set1_epi16(static_cast<short>(h.bits)))); });
}
#elif defined(__aarch64__)
[[gnu::always_inline]] inline Lanes broadcast_half(Half h) {
  return each([=](int) { return Reg(vcvt_f32_f16(vreinterpret_f16_u16(vdup_n_u16(h.bits)))); });
}
#else
// The same value in all lanes: integer arithmetic, as for 16 of them.
[[gnu::always_inline]] inline Lanes broadcast_half(Half h) {
  const uint32_t magnitude_bits = (h.bits & 0x7FFFU) << 13;
  const uint32_t special = magnitude_bits > 0x0F7FFFFFU ? 0x7F800000U : 0U;
  const float scaled = __builtin_bit_cast(float, magnitude_bits) * 0x1p112F;
  const uint32_t sign = (h.bits & 0x8000U) << 16;
  return broadcast(__builtin_bit_cast(float, __builtin_bit_cast(uint32_t, scaled) | special | sign));
}
#endif
[[gnu::always_inline]] inline Lanes load(const Bfloat* p, Full) {
  return each([=](int r) { return xsimd::bitwise_cast<Reg>(widen_bits(p + r * kWidth) << 16); });
}
[[gnu::always_inline]] inline Lanes load(const int8_t* p, Full) {
  return each([=](int r) { return xsimd::to_float(widen(p + r * kWidth)); });
}

// Half to even.
[[gnu::always_inline]] inline IntLanes round_to_int(const Lanes& a) {
  return each_int([&](int r) { return xsimd::nearbyint_as_int(a.v[r]); });
}
[[gnu::always_inline]] inline Lanes to_float(const IntLanes& a) {
  return each([&](int r) { return xsimd::to_float(a.v[r]); });
}
[[gnu::always_inline]] inline IntLanes operator+(const IntLanes& a, const IntLanes& b) {
  return each_int([&](int r) { return a.v[r] + b.v[r]; });
}
[[gnu::always_inline]] inline IntLanes operator-(const IntLanes& a, const IntLanes& b) {
  return each_int([&](int r) { return a.v[r] - b.v[r]; });
}
[[gnu::always_inline]] inline IntLanes halved(const IntLanes& a) {
  return each_int([&](int r) { return a.v[r] >> 1; });
}
[[gnu::always_inline]] inline Lanes power_of_two(const IntLanes& e) {
  return each([&](int r) { return xsimd::bitwise_cast<Reg>((e.v[r] + IntReg(127)) << 23); });
}
[[gnu::always_inline]] inline int32_t sum(const IntLanes& a) {
  IntReg sums = a.v[0];
  for (int r = 1; r < kRegs; ++r) sums = sums + a.v[r];
  alignas(64) int32_t parts[kWidth];
  sums.store_aligned(parts);
  int32_t result = 0;
  for (const int32_t part : parts) result += part;
  return result;
}
// Values in [-128, 127].
[[gnu::always_inline]] inline void store_bytes(int8_t* p, const IntLanes& a, Full) {
#if defined(__AVX2__)
  const __m128i low = _mm_packs_epi32(_mm256_castsi256_si128(a.v[0]), _mm256_extracti128_si256(a.v[0], 1));
  const __m128i high = _mm_packs_epi32(_mm256_castsi256_si128(a.v[1]), _mm256_extracti128_si256(a.v[1], 1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm_packs_epi16(low, high));
#elif defined(__SSE2__)
  const __m128i low = _mm_packs_epi32(a.v[0], a.v[1]);
  const __m128i high = _mm_packs_epi32(a.v[2], a.v[3]);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm_packs_epi16(low, high));
#else
  int32_t wide[kLanes];
  for (int r = 0; r < kRegs; ++r) a.v[r].store_unaligned(wide + r * kWidth);
  for (int l = 0; l < kLanes; ++l) p[l] = static_cast<int8_t>(wide[l]);
#endif
}

[[gnu::always_inline]] inline float square_root(float x) { return __builtin_sqrtf(x); }
[[gnu::always_inline]] inline float top_lane(const Lanes& a) {
  alignas(64) float v[kLanes];
  store(v, a, Full{});
  float top = v[0];
  for (int l = 1; l < kLanes; ++l) top = v[l] > top ? v[l] : top;
  return top;
}

// The fixed tree: lanes l and l + 8, l + 4, l + 2, l + 1.
[[gnu::always_inline]] inline float tree(const Lanes& a) {
#if defined(__SSE2__)
#if defined(__AVX__)
  const __m256 eight = _mm256_add_ps(a.v[0], a.v[1]);
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
#else
  const __m128 four = _mm_add_ps(_mm_add_ps(a.v[0], a.v[2]), _mm_add_ps(a.v[1], a.v[3]));
#endif
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
// Lane i of the result is tree(a[i]).
[[gnu::always_inline]] inline Lanes trees(const Lanes (&a)[kLanes]) {
  alignas(64) float sums[kLanes];
  for (int i = 0; i < kLanes; ++i) sums[i] = tree(a[i]);
  return load(static_cast<const float*>(sums), Full{});
}

// int8 x int16 products of the screening head: 16 elements; pmaddwd adds two products a lane.
constexpr long long kWide = 16;
#if defined(__AVX2__)
constexpr long long kWideProducts = 2;
using Wide = __m256i;
using WideSums = __m256i;
[[gnu::always_inline]] inline Wide load_wide(const int16_t* p) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
}
[[gnu::always_inline]] inline Wide load_wide(const int8_t* p) {
  return _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
[[gnu::always_inline]] inline WideSums no_products() { return _mm256_setzero_si256(); }
[[gnu::always_inline]] inline WideSums add_products(WideSums sums, Wide a, Wide b) {
  return _mm256_add_epi32(sums, _mm256_madd_epi16(a, b));
}
#elif defined(__SSE2__)
constexpr long long kWideProducts = 2;
struct Wide {
  __m128i low;
  __m128i high;
};
using WideSums = Wide;
[[gnu::always_inline]] inline Wide load_wide(const int16_t* p) {
  const __m128i* q = reinterpret_cast<const __m128i*>(p);
  return {_mm_loadu_si128(q), _mm_loadu_si128(q + 1)};
}
[[gnu::always_inline]] inline Wide load_wide(const int8_t* p) {
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return {_mm_srai_epi16(_mm_unpacklo_epi8(bytes, bytes), 8), _mm_srai_epi16(_mm_unpackhi_epi8(bytes, bytes), 8)};
}
[[gnu::always_inline]] inline WideSums no_products() { return {_mm_setzero_si128(), _mm_setzero_si128()}; }
[[gnu::always_inline]] inline WideSums add_products(WideSums sums, Wide a, Wide b) {
  return {_mm_add_epi32(sums.low, _mm_madd_epi16(a.low, b.low)),
          _mm_add_epi32(sums.high, _mm_madd_epi16(a.high, b.high))};
}
#else
constexpr long long kWideProducts = 1;
struct Wide {
  int32_t v[kLanes];
};
using WideSums = Wide;
template <typename T>
[[gnu::always_inline]] inline Wide load_wide(const T* p) {
  Wide out;
  for (int l = 0; l < kLanes; ++l) out.v[l] = p[l];
  return out;
}
[[gnu::always_inline]] inline WideSums no_products() { return {}; }
[[gnu::always_inline]] inline WideSums add_products(WideSums sums, const Wide& a, const Wide& b) {
  for (int l = 0; l < kLanes; ++l) sums.v[l] += a.v[l] * b.v[l];
  return sums;
}
#endif
[[gnu::always_inline]] inline long long total(const WideSums& sums) {
  int32_t parts[sizeof(WideSums) / sizeof(int32_t)];
  __builtin_memcpy(parts, &sums, sizeof parts);
  long long result = 0;
  for (const int32_t part : parts) result += part;
  return result;
}

// The first `count` values, then zeros. Reads and writes nothing beyond them.
template <typename T>
[[gnu::always_inline]] inline Lanes load(const T* p, Tail tail) {
  alignas(64) T block[kLanes] = {};
  for (long long i = 0; i < tail.count; ++i) block[i] = p[i];
  return load(static_cast<const T*>(block), Full{});
}
[[gnu::always_inline]] inline void store(float* p, const Lanes& a, Tail tail) {
  alignas(64) float block[kLanes];
  store(block, a, Full{});
  for (long long i = 0; i < tail.count; ++i) p[i] = block[i];
}
[[gnu::always_inline]] inline void store_bytes(int8_t* p, const IntLanes& a, Tail tail) {
  alignas(64) int8_t block[kLanes];
  store_bytes(block, a, Full{});
  for (long long i = 0; i < tail.count; ++i) p[i] = block[i];
}

// The first elements of a, then zeros.
[[gnu::always_inline]] inline Lanes only(const Lanes& a, Full) { return a; }
[[gnu::always_inline]] inline Lanes only(const Lanes& a, Tail tail) {
  alignas(64) float block[kLanes];
  store(block, a, Full{});
  return load(static_cast<const float*>(block), tail);
}
// The sums of 16 keys: `put` takes J of them, the at-th of every 16 / J; lane i of `trees` is the tree of the i-th.
struct KeySums {
  Lanes of[kLanes];
};
template <int J>
[[gnu::always_inline]] inline void put(KeySums& sums, int at, const Lanes (&a)[J]) {
#pragma GCC unroll 16
  for (int j = 0; j < J; ++j) sums.of[at + j * (static_cast<int>(kLanes) / J)] = a[j];
}
[[gnu::always_inline]] inline Lanes trees(const KeySums& sums) { return trees(sums.of); }
// Calls body(i, Full) for each whole block of k, then body(i, Tail) for the rest.
template <typename Body>
[[gnu::always_inline]] inline void for_blocks(long long k, Body body) {
  long long i = 0;
  for (; i + kLanes <= k; i += kLanes) body(i, Full{});
  if (i < k) body(i, Tail{k - i});
}

// exp as in runtime/reference/reference.h, the same operations in the same order. x finite.
[[gnu::always_inline]] inline Lanes exponential(Lanes x) {
  x = minimum(maximum(x, broadcast(-87.33654F)), broadcast(88.72283F));
  const IntLanes power = round_to_int(x * broadcast(1.44269504088896341F));
  const Lanes n = to_float(power);
  const Lanes r = (x - n * broadcast(0.693359375F)) - n * broadcast(-2.12194440e-4F);
  Lanes p = broadcast(1.9875691500e-4F);
  p = p * r + broadcast(1.3981999507e-3F);
  p = p * r + broadcast(8.3334519073e-3F);
  p = p * r + broadcast(4.1665795894e-2F);
  p = p * r + broadcast(1.6666665459e-1F);
  p = p * r + broadcast(5.0000001201e-1F);
  const Lanes y = ((p * (r * r)) + r) + broadcast(1.0F);
  const IntLanes first = halved(power);
  return (y * power_of_two(first)) * power_of_two(power - first);
}

// g of op gelu in kernel_abi.h.
[[gnu::always_inline]] inline Lanes gelu(const Lanes& x) {
  const Lanes cube = ((broadcast(0.044715F) * x) * x) * x;
  const Lanes v = broadcast(1.5957691216057308F) * (x + cube);
  return x / (broadcast(1.0F) + exponential(negative(v)));
}

// The largest of x[0 .. k-1], k >= 1, finite.
inline float largest(const float* x, long long k) {
  Lanes most = broadcast(x[0]);
  long long i = 0;
  for (; i + kLanes <= k; i += kLanes) most = maximum(most, load(x + i, Full{}));
  float top = top_lane(most);
  for (; i < k; ++i) top = x[i] > top ? x[i] : top;
  return top;
}

// y[i] = exp(x[i] - top); returns the 16-lane sum of y. y may be x.
inline float exponentials(const float* x, float* y, long long k, float top) {
  const Lanes subtrahend = broadcast(top);
  Lanes sums = broadcast(0.0F);
  long long i = 0;
  for (; i + kLanes <= k; i += kLanes) {
    const Lanes p = exponential(load(x + i, Full{}) - subtrahend);
    store(y + i, p, Full{});
    sums = sums + p;
  }
  if (i < k) {
    const Tail rest{k - i};
    store(y + i, exponential(load(x + i, rest) - subtrahend), rest);
    sums = sums + load(static_cast<const float*>(y + i), rest);
  }
  return tree(sums);
}

}  // namespace dense_detail
}  // namespace
}  // namespace bitnet_kernels::xsimd_family

#endif  // BITNET_GENERATED_DENSE_LANES_XSIMD_H_
