// Lanes for AVX-512: 16 floats at once, and what the dense operations do with them.
//
// GENERATED from templates/dense_lanes.h.j2 and templates/dict/avx512/dense.j2
// by templates/render.py. DO NOT EDIT: change the templates and run templates/render.py again.
//
// Every dense operation is written once, over blocks of 16 elements with the 16 running sums of
// runtime/kernels/kernel_abi.h; a target only says what it does with one block:
// 16 floats are one register, and the tail of a row is a mask. The fixed trees of 16 Lanes are summed together: each
// step adds two registers' halves at once and halves the number of registers.
//
// Why blocks of 16 with zero-filled tails keep the bits: lane = i mod 16 because every block starts at a multiple of
// 16, and a lane that starts from +0 is never -0, so that adding the +0 of a padded product changes nothing.
#ifndef BITNET_GENERATED_DENSE_LANES_AVX512_H_
#define BITNET_GENERATED_DENSE_LANES_AVX512_H_

#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>

#include "runtime/kernels/kernel_abi.h"

namespace bitnet_kernels::avx512_family {
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
  __m512 v;
};
struct IntLanes {
  __m512i v;
};

// Registers: 32. Rows x keys, and rows x blocks of values, of attention; rows of the head read side by side.
constexpr int kRowTile = 4;
constexpr int kDotTile = 16;
constexpr int kValueTile = 16;
constexpr int kHeadStreams = 4;
// Tokens that head_screen works on at once, and sums (rows x tokens) that it keeps in registers.
constexpr int kScreenTokens = 8;
constexpr int kScreenSums = 24;

[[gnu::always_inline]] inline __mmask16 mask_of(Tail tail) { return static_cast<__mmask16>((1U << tail.count) - 1U); }

[[gnu::always_inline]] inline Lanes broadcast(float x) { return {_mm512_set1_ps(x)}; }
[[gnu::always_inline]] inline Lanes operator+(Lanes a, Lanes b) { return {_mm512_add_ps(a.v, b.v)}; }
[[gnu::always_inline]] inline Lanes operator-(Lanes a, Lanes b) { return {_mm512_sub_ps(a.v, b.v)}; }
[[gnu::always_inline]] inline Lanes operator*(Lanes a, Lanes b) { return {_mm512_mul_ps(a.v, b.v)}; }
[[gnu::always_inline]] inline Lanes operator/(Lanes a, Lanes b) { return {_mm512_div_ps(a.v, b.v)}; }
[[gnu::always_inline]] inline Lanes maximum(Lanes a, Lanes b) { return {_mm512_max_ps(a.v, b.v)}; }
[[gnu::always_inline]] inline Lanes minimum(Lanes a, Lanes b) { return {_mm512_min_ps(a.v, b.v)}; }
[[gnu::always_inline]] inline Lanes magnitude(Lanes a) { return {_mm512_abs_ps(a.v)}; }
[[gnu::always_inline]] inline Lanes negative(Lanes a) { return {_mm512_xor_ps(a.v, _mm512_set1_ps(-0.0F))}; }

// sum + a * b for products that are exact: fused or not, the bits are the same.
[[gnu::always_inline]] inline Lanes add_exact_product(Lanes sum, Lanes a, Lanes b) {
  return {_mm512_fmadd_ps(a.v, b.v, sum.v)};
}
// Rounded to 13 significant bits, ties away from zero.
[[gnu::always_inline]] inline Lanes thirteen_bits(Lanes a) {
  const __m512i raised = _mm512_add_epi32(_mm512_castps_si512(a.v), _mm512_set1_epi32(0x400));
  return {_mm512_castsi512_ps(_mm512_and_si512(raised, _mm512_set1_epi32(~0x7FF)))};
}
[[gnu::always_inline]] inline Lanes only(Lanes a, Tail tail) { return {_mm512_maskz_mov_ps(mask_of(tail), a.v)}; }

[[gnu::always_inline]] inline Lanes load(const float* p, Full) { return {_mm512_loadu_ps(p)}; }
[[gnu::always_inline]] inline Lanes load(const float* p, Tail tail) {
  return {_mm512_maskz_loadu_ps(mask_of(tail), p)};
}
[[gnu::always_inline]] inline void store(float* p, Lanes a, Full) { _mm512_storeu_ps(p, a.v); }
[[gnu::always_inline]] inline void store(float* p, Lanes a, Tail tail) { _mm512_mask_storeu_ps(p, mask_of(tail), a.v); }

