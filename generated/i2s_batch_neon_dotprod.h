// i2s_batch for NEON with dot products: int32 products of a few tokens over layout t2 (runtime/kernels/layout.h).
//
// GENERATED from templates/batch.h.j2 and templates/dict/neon_dotprod/i2s.j2
// by templates/render.py. DO NOT EDIT: change the templates and run templates/render.py again.
//
// The fields of a line are taken apart once for all tokens of a tile; each meets four activations of a token by SDOT.
#ifndef BITNET_GENERATED_I2S_BATCH_NEON_DOTPROD_H_
#define BITNET_GENERATED_I2S_BATCH_NEON_DOTPROD_H_

#include <arm_neon.h>
#include <stddef.h>
#include <stdint.h>

#include "runtime/kernels/kernel_abi.h"

// All sums are int32: there is no int16 accumulation to bound.

namespace bitnet_kernels::neon_dotprod_family {
namespace {
namespace i2s_batch_detail {

// A line: 16 rows x kLineK weights (runtime/kernels/layout_t2.cc), which meet kFours times 4 activations.
constexpr long long kLineK = 16;
constexpr long long kLineBytes = 64;
constexpr int kFours = kLineK / 4;

// Four int8 activations, read at once.
typedef int32_t Dword __attribute__((__may_alias__));
// The four activations at `four` for every row.
inline int8x16_t broadcast(const int8_t* four) {
  return vreinterpretq_s8_s32(vdupq_n_s32(*reinterpret_cast<const Dword*>(four)));
}
// Lane `lane`, four of 16 activations, for every row. `lane` is a constant once loops are unrolled.
inline int8x16_t spread(int8x16_t fours, int lane) {
  const int32x4_t lanes = vreinterpretq_s32_s8(fours);
  switch (lane) {
    case 0:
      return vreinterpretq_s8_s32(vdupq_laneq_s32(lanes, 0));
    case 1:
      return vreinterpretq_s8_s32(vdupq_laneq_s32(lanes, 1));
    case 2:
      return vreinterpretq_s8_s32(vdupq_laneq_s32(lanes, 2));
    default:
      return vreinterpretq_s8_s32(vdupq_laneq_s32(lanes, 3));
  }
}

// Packed activations beyond this leave a 32 KiB L1 cache between two tiles; they are then fetched ahead.
constexpr long long kNearBytes = 24 * 1024;
constexpr long long kAheadBytes = 512;
// Tokens whose sums fit the registers; more are served by further passes over the tile, which by then is near.
constexpr int kPassTokens = 4;

// Tiles tile .. tile + count - 1 and, with several streams (`Tiles`), the same number of tiles `distance`,
// 2 * `distance`, ... further on, read side by side.
template <long long K, int M, int Tiles, int Prefetch>
inline void pass(const bitnet_gemm_args* a, long long tile, long long distance, long long count) {
  constexpr int TokenTile = M < kPassTokens ? M : kPassTokens;
  static_assert(M % TokenTile == 0, "i2s_batch: M is no multiple of the tokens of a pass");
  constexpr int kStepBytes = kFours * 4 * M;  // packed activations of a line
  constexpr bool kFar = K == 0 || BITNET_ACTIVATION_WIDTH(K) * M > kNearBytes;
  const long long lines = ((K != 0 ? K : a->k) + kLineK - 1) / kLineK;
  const uint8x16_t mask = vdupq_n_u8(3);
  for (long long t = 0; t < count; ++t, ++tile) {
    const uint8_t* w[Tiles];
#pragma GCC unroll 8
    for (int n = 0; n < Tiles; ++n) w[n] = a->weights + (tile + n * distance) * lines * kLineBytes;
#pragma GCC unroll 1
    for (int from = 0; from < M; from += TokenTile) {
      if (from >= a->tokens) break;
      const int8_t* x = a->x + from * 4;
      int32x4_t total[TokenTile][Tiles][4];  // rows 4h .. 4h + 3
#pragma GCC unroll 8
      for (int m = 0; m < TokenTile; ++m) {
#pragma GCC unroll 8
        for (int n = 0; n < Tiles; ++n) {
          for (int h = 0; h < 4; ++h) total[m][n][h] = vdupq_n_s32(0);
        }
      }
      for (long long i = 0; i < lines; ++i) {
        if constexpr (kFar) {
#pragma GCC unroll 8
          for (int b = 0; b < kStepBytes; b += 64) __builtin_prefetch(x + i * kStepBytes + b + kAheadBytes, 0, 3);
        }
        uint8x16_t packed[Tiles][4];
#pragma GCC unroll 8
        for (int n = 0; n < Tiles; ++n) {
          const uint8_t* line = w[n] + i * kLineBytes;
          if constexpr (Prefetch != 0) __builtin_prefetch(line + Prefetch, 0, 2);
          for (int h = 0; h < 4; ++h) packed[n][h] = vld1q_u8(line + 16 * h);
        }
#pragma GCC unroll 4
        for (int p = 0; p < kFours; ++p) {  // k = kLineK i + 4 p .. + 3
          int8x16_t codes[Tiles][4];
#pragma GCC unroll 8
          for (int n = 0; n < Tiles; ++n) {
#pragma GCC unroll 4
            for (int h = 0; h < 4; ++h) {
              const uint8x16_t shifted = vshlq_u8(packed[n][h], vdupq_n_s8(static_cast<int8_t>(-2 * p)));
              codes[n][h] = vreinterpretq_s8_u8(p == 3 ? shifted : vandq_u8(shifted, mask));
            }
          }
#pragma GCC unroll 8
          for (int m = 0; m < TokenTile; ++m) {
            const int8_t* four = x + ((kFours * i + p) * M + m) * 4;
            int8x16_t xv;
            if constexpr (TokenTile % 4 == 0) {
              xv = spread(vld1q_s8(four - m % 4 * 4), m % 4);
            } else {
              xv = broadcast(four);
            }
#pragma GCC unroll 8
            for (int n = 0; n < Tiles; ++n) {
              for (int h = 0; h < 4; ++h) total[m][n][h] = vdotq_s32(total[m][n][h], codes[n][h], xv);
            }
          }
        }
      }
#pragma GCC unroll 8
      for (int m = 0; m < TokenTile; ++m) {
        if (from + m >= a->tokens) break;
        const int32_t x_sum = a->x_sums[from + m];
#pragma GCC unroll 8
        for (int n = 0; n < Tiles; ++n) {
          int32_t* y = a->y + (from + m) * a->y_stride + (tile + n * distance) * BITNET_TILE_ROWS;
          for (int h = 0; h < 4; ++h) vst1q_s32(y + 4 * h, vsubq_s32(total[m][n][h], vdupq_n_s32(x_sum)));
        }
      }
    }
  }
}

}  // namespace i2s_batch_detail

// Y = X W^T for rows a->row_begin .. a->row_end and a->tokens <= M tokens (kernel_abi.h, op gemm), exact for
// K <= 8000000. No scratch.
//   N, K      the matrix; K = 0 reads a->k. Rows always come from the arguments.
//   M         the most tokens, and the token tile of the packed activations
//   Streams   tiles worked on side by side: the row range is cut into that many parts
//   Prefetch  bytes ahead of each stream that are fetched into L2; 0: none. Past the end it touches nothing.
template <long long N, long long K, int M, int Streams, int Prefetch>
inline void i2s_batch(const bitnet_gemm_args* a) {
  namespace detail = i2s_batch_detail;
  static_assert(N >= 0 && K >= 0 && K <= 8000000LL, "i2s_batch: matrix size out of range");
  static_assert(M >= 1 && M <= 8 && Streams >= 1 && Streams <= 8 && Prefetch >= 0, "i2s_batch: parameter out of range");
  const long long begin = a->row_begin / BITNET_TILE_ROWS;
  const long long end = (a->row_end + BITNET_TILE_ROWS - 1) / BITNET_TILE_ROWS;
  const long long part = (end - begin) / Streams;
  detail::pass<K, M, Streams, Prefetch>(a, begin, part, part);
  if constexpr (Streams > 1) {
    const long long rest = begin + part * Streams;
    detail::pass<K, M, 1, Prefetch>(a, rest, 0, end - rest);
  }
}

}  // namespace
}  // namespace bitnet_kernels::neon_dotprod_family

#endif  // BITNET_GENERATED_I2S_BATCH_NEON_DOTPROD_H_
