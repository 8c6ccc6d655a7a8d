// Lanes for C++ without intrinsics: 16 floats at once, and what the dense operations do with them.
//
// GENERATED from templates/dense_lanes.h.j2 and templates/dict/scalar/dense.j2
// by templates/render.py. DO NOT EDIT: change the templates and run templates/render.py again.
//
// Every dense operation is written once, over blocks of 16 elements with the 16 running sums of
// runtime/kernels/kernel_abi.h; a target only says what it does with one block:
// 16 floats are one vector type of the compiler (vector_size), which it cuts into what registers the CPU has; operators
// work element by element. Tails go through a zero-filled block on the stack.
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

typedef float Floats __attribute__((vector_size(64)));
typedef int32_t Ints __attribute__((vector_size(64)));
typedef float Floats4 __attribute__((vector_size(16)));
// The same in memory, at any address of an element.
typedef float StoredFloats __attribute__((vector_size(64), aligned(4), __may_alias__));
typedef int32_t StoredInts __attribute__((vector_size(64), aligned(4), __may_alias__));
typedef uint16_t StoredBits __attribute__((vector_size(32), aligned(2), __may_alias__));
typedef int8_t StoredBytes __attribute__((vector_size(16), aligned(1), __may_alias__));

struct Lanes {
  Floats v;
};
struct IntLanes {
  Ints v;
};

// Rows x keys, and rows x blocks of values, of attention; rows of the head read side by side.
constexpr int kRowTile = 2;
constexpr int kDotTile = 2;
constexpr int kValueTile = 2;
constexpr int kHeadStreams = 2;
// Tokens that head_screen works on at once, and sums (rows x tokens) that it keeps in registers.
constexpr int kScreenTokens = 4;
constexpr int kScreenSums = 4;

[[gnu::always_inline]] inline Lanes floats_of(IntLanes a) { return {reinterpret_cast<Floats>(a.v)}; }
[[gnu::always_inline]] inline IntLanes bits_of(Lanes a) { return {reinterpret_cast<Ints>(a.v)}; }

// x - 0 is x, where 0 + x would lose the sign of -0.
[[gnu::always_inline]] inline Lanes broadcast(float x) { return {x - Floats{}}; }
[[gnu::always_inline]] inline Lanes operator+(Lanes a, Lanes b) { return {a.v + b.v}; }
[[gnu::always_inline]] inline Lanes operator-(Lanes a, Lanes b) { return {a.v - b.v}; }
[[gnu::always_inline]] inline Lanes operator*(Lanes a, Lanes b) { return {a.v * b.v}; }
[[gnu::always_inline]] inline Lanes operator/(Lanes a, Lanes b) { return {a.v / b.v}; }
[[gnu::always_inline]] inline Lanes maximum(Lanes a, Lanes b) { return {a.v > b.v ? a.v : b.v}; }
[[gnu::always_inline]] inline Lanes minimum(Lanes a, Lanes b) { return {a.v < b.v ? a.v : b.v}; }
[[gnu::always_inline]] inline Lanes magnitude(Lanes a) { return floats_of({bits_of(a).v & 0x7FFFFFFF}); }
[[gnu::always_inline]] inline Lanes negative(Lanes a) { return {-a.v}; }

// sum + a * b for products that are exact: fused or not, the bits are the same.
[[gnu::always_inline]] inline Lanes add_exact_product(Lanes sum, Lanes a, Lanes b) { return sum + a * b; }
// Rounded to 13 significant bits, ties away from zero.
[[gnu::always_inline]] inline Lanes thirteen_bits(Lanes a) { return floats_of({(bits_of(a).v + 0x400) & ~0x7FF}); }

[[gnu::always_inline]] inline Lanes load(const float* p, Full) { return {*reinterpret_cast<const StoredFloats*>(p)}; }
[[gnu::always_inline]] inline void store(float* p, Lanes a, Full) { *reinterpret_cast<StoredFloats*>(p) = a.v; }
[[gnu::always_inline]] inline Lanes load(const int32_t* p, Full) {
  return {__builtin_convertvector(*reinterpret_cast<const StoredInts*>(p), Floats)};
}
[[gnu::always_inline]] inline Lanes load(const int8_t* p, Full) {
  const Ints wide = __builtin_convertvector(*reinterpret_cast<const StoredBytes*>(p), Ints);
  return {__builtin_convertvector(wide, Floats)};
}
[[gnu::always_inline]] inline IntLanes bits_at(const void* p) {
  return {__builtin_convertvector(*static_cast<const StoredBits*>(p), Ints)};
}
// Exponent and fraction are moved into place and the bias is mended by an exact multiplication, which also normalises
// subnormals; infinities and NaNs get their exponent back.
[[gnu::always_inline]] inline Lanes load(const Half* p, Full) {
  const Ints bits = bits_at(p).v;
  const Ints magnitude_bits = (bits & 0x7FFF) << 13;
  const Ints special = (magnitude_bits > 0x0F7FFFFF) & 0x7F800000;
  const Lanes scaled = {floats_of({magnitude_bits}).v * 0x1p112F};
  return floats_of({bits_of(scaled).v | special | ((bits & 0x8000) << 16)});
}
// The same value in all lanes: integer arithmetic, as for 16 of them.
[[gnu::always_inline]] inline Lanes broadcast_half(Half h) {
  const uint32_t magnitude_bits = (h.bits & 0x7FFFU) << 13;
  const uint32_t special = magnitude_bits > 0x0F7FFFFFU ? 0x7F800000U : 0U;
  const float scaled = __builtin_bit_cast(float, magnitude_bits) * 0x1p112F;
  const uint32_t sign = (h.bits & 0x8000U) << 16;
  return broadcast(__builtin_bit_cast(float, __builtin_bit_cast(uint32_t, scaled) | special | sign));
}
[[gnu::always_inline]] inline Lanes load(const Bfloat* p, Full) { return floats_of({bits_at(p).v << 16}); }

