// tl2_gemm for AVX-512 with VNNI: int32 products over layout tl2 (runtime/kernels/layout_tl.cc).
//
// GENERATED from templates/lut_gemm.h.j2 and templates/dict/avx512/tl2.j2
// by templates/render.py. DO NOT EDIT: change the templates and run templates/render.py again.
//
// A table of activation sums would serve one token only. So row tiles are expanded into a panel of one byte a weight
// (in the scratch), once for all token blocks that the cache holds, and the rest is dot products of bytes. Measured on
// Zen 4 with tl2 at 128 tokens, 3840x2560: 421 to 442 GOPS on AVX-512, 323 on AVX2; lookups of one token, out of the
// cache and with the tables at hand: 226 to 232.
//
// The bytes of a line are first brought into the order of the panel, four j beside each other; then the codes are table
// lookups, mirrored where the sign says so. The panel's bytes are operands of vpdpbusd.
#ifndef BITNET_GENERATED_TL2_GEMM_AVX512_H_
#define BITNET_GENERATED_TL2_GEMM_AVX512_H_

#include <immintrin.h>
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

namespace bitnet_kernels::avx512_family {
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
// Four int8 activations, read at once.
typedef int32_t Dword __attribute__((__may_alias__));
// 64 bytes [j 0..3][16 rows] -> [16 rows][j 0..3].
inline __m512i panel_order(const uint8_t* bytes) {
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  const __m128i transpose = _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  const __m512i units = _mm512_permutexvar_epi32(order, _mm512_load_si512(bytes));
  return _mm512_shuffle_epi8(units, _mm512_broadcast_i32x4(transpose));
}

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
  const __m512i nibble = _mm512_set1_epi8(0x0F);
  const __m512i two = _mm512_set1_epi8(2);
  // The three codes of an index: balanced ternary digits of 0..13, plus 1.
  const __m512i code[3] = {
      _mm512_broadcast_i32x4(_mm_setr_epi8(1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 0)),
      _mm512_broadcast_i32x4(_mm_setr_epi8(1, 1, 2, 2, 2, 0, 0, 0, 1, 1, 1, 2, 2, 2, 0, 0)),
      _mm512_broadcast_i32x4(_mm_setr_epi8(1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 0, 0)),
  };
  for (long long i = 0; i < lines; ++i) {
    for (int n = 0; n < Tiles; ++n) {
      const uint8_t* line = weights + (n * lines + i) * kLineBytes;
      uint8_t* out = panel + (i * kLineSteps * Tiles + n) * kStepBytes;
      const __m512i signs = panel_order(line + 256);
#pragma GCC unroll 8
      for (int b = 0; b < 8; ++b) {
        const __m512i rows = panel_order(line + b / 2 * 64);
        const __m512i index = _mm512_and_si512(b % 2 == 0 ? rows : _mm512_srli_epi16(rows, 4), nibble);
        const __mmask64 negative = _mm512_test_epi8_mask(signs, _mm512_set1_epi8(static_cast<char>(0x80 >> b)));
#pragma GCC unroll 3
        for (int p = 0; p < 3; ++p) {
          const __m512i codes = _mm512_shuffle_epi8(code[p], index);
          _mm512_store_si512(out + (3 * b + p) * Tiles * kStepBytes, _mm512_mask_sub_epi8(codes, negative, two, codes));
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
  __m512i total[TokenTile][Tiles];
#pragma GCC unroll 32
  for (int m = 0; m < TokenTile; ++m) {
#pragma GCC unroll 8
    for (int n = 0; n < Tiles; ++n) {
      total[m][n] = _mm512_setzero_si512();
    }
  }
#pragma GCC unroll 4
  for (long long i = 0; i < steps; ++i) {
    __m512i codes[Tiles];
#pragma GCC unroll 8
    for (int n = 0; n < Tiles; ++n) {
      const uint8_t* bytes = panel + (i * Tiles + n) * kStepBytes;
      codes[n] = _mm512_load_si512(bytes);
    }
#pragma GCC unroll 32
    for (int m = 0; m < TokenTile; ++m) {
      const int8_t* xm = x + (i * TokenTile + m) * 4;
      const __m512i x4 = _mm512_set1_epi32(*reinterpret_cast<const Dword*>(xm));
#pragma GCC unroll 8
      for (int n = 0; n < Tiles; ++n) {
        total[m][n] = _mm512_dpbusd_epi32(total[m][n], codes[n], x4);
      }
    }
  }
#pragma GCC unroll 32
  for (int m = 0; m < TokenTile; ++m) {
    if (token + m >= a->tokens) break;
    const int32_t x_sum = a->x_sums[token + m];
    const __m512i sums = _mm512_set1_epi32(x_sum);
#pragma GCC unroll 8
    for (int n = 0; n < Tiles; ++n) {
      int32_t* y = a->y + (token + m) * a->y_stride + (tile + n) * BITNET_TILE_ROWS;
      _mm512_storeu_si512(y, _mm512_sub_epi32(total[m][n], sums));
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
}  // namespace bitnet_kernels::avx512_family

#endif  // BITNET_GENERATED_TL2_GEMM_AVX512_H_
