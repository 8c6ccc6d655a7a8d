// Lanes for NEON: 16 floats at once, and what the dense operations do with them.
//
// GENERATED from templates/dense_lanes.h.j2 and templates/dict/neon/dense.j2
// by templates/render.py. DO NOT EDIT: change the templates and run templates/render.py again.
//
// Every dense operation is written once, over blocks of 16 elements with the 16 running sums of
// runtime/kernels/kernel_abi.h; a target only says what it does with one block:
// 16 floats are four registers; tails go through a zero-filled block on the stack. The first two steps of a fixed
// tree add registers; the other two are done for four Lanes together by zips and a pairwise addition.
//
// Why blocks of 16 with zero-filled tails keep the bits: lane = i mod 16 because every block starts at a multiple of
// 16, and a lane that starts from +0 is never -0, so that adding the +0 of a padded product changes nothing.
#ifndef BITNET_GENERATED_DENSE_LANES_NEON_H_
#define BITNET_GENERATED_DENSE_LANES_NEON_H_

#include <arm_neon.h>
#include <stddef.h>
#include <stdint.h>

#include "runtime/kernels/kernel_abi.h"

namespace bitnet_kernels::neon_family {
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
  float32x4_t v[4];
};
struct IntLanes {
  int32x4_t v[4];
};

// Registers: 32, four a Lanes. Rows x keys, and rows x blocks of values, of attention; rows of the head read side by
// side.
constexpr int kRowTile = 4;
constexpr int kDotTile = 4;
constexpr int kValueTile = 4;
constexpr int kHeadStreams = 4;
// Tokens that head_screen works on at once, and sums (rows x tokens) that it keeps in registers.
constexpr int kScreenTokens = 4;
constexpr int kScreenSums = 4;

// The same on each of the four registers.
template <typename Fn>
[[gnu::always_inline]] inline Lanes each(Fn fn) {
  Lanes out;
#pragma GCC unroll 4
  for (int r = 0; r < 4; ++r) out.v[r] = fn(r);
  return out;
}
template <typename Fn>
[[gnu::always_inline]] inline IntLanes each_int(Fn fn) {
  IntLanes out;
#pragma GCC unroll 4
  for (int r = 0; r < 4; ++r) out.v[r] = fn(r);
  return out;
}

[[gnu::always_inline]] inline Lanes broadcast(float x) {
  return each([=](int) { return vdupq_n_f32(x); });
}
[[gnu::always_inline]] inline Lanes operator+(const Lanes& a, const Lanes& b) {
  return each([&](int r) { return vaddq_f32(a.v[r], b.v[r]); });
}
[[gnu::always_inline]] inline Lanes operator-(const Lanes& a, const Lanes& b) {
  return each([&](int r) { return vsubq_f32(a.v[r], b.v[r]); });
}
[[gnu::always_inline]] inline Lanes operator*(const Lanes& a, const Lanes& b) {
  return each([&](int r) { return vmulq_f32(a.v[r], b.v[r]); });
}
[[gnu::always_inline]] inline Lanes operator/(const Lanes& a, const Lanes& b) {
  return each([&](int r) { return vdivq_f32(a.v[r], b.v[r]); });
}
[[gnu::always_inline]] inline Lanes maximum(const Lanes& a, const Lanes& b) {
  return each([&](int r) { return vmaxq_f32(a.v[r], b.v[r]); });
}
[[gnu::always_inline]] inline Lanes minimum(const Lanes& a, const Lanes& b) {
  return each([&](int r) { return vminq_f32(a.v[r], b.v[r]); });
}
[[gnu::always_inline]] inline Lanes magnitude(const Lanes& a) {
  return each([&](int r) { return vabsq_f32(a.v[r]); });
}
[[gnu::always_inline]] inline Lanes negative(const Lanes& a) {
  return each([&](int r) { return vnegq_f32(a.v[r]); });
}

