// i2s_gemm for NEON with I8MM: int32 products over layout t2 (runtime/kernels/layout.h).
//
// GENERATED from templates/gemm.h.j2 and templates/dict/neon_i8mm/i2s.j2
// by templates/render.py. DO NOT EDIT: change the templates and run templates/render.py again.
//
// A row tile is expanded into a panel of one byte a weight (in the scratch), which all token blocks of the call reuse:
// for each pair of fields, p and p + 1, two rows with eight k each in a register, the operand of SMMLA. Work is done at
// the second field of a pair and at the second token of a pair.
#ifndef BITNET_GENERATED_I2S_GEMM_NEON_I8MM_H_
#define BITNET_GENERATED_I2S_GEMM_NEON_I8MM_H_

#include <arm_neon.h>
#include <stddef.h>
#include <stdint.h>

#include "runtime/kernels/kernel_abi.h"

// All sums are int32: there is no int16 accumulation to bound.

namespace bitnet_kernels::neon_i8mm_family {
namespace {
namespace i2s_gemm_detail {

// A line: 16 rows x kLineK weights (runtime/kernels/layout_t2.cc), which meet kFours times 4 activations.
constexpr long long kLineK = 16;
constexpr long long kLineBytes = 64;
constexpr int kFours = kLineK / 4;

// Two tokens with eight k each, from the packed activations of field p (`four`, second token) and of the one before.
template <int TokenTile>
inline int8x16_t token_pair(const int8_t* four) {
  const int8_t* before = four - 4 * TokenTile;
  const int32x2_t first = vreinterpret_s32_s8(vld1_s8(before - 4));
  const int32x2_t second = vreinterpret_s32_s8(vld1_s8(four - 4));
  return vreinterpretq_s8_s32(vcombine_s32(vzip1_s32(first, second), vzip2_s32(first, second)));
}

// Packed activations that share an expansion of one row of tiles: about a 1 MiB L2 cache, since half of it would cost
// more in expansions than it saves in misses.
constexpr long long kActivationBytes = 1024 * 1024;
template <long long K>
constexpr long long line_count([[maybe_unused]] const bitnet_gemm_args* a) {
  return ((K != 0 ? K : a->k) + kLineK - 1) / kLineK;
}

// Packed activations of one token block.
template <long long K, int TokenTile>
constexpr long long block_bytes([[maybe_unused]] const bitnet_gemm_args* a) {
  return BITNET_ACTIVATION_WIDTH(K != 0 ? K : a->k) * TokenTile;
}

// Expands `Tiles` tiles into bytes: panel [lines][kFours][Tiles][64], the operand order of block().
template <int Tiles>
inline void expand(const uint8_t* weights, uint8_t* panel, long long lines) {
  const uint8x16_t mask = vdupq_n_u8(3);
  for (long long i = 0; i < lines; ++i) {
#pragma GCC unroll 8
    for (int n = 0; n < Tiles; ++n) {
      const uint8_t* line = weights + (n * lines + i) * kLineBytes;
      uint8_t* out = panel + (kFours * i * Tiles + n) * kLineBytes;
      uint8x16_t packed[4];
      for (int h = 0; h < 4; ++h) packed[h] = vld1q_u8(line + 16 * h);
#pragma GCC unroll 2
      for (int pair = 0; pair < 2; ++pair) {
#pragma GCC unroll 4
        for (int h = 0; h < 4; ++h) {  // rows 4h .. 4h + 3: fields 2 pair and 2 pair + 1
          const uint8x16_t fields = vshlq_u8(packed[h], vdupq_n_s8(static_cast<int8_t>(-4 * pair)));
          const uint32x4_t first = vreinterpretq_u32_u8(vandq_u8(fields, mask));
          const uint32x4_t second = vreinterpretq_u32_u8(vandq_u8(vshrq_n_u8(fields, 2), mask));
          uint8_t* rows = out + (2 * pair + h / 2) * Tiles * kLineBytes + h % 2 * 32;
          vst1q_u8(rows, vreinterpretq_u8_u32(vzip1q_u32(first, second)));
          vst1q_u8(rows + 16, vreinterpretq_u8_u32(vzip2q_u32(first, second)));
        }
      }
    }
  }
}

// Tokens `token` .. + TokenTile - 1 times `Tiles` row tiles from `tile` on; x is the block's packed activations.
template <long long K, int Group, int TokenTile, int Tiles>
inline void block(const bitnet_gemm_args* a, const int8_t* x, long long token, long long tile) {
  const long long lines = line_count<K>(a);
  const long long group_lines = Group == 0 ? lines : Group / kLineK;
  const long long groups = Group == 0 ? 1 : (lines + group_lines - 1) / group_lines;
  static_assert(TokenTile % 2 == 0, "i2s_gemm: SMMLA multiplies pairs of tokens, token_tile must be even");
  const uint8_t* w = static_cast<const uint8_t*>(a->scratch);
  for (long long g = 0; g < groups; ++g) {
    const long long begin = g * group_lines;
    const long long end = Group == 0 || begin + group_lines > lines ? lines : begin + group_lines;
    // Of tokens m, m + 1 (m even): total[m] of rows 4h and 4h + 1, total[m + 1] of rows 4h + 2 and 4h + 3.
    int32x4_t total[TokenTile][Tiles][4];
#pragma GCC unroll 32
    for (int m = 0; m < TokenTile; ++m) {
#pragma GCC unroll 8
      for (int n = 0; n < Tiles; ++n) {
        for (int h = 0; h < 4; ++h) total[m][n][h] = vdupq_n_s32(0);
      }
    }
    static_assert(kFours % 4 == 0, "the panel of a line is no multiple of the loop's step");
    for (long long step = kFours / 4 * begin; step < kFours / 4 * end; ++step) {
#pragma GCC unroll 4
      for (int u = 0; u < 4; ++u) {  // k = 4 q .. + 3
        const long long q = 4 * step + u;
        int8x16_t codes[Tiles][4][2];  // of rows 4h, 4h + 1 and of rows 4h + 2, 4h + 3
#pragma GCC unroll 8
        for (int n = 0; n < Tiles; ++n) {
          const uint8_t* bytes = w + (q * Tiles + n) * kLineBytes;
          if (u % 2 == 1) {
#pragma GCC unroll 4
            for (int h = 0; h < 4; ++h) {
              const uint8_t* rows = bytes - (h < 2 ? Tiles * kLineBytes : 0) + h % 2 * 32;
              codes[n][h][0] = vreinterpretq_s8_u8(vld1q_u8(rows));
              codes[n][h][1] = vreinterpretq_s8_u8(vld1q_u8(rows + 16));
            }
          }
        }
#pragma GCC unroll 32
        for (int m = 0; m < TokenTile; ++m) {
          const int8_t* four = x + (q * TokenTile + m) * 4;
          int8x16_t xv = vdupq_n_s8(0);
          if (u % 2 == 1 && m % 2 == 1) xv = token_pair<TokenTile>(four);
#pragma GCC unroll 8
          for (int n = 0; n < Tiles; ++n) {
            if (u % 2 == 1 && m % 2 == 1) {
#pragma GCC unroll 4
              for (int h = 0; h < 4; ++h) {
                total[m - 1][n][h] = vmmlaq_s32(total[m - 1][n][h], codes[n][h][0], xv);
                total[m][n][h] = vmmlaq_s32(total[m][n][h], codes[n][h][1], xv);
              }
            }
          }
        }
      }
    }
    const int32_t* x_sums = a->x_sums + (Group == 0 ? 0 : g * a->sums_stride);
    int32_t* sums = a->y + (Group == 0 ? 0 : g * a->group_stride);
#pragma GCC unroll 32
    for (int m = 0; m < TokenTile; ++m) {
      if (token + m >= a->tokens) break;
      const int32_t x_sum = x_sums[token + m];
#pragma GCC unroll 8
      for (int n = 0; n < Tiles; ++n) {
        int32_t* y = sums + (token + m) * a->y_stride + (tile + n) * BITNET_TILE_ROWS;
        for (int h = 0; h < 4; ++h) {
          const int even = m - m % 2;
          const int32x4_t sum = m % 2 == 0 ? vuzp1q_s32(total[even][n][h], total[even + 1][n][h])
                                           : vuzp2q_s32(total[even][n][h], total[even + 1][n][h]);
          vst1q_s32(y + 4 * h, vsubq_s32(sum, vdupq_n_s32(x_sum)));
        }
      }
    }
  }
}

// Token blocks first_block .. last_block - 1 times `Tiles` row tiles from `tile` on.
template <long long K, int Group, int TokenTile, int Tiles>
inline void row(const bitnet_gemm_args* a, long long first_block, long long last_block, long long tile) {
  const long long lines = line_count<K>(a);
  expand<Tiles>(a->weights + tile * lines * kLineBytes, static_cast<uint8_t*>(a->scratch), lines);
  // While this row is multiplied, the next one's weights are prefetched, a share with every block. Past the end of the
  // matrix that touches nothing.
  const uint8_t* prefetched = a->weights + (tile + Tiles) * lines * kLineBytes;
  const long long prefetch_lines = (Tiles * lines + last_block - first_block - 1) / (last_block - first_block);
  for (long long b = first_block; b < last_block; ++b) {
    for (long long i = 0; i < prefetch_lines; ++i) __builtin_prefetch(prefetched + i * kLineBytes, 0, 2);
    prefetched += prefetch_lines * kLineBytes;
    block<K, Group, TokenTile, Tiles>(a, a->x + b * block_bytes<K, TokenTile>(a), b * TokenTile, tile);
  }
}

}  // namespace i2s_gemm_detail

// Scratch that a call with these parameters and inputs of length k needs, in bytes: see bitnet_gemm_args.
template <int TokenTile, int RowTiles>
constexpr size_t i2s_gemm_scratch_bytes_for([[maybe_unused]] long long k) {
  namespace detail = i2s_gemm_detail;
  // One byte a weight of RowTiles tiles.
  const long long lines = (k + detail::kLineK - 1) / detail::kLineK;
  return static_cast<size_t>(lines * detail::kFours * detail::kLineBytes * RowTiles);
}

// The same for a constant K. With K = 0 it depends on the arguments: ask i2s_gemm_scratch_bytes_for.
template <long long K, int TokenTile, int RowTiles>
constexpr size_t i2s_gemm_scratch_bytes() {
  return i2s_gemm_scratch_bytes_for<TokenTile, RowTiles>(K);
}

// Y = X W^T for rows a->row_begin .. a->row_end and all tokens (kernel_abi.h, op gemm); K <= 8000000.
//   N, K       the matrix; K = 0 reads a->k. Rows always come from the arguments.
//   Group      k of a K-group, whole lines; 0: one sum over K
//   TokenTile  tokens of a packed block (MR)
//   RowTiles   row tiles that share a load of the activations
template <long long N, long long K, int Group, int TokenTile, int RowTiles>
inline void i2s_gemm(const bitnet_gemm_args* a) {
  namespace detail = i2s_gemm_detail;
  static_assert(Group == 0 || ((Group == 64 || Group == 128 || Group == 256) && Group % detail::kLineK == 0),
                "i2s_gemm: no K-groups of this size");
  static_assert(N >= 0 && K >= 0 && K <= 8000000LL, "i2s_gemm: matrix size out of range");
  static_assert(TokenTile >= 1 && TokenTile <= 32 && RowTiles >= 1 && RowTiles <= 8, "i2s_gemm: tile out of range");
  const long long begin = a->row_begin / BITNET_TILE_ROWS;
  const long long end = (a->row_end + BITNET_TILE_ROWS - 1) / BITNET_TILE_ROWS;
  const long long blocks = (a->tokens + TokenTile - 1) / TokenTile;
  const long long fitting = detail::kActivationBytes / detail::block_bytes<K, TokenTile>(a);
  const long long together = fitting > 1 ? fitting : 1;
  for (long long first = 0; first < blocks; first += together) {
    const long long last = first + together < blocks ? first + together : blocks;
    long long tile = begin;
    for (; tile + RowTiles <= end; tile += RowTiles) {
      detail::row<K, Group, TokenTile, RowTiles>(a, first, last, tile);
    }
    for (; tile < end; ++tile) {
      detail::row<K, Group, TokenTile, 1>(a, first, last, tile);
    }
  }
}

}  // namespace
}  // namespace bitnet_kernels::neon_i8mm_family

#endif  // BITNET_GENERATED_I2S_GEMM_NEON_I8MM_H_
