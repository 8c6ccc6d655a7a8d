// tl2_gemm for any CPU: int32 products over layout tl2 (runtime/kernels/layout_tl.cc).
//
// GENERATED from templates/lut_gemm.h.j2 and templates/dict/scalar/tl2.j2
// by templates/render.py. DO NOT EDIT: change the templates and run templates/render.py again.
//
// A table of activation sums would serve one token only. So row tiles are expanded into a panel of one byte a weight
// (in the scratch), once for all token blocks that the cache holds, and the rest is dot products of bytes. Measured on
// Zen 4 with tl2 at 128 tokens, 3840x2560: 421 to 442 GOPS on AVX-512, 323 on AVX2; lookups of one token, out of the
// cache and with the tables at hand: 226 to 232.
//
// Both steps are plain loops.
#ifndef BITNET_GENERATED_TL2_GEMM_SCALAR_H_
#define BITNET_GENERATED_TL2_GEMM_SCALAR_H_

#include <stddef.h>
#include <stdint.h>

#include "runtime/kernels/kernel_abi.h"

// All sums are int32: there is no int16 accumulation to bound.

namespace bitnet_kernels::scalar_family {
namespace {
namespace tl2_gemm_detail {

// A line: 16 rows x kLineK weights, kLineSteps steps of 4 k. A step of a tile is kStepBytes of the panel.
constexpr long long kLineK = 96;
constexpr long long kLineBytes = 320;
constexpr long long kLineSteps = kLineK / 4;
constexpr long long kStepBytes = 64;
// Packed activations that are multiplied with one panel before the next: they stay in a 1 MiB L2 cache beside it. Speed
// only: any size gives the same sums.
constexpr long long kActivationBytes = 512 * 1024;
constexpr int kRows = BITNET_TILE_ROWS;

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
  for (long long i = 0; i < lines; ++i) {
    for (int n = 0; n < Tiles; ++n) {
      const uint8_t* line = weights + (n * lines + i) * kLineBytes;
      uint8_t* out = panel + (i * kLineSteps * Tiles + n) * kStepBytes;
      for (int p = 0; p < kLineSteps; ++p) {
        const int b = p / 3;
        for (int r = 0; r < kRows; ++r) {
          for (int j = 0; j < 4; ++j) {
            const int byte = 16 * j + r;
            const int index = (line[64 * (b / 2) + byte] >> (b % 2 * 4)) & 15;
            const int codes = 13 + (((line[256 + byte] << b) & 0x80) != 0 ? -index : index);  // c0 + 3 c1 + 9 c2
            const int code = p % 3 == 0 ? codes % 3 : p % 3 == 1 ? codes / 3 % 3 : codes / 9;
            out[p * Tiles * kStepBytes + 4 * r + j] = static_cast<uint8_t>(code);
          }
        }
      }
    }
  }
}

// Tokens `token` .. + TokenTile - 1 times the `Tiles` row tiles of the panel, which begin at `tile`; x is the block's
// packed activations.
template <long long K, int Group, int TokenTile, int Tiles>
inline void block(const bitnet_gemm_args* a, const int8_t* x, long long token, long long tile) {
  const uint8_t* panel = static_cast<const uint8_t*>(a->scratch);
  const long long steps = ((K != 0 ? K : a->k) + 3) / 4;
  int32_t total[TokenTile][Tiles][kRows];
#pragma GCC unroll 32
  for (int m = 0; m < TokenTile; ++m) {
#pragma GCC unroll 8
    for (int n = 0; n < Tiles; ++n) {
      for (int r = 0; r < kRows; ++r) total[m][n][r] = 0;
    }
  }
#pragma GCC unroll 1
  for (long long i = 0; i < steps; ++i) {
    const uint8_t* codes[Tiles];
#pragma GCC unroll 8
    for (int n = 0; n < Tiles; ++n) {
      const uint8_t* bytes = panel + (i * Tiles + n) * kStepBytes;
      codes[n] = bytes;
    }
#pragma GCC unroll 32
    for (int m = 0; m < TokenTile; ++m) {
      const int8_t* xm = x + (i * TokenTile + m) * 4;
#pragma GCC unroll 8
      for (int n = 0; n < Tiles; ++n) {
        for (int r = 0; r < kRows; ++r) {
          for (int j = 0; j < 4; ++j) total[m][n][r] += codes[n][4 * r + j] * xm[j];
        }
      }
    }
  }
#pragma GCC unroll 32
  for (int m = 0; m < TokenTile; ++m) {
    if (token + m >= a->tokens) break;
    const int32_t x_sum = a->x_sums[token + m];
#pragma GCC unroll 8
    for (int n = 0; n < Tiles; ++n) {
      int32_t* y = a->y + (token + m) * a->y_stride + (tile + n) * BITNET_TILE_ROWS;
      for (int r = 0; r < kRows; ++r) y[r] = total[m][n][r] - x_sum;
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

}  // namespace tl2_gemm_detail

// Scratch that a call with these parameters and inputs of length k needs, in bytes: the panel.
template <int TokenTile, int RowTiles>
constexpr size_t tl2_gemm_scratch_bytes_for(long long k) {
  using namespace tl2_gemm_detail;
  return static_cast<size_t>(lines_of(k) * kLineSteps * kStepBytes * RowTiles);
}

// The same for a constant K.
template <long long K, int TokenTile, int RowTiles>
constexpr size_t tl2_gemm_scratch_bytes() {
  static_assert(K > 0, "tl2_gemm: scratch depends on K, ask tl2_gemm_scratch_bytes_for");
  return tl2_gemm_scratch_bytes_for<TokenTile, RowTiles>(K);
}

// Y = X W^T for rows a->row_begin .. a->row_end and all tokens (kernel_abi.h, op gemm); K <= 8000000.
//   N, K       the matrix; K = 0 reads a->k. Rows always come from the arguments.
//   Group      K-group: 0, this layout has none
//   TokenTile  tokens of a packed block (MR)
//   RowTiles   row tiles that share a load of the activations
template <long long N, long long K, int Group, int TokenTile, int RowTiles>
inline void tl2_gemm(const bitnet_gemm_args* a) {
  static_assert(Group == 0, "tl2_gemm: no K-groups, lines of 96 k do not divide them");
  static_assert(N >= 0 && K >= 0 && K <= 8000000LL, "tl2_gemm: matrix size out of range");
  static_assert(TokenTile >= 1 && TokenTile <= 32 && RowTiles >= 1 && RowTiles <= 8, "tl2_gemm: bad tile");
  const long long begin = a->row_begin / BITNET_TILE_ROWS;
  const long long end = (a->row_end + BITNET_TILE_ROWS - 1) / BITNET_TILE_ROWS;
  const long long blocks = (a->tokens + TokenTile - 1) / TokenTile;
  const long long block_bytes = tl2_gemm_detail::block_bytes<K, TokenTile>(a);
  const long long fitting = tl2_gemm_detail::kActivationBytes / block_bytes;
  const long long side = fitting > 1 ? fitting : 1;
  for (long long first = 0; first < blocks; first += side) {
    const long long last = first + side < blocks ? first + side : blocks;
    long long tile = begin;
    for (; tile + RowTiles <= end; tile += RowTiles) {
      tl2_gemm_detail::row<K, Group, TokenTile, RowTiles>(a, first, last, tile);
    }
    for (; tile < end; ++tile) {
      tl2_gemm_detail::row<K, Group, TokenTile, 1>(a, first, last, tile);
    }
  }
}

}  // namespace
}  // namespace bitnet_kernels::scalar_family

#endif  // BITNET_GENERATED_TL2_GEMM_SCALAR_H_
