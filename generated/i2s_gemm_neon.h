// i2s_gemm for NEON: int32 products over layout t2 (runtime/kernels/layout.h).
//
// GENERATED from templates/gemm.h.j2 and templates/dict/neon/i2s.j2
// by templates/render.py. DO NOT EDIT: change the templates and run templates/render.py again.
//
// The fields of a line are taken apart once for all tokens of a tile. With codes less one, -1, 0 or 1, a product fits
// into a byte: MUL, then SADALP adds neighbours into int16 sums, which go to int32 every 32 lines. SMLAL would need as
// many instructions and twice the registers.
#ifndef BITNET_GENERATED_I2S_GEMM_NEON_H_
#define BITNET_GENERATED_I2S_GEMM_NEON_H_

#include <arm_neon.h>
#include <stddef.h>
#include <stdint.h>

#include "runtime/kernels/kernel_abi.h"

// Marks a function that accumulates in int16: `chain` products of at most `product` each. The audit of generated code
// refuses int16 accumulation outside such a function and checks chain * product <= 32767.
#ifndef BITNET_INT16_BOUND
#ifdef __clang__
#define BITNET_INT16_BOUND(chain, product) __attribute__((annotate("bitnet.int16_bound", chain, product)))
#else
#define BITNET_INT16_BOUND(chain, product)
#endif
#endif

namespace bitnet_kernels::neon_family {
namespace {
namespace i2s_gemm_detail {

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

// Each line adds 8 products to a sum; the largest is a weight of 1 times 127.
constexpr int kFlushLines = 32;
constexpr int kChain = 8 * kFlushLines;
constexpr int kLargestProduct = 127;
static_assert(kChain * kLargestProduct <= 32767, "an int16 sum of i2s_gemm could overflow");

// Packed activations that are multiplied with one row of tiles before the next: they stay in a 1 MiB L2 cache beside
// the weights, which then stream from memory once per that many bytes of activations.
constexpr long long kActivationBytes = 512 * 1024;
template <long long K>
constexpr long long line_count([[maybe_unused]] const bitnet_gemm_args* a) {
  return ((K != 0 ? K : a->k) + kLineK - 1) / kLineK;
}

// Packed activations of one token block.
template <long long K, int TokenTile>
constexpr long long block_bytes([[maybe_unused]] const bitnet_gemm_args* a) {
  return BITNET_ACTIVATION_WIDTH(K != 0 ? K : a->k) * TokenTile;
}

// Tokens `token` .. + TokenTile - 1 times `Tiles` row tiles from `tile` on; x is the block's packed activations.
template <long long K, int Group, int TokenTile, int Tiles>
BITNET_INT16_BOUND(kChain, kLargestProduct)
inline void block(const bitnet_gemm_args* a, const int8_t* x, long long token, long long tile) {
  const long long lines = line_count<K>(a);
  const long long group_lines = Group == 0 ? lines : Group / kLineK;
  const long long groups = Group == 0 ? 1 : (lines + group_lines - 1) / group_lines;
  const uint8x16_t mask = vdupq_n_u8(3);
  const int8x16_t one = vdupq_n_s8(1);
  const uint8_t* w = a->weights + tile * lines * kLineBytes;
  for (long long g = 0; g < groups; ++g) {
    const long long begin = g * group_lines;
    const long long end = Group == 0 || begin + group_lines > lines ? lines : begin + group_lines;
    int32x4_t total[TokenTile][Tiles][4];  // rows 4h .. 4h + 3
#pragma GCC unroll 32
    for (int m = 0; m < TokenTile; ++m) {
#pragma GCC unroll 8
      for (int n = 0; n < Tiles; ++n) {
        for (int h = 0; h < 4; ++h) total[m][n][h] = vdupq_n_s32(0);
      }
    }
    for (long long first = begin; first < end; first += kFlushLines) {
      const long long last = first + kFlushLines < end ? first + kFlushLines : end;
      int16x8_t partial[TokenTile][Tiles][4];  // two sums a row
#pragma GCC unroll 32
      for (int m = 0; m < TokenTile; ++m) {
#pragma GCC unroll 8
        for (int n = 0; n < Tiles; ++n) {
          for (int h = 0; h < 4; ++h) partial[m][n][h] = vdupq_n_s16(0);
        }
      }
      for (long long i = first; i < last; ++i) {
        uint8x16_t packed[Tiles][4];
#pragma GCC unroll 8
        for (int n = 0; n < Tiles; ++n) {
          const uint8_t* line = w + (n * lines + i) * kLineBytes;
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
            for (int h = 0; h < 4; ++h) codes[n][h] = vsubq_s8(codes[n][h], one);
          }
#pragma GCC unroll 32
          for (int m = 0; m < TokenTile; ++m) {
            const int8_t* four = x + ((kFours * i + p) * TokenTile + m) * 4;
            int8x16_t xv;
            if constexpr (TokenTile % 4 == 0) {
              xv = spread(vld1q_s8(four - m % 4 * 4), m % 4);
            } else {
              xv = broadcast(four);
            }
#pragma GCC unroll 8
            for (int n = 0; n < Tiles; ++n) {
              for (int h = 0; h < 4; ++h) partial[m][n][h] = vpadalq_s8(partial[m][n][h], vmulq_s8(codes[n][h], xv));
            }
          }
        }
      }
#pragma GCC unroll 32
      for (int m = 0; m < TokenTile; ++m) {
#pragma GCC unroll 8
        for (int n = 0; n < Tiles; ++n) {
          for (int h = 0; h < 4; ++h) total[m][n][h] = vpadalq_s16(total[m][n][h], partial[m][n][h]);
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
        static_cast<void>(x_sum);  // these are weights, not codes
        for (int h = 0; h < 4; ++h) vst1q_s32(y + 4 * h, total[m][n][h]);
      }
    }
  }
}

// Token blocks first_block .. last_block - 1 times `Tiles` row tiles from `tile` on.
template <long long K, int Group, int TokenTile, int Tiles>
inline void row(const bitnet_gemm_args* a, long long first_block, long long last_block, long long tile) {
  for (long long b = first_block; b < last_block; ++b) {
    block<K, Group, TokenTile, Tiles>(a, a->x + b * block_bytes<K, TokenTile>(a), b * TokenTile, tile);
  }
}

}  // namespace i2s_gemm_detail

// Scratch that a call with these parameters and inputs of length k needs, in bytes: see bitnet_gemm_args.
template <int TokenTile, int RowTiles>
constexpr size_t i2s_gemm_scratch_bytes_for([[maybe_unused]] long long k) {
  return 0;
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
}  // namespace bitnet_kernels::neon_family

#endif  // BITNET_GENERATED_I2S_GEMM_NEON_H_