// sum + a * b for products that are exact: fused or not, the bits are the same.
[[gnu::always_inline]] inline Lanes add_exact_product(const Lanes& sum, const Lanes& a, const Lanes& b) {
  return each([&](int r) { return vfmaq_f32(sum.v[r], a.v[r], b.v[r]); });
}
// Rounded to 13 significant bits, ties away from zero.
[[gnu::always_inline]] inline Lanes thirteen_bits(const Lanes& a) {
  return each([&](int r) {
    const int32x4_t raised = vaddq_s32(vreinterpretq_s32_f32(a.v[r]), vdupq_n_s32(0x400));
    return vreinterpretq_f32_s32(vandq_s32(raised, vdupq_n_s32(~0x7FF)));
  });
}

[[gnu::always_inline]] inline Lanes load(const float* p, Full) {
  return each([=](int r) { return vld1q_f32(p + 4 * r); });
}
[[gnu::always_inline]] inline void store(float* p, const Lanes& a, Full) {
#pragma GCC unroll 4
  for (int r = 0; r < 4; ++r) vst1q_f32(p + 4 * r, a.v[r]);
}
[[gnu::always_inline]] inline uint16x4_t load4(const void* p, int r) {
  return vld1_u16(static_cast<const uint16_t*>(p) + 4 * r);
}
[[gnu::always_inline]] inline Lanes load(const Half* p, Full) {
  return each([=](int r) { return vcvt_f32_f16(vreinterpret_f16_u16(load4(p, r))); });
}
[[gnu::always_inline]] inline Lanes broadcast_half(Half h) {
  return each([=](int) { return vcvt_f32_f16(vreinterpret_f16_u16(vdup_n_u16(h.bits))); });
}
[[gnu::always_inline]] inline Lanes load(const Bfloat* p, Full) {
  return each([=](int r) { return vreinterpretq_f32_u32(vshll_n_u16(load4(p, r), 16)); });
}
[[gnu::always_inline]] inline Lanes load(const int8_t* p, Full) {
  const int8x16_t bytes = vld1q_s8(p);
  const int16x8_t low = vmovl_s8(vget_low_s8(bytes));
  const int16x8_t high = vmovl_high_s8(bytes);
  Lanes out;
  out.v[0] = vcvtq_f32_s32(vmovl_s16(vget_low_s16(low)));
  out.v[1] = vcvtq_f32_s32(vmovl_high_s16(low));
  out.v[2] = vcvtq_f32_s32(vmovl_s16(vget_low_s16(high)));
  out.v[3] = vcvtq_f32_s32(vmovl_high_s16(high));
  return out;
}
[[gnu::always_inline]] inline Lanes load(const int32_t* p, Full) {
  return each([=](int r) { return vcvtq_f32_s32(vld1q_s32(p + 4 * r)); });
}

// Half to even.
[[gnu::always_inline]] inline IntLanes round_to_int(const Lanes& a) {
  return each_int([&](int r) { return vcvtnq_s32_f32(a.v[r]); });
}
[[gnu::always_inline]] inline Lanes to_float(const IntLanes& a) {
  return each([&](int r) { return vcvtq_f32_s32(a.v[r]); });
}
[[gnu::always_inline]] inline IntLanes operator+(const IntLanes& a, const IntLanes& b) {
  return each_int([&](int r) { return vaddq_s32(a.v[r], b.v[r]); });
}
[[gnu::always_inline]] inline IntLanes operator-(const IntLanes& a, const IntLanes& b) {
  return each_int([&](int r) { return vsubq_s32(a.v[r], b.v[r]); });
}
[[gnu::always_inline]] inline IntLanes halved(const IntLanes& a) {
  return each_int([&](int r) { return vshrq_n_s32(a.v[r], 1); });
}
[[gnu::always_inline]] inline Lanes power_of_two(const IntLanes& e) {
  return each([&](int r) { return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(e.v[r], vdupq_n_s32(127)), 23)); });
}
[[gnu::always_inline]] inline int32_t sum(const IntLanes& a) {
  return vaddvq_s32(vaddq_s32(vaddq_s32(a.v[0], a.v[1]), vaddq_s32(a.v[2], a.v[3])));
}
[[gnu::always_inline]] inline void store_bytes(int8_t* p, const IntLanes& a, Full) {
  const int16x8_t low = vcombine_s16(vmovn_s32(a.v[0]), vmovn_s32(a.v[1]));
  const int16x8_t high = vcombine_s16(vmovn_s32(a.v[2]), vmovn_s32(a.v[3]));
  vst1q_s8(p, vcombine_s8(vmovn_s16(low), vmovn_s16(high)));
}

