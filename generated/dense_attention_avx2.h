// Attention over Lanes, for float16, int8 and float32 keys and values behind a page table.
//
// GENERATED from templates/dense_attention.h.j2 and templates/dict/avx2/dense.j2
// by templates/render.py. DO NOT EDIT: change the templates and run templates/render.py again.
//
// Query rows (token x head) that see the same keys are taken in groups of BITNET_ATTENTION_ROWS, so that a chunk of
// keys and values comes from memory once for the whole group: the heads that share it while decoding, several tokens
// as well in prefill. Inside a group, up to kRowTile rows meet kDotTile / rows keys in registers, and each key is
// converted once for all of them; values likewise, in slices that stay in the L1 cache. The rows of a group end at
// different positions, and with a window begin at different ones: scores outside of a row's own positions are computed
// along and never read, values outside are left out (0 * infinity is NaN). No row's order of operations depends on its
// neighbours, so that prefill and decode give the same bits.
//
// Products with keys and values of float16 and int8 are exact (kernel_abi.h says why), so a fused multiply-add gives
// the bits of a multiplication and an addition; those with float32 are rounded before they are added. Keys and values
// of a long context come from memory: while one block of 256 positions is worked on, the next is brought into the L2
// cache, in the order K, V of a chunk, K, V of the next.
//
// Functions that do much work a call are not inlined: inlined step by step into the kernel, each would be optimised
// over and over, and they were a third of a model's compilation.
#ifndef BITNET_GENERATED_DENSE_ATTENTION_AVX2_H_
#define BITNET_GENERATED_DENSE_ATTENTION_AVX2_H_

#include "generated/dense_lanes_avx2.h"