// Half to even for |a| < 2^22: the sum has no bits behind the point, and its low bits are the integer.
[[gnu::always_inline]] inline IntLanes round_to_int(Lanes a) { return {bits_of({a.v + 12582912.0F}).v - 0x4B400000}; }
[[gnu::always_inline]] inline Lanes to_float(IntLanes a) { return {__builtin_convertvector(a.v, Floats)}; }
[[gnu::always_inline]] inline IntLanes operator+(IntLanes a, IntLanes b) { return {a.v + b.v}; }
[[gnu::always_inline]] inline IntLanes operator-(IntLanes a, IntLanes b) { return {a.v - b.v}; }
[[gnu::always_inline]] inline IntLanes halved(IntLanes a) { return {a.v >> 1}; }
[[gnu::always_inline]] inline Lanes power_of_two(IntLanes e) { return floats_of({(e.v + 127) << 23}); }
[[gnu::always_inline]] inline int32_t sum(IntLanes a) {
  int32_t result = 0;
  for (int l = 0; l < kLanes; ++l) result += a.v[l];
  return result;
}
[[gnu::always_inline]] inline void store_bytes(int8_t* p, IntLanes a, Full) {
  *reinterpret_cast<StoredBytes*>(p) = __builtin_convertvector(a.v, StoredBytes);
}

[[gnu::always_inline]] inline float square_root(float x) { return __builtin_sqrtf(x); }
[[gnu::always_inline]] inline float top_lane(Lanes a) {
  float top = a.v[0];
  for (int l = 1; l < kLanes; ++l) top = a.v[l] > top ? a.v[l] : top;
  return top;
}

// The fixed tree: lanes l and l + 8, l + 4, l + 2, l + 1. The first two steps.
[[gnu::always_inline]] inline Floats4 fold4(Lanes a) {
  const Floats4 first = __builtin_shufflevector(a.v, a.v, 0, 1, 2, 3);
  const Floats4 second = __builtin_shufflevector(a.v, a.v, 4, 5, 6, 7);
  const Floats4 third = __builtin_shufflevector(a.v, a.v, 8, 9, 10, 11);
  const Floats4 fourth = __builtin_shufflevector(a.v, a.v, 12, 13, 14, 15);
  return (first + third) + (second + fourth);
}
[[gnu::always_inline]] inline float tree(Lanes a) {
  const Floats4 four = fold4(a);
  return (four[0] + four[2]) + (four[1] + four[3]);
}
// The later steps on two of them at once; the sums of `a` lie before those of `b`.
[[gnu::always_inline]] inline Floats4 fold2(Floats4 a, Floats4 b) {
  return __builtin_shufflevector(a, b, 0, 1, 4, 5) + __builtin_shufflevector(a, b, 2, 3, 6, 7);
}
[[gnu::always_inline]] inline Floats4 fold1(Floats4 a, Floats4 b) {
  return __builtin_shufflevector(a, b, 0, 2, 4, 6) + __builtin_shufflevector(a, b, 1, 3, 5, 7);
}
// Lane i of the result is tree(a[i]).
[[gnu::always_inline]] inline Lanes trees(const Lanes (&a)[kLanes]) {
  alignas(64) float sums[kLanes];
  for (int i = 0; i < kLanes; i += 4) {
    const Floats4 low = fold2(fold4(a[i]), fold4(a[i + 1]));
    const Floats4 high = fold2(fold4(a[i + 2]), fold4(a[i + 3]));
    *reinterpret_cast<Floats4*>(sums + i) = fold1(low, high);
  }
  return load(static_cast<const float*>(sums), Full{});
}

// int8 x int16 products of the screening head: 8 elements, two products a lane.
constexpr long long kWide = 8;
constexpr long long kWideProducts = 2;
typedef int16_t Wide __attribute__((vector_size(16)));
typedef int32_t WideSums __attribute__((vector_size(16)));
typedef int32_t WideProducts __attribute__((vector_size(32)));
typedef int16_t StoredWide __attribute__((vector_size(16), aligned(2), __may_alias__));
typedef int8_t StoredNarrow __attribute__((vector_size(8), aligned(1), __may_alias__));
[[gnu::always_inline]] inline Wide load_wide(const int16_t* p) { return *reinterpret_cast<const StoredWide*>(p); }
[[gnu::always_inline]] inline Wide load_wide(const int8_t* p) {
  return __builtin_convertvector(*reinterpret_cast<const StoredNarrow*>(p), Wide);
}
[[gnu::always_inline]] inline WideSums no_products() { return WideSums{}; }
[[gnu::always_inline]] inline WideSums add_products(WideSums sums, Wide a, Wide b) {
  const WideProducts products = __builtin_convertvector(a, WideProducts) * __builtin_convertvector(b, WideProducts);
  return sums + (__builtin_shufflevector(products, products, 0, 2, 4, 6) +
                 __builtin_shufflevector(products, products, 1, 3, 5, 7));
}
[[gnu::always_inline]] inline long long total(WideSums sums) {
  return (static_cast<long long>(sums[0]) + sums[1]) + (static_cast<long long>(sums[2]) + sums[3]);
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
}  // namespace bitnet_kernels::scalar_family

#endif  // BITNET_GENERATED_DENSE_LANES_SCALAR_H_
