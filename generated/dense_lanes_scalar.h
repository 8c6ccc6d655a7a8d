// Lanes for plain C++: 16 floats at once, and what the dense operations do with them.
//
// GENERATED from templates/dense_lanes.h.j2 and templates/dict/scalar/dense.j2
// by templates/render.py. DO NOT EDIT: change the templates and run templates/render.py again.
//
// Every dense operation is written once, over blocks of 16 elements with the 16 running sums of
// runtime/kernels/kernel_abi.h; a target only says what it does with one block:
// 16 floats are an array, and each operation a loop over it, which the compiler may turn into what vectors it has.
// Tails go through a zero-filled block on the stack.
//
// Why blocks of 16 with zero-filled tails keep the bits: lane = i mod 16 because every block starts at a multiple of
// 16, and a lane that starts from +0 is never -0, so that adding the +0 of a padded product changes nothing.
#ifndef BITNET_GENERATED_DENSE_LANES_SCALAR_H_
#define BITNET_GENERATED_DENSE_LANES_SCALAR_H_

#include <stddef.h>
#include <stdint.h>

#include "runtime/kernels/kernel_abi.h"

namespace bitnet_kernels::scalar_family {
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

// How much of a block of 16 exists: all of it, or the first `count` elements.
struct Full {};
struct Tail {
  long long count;
};

struct Lanes {
  float v[kLanes];
};
struct IntLanes {
  int32_t v[kLanes];
};

// Rows x keys, and rows x blocks of values, of attention; rows of the head read side by side.
constexpr int kRowTile = 2;
constexpr int kDotTile = 2;
constexpr int kValueTile = 2;
constexpr int kHeadStreams = 2;

template <typename Fn>
[[gnu::always_inline]] inline Lanes each(Fn fn) {
  Lanes out;
#pragma GCC unroll 16
  for (int l = 0; l < kLanes; ++l) out.v[l] = fn(l);
  return out;
}
template <typename Fn>
[[gnu::always_inline]] inline IntLanes each_int(Fn fn) {
  IntLanes out;
#pragma GCC unroll 16
  for (int l = 0; l < kLanes; ++l) out.v[l] = fn(l);
  return out;
}
[[gnu::always_inline]] inline float float_of(uint32_t bits) { return __builtin_bit_cast(float, bits); }
[[gnu::always_inline]] inline uint32_t bits_of(float x) { return __builtin_bit_cast(uint32_t, x); }

[[gnu::always_inline]] inline Lanes broadcast(float x) {
  return each([=](int) { return x; });
}
[[gnu::always_inline]] inline Lanes operator+(const Lanes& a, const Lanes& b) {
  return each([&](int l) { return a.v[l] + b.v[l]; });
}
[[gnu::always_inline]] inline Lanes operator-(const Lanes& a, const Lanes& b) {
  return each([&](int l) { return a.v[l] - b.v[l]; });
}
[[gnu::always_inline]] inline Lanes operator*(const Lanes& a, const Lanes& b) {
  return each([&](int l) { return a.v[l] * b.v[l]; });
}
[[gnu::always_inline]] inline Lanes operator/(const Lanes& a, const Lanes& b) {
  return each([&](int l) { return a.v[l] / b.v[l]; });
}
[[gnu::always_inline]] inline Lanes maximum(const Lanes& a, const Lanes& b) {
  return each([&](int l) { return a.v[l] > b.v[l] ? a.v[l] : b.v[l]; });
}
[[gnu::always_inline]] inline Lanes minimum(const Lanes& a, const Lanes& b) {
  return each([&](int l) { return a.v[l] < b.v[l] ? a.v[l] : b.v[l]; });
}
[[gnu::always_inline]] inline Lanes magnitude(const Lanes& a) {
  return each([&](int l) { return float_of(bits_of(a.v[l]) & 0x7FFFFFFFU); });
}
[[gnu::always_inline]] inline Lanes negative(const Lanes& a) {
  return each([&](int l) { return -a.v[l]; });
}

// binary16: exponent and fraction are moved into place and the bias is mended by an exact multiplication, which also
// normalises subnormals.
[[gnu::always_inline]] inline float to_float(Half h) {
  const uint32_t magnitude_bits = (h.bits & 0x7FFFU) << 13;
  const float scaled = float_of(magnitude_bits) * 0x1p112F;
  const uint32_t special = magnitude_bits > 0x0F7FFFFFU ? 0x7F800000U : 0U;  // infinity or NaN
  return float_of(bits_of(scaled) | special | (h.bits & 0x8000U) << 16);
}
[[gnu::always_inline]] inline float to_float(Bfloat b) { return float_of(static_cast<uint32_t>(b.bits) << 16); }
[[gnu::always_inline]] inline float to_float(int8_t x) { return static_cast<float>(x); }
[[gnu::always_inline]] inline float to_float(int32_t x) { return static_cast<float>(x); }
[[gnu::always_inline]] inline float to_float(float x) { return x; }

template <typename T>
[[gnu::always_inline]] inline Lanes load(const T* p, Full) {
  return each([=](int l) { return to_float(p[l]); });
}
[[gnu::always_inline]] inline void store(float* p, const Lanes& a, Full) {
#pragma GCC unroll 16
  for (int l = 0; l < kLanes; ++l) p[l] = a.v[l];
}

// Half to even for |a| < 2^22: the sum has no bits behind the point, and its low bits are the integer.
[[gnu::always_inline]] inline IntLanes round_to_int(const Lanes& a) {
  return each_int([&](int l) { return static_cast<int32_t>(bits_of(a.v[l] + 12582912.0F) - 0x4B400000U); });
}
[[gnu::always_inline]] inline Lanes to_float(const IntLanes& a) {
  return each([&](int l) { return static_cast<float>(a.v[l]); });
}
[[gnu::always_inline]] inline IntLanes operator+(const IntLanes& a, const IntLanes& b) {
  return each_int([&](int l) { return a.v[l] + b.v[l]; });
}
[[gnu::always_inline]] inline IntLanes operator-(const IntLanes& a, const IntLanes& b) {
  return each_int([&](int l) { return a.v[l] - b.v[l]; });
}
[[gnu::always_inline]] inline IntLanes halved(const IntLanes& a) {
  return each_int([&](int l) { return a.v[l] >> 1; });
}
[[gnu::always_inline]] inline Lanes power_of_two(const IntLanes& e) {
  return each([&](int l) { return float_of(static_cast<uint32_t>(e.v[l] + 127) << 23); });
}
[[gnu::always_inline]] inline int32_t sum(const IntLanes& a) {
  int32_t s = 0;
  for (int l = 0; l < kLanes; ++l) s += a.v[l];
  return s;
}
[[gnu::always_inline]] inline void store_bytes(int8_t* p, const IntLanes& a, Full) {
#pragma GCC unroll 16
  for (int l = 0; l < kLanes; ++l) p[l] = static_cast<int8_t>(a.v[l]);
}

[[gnu::always_inline]] inline float square_root(float x) { return __builtin_sqrtf(x); }
[[gnu::always_inline]] inline float top_lane(const Lanes& a) {
  float top = a.v[0];
  for (int l = 1; l < kLanes; ++l) top = a.v[l] > top ? a.v[l] : top;
  return top;
}

// The fixed tree: lanes l and l + 8, l + 4, l + 2, l + 1.
[[gnu::always_inline]] inline float tree(Lanes a) {
#pragma GCC unroll 4
  for (int distance = 8; distance > 0; distance /= 2) {
#pragma GCC unroll 8
    for (int l = 0; l < distance; ++l) a.v[l] += a.v[l + distance];
  }
  return a.v[0];
}
// Lane i of the result is tree(a[i]).
[[gnu::always_inline]] inline Lanes trees(const Lanes (&a)[kLanes]) {
  Lanes out;
  for (int i = 0; i < kLanes; ++i) out.v[i] = tree(a[i]);
  return out;
}

// int8 x int16 products of the screening head: 16 elements, one product a lane.
constexpr long long kWide = kLanes;
constexpr long long kWideProducts = 1;
using Wide = IntLanes;
using WideSums = IntLanes;
template <typename T>
[[gnu::always_inline]] inline Wide load_wide(const T* p) {
  return each_int([=](int l) { return static_cast<int32_t>(p[l]); });
}
[[gnu::always_inline]] inline WideSums no_products() {
  return each_int([](int) { return int32_t{0}; });
}
[[gnu::always_inline]] inline WideSums add_products(const WideSums& sums, const Wide& a, const Wide& b) {
  return each_int([&](int l) { return sums.v[l] + a.v[l] * b.v[l]; });
}
[[gnu::always_inline]] inline long long total(const WideSums& sums) {
  long long s = 0;
  for (int l = 0; l < kLanes; ++l) s += sums.v[l];
  return s;
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
}  // namespace bitnet_kernels::scalar_family

#endif  // BITNET_GENERATED_DENSE_LANES_SCALAR_H_