namespace bitnet_kernels::avx2_family {
namespace {
namespace dense_detail {

constexpr long long kChunk = BITNET_ATTENTION_CHUNK;
constexpr int kRows = BITNET_ATTENTION_ROWS;
constexpr long long kValueSlice = 64;  // positions: 64 rows of 128 float16 are 16 KiB
static_assert(kChunk % kLanes == 0 && kRows == kLanes, "scores are kept in whole blocks, and factors of rows in one");

// Whether a page of T holds factors behind its rows.
template <typename T>
constexpr bool kHasFactors = false;
template <>
constexpr bool kHasFactors<int8_t> = true;

// Whether products with elements of T are exact, and weights therefore rounded.
template <typename T>
constexpr bool kExactProducts = true;
template <>
constexpr bool kExactProducts<float> = false;

// sum + a * b, where b holds elements of T.
template <typename T>
[[gnu::always_inline]] inline Lanes add_product(const Lanes& sum, const Lanes& a, const Lanes& b) {
  if constexpr (kExactProducts<T>) return add_exact_product(sum, a, b);
  return sum + a * b;
}
template <typename T>
[[gnu::always_inline]] inline Lanes rounded_weight(const Lanes& weight) {
  if constexpr (kExactProducts<T>) return thirteen_bits(weight);
  return weight;
}

// One page: [256][head_dim] values and, for int8, [256] factors.
template <typename T>
struct Page {
  const T* rows;
  const float* factors;
};
template <typename T>
[[gnu::always_inline]] inline Page<T> page_of(const void* page, long long head_dim) {
  const T* rows = static_cast<const T*>(page);
  return {rows, kHasFactors<T> ? reinterpret_cast<const float*>(rows + kChunk * head_dim) : nullptr};
}

// `rows` query rows, ascending in the positions from[r] .. seen[r] - 1 that they see.
struct Group {
  int rows;
  long long head_dim;
  long long width;  // head_dim, in whole blocks
  float scale;
  const void* next;
  float* p;        // [kRows][kChunk] scores, then weights of the values
  float* o;        // [kRows][width] merged
  float* chunk_o;  // [kRows][width] of one chunk
  const float* q[kRows];
  float* y[kRows];
  long long from[kRows];
  long long seen[kRows];
};

// Into the L2 cache: kBytes bytes from p on. Nothing is read, so that p may be any address.
template <int kBytes, typename T>
[[gnu::always_inline]] inline void bring_near(const T* p) {
  constexpr int kLine = 64;
#pragma GCC unroll 8
  for (int b = 0; b < kBytes; b += kLine) __builtin_prefetch(reinterpret_cast<const char*>(p) + b, 0, 2);
}

// The rest of head_dim behind its whole blocks. Not inlined: most models have none.
template <typename T>
[[gnu::noinline]] Lanes load_rest(const T* p, long long count) {
  return load(p, Tail{count});
}

// q . k for R rows and J of up to 16 keys, the at-th of every 16 / J, one Lanes each. Beyond the last key it is taken
// again. Meanwhile J rows from the at * J-th on come nearer at `ahead`.
template <int R, int J, bool kAhead, typename T>
[[gnu::always_inline]] inline void dots(const float* const* q, const T* key, const T* ahead, long long head_dim, int at,
                                        int keys, KeySums* sums) {
  const T* rows[J];
  Lanes s[R][J];
#pragma GCC unroll 16
  for (int j = 0; j < J; ++j) {
    const int number = at + j * (static_cast<int>(kLanes) / J);
    rows[j] = key + (number < keys ? number : keys - 1) * head_dim;
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 16
    for (int j = 0; j < J; ++j) s[r][j] = broadcast(0.0F);
  }
  ahead += at * J * head_dim;
  long long d = 0;
  for (; d + kLanes <= head_dim; d += kLanes) {
    if constexpr (kAhead) bring_near<J * kLanes * sizeof(T)>(ahead + d * J);
    Lanes k[J];
#pragma GCC unroll 16
    for (int j = 0; j < J; ++j) k[j] = load(rows[j] + d, Full{});
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const Lanes v = load(q[r] + d, Full{});
#pragma GCC unroll 16
      for (int j = 0; j < J; ++j) s[r][j] = add_product<T>(s[r][j], v, k[j]);
    }
  }
  if (d < head_dim) [[unlikely]] {
    for (int j = 0; j < J; ++j) {
      const Lanes k = load_rest(rows[j] + d, head_dim - d);
      for (int r = 0; r < R; ++r) s[r][j] = add_product<T>(s[r][j], load_rest(q[r] + d, head_dim - d), k);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) put(sums[r], at, s[r]);
}

// p[first + r][j] = score of row first + r at position j of the page, for R rows and start <= j < count, start a
// multiple of 16; p beyond, up to a whole block, holds anything. Meanwhile as many rows come nearer at `ahead`.
template <int R, bool kAhead, typename T>
[[gnu::noinline]] void scores(const Group& g, int first, const Page<T>& key, const T* ahead, long long start,
                              long long count) {
  constexpr int J = kDotTile / R < 4 ? kDotTile / R : 4;
  static_assert(kLanes % J == 0, "16 keys are whole groups of J");
  const float* const* q = g.q + first;
  for (long long begin = start; begin < count; begin += kLanes) {
    const int keys = static_cast<int>(count - begin < kLanes ? count - begin : kLanes);
    const T* rows = key.rows + begin * g.head_dim;
    KeySums sums[R];
    for (int at = 0; at < kLanes / J && at < keys; ++at) {
      dots<R, J, kAhead>(q, rows, ahead + begin * g.head_dim, g.head_dim, at, keys, sums);
    }
    Lanes none[J];
    for (int j = 0; j < J; ++j) none[j] = broadcast(0.0F);
    for (int at = keys; at < kLanes / J; ++at) {
      for (int r = 0; r < R; ++r) put(sums[r], at, none);
    }
    Lanes factors = broadcast(1.0F);
    if constexpr (kHasFactors<T>) {
      factors = keys == kLanes ? load(key.factors + begin, Full{}) : load(key.factors + begin, Tail{keys});
    }
    for (int r = 0; r < R; ++r) {
      Lanes s = trees(sums[r]);
      if constexpr (kHasFactors<T>) s = s * factors;
      store(g.p + (first + r) * kChunk + begin, s * broadcast(g.scale), Full{});
    }
  }
}

// Rows first .. last - 1, at most R at a time; the first of these times brings memory nearer.
template <int R, bool kAhead, typename T>
inline void all_scores(const Group& g, int first, int last, const Page<T>& key, const T* ahead, long long start,
                       long long count) {
  if (first + R <= last) {
    scores<R, kAhead>(g, first, key, ahead, start, count);
    for (first += R; first + R <= last; first += R) scores<R, false>(g, first, key, ahead, start, count);
    if constexpr (R > 1) {
      if (first < last) all_scores<R / 2, false>(g, first, last, key, ahead, start, count);
    }
  } else if constexpr (R > 1) {
    all_scores<R / 2, kAhead>(g, first, last, key, ahead, start, count);
  }
}

// The weights of the scores at p[0 .. 15].
template <typename T, typename Extent>
[[gnu::always_inline]] inline Lanes weights_of(const float* p, float top, Extent extent) {
  const Lanes x = load(p, extent) - broadcast(top);
  return rounded_weight<T>(exponential(maximum(x, broadcast(BITNET_ATTENTION_LEAST_EXPONENT))));
}

// The weights of a block in which the row sees positions begin .. count - 1 alone; zeros for the others. Not inlined:
// a row has one such block, if any. The scores before begin may be of anything, NaN as well: they are replaced.
template <typename T>
[[gnu::noinline]] Lanes first_weights(const float* p, long long begin, long long count, float top) {
  alignas(64) float block[kLanes];
  for (long long j = 0; j < kLanes; ++j) block[j] = j < begin || j >= count ? top : p[j];
  store(block, weights_of<T>(static_cast<const float*>(block), top, Full{}), Full{});
  for (long long j = 0; j < kLanes; ++j) {
    if (j < begin || j >= count) block[j] = 0.0F;
  }
  return load(static_cast<const float*>(block), Full{});
}

// p[j] = exp(p[j] - top), rounded, for begin <= j < count, and with factors p[j] * factors[j], rounded, in its place;
// returns the 16-lane sum of p before the factors.
template <typename T>
inline float weights(float* p, const float* factors, long long begin, long long count, float top) {
  Lanes sums = broadcast(0.0F);
  if (begin % kLanes != 0) [[unlikely]] {
    const long long start = begin - begin % kLanes;
    const long long end = count - start < kLanes ? count : start + kLanes;
    sums = first_weights<T>(p + start, begin - start, end - start, top);
    store(p + start, sums, Full{});
    if constexpr (kHasFactors<T>) {
      alignas(64) float block[kLanes] = {};
      for (long long j = begin; j < end; ++j) block[j - start] = factors[j];
      store(p + start, thirteen_bits(sums * load(static_cast<const float*>(block), Full{})), Full{});
    }
    begin = start + kLanes;
  }
  p += begin;
  if constexpr (kHasFactors<T>) factors += begin;
  for_blocks(count - begin, [&](long long j, auto extent) {
    Lanes weight = weights_of<T>(static_cast<const float*>(p + j), top, extent);
    sums = sums + only(weight, extent);
    if constexpr (kHasFactors<T>) weight = thirteen_bits(weight * load(factors + j, extent));
    store(p + j, weight, extent);
  });
  return tree(sums);
}

// D blocks of o for R rows: o[r][d] += p[r][j] * value[j][d] for begin <= j < end; from +0 if begin is 0. Meanwhile as
// many blocks of end - begin rows come nearer at `ahead`.
template <int R, int D, bool kAhead, typename T, typename Extent>
[[gnu::always_inline]] inline void weigh_blocks(const float* p, const T* value, const T* ahead, long long head_dim,
                                                long long begin, long long end, float* o, long long width,
                                                Extent extent) {
  Lanes sums[R][D];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 16
    for (int d = 0; d < D; ++d) {
      sums[r][d] = begin == 0 ? broadcast(0.0F) : load(static_cast<const float*>(o + r * width + d * kLanes), Full{});
    }
  }
  for (long long j = begin; j < end; ++j) {
    if constexpr (kAhead) bring_near<D * kLanes * sizeof(T)>(ahead + (j - begin) * head_dim);
    Lanes v[D];
#pragma GCC unroll 16
    for (int d = 0; d < D; ++d) v[d] = load(value + j * head_dim + d * kLanes, extent);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const Lanes weight = broadcast(p[r * kChunk + j]);
#pragma GCC unroll 16
      for (int d = 0; d < D; ++d) sums[r][d] = add_product<T>(sums[r][d], weight, v[d]);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 16
    for (int d = 0; d < D; ++d) store(o + r * width + d * kLanes, sums[r][d], Full{});
  }
}

// The elements of head_dim behind its whole blocks; p, o and value begin where the first of them belongs.
template <typename T>
[[gnu::noinline]] void weigh_rest(const float* p, int rows, const T* value, long long head_dim, long long begin,
                                  long long end, float* o, long long width) {
  const Tail rest{head_dim % kLanes};
  for (int r = 0; r < rows; ++r) {
    weigh_blocks<1, 1, false>(p + r * kChunk, value, value, head_dim, begin, end, o + r * width, width, rest);
  }
}

// Rows first .. first + R - 1 of o, all of head_dim, from begin to end; meanwhile end - begin rows come nearer at
// `ahead`.
template <int R, bool kAhead, typename T>
[[gnu::noinline]] void weigh(const Group& g, int first, const T* value, const T* ahead, long long begin, long long end,
                             float* o) {
  constexpr int D = kValueTile / R < 8 ? kValueTile / R : 8;
  const float* p = g.p + first * kChunk;
  float* rows = o + first * g.width;
  for (; begin < end; begin += kValueSlice, ahead += kValueSlice * g.head_dim) {
    const long long stop = end - begin < kValueSlice ? end : begin + kValueSlice;
    long long d = 0;
    for (; d + D * kLanes <= g.head_dim; d += D * kLanes) {
      weigh_blocks<R, D, kAhead>(p, value + d, ahead + d, g.head_dim, begin, stop, rows + d, g.width, Full{});
    }
    for (; d + kLanes <= g.head_dim; d += kLanes) {
      weigh_blocks<R, 1, false>(p, value + d, ahead + d, g.head_dim, begin, stop, rows + d, g.width, Full{});
    }
    if (d < g.head_dim) weigh_rest(p, R, value + d, g.head_dim, begin, stop, rows + d, g.width);
  }
}

// As all_scores.
template <int R, bool kAhead, typename T>
inline void weigh_all(const Group& g, int first, int last, const T* value, const T* ahead, long long begin,
                      long long end, float* o) {
  if (first + R <= last) {
    weigh<R, kAhead>(g, first, value, ahead, begin, end, o);
    for (first += R; first + R <= last; first += R) weigh<R, false>(g, first, value, ahead, begin, end, o);
    if constexpr (R > 1) {
      if (first < last) weigh_all<R / 2, false>(g, first, last, value, ahead, begin, end, o);
    }
  } else if constexpr (R > 1) {
    weigh_all<R / 2, kAhead>(g, first, last, value, ahead, begin, end, o);
  }
}

// The positions of a chunk that a row sees: begin_in_chunk() <= j < positions_in_chunk().
[[gnu::always_inline]] inline long long positions_in_chunk(const Group& g, int row, long long chunk) {
  const long long count = g.seen[row] - chunk * kChunk;
  return count < kChunk ? count : kChunk;
}
[[gnu::always_inline]] inline long long begin_in_chunk(const Group& g, int row, long long chunk) {
  const long long begin = g.from[row] - chunk * kChunk;
  return begin > 0 ? begin : 0;
}

// Rows that begin within a chunk add to what o holds.
[[gnu::noinline]] inline void clear_rows(const Group& g, int first, int last, float* o) {
  for (long long i = first * g.width; i < last * g.width; i += kLanes) store(o + i, broadcast(0.0F), Full{});
}

template <typename T>
[[gnu::noinline]] void attend(const Group& g, const void* const* key_pages, const void* const* value_pages) {
  alignas(64) float m[kRows];
  alignas(64) float l[kRows];
  int first = 0;
  int last = 0;
  const T* next = static_cast<const T*>(g.next);
  for (long long chunk = g.from[0] / kChunk; chunk * kChunk < g.seen[g.rows - 1]; ++chunk) {
    // Rows that end before this chunk are done; those from `fresh` on begin in it.
    for (; first < g.rows && g.seen[first] <= chunk * kChunk; ++first) {
    }
    const int fresh = last < first ? first : last;
    for (last = fresh; last < g.rows && g.from[last] < (chunk + 1) * kChunk; ++last) {
    }
    const Page<T> key = page_of<T>(key_pages[chunk], g.head_dim);
    const Page<T> value = page_of<T>(value_pages[chunk], g.head_dim);
    const long long start = begin_in_chunk(g, first, chunk) / kLanes * kLanes;
    all_scores<kRowTile, true>(g, first, last, key, value.rows, start, positions_in_chunk(g, last - 1, chunk));

    alignas(64) float chunk_m[kRows];
    alignas(64) float chunk_l[kRows];
    for (int r = first; r < last; ++r) {
      float* p = g.p + r * kChunk;
      const long long begin = begin_in_chunk(g, r, chunk);
      const long long count = positions_in_chunk(g, r, chunk);
      chunk_m[r] = largest(p + begin, count - begin);
      chunk_l[r] = weights<T>(p, value.factors, begin, count, chunk_m[r]);
    }

    // What each row sees before the others, the positions that all rows see, then each row's own rest.
    float* o = fresh == first ? g.o : g.chunk_o;
    const long long common = positions_in_chunk(g, first, chunk);
    long long weighed = begin_in_chunk(g, last - 1, chunk);
    const bool some_common = weighed < common;
    if (weighed > 0) [[unlikely]] {
      clear_rows(g, first, last, o);
      for (int r = first; r < last; ++r) {
        const long long end = some_common ? weighed : positions_in_chunk(g, r, chunk);
        weigh<1, false>(g, r, value.rows, value.rows, begin_in_chunk(g, r, chunk), end, o);
      }
    }
    // Meanwhile the keys of the chunk behind this one come nearer, then what is read after this call.
    if (some_common && (chunk + 1) * kChunk < g.seen[last - 1]) {
      const long long keys = weighed + positions_in_chunk(g, last - 1, chunk + 1);
      const long long end = keys < common ? keys : common;
      const Page<T> coming = page_of<T>(key_pages[chunk + 1], g.head_dim);
      weigh_all<kRowTile, true>(g, first, last, value.rows, coming.rows, weighed, end, o);
      weighed = end;
    }
    if (weighed < common) {
      weigh_all<kRowTile, true>(g, first, last, value.rows, next, weighed, common, o);
      next += (common - weighed) * g.head_dim;
    }
    if (some_common) {
      for (int r = first; r < last; ++r) {
        weigh<1, false>(g, r, value.rows, value.rows, common, positions_in_chunk(g, r, chunk), o);
      }
    }

    for (int r = fresh; r < last; ++r) {
      m[r] = chunk_m[r];
      l[r] = chunk_l[r];
      if (o == g.o) continue;
      const float* row = o + r * g.width;
      for (long long d = 0; d < g.width; d += kLanes) store(g.o + r * g.width + d, load(row + d, Full{}), Full{});
    }
    if (fresh == first) continue;
    alignas(64) float old_share[kRows] = {};
    alignas(64) float new_share[kRows] = {};
    for (int r = first; r < fresh; ++r) {
      const float top = chunk_m[r] > m[r] ? chunk_m[r] : m[r];
      old_share[r] = m[r] - top;
      new_share[r] = chunk_m[r] - top;
      m[r] = top;
    }
    store(old_share, exponential(load(static_cast<const float*>(old_share), Full{})), Full{});
    store(new_share, exponential(load(static_cast<const float*>(new_share), Full{})), Full{});
    for (int r = first; r < fresh; ++r) {
      l[r] = l[r] * old_share[r] + chunk_l[r] * new_share[r];
      const Lanes keep = broadcast(old_share[r]);
      const Lanes add = broadcast(new_share[r]);
      float* merged = g.o + r * g.width;
      const float* added = g.chunk_o + r * g.width;
      for (long long d = 0; d < g.width; d += kLanes) {
        const Lanes old = load(static_cast<const float*>(merged + d), Full{});
        store(merged + d, old * keep + load(added + d, Full{}) * add, Full{});
      }
    }
  }
  for (int r = 0; r < g.rows; ++r) {
    const Lanes divisor = broadcast(l[r]);
    const float* o = g.o + r * g.width;
    float* y = g.y[r];
    for_blocks(g.head_dim, [&](long long d, auto extent) { store(y + d, load(o + d, extent) / divisor, extent); });
  }
}

template <typename T>
[[gnu::always_inline]] inline void attention(const bitnet_attention_args* a) {
  Group g;
  g.head_dim = a->head_dim;
  g.width = (a->head_dim + kLanes - 1) / kLanes * kLanes;
  g.scale = a->scale;
  // Memory that lies near already does for no address.
  g.next = a->next != nullptr ? a->next : a->value_pages[0];
  g.p = a->scratch;
  g.o = g.p + kRows * kChunk;
  g.chunk_o = g.o + kRows * g.width;
  long long token = 0;
  long long head = 0;
  const long long rows = a->tokens * a->heads;
  for (long long begin = 0; begin < rows; begin += kRows) {
    g.rows = rows - begin < kRows ? static_cast<int>(rows - begin) : kRows;
    for (int r = 0; r < g.rows; ++r) {
      g.q[r] = a->q + token * a->q_stride + head * a->head_dim;
      g.y[r] = a->y + token * a->y_stride + head * a->head_dim;
      g.seen[r] = a->past + token + 1;
      g.from[r] = a->window == 0 || g.seen[r] < a->window ? 0 : g.seen[r] - a->window;
      if (++head == a->heads) {
        head = 0;
        ++token;
      }
    }
    attend<T>(g, a->key_pages, a->value_pages);
  }
}

}  // namespace dense_detail

[[gnu::always_inline]] inline void attention_f16(const bitnet_attention_args* a) noexcept {
  dense_detail::attention<dense_detail::Half>(a);
}
[[gnu::always_inline]] inline void attention_i8(const bitnet_attention_args* a) noexcept {
  dense_detail::attention<int8_t>(a);
}
[[gnu::always_inline]] inline void attention_f32(const bitnet_attention_args* a) noexcept {
  dense_detail::attention<float>(a);
}

}  // namespace
}  // namespace bitnet_kernels::avx2_family

#endif  // BITNET_GENERATED_DENSE_ATTENTION_AVX2_H_
