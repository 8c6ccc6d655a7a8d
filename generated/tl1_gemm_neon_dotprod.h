// tl1_gemm for NEON with dot products: int32 products over layout tl1 (runtime/kernels/layout_tl.cc).
//
// GENERATED from templates/lut_gemm.h.j2 and templates/dict/neon_dotprod/tl1.j2
// by templates/render.py. DO NOT EDIT: change the templates and run templates/render.py again.
//
// A table of activation sums would serve one token only. So row tiles are expanded into a panel of one byte a weight
// (in the scratch), once for all token blocks that the cache holds, and the rest is dot products of bytes. Measured on
// Zen 4 with tl2 at 128 tokens, 3840x2560: 421 to 442 GOPS on AVX-512, 323 on AVX2; lookups of one token, out of the
// cache and with the tables at hand: 226 to 232.
//
// Two lookups give the weights of an index; four of them meet four activations by SDOT.
#ifndef BITNET_GENERATED_TL1_GEMM_NEON_DOTPROD_H_
#define BITNET_GENERATED_TL1_GEMM_NEON_DOTPROD_H_

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

namespace bitnet_kernels::neon_dotprod_family {
namespace {
namespace tl1_gemm_detail {

// A line: 16 rows x kLineK weights, kLineSteps steps of 4 k. A step of a tile is kStepBytes of the panel.
constexpr long long kLineK = 16;
constexpr long long kLineBytes = 64;
constexpr long long kLineSteps = kLineK / 4;
constexpr long long kStepBytes = 64;
// Packed activations that are multiplied with one panel before the next: they stay in a 1 MiB L2 cache beside it. Speed
// only: any size gives the same sums.
constexpr long long kActivationBytes = 512 * 1024;
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

// The two weights of an index.
struct Weights {
  alignas(16) int8_t of[2][16];
};
constexpr Weights make_weights() {
  Weights weights = {};
  for (int e = 0; e < 9; ++e) {
    weights.of[0][e] = static_cast<int8_t>(e % 3 - 1);
    weights.of[1][e] = static_cast<int8_t>(e / 3 - 1);
  }
  return weights;
}
constexpr Weights kWeightsOf = make_weights();

constexpr long long lines_of(long long k) { return (k + kLineK - 1) / kLineK; }
template <long long K>
constexpr long long line_count([[maybe_unused]] const bitnet_gemm_args* a) {
  return lines_of(K != 0 ? K : a->k);
}

// Packed activations of one token block.
template <long long K, int TokenTile>
constexpr long long block_bytes([[maybe_unused]] const bitnet_gemm_args* a) {
  return BITNET_ACTIVATION_WIDTH(K != 0 ? K : a->k) * TokenTile;
}

// Expands `Tiles` tiles into codes 0..2 as bytes: panel [steps][Tiles][16 rows][4], the operand order of block().
template <int Tiles>
inline void expand(const uint8_t* weights, uint8_t* panel, long long lines) {
  const uint8x16_t mask = vdupq_n_u8(15);
  const int8x16_t weight[2] = {vld1q_s8(kWeightsOf.of[0]), vld1q_s8(kWeightsOf.of[1])};
  for (long long i = 0; i < lines; ++i) {
    for (int n = 0; n < Tiles; ++n) {
      const uint8_t* line = weights + (n * lines + i) * kLineBytes;
      uint8_t* out = panel + (i * kLineSteps * Tiles + n) * kStepBytes;
      int8x16x4_t step[4];  // of p: the four k of every row
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) {
        const uint8x16_t packed = vld1q_u8(line + 16 * j);
        const uint8x16_t low = vandq_u8(packed, mask);
        const uint8x16_t high = vshrq_n_u8(packed, 4);
        step[0].val[j] = vqtbl1q_s8(weight[0], low);
        step[1].val[j] = vqtbl1q_s8(weight[1], low);
        step[2].val[j] = vqtbl1q_s8(weight[0], high);
        step[3].val[j] = vqtbl1q_s8(weight[1], high);
      }
#pragma GCC unroll 4
      for (int p = 0; p < 4; ++p) vst4q_s8(reinterpret_cast<int8_t*>(out) + p * Tiles * kStepBytes, step[p]);
    }
  }
}

// Tokens `token` .. + TokenTile - 1 times the `Tiles` row tiles of the panel, which begin at `tile`; x is the block's
// packed activations.
template <long long K, int Group, int TokenTile, int Tiles>
inline void block(const bitnet_gemm_args* a, const int8_t* x, long long token, long long tile) {
  const uint8_t* panel = static_cast<const uint8_t*>(a->scratch);
  const long long steps = ((K != 0 ? K : a->k) + 3) / 4;
  // One round per K-group, or one for all of K.
  const long long group_steps = Group != 0 ? Group / 4 : steps;
  for (long long group = 0, first = 0; first < steps; ++group, first += group_steps) {
    const long long last = first + group_steps < steps ? first + group_steps : steps;
    int32x4_t total[TokenTile][Tiles][4];  // rows 4h .. 4h + 3
#pragma GCC unroll 32
    for (int m = 0; m < TokenTile; ++m) {
#pragma GCC unroll 8
      for (int n = 0; n < Tiles; ++n) {
        for (int h = 0; h < 4; ++h) total[m][n][h] = vdupq_n_s32(0);
      }
    }
#pragma GCC unroll 4
    for (long long i = first; i < last; ++i) {
      int8x16_t codes[Tiles][4];
#pragma GCC unroll 8
      for (int n = 0; n < Tiles; ++n) {
        const uint8_t* bytes = panel + (i * Tiles + n) * kStepBytes;
        for (int h = 0; h < 4; ++h) codes[n][h] = vld1q_s8(reinterpret_cast<const int8_t*>(bytes) + 16 * h);
      }
#pragma GCC unroll 32
      for (int m = 0; m < TokenTile; ++m) {
        const int8_t* xm = x + (i * TokenTile + m) * 4;
        int8x16_t xv;
        if constexpr (TokenTile % 4 == 0) {
          xv = spread(vld1q_s8(xm - m % 4 * 4), m % 4);
        } else {
          xv = broadcast(xm);
        }
#pragma GCC unroll 8
        for (int n = 0; n < Tiles; ++n) {
          for (int h = 0; h < 4; ++h) total[m][n][h] = vdotq_s32(total[m][n][h], codes[n][h], xv);
        }
      }
    }
#pragma GCC unroll 32
    for (int m = 0; m < TokenTile; ++m) {
      if (token + m >= a->tokens) break;
      const int32_t x_sum = a->x_sums[(Group != 0 ? group * a->sums_stride : 0) + token + m];
#pragma GCC unroll 8
      for (int n = 0; n < Tiles; ++n) {
        int32_t* y = a->y + (token + m) * a->y_stride + (tile + n) * BITNET_TILE_ROWS;
        y += Group != 0 ? group * a->group_stride : 0;
        static_cast<void>(x_sum);  // these are weights, not codes
        for (int h = 0; h < 4; ++h) vst1q_s32(y + 4 * h, total[m][n][h]);
      }
    }
  }
}

// Token blocks first_block .. last_block - 1 times `Tiles` row tiles from `tile` on.
template <long long K, int Group, int TokenTile, int Tiles>
inline void row(const bitnet_gemm_args* a, long long first_block, long long last_block, long long tile) {
  const long long lines = line_count<K>(a);
  expand<Tiles>(a->weights + tile * lines * kLineBytes, static_cast<uint8_t*>(a->scratch), lines);
  for (long long b = first_block; b < last_block; ++b) {
    block<K, Group, TokenTile, Tiles>(a, a->x + b * block_bytes<K, TokenTile>(a), b * TokenTile, tile);
  }
}

}  // namespace tl1_gemm_detail

// Scratch that a call with these parameters and inputs of length k needs, in bytes: the panel.
template <int TokenTile, int RowTiles>
constexpr size_t tl1_gemm_scratch_bytes_for(long long k) {
  using namespace tl1_gemm_detail;
  return static_cast<size_t>(lines_of(k) * kLineSteps * kStepBytes * RowTiles);
}

// The same for a constant K.
template <long long K, int TokenTile, int RowTiles>
constexpr size_t tl1_gemm_scratch_bytes() {
  static_assert(K > 0, "tl1_gemm: scratch depends on K, ask tl1_gemm_scratch_bytes_for");
  return tl1_gemm_scratch_bytes_for<TokenTile, RowTiles>(K);
}

// Y = X W^T for rows a->row_begin .. a->row_end and all tokens (kernel_abi.h, op gemm); K <= 8000000.
//   N, K       the matrix; K = 0 reads a->k. Rows always come from the arguments.
//   Group      K-group
//   TokenTile  tokens of a packed block (MR)
//   RowTiles   row tiles that share a load of the activations
template <long long N, long long K, int Group, int TokenTile, int RowTiles>
inline void tl1_gemm(const bitnet_gemm_args* a) {
  static_assert(Group == 0 || Group == 64 || Group == 128 || Group == 256, "tl1_gemm: K-groups of 0, 64, 128 or 256");
  static_assert(N >= 0 && K >= 0 && K <= 8000000LL, "tl1_gemm: matrix size out of range");
  static_assert(TokenTile >= 1 && TokenTile <= 32 && RowTiles >= 1 && RowTiles <= 8, "tl1_gemm: bad tile");
  const long long begin = a->row_begin / BITNET_TILE_ROWS;
  const long long end = (a->row_end + BITNET_TILE_ROWS - 1) / BITNET_TILE_ROWS;
  const long long blocks = (a->tokens + TokenTile - 1) / TokenTile;
  const long long block_bytes = tl1_gemm_detail::block_bytes<K, TokenTile>(a);
  const long long fitting = tl1_gemm_detail::kActivationBytes / block_bytes;
  const long long side = fitting > 1 ? fitting : 1;
  for (long long first = 0; first < blocks; first += side) {
    const long long last = first + side < blocks ? first + side : blocks;
    long long tile = begin;
    for (; tile + RowTiles <= end; tile += RowTiles) {
      tl1_gemm_detail::row<K, Group, TokenTile, RowTiles>(a, first, last, tile);
    }
    for (; tile < end; ++tile) {
      tl1_gemm_detail::row<K, Group, TokenTile, 1>(a, first, last, tile);
    }
  }
}

}  // namespace
}  // namespace bitnet_kernels::neon_dotprod_family

#endif  // BITNET_GENERATED_TL1_GEMM_NEON_DOTPROD_H_
