// Lanes for AVX2 with F16C: 16 floats at once, and what the dense operations do with them.
//
// GENERATED from templates/dense_lanes.h.j2 and templates/dict/avx2/dense.j2
// by templates/render.py. DO NOT EDIT: change the templates and run templates/render.py again.
//
// Every dense operation is written once, over blocks of 16 elements with the 16 running sums of
// runtime/kernels/kernel_abi.h; a target only says what it does with one block:
// 16 floats are two registers; tails go through a zero-filled block on the stack. The first step of a fixed tree adds
// the two registers; the other three are done for eight Lanes together, halving the number of registers each.
//
// Why blocks of 16 with zero-filled tails keep the bits: lane = i mod 16 because every block starts at a multiple of
// 16, and a lane that starts from +0 is never -0, so that adding the +0 of a padded product changes nothing.
#ifndef BITNET_GENERATED_DENSE_LANES_AVX2_H_
#define BITNET_GENERATED_DENSE_LANES_AVX2_H_

#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>

#include "runtime/kernels/kernel_abi.h"

namespace bitnet_kernels::avx2_family {
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

struct Lanes {
  __m256 low;
  __m256 high;
};
struct IntLanes {
  __m256i low;
  __m256i high;
};

// Registers: 16, two a Lanes. Rows x keys, and rows x blocks of values, of attention; rows of the head read side by
// side.
constexpr int kRowTile = 4;
constexpr int kDotTile = 4;
constexpr int kValueTile = 4;
constexpr int kHeadStreams = 4;
// Tokens that head_screen works on at once, and sums (rows x tokens) that it keeps in registers.
constexpr int kScreenTokens = 4;
constexpr int kScreenSums = 8;

[[gnu::always_inline]] inline Lanes broadcast(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
[[gnu::always_inline]] inline Lanes operator+(Lanes a, Lanes b) {
  return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)};
}
[[gnu::always_inline]] inline Lanes operator-(Lanes a, Lanes b) {
  return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)};
}
[[gnu::always_inline]] inline Lanes operator*(Lanes a, Lanes b) {
  return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)};
}
[[gnu::always_inline]] inline Lanes operator/(Lanes a, Lanes b) {
  return {_mm256_div_ps(a.low, b.low), _mm256_div_ps(a.high, b.high)};
}
[[gnu::always_inline]] inline Lanes maximum(Lanes a, Lanes b) {
  return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)};
}
[[gnu::always_inline]] inline Lanes minimum(Lanes a, Lanes b) {
  return {_mm256_min_ps(a.low, b.low), _mm256_min_ps(a.high, b.high)};
}
[[gnu::always_inline]] inline Lanes magnitude(Lanes a) {
  const __m256 sign = _mm256_set1_ps(-0.0F);
  return {_mm256_andnot_ps(sign, a.low), _mm256_andnot_ps(sign, a.high)};
}
[[gnu::always_inline]] inline Lanes negative(Lanes a) {
  const __m256 sign = _mm256_set1_ps(-0.0F);
  return {_mm256_xor_ps(sign, a.low), _mm256_xor_ps(sign, a.high)};
}

// sum + a * b for products that are exact: fused or not, the bits are the same.
[[gnu::always_inline]] inline Lanes add_exact_product(Lanes sum, Lanes a, Lanes b) {
  return {_mm256_fmadd_ps(a.low, b.low, sum.low), _mm256_fmadd_ps(a.high, b.high, sum.high)};
}
// Rounded to 13 significant bits, ties away from zero.
[[gnu::always_inline]] inline __m256 thirteen_bits(__m256 a) {
  const __m256i raised = _mm256_add_epi32(_mm256_castps_si256(a), _mm256_set1_epi32(0x400));
  return _mm256_castsi256_ps(_mm256_and_si256(raised, _mm256_set1_epi32(~0x7FF)));
}
[[gnu::always_inline]] inline Lanes thirteen_bits(Lanes a) { return {thirteen_bits(a.low), thirteen_bits(a.high)}; }

[[gnu::always_inline]] inline Lanes load(const float* p, Full) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
[[gnu::always_inline]] inline void store(float* p, Lanes a, Full) {
  _mm256_storeu_ps(p, a.low);
  _mm256_storeu_ps(p + 8, a.high);
}
[[gnu::always_inline]] inline __m128i load16(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }
[[gnu::always_inline]] inline Lanes load(const Half* p, Full) {
  return {_mm256_cvtph_ps(load16(p)), _mm256_cvtph_ps(load16(p + 8))};
}
[[gnu::always_inline]] inline Lanes broadcast_half(Half h) {
  const __m256 factor = _mm256_cvtph_ps(_mm_set1_epi16(static_cast<short>(h.bits)));
  return {factor, factor};
}
[[gnu::always_inline]] inline __m256 from_bfloat(__m128i bits) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}
[[gnu::always_inline]] inline Lanes load(const Bfloat* p, Full) {
  return {from_bfloat(load16(p)), from_bfloat(load16(p + 8))};
}
[[gnu::always_inline]] inline Lanes load(const int8_t* p, Full) {
  const __m128i bytes = load16(p);
  return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)),
          _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(bytes, 8)))};
}
[[gnu::always_inline]] inline Lanes load(const int32_t* p, Full) {
  const __m256i* q = reinterpret_cast<const __m256i*>(p);
  return {_mm256_cvtepi32_ps(_mm256_loadu_si256(q)), _mm256_cvtepi32_ps(_mm256_loadu_si256(q + 1))};
}

