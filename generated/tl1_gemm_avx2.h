// tl1_gemm for AVX2: int32 products over layout tl1 (runtime/kernels/layout_tl.cc).
//
// GENERATED from templates/lut_gemm.h.j2 and templates/dict/avx2/tl1.j2
// by templates/render.py. DO NOT EDIT: change the templates and run templates/render.py again.
//
// A table of activation sums would serve one token only. So row tiles are expanded into a panel of one byte a weight
// (in the scratch), once for all token blocks that the cache holds, and the rest is dot products of bytes. Measured on
// Zen 4 with tl2 at 128 tokens, 3840x2560: 421 to 442 GOPS on AVX-512, 323 on AVX2; lookups of one token, out of the
// cache and with the tables at hand: 226 to 232.
//
// The bytes of a line are first brought into the order of the panel, four j beside each other; then the codes are table
// lookups. Products are added by vpmaddubsw into int16 sums, which go to int32 every 64 steps.
#ifndef BITNET_GENERATED_TL1_GEMM_AVX2_H_
#define BITNET_GENERATED_TL1_GEMM_AVX2_H_

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

namespace bitnet_kernels::avx2_family {
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
// Steps whose products are added in int16, fewer would do as well; a product of a code and an activation is at most
// 2 * 127.
constexpr int kFlushSteps = 64;
constexpr int kChain = 2 * kFlushSteps;
constexpr int kLargestProduct = 2 * 127;
static_assert(kChain * kLargestProduct <= 32767, "an int16 sum of tl1_gemm could overflow");
// Four int8 activations, read at once.
typedef int32_t Dword __attribute__((__may_alias__));
// 64 bytes [j 0..3][16 rows] -> [16 rows][j 0..3].
inline void panel_order(const uint8_t* bytes, __m256i* rows) {
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  const __m256i transpose =
      _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
  const __m256i* halves = reinterpret_cast<const __m256i*>(bytes);
  // Units of 4 rows: (j 0, 1 of rows 0..3), (.. rows 4..7) | (.. rows 8..11), (.. rows 12..15), and the same of j 2, 3.
  const __m256i j01 = _mm256_permutevar8x32_epi32(_mm256_load_si256(halves), order);
  const __m256i j23 = _mm256_permutevar8x32_epi32(_mm256_load_si256(halves + 1), order);
  const __m256i even = _mm256_unpacklo_epi64(j01, j23);  // rows 0..3 | 8..11
  const __m256i odd = _mm256_unpackhi_epi64(j01, j23);   // rows 4..7 | 12..15
  rows[0] = _mm256_shuffle_epi8(_mm256_permute2x128_si256(even, odd, 0x20), transpose);
  rows[1] = _mm256_shuffle_epi8(_mm256_permute2x128_si256(even, odd, 0x31), transpose);
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
  const __m256i nibble = _mm256_set1_epi8(0x0F);
  // The two codes of an index: index % 3, index / 3.
  const __m256i code0 = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 0, 0, 0, 0, 0, 0));
  const __m256i code1 = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 0, 0, 1, 1, 1, 2, 2, 2, 0, 0, 0, 0, 0, 0, 0));
  for (long long i = 0; i < lines; ++i) {
    for (int n = 0; n < Tiles; ++n) {
      const uint8_t* line = weights + (n * lines + i) * kLineBytes;
      uint8_t* out = panel + (i * kLineSteps * Tiles + n) * kStepBytes;
      __m256i rows[2];
      panel_order(line, rows);
#pragma GCC unroll 2
      for (int h = 0; h < 2; ++h) {
        __m256i* half = reinterpret_cast<__m256i*>(out) + h;
        const __m256i index0 = _mm256_and_si256(rows[h], nibble);
        const __m256i index1 = _mm256_and_si256(_mm256_srli_epi16(rows[h], 4), nibble);
        _mm256_store_si256(half, _mm256_shuffle_epi8(code0, index0));
        _mm256_store_si256(half + 2 * Tiles, _mm256_shuffle_epi8(code1, index0));
        _mm256_store_si256(half + 4 * Tiles, _mm256_shuffle_epi8(code0, index1));
        _mm256_store_si256(half + 6 * Tiles, _mm256_shuffle_epi8(code1, index1));
      }
    }
  }
}