[[gnu::always_inline]] inline Lanes from_half(__m256i bits) { return {_mm512_cvtph_ps(bits)}; }
[[gnu::always_inline]] inline Lanes from_bfloat(__m256i bits) {
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16))};
}
[[gnu::always_inline]] inline Lanes from_bytes(__m128i bytes) {
  return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes))};
}
[[gnu::always_inline]] inline __m256i bits_of(const void* p, Full) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(p));
}
[[gnu::always_inline]] inline __m256i bits_of(const void* p, Tail tail) {
  return _mm256_maskz_loadu_epi16(mask_of(tail), p);
}
template <typename Extent>
[[gnu::always_inline]] inline Lanes load(const Half* p, Extent extent) {
  return from_half(bits_of(p, extent));
}
[[gnu::always_inline]] inline Lanes broadcast_half(Half h) {
  return from_half(_mm256_set1_epi16(static_cast<short>(h.bits)));
}
template <typename Extent>
[[gnu::always_inline]] inline Lanes load(const Bfloat* p, Extent extent) {
  return from_bfloat(bits_of(p, extent));
}
[[gnu::always_inline]] inline Lanes load(const int8_t* p, Full) {
  return from_bytes(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
[[gnu::always_inline]] inline Lanes load(const int8_t* p, Tail tail) {
  return from_bytes(_mm_maskz_loadu_epi8(mask_of(tail), p));
}
[[gnu::always_inline]] inline Lanes load(const int32_t* p, Full) { return {_mm512_cvtepi32_ps(_mm512_loadu_si512(p))}; }
[[gnu::always_inline]] inline Lanes load(const int32_t* p, Tail tail) {
  return {_mm512_cvtepi32_ps(_mm512_maskz_loadu_epi32(mask_of(tail), p))};
}

// Half to even: the default rounding mode.
[[gnu::always_inline]] inline IntLanes round_to_int(Lanes a) { return {_mm512_cvtps_epi32(a.v)}; }
[[gnu::always_inline]] inline Lanes to_float(IntLanes a) { return {_mm512_cvtepi32_ps(a.v)}; }
[[gnu::always_inline]] inline IntLanes operator+(IntLanes a, IntLanes b) { return {_mm512_add_epi32(a.v, b.v)}; }
[[gnu::always_inline]] inline IntLanes operator-(IntLanes a, IntLanes b) { return {_mm512_sub_epi32(a.v, b.v)}; }
[[gnu::always_inline]] inline IntLanes halved(IntLanes a) { return {_mm512_srai_epi32(a.v, 1)}; }
[[gnu::always_inline]] inline Lanes power_of_two(IntLanes e) {
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(e.v, _mm512_set1_epi32(127)), 23))};
}
[[gnu::always_inline]] inline int32_t sum(IntLanes a) { return _mm512_reduce_add_epi32(a.v); }
[[gnu::always_inline]] inline void store_bytes(int8_t* p, IntLanes a, Full) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(a.v));
}
[[gnu::always_inline]] inline void store_bytes(int8_t* p, IntLanes a, Tail tail) {
  _mm512_mask_cvtepi32_storeu_epi8(p, mask_of(tail), a.v);
}

[[gnu::always_inline]] inline float square_root(float x) { return _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(x))); }
[[gnu::always_inline]] inline float top_lane(Lanes a) { return _mm512_reduce_max_ps(a.v); }

// The fixed tree: lanes l and l + 8, l + 4, l + 2, l + 1.
[[gnu::always_inline]] inline float tree(Lanes a) {
  const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}

// The four steps of the tree on two or four Lanes at once; the sums of `a` lie before those of `b`.
[[gnu::always_inline]] inline __m512 fold8(__m512 a, __m512 b) {
  return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xEE));
}
[[gnu::always_inline]] inline __m512 fold4(__m512 a, __m512 b) {
  return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xDD));
}
[[gnu::always_inline]] inline __m512 fold2(__m512 a, __m512 b) {
  return _mm512_add_ps(_mm512_shuffle_ps(a, b, 0x44), _mm512_shuffle_ps(a, b, 0xEE));
}
[[gnu::always_inline]] inline __m512 fold1(__m512 a, __m512 b) {
  return _mm512_add_ps(_mm512_shuffle_ps(a, b, 0x88), _mm512_shuffle_ps(a, b, 0xDD));
}
// The sums of 16 keys, folded to four lanes each as soon as four of them are there: `put` takes the sums of keys at,
// at + 4, at + 8, at + 12; lane i of `trees` is the tree of the i-th. Block b (of four lanes) of `four[i]` belongs to
// key 4 * b + i.
struct KeySums {
  __m512 four[4];
};
[[gnu::always_inline]] inline void put(KeySums& sums, int at, const Lanes (&a)[4]) {
  sums.four[at] = fold4(fold8(a[0].v, a[1].v), fold8(a[2].v, a[3].v));
}
[[gnu::always_inline]] inline Lanes trees(const KeySums& sums) {
  return {fold1(fold2(sums.four[0], sums.four[1]), fold2(sums.four[2], sums.four[3]))};
}

// int8 x int16 products of the screening head: 32 elements, two products a lane by vpdpwssd.
constexpr long long kWide = 32;
constexpr long long kWideProducts = 2;
using Wide = __m512i;
using WideSums = __m512i;
[[gnu::always_inline]] inline Wide load_wide(const int16_t* p) { return _mm512_loadu_si512(p); }
[[gnu::always_inline]] inline Wide load_wide(const int8_t* p) {
  return _mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
[[gnu::always_inline]] inline WideSums no_products() { return _mm512_setzero_si512(); }
[[gnu::always_inline]] inline WideSums add_products(WideSums sums, Wide a, Wide b) {
  return _mm512_dpwssd_epi32(sums, a, b);
}
[[gnu::always_inline]] inline long long total(WideSums sums) {
  const __m512i low = _mm512_cvtepi32_epi64(_mm512_castsi512_si256(sums));
  const __m512i high = _mm512_cvtepi32_epi64(_mm512_extracti64x4_epi64(sums, 1));
  return _mm512_reduce_add_epi64(_mm512_add_epi64(low, high));
}

// The first elements of a, then zeros.
[[gnu::always_inline]] inline Lanes only(const Lanes& a, Full) { return a; }
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
}  // namespace bitnet_kernels::avx512_family

#endif  // BITNET_GENERATED_DENSE_LANES_AVX512_H_