// Half to even: the default rounding mode.
[[gnu::always_inline]] inline IntLanes round_to_int(Lanes a) {
  return {_mm256_cvtps_epi32(a.low), _mm256_cvtps_epi32(a.high)};
}
[[gnu::always_inline]] inline Lanes to_float(IntLanes a) {
  return {_mm256_cvtepi32_ps(a.low), _mm256_cvtepi32_ps(a.high)};
}
[[gnu::always_inline]] inline IntLanes operator+(IntLanes a, IntLanes b) {
  return {_mm256_add_epi32(a.low, b.low), _mm256_add_epi32(a.high, b.high)};
}
[[gnu::always_inline]] inline IntLanes operator-(IntLanes a, IntLanes b) {
  return {_mm256_sub_epi32(a.low, b.low), _mm256_sub_epi32(a.high, b.high)};
}
[[gnu::always_inline]] inline IntLanes halved(IntLanes a) {
  return {_mm256_srai_epi32(a.low, 1), _mm256_srai_epi32(a.high, 1)};
}
[[gnu::always_inline]] inline __m256 power_of_two(__m256i e) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(e, _mm256_set1_epi32(127)), 23));
}
[[gnu::always_inline]] inline Lanes power_of_two(IntLanes e) { return {power_of_two(e.low), power_of_two(e.high)}; }
[[gnu::always_inline]] inline int32_t sum(__m256i a) {
  const __m128i four = _mm_add_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
  const __m128i two = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4E));
  return _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32(two, 0xB1)));
}
[[gnu::always_inline]] inline int32_t sum(IntLanes a) { return sum(_mm256_add_epi32(a.low, a.high)); }
[[gnu::always_inline]] inline void store_bytes(int8_t* p, IntLanes a, Full) {
  const __m128i low = _mm_packs_epi32(_mm256_castsi256_si128(a.low), _mm256_extracti128_si256(a.low, 1));
  const __m128i high = _mm_packs_epi32(_mm256_castsi256_si128(a.high), _mm256_extracti128_si256(a.high, 1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm_packs_epi16(low, high));
}

[[gnu::always_inline]] inline float square_root(float x) { return _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(x))); }
[[gnu::always_inline]] inline float top_lane(Lanes a) {
  const __m256 eight = _mm256_max_ps(a.low, a.high);
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps(two, two, 1)));
}

// The fixed tree: lanes l and l + 8, l + 4, l + 2, l + 1.
[[gnu::always_inline]] inline __m256 fold8(Lanes a) { return _mm256_add_ps(a.low, a.high); }
[[gnu::always_inline]] inline float tree(Lanes a) {
  const __m256 eight = fold8(a);
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}
// The later steps on two registers at once; the sums of `a` lie before those of `b`.
[[gnu::always_inline]] inline __m256 fold4(__m256 a, __m256 b) {
  return _mm256_add_ps(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31));
}
[[gnu::always_inline]] inline __m256 fold2(__m256 a, __m256 b) {
  return _mm256_add_ps(_mm256_shuffle_ps(a, b, 0x44), _mm256_shuffle_ps(a, b, 0xEE));
}
[[gnu::always_inline]] inline __m256 fold1(__m256 a, __m256 b) {
  return _mm256_add_ps(_mm256_shuffle_ps(a, b, 0x88), _mm256_shuffle_ps(a, b, 0xDD));
}
// Lane i of the result is tree(a[i]). Half b of `four[i]` belongs to a[4 * b + i] of its eight.
[[gnu::always_inline]] inline __m256 eight_trees(const Lanes* a) {
  __m256 four[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) four[i] = fold4(fold8(a[i]), fold8(a[i + 4]));
  return fold1(fold2(four[0], four[1]), fold2(four[2], four[3]));
}
[[gnu::always_inline]] inline Lanes trees(const Lanes (&a)[kLanes]) { return {eight_trees(a), eight_trees(a + 8)}; }

// int8 x int16 products of the screening head: 16 elements, two products a lane by vpmaddwd.
constexpr long long kWide = 16;
constexpr long long kWideProducts = 2;
using Wide = __m256i;
using WideSums = __m256i;
[[gnu::always_inline]] inline Wide load_wide(const int16_t* p) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
}
[[gnu::always_inline]] inline Wide load_wide(const int8_t* p) { return _mm256_cvtepi8_epi16(load16(p)); }
[[gnu::always_inline]] inline WideSums no_products() { return _mm256_setzero_si256(); }
[[gnu::always_inline]] inline WideSums add_products(WideSums sums, Wide a, Wide b) {
  return _mm256_add_epi32(sums, _mm256_madd_epi16(a, b));
}
[[gnu::always_inline]] inline long long total(WideSums sums) {
  const __m256i low = _mm256_cvtepi32_epi64(_mm256_castsi256_si128(sums));
  const __m256i high = _mm256_cvtepi32_epi64(_mm256_extracti128_si256(sums, 1));
  const __m256i four = _mm256_add_epi64(low, high);
  const __m128i two = _mm_add_epi64(_mm256_castsi256_si128(four), _mm256_extracti128_si256(four, 1));
  return _mm_cvtsi128_si64(two) + _mm_extract_epi64(two, 1);
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
}  // namespace bitnet_kernels::avx2_family

#endif  // BITNET_GENERATED_DENSE_LANES_AVX2_H_
