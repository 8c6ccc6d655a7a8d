// The output head and other dense matrices over Lanes: rows of float16, bfloat16, float32, blocks of int8 with a factor
// (elements converted exactly) or int8 (screening) times one vector.
//
// GENERATED from templates/dense_head.h.j2 and templates/dict/xsimd/dense.j2
// by templates/render.py. DO NOT EDIT: change the templates and run templates/render.py again.
//
// The head reads the largest matrix of the model once per token. The rows of a call are cut into kHeadStreams equal
// runs that are read side by side, each from its own end to end with prefetch, so that the conversion hides behind
// memory.
#ifndef BITNET_GENERATED_DENSE_HEAD_XSIMD_H_
#define BITNET_GENERATED_DENSE_HEAD_XSIMD_H_

#include "generated/dense_lanes_xsimd.h"

namespace bitnet_kernels::xsimd_family {
namespace {
namespace dense_detail {

// How far ahead a stream is fetched. Several tokens take about as long for a line as memory does: what then comes late
// is not made up for, so more of it is on its way.
constexpr uintptr_t kAheadBytes = 1024;
constexpr uintptr_t kManyTokensAheadBytes = 2048;

// May lie past the matrix: an address, never read.
template <uintptr_t Bytes>
[[gnu::always_inline]] inline void prefetch_ahead(const void* p) {
  __builtin_prefetch(reinterpret_cast<const void*>(reinterpret_cast<uintptr_t>(p) + Bytes), 0, 2);
}

// y[row + s * step] for s = 0 .. Streams-1.
template <int Streams, typename T>
[[gnu::always_inline]] inline void head_rows(const T* weights, const float* x, float* y, long long row, long long step,
                                             long long k) {
  constexpr long long kElements = 64 / static_cast<long long>(sizeof(T));  // of a line
  const T* w[Streams];
  Lanes sums[Streams];
#pragma GCC unroll 8
  for (int s = 0; s < Streams; ++s) {
    w[s] = weights + (row + s * step) * k;
    sums[s] = broadcast(0.0F);
  }
  const auto add = [&](long long i, auto extent) {
    const Lanes v = load(x + i, extent);
#pragma GCC unroll 8
    for (int s = 0; s < Streams; ++s) sums[s] = sums[s] + load(w[s] + i, extent) * v;
  };
  long long i = 0;
  for (; i + kElements <= k; i += kElements) {
#pragma GCC unroll 8
    for (int s = 0; s < Streams; ++s) prefetch_ahead<kAheadBytes>(w[s] + i);
    for (long long part = 0; part < kElements; part += kLanes) add(i + part, Full{});
  }
  for (; i + kLanes <= k; i += kLanes) add(i, Full{});
  if (i < k) add(i, Tail{k - i});
#pragma GCC unroll 8
  for (int s = 0; s < Streams; ++s) y[row + s * step] = tree(sums[s]);
}

constexpr long long kQ8Elements = 32;
static_assert(sizeof(Q8Block) == 34 && kQ8Elements == 2 * kLanes, "a block is two Lanes behind a float16");

[[gnu::always_inline]] inline Lanes factor_of(const Q8Block& block) {
  const int bits = block.factor[0] | block.factor[1] << 8;
  return broadcast_half({static_cast<uint16_t>(bits)});
}

// As above, for rows of blocks.
template <int Streams>
[[gnu::always_inline]] inline void head_rows(const Q8Block* weights, const float* x, float* y, long long row,
                                             long long step, long long k) {
  const long long blocks = k / kQ8Elements;
  const long long rest = k % kQ8Elements;
  const Q8Block* w[Streams];
  Lanes sums[Streams];
#pragma GCC unroll 8
  for (int s = 0; s < Streams; ++s) {
    w[s] = weights + (row + s * step) * (blocks + (rest != 0 ? 1 : 0));
    sums[s] = broadcast(0.0F);
  }
  for (long long b = 0; b < blocks; ++b) {
#pragma GCC unroll 8
    for (int s = 0; s < Streams; ++s) prefetch_ahead<kAheadBytes>(w[s] + b);
    const Lanes low = load(x + b * kQ8Elements, Full{});
    const Lanes high = load(x + b * kQ8Elements + kLanes, Full{});
#pragma GCC unroll 8
    for (int s = 0; s < Streams; ++s) {
      const Q8Block& block = w[s][b];
      const Lanes factor = factor_of(block);
      sums[s] = sums[s] + (load(block.values, Full{}) * factor) * low;
      sums[s] = sums[s] + (load(block.values + kLanes, Full{}) * factor) * high;
    }
  }
  if (rest != 0) [[unlikely]] {
    for (int s = 0; s < Streams; ++s) {
      const Q8Block& block = w[s][blocks];
      const Lanes factor = factor_of(block);
      const float* tail = x + blocks * kQ8Elements;
      for_blocks(rest, [&](long long i, auto extent) {
        sums[s] = sums[s] + (load(block.values + i, extent) * factor) * load(tail + i, extent);
      });
    }
  }
#pragma GCC unroll 8
  for (int s = 0; s < Streams; ++s) y[row + s * step] = tree(sums[s]);
}

template <typename T>
inline void head(const bitnet_head_args* a) {
  const T* weights = static_cast<const T*>(a->weights);
  const long long step = (a->row_end - a->row_begin) / kHeadStreams;
  for (long long i = 0; i < step; ++i) {
    head_rows<kHeadStreams>(weights, a->x, a->y, a->row_begin + i, step, a->k);
  }
  for (long long row = a->row_begin + kHeadStreams * step; row < a->row_end; ++row) {
    head_rows<1>(weights, a->x, a->y, row, 0, a->k);
  }
}

// An int32 lane takes kWideProducts products of at most 127 * 32767 from each Wide; after kWideChain of them it is
// added to the int64 sum of the row.
constexpr long long kLargestProduct = 127 * 32767;
constexpr long long kWideChain = 2147483647 / (kWideProducts * kLargestProduct);
static_assert(kWideChain >= 1 && kWideChain * kWideProducts * kLargestProduct <= 2147483647,
              "an int32 sum of head_screen could overflow");
// The elements of such a chain, in whole lines of 64 bytes of weights.
constexpr long long kLine = 64;
constexpr long long kWideSpan = kWideChain * kWide / kLine * kLine;
static_assert(kWideSpan >= kLine && kLine % kWide == 0, "a chain holds whole lines, and a line whole steps");

// The exact dot products of Streams rows, `step` apart, with Tokens tokens from `token` on.
template <int Streams, int Tokens>
[[gnu::always_inline]] inline void screen_rows(const bitnet_head_screen_args* a, long long row, long long step,
                                               long long token) {
  const long long width = BITNET_SCREEN_WIDTH(a->k);
  const int8_t* w[Streams];
  long long totals[Streams][Tokens] = {};
  const int16_t* x = a->x + token * kLine;
  const long long x_step = a->tokens * kLine;
  constexpr uintptr_t kAhead = Tokens < 4 ? kAheadBytes : kManyTokensAheadBytes;
#pragma GCC unroll 8
  for (int s = 0; s < Streams; ++s) w[s] = a->weights + (row + s * step) * width;
  for (long long first = 0; first < width; first += kWideSpan) {
    const long long end = first + kWideSpan < width ? first + kWideSpan : width;
    WideSums sums[Streams][Tokens];
#pragma GCC unroll 8
    for (int s = 0; s < Streams; ++s) {
#pragma GCC unroll 8
      for (int t = 0; t < Tokens; ++t) sums[s][t] = no_products();
    }
    for (long long i = first; i < end; i += kLine, x += x_step) {
#pragma GCC unroll 8
      for (int s = 0; s < Streams; ++s) prefetch_ahead<kAhead>(w[s] + i);
#pragma GCC unroll 8
      for (long long part = 0; part < kLine; part += kWide) {
        Wide weights[Streams];
#pragma GCC unroll 8
        for (int s = 0; s < Streams; ++s) weights[s] = load_wide(w[s] + i + part);
#pragma GCC unroll 8
        for (int t = 0; t < Tokens; ++t) {
          const Wide v = load_wide(x + t * kLine + part);
#pragma GCC unroll 8
          for (int s = 0; s < Streams; ++s) sums[s][t] = add_products(sums[s][t], weights[s], v);
        }
      }
    }
#pragma GCC unroll 8
    for (int s = 0; s < Streams; ++s) {
#pragma GCC unroll 8
      for (int t = 0; t < Tokens; ++t) totals[s][t] += total(sums[s][t]);
    }
  }
#pragma GCC unroll 8
  for (int s = 0; s < Streams; ++s) {
    const long long r = row + s * step;
#pragma GCC unroll 8
    for (int t = 0; t < Tokens; ++t) {
      a->y[(token + t) * a->y_stride + r] =
          static_cast<float>(totals[s][t]) * (a->row_scales[r] * a->x_scales[token + t]);
    }
  }
}

// As many rows side by side as there are registers for their sums. Not inlined: dense_attention says why.
template <int Tokens>
[[gnu::noinline]] void screen_block(const bitnet_head_screen_args* a, long long begin, long long end, long long token) {
  constexpr int kFit = kScreenSums / Tokens;
  constexpr int kStreams = kFit < 1 ? 1 : kFit < kHeadStreams ? kFit : kHeadStreams;
  const long long step = (end - begin) / kStreams;
  for (long long i = 0; i < step; ++i) screen_rows<kStreams, Tokens>(a, begin + i, step, token);
  for (long long row = begin + kStreams * step; row < end; ++row) screen_rows<1, Tokens>(a, row, 0, token);
}

// The tokens from `token` on: by Tokens, then the rest by half as many, and so on.
template <int Tokens>
inline void screen_tokens(const bitnet_head_screen_args* a, long long begin, long long end, long long token) {
  const long long last = a->tokens - Tokens;
  for (; token <= last; token += Tokens) screen_block<Tokens>(a, begin, end, token);
  if constexpr (Tokens > 1) screen_tokens<Tokens / 2>(a, begin, end, token);
}

// Rows that all tokens pass before the next ones are read: few enough to stay in the second cache meanwhile.
constexpr long long kScreenBlock = 64;

}  // namespace dense_detail

inline void head_f16(const bitnet_head_args* a) noexcept { dense_detail::head<dense_detail::Half>(a); }
inline void head_bf16(const bitnet_head_args* a) noexcept { dense_detail::head<dense_detail::Bfloat>(a); }
inline void head_f32(const bitnet_head_args* a) noexcept { dense_detail::head<float>(a); }
inline void head_q8(const bitnet_head_args* a) noexcept { dense_detail::head<dense_detail::Q8Block>(a); }

inline void head_screen_i8(const bitnet_head_screen_args* a) noexcept {
  using namespace dense_detail;
  // Tokens that pass at once need no blocks.
  const bool once = a->tokens <= kScreenTokens && (a->tokens & (a->tokens - 1)) == 0;
  if (once) return screen_tokens<kScreenTokens>(a, a->row_begin, a->row_end, 0);
  for (long long begin = a->row_begin; begin < a->row_end; begin += kScreenBlock) {
    const long long end = begin + kScreenBlock < a->row_end ? begin + kScreenBlock : a->row_end;
    screen_tokens<kScreenTokens>(a, begin, end, 0);
  }
}

}  // namespace
}  // namespace bitnet_kernels::xsimd_family

#endif  // BITNET_GENERATED_DENSE_HEAD_XSIMD_H_