// Tokens `token` .. + TokenTile - 1 times the `Tiles` row tiles of the panel, which begin at `tile`; x is the block's
// packed activations.
template <long long K, int Group, int TokenTile, int Tiles>
BITNET_INT16_BOUND(kChain, kLargestProduct)
inline void block(const bitnet_gemm_args* a, const int8_t* x, long long token, long long tile) {
  const uint8_t* panel = static_cast<const uint8_t*>(a->scratch);
  const long long steps = ((K != 0 ? K : a->k) + 3) / 4;
  const __m256i ones = _mm256_set1_epi16(1);
  // One round per K-group, or one for all of K.
  const long long group_steps = Group != 0 ? Group / 4 : steps;
  for (long long group = 0, first = 0; first < steps; ++group, first += group_steps) {
    const long long last = first + group_steps < steps ? first + group_steps : steps;
    __m256i total[TokenTile][Tiles][2];
#pragma GCC unroll 32
    for (int m = 0; m < TokenTile; ++m) {
#pragma GCC unroll 8
      for (int n = 0; n < Tiles; ++n) {
        for (int h = 0; h < 2; ++h) total[m][n][h] = _mm256_setzero_si256();
      }
    }
    for (long long flush = first; flush < last; flush += kFlushSteps) {
      const long long next = flush + kFlushSteps < last ? flush + kFlushSteps : last;
      __m256i partial[TokenTile][Tiles][2];  // int16
#pragma GCC unroll 32
      for (int m = 0; m < TokenTile; ++m) {
#pragma GCC unroll 8
        for (int n = 0; n < Tiles; ++n) {
          for (int h = 0; h < 2; ++h) partial[m][n][h] = _mm256_setzero_si256();
        }
      }
#pragma GCC unroll 1
      for (long long i = flush; i < next; ++i) {
        __m256i codes[Tiles][2];
#pragma GCC unroll 8
        for (int n = 0; n < Tiles; ++n) {
          const uint8_t* bytes = panel + (i * Tiles + n) * kStepBytes;
          for (int h = 0; h < 2; ++h) codes[n][h] = _mm256_load_si256(reinterpret_cast<const __m256i*>(bytes) + h);
        }
#pragma GCC unroll 32
        for (int m = 0; m < TokenTile; ++m) {
          const int8_t* xm = x + (i * TokenTile + m) * 4;
          const __m256i x4 = _mm256_set1_epi32(*reinterpret_cast<const Dword*>(xm));
#pragma GCC unroll 8
          for (int n = 0; n < Tiles; ++n) {
            for (int h = 0; h < 2; ++h) {
              partial[m][n][h] = _mm256_add_epi16(partial[m][n][h], _mm256_maddubs_epi16(codes[n][h], x4));
            }
          }
        }
      }
#pragma GCC unroll 32
      for (int m = 0; m < TokenTile; ++m) {
#pragma GCC unroll 8
        for (int n = 0; n < Tiles; ++n) {
          for (int h = 0; h < 2; ++h) {
            total[m][n][h] = _mm256_add_epi32(total[m][n][h], _mm256_madd_epi16(partial[m][n][h], ones));
          }
        }
      }
    }
#pragma GCC unroll 32
    for (int m = 0; m < TokenTile; ++m) {
      if (token + m >= a->tokens) break;
      const int32_t x_sum = a->x_sums[(Group != 0 ? group * a->sums_stride : 0) + token + m];
      const __m256i sums = _mm256_set1_epi32(x_sum);
#pragma GCC unroll 8
      for (int n = 0; n < Tiles; ++n) {
        int32_t* y = a->y + (token + m) * a->y_stride + (tile + n) * BITNET_TILE_ROWS;
        y += Group != 0 ? group * a->group_stride : 0;
        for (int h = 0; h < 2; ++h) {
          _mm256_storeu_si256(reinterpret_cast<__m256i*>(y) + h, _mm256_sub_epi32(total[m][n][h], sums));
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
}  // namespace bitnet_kernels::avx2_family

#endif  // BITNET_GENERATED_TL1_GEMM_AVX2_H_