[[gnu::always_inline]] inline float square_root(float x) { return vget_lane_f32(vsqrt_f32(vdup_n_f32(x)), 0); }
[[gnu::always_inline]] inline float top_lane(const Lanes& a) {
  return vmaxvq_f32(vmaxq_f32(vmaxq_f32(a.v[0], a.v[1]), vmaxq_f32(a.v[2], a.v[3])));
}

// The fixed tree: lanes l and l + 8, l + 4, l + 2, l + 1. The first two steps, of one Lanes.
[[gnu::always_inline]] inline float32x4_t fold4(const Lanes& a) {
  return vaddq_f32(vaddq_f32(a.v[0], a.v[2]), vaddq_f32(a.v[1], a.v[3]));
}
[[gnu::always_inline]] inline float tree(const Lanes& a) {
  const float32x4_t four = fold4(a);
  return vpadds_f32(vadd_f32(vget_low_f32(four), vget_high_f32(four)));
}
// The third step on two registers at once; the sums of `a` lie before those of `b`.
[[gnu::always_inline]] inline float32x4_t fold2(float32x4_t a, float32x4_t b) {
  const float64x2_t c = vreinterpretq_f64_f32(a);
  const float64x2_t d = vreinterpretq_f64_f32(b);
  return vaddq_f32(vreinterpretq_f32_f64(vzip1q_f64(c, d)), vreinterpretq_f32_f64(vzip2q_f64(c, d)));
}
// Lane i of the result is tree(a[i]).
[[gnu::always_inline]] inline Lanes trees(const Lanes (&a)[kLanes]) {
  return each([&](int r) {
    const Lanes* four = a + 4 * r;
    return vpaddq_f32(fold2(fold4(four[0]), fold4(four[1])), fold2(fold4(four[2]), fold4(four[3])));
  });
}

// int8 x int16 products of the screening head: 16 elements, one product a lane by smlal.
constexpr long long kWide = 16;
constexpr long long kWideProducts = 1;
struct Wide {
  int16x8_t v[2];
};
using WideSums = IntLanes;
[[gnu::always_inline]] inline Wide load_wide(const int16_t* p) {
  Wide out;
  out.v[0] = vld1q_s16(p);
  out.v[1] = vld1q_s16(p + 8);
  return out;
}
[[gnu::always_inline]] inline Wide load_wide(const int8_t* p) {
  const int8x16_t bytes = vld1q_s8(p);
  Wide out;
  out.v[0] = vmovl_s8(vget_low_s8(bytes));
  out.v[1] = vmovl_high_s8(bytes);
  return out;
}
[[gnu::always_inline]] inline WideSums no_products() {
  return each_int([](int) { return vdupq_n_s32(0); });
}
[[gnu::always_inline]] inline WideSums add_products(const WideSums& sums, const Wide& a, const Wide& b) {
  WideSums out;
#pragma GCC unroll 2
  for (int h = 0; h < 2; ++h) {
    out.v[2 * h] = vmlal_s16(sums.v[2 * h], vget_low_s16(a.v[h]), vget_low_s16(b.v[h]));
    out.v[2 * h + 1] = vmlal_high_s16(sums.v[2 * h + 1], a.v[h], b.v[h]);
  }
  return out;
}
[[gnu::always_inline]] inline long long total(const WideSums& sums) {
  return (vaddlvq_s32(sums.v[0]) + vaddlvq_s32(sums.v[1])) + (vaddlvq_s32(sums.v[2]) + vaddlvq_s32(sums.v[3]));
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
}  // namespace bitnet_kernels::neon_family

#endif  // BITNET_GENERATED_DENSE_LANES_NEON_H_
