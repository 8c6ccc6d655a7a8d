// i2s_gemm for AVX2: int32 products over layout t2 (runtime/kernels/layout.h).
//
// GENERATED from templates/gemm.h.j2 and templates/dict/avx2/i2s.j2
// by templates/render.py. DO NOT EDIT: change the templates and run templates/render.py again.
//
// A row tile is expanded into a panel of one byte a weight (in the scratch), which all token blocks of the call reuse;
// products are added by vpmaddubsw into int16 sums, which go to int32 every 16 lines.
#ifndef BITNET_GENERATED_I2S_GEMM_AVX2_H_
#define BITNET_GENERATED_I2S_GEMM_AVX2_H_

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
namespace i2s_gemm_detail {

// A line: 16 rows x kLineK weights (runtime/kernels/layout_t2.cc), which meet kFours times 4 activations.
constexpr long long kLineK = 16;
constexpr long long kLineBytes = 64;
constexpr int kFours = kLineK / 4;

// Four int8 activations, read at once.
typedef int32_t Dword __attribute__((__may_alias__));
// Each line adds four vpmaddubsw results to a sum; the largest is two codes of 2 times 127.
constexpr int kFlushLines = 16;
constexpr int kChain = 4 * kFlushLines;
constexpr int kLargestProduct = 2 * 2 * 127;
static_assert(kChain * kLargestProduct <= 32767, "an int16 sum of i2s_gemm could overflow");

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
  const __m256i mask = _mm256_set1_epi8(0x03);
  for (long long i = 0; i < lines; ++i) {
#pragma GCC unroll 8
    for (int n = 0; n < Tiles; ++n) {
      const uint8_t* line = weights + (n * lines + i) * kLineBytes;
      uint8_t* out = panel + (kFours * i * Tiles + n) * kLineBytes;
      for (int h = 0; h < 2; ++h) {
        const __m256i codes = _mm256_load_si256(reinterpret_cast<const __m256i*>(line) + h);
        __m256i* half = reinterpret_cast<__m256i*>(out) + h;
        _mm256_store_si256(half, _mm256_and_si256(codes, mask));
        _mm256_store_si256(half + 2 * Tiles, _mm256_and_si256(_mm256_srli_epi16(codes, 2), mask));
        _mm256_store_si256(half + 4 * Tiles, _mm256_and_si256(_mm256_srli_epi16(codes, 4), mask));
        _mm256_store_si256(half + 6 * Tiles, _mm256_and_si256(_mm256_srli_epi16(codes, 6), mask));
      }
    }
  }
}

// Tokens `token` .. + TokenTile - 1 times `Tiles` row tiles from `tile` on; x is the block's packed activations.
template <long long K, int Group, int TokenTile, int Tiles>
BITNET_INT16_BOUND(kChain, kLargestProduct)
inline void block(const bitnet_gemm_args* a, const int8_t* x, long long token, long long tile) {
  const long long lines = line_count<K>(a);
  const long long group_lines = Group == 0 ? lines : Group / kLineK;
  const long long groups = Group == 0 ? 1 : (lines + group_lines - 1) / group_lines;
  const __m256i ones = _mm256_set1_epi16(1);
  const uint8_t* w = static_cast<const uint8_t*>(a->scratch);
  for (long long g = 0; g < groups; ++g) {
    const long long begin = g * group_lines;
    const long long end = Group == 0 || begin + group_lines > lines ? lines : begin + group_lines;
    __m256i total[TokenTile][Tiles][2];
#pragma GCC unroll 32
    for (int m = 0; m < TokenTile; ++m) {
#pragma GCC unroll 8
      for (int n = 0; n < Tiles; ++n) {
        for (int h = 0; h < 2; ++h) total[m][n][h] = _mm256_setzero_si256();
      }
    }
    for (long long first = begin; first < end; first += kFlushLines) {
      const long long last = first + kFlushLines < end ? first + kFlushLines : end;
      __m256i partial[TokenTile][Tiles][2];  // int16
#pragma GCC unroll 32
      for (int m = 0; m < TokenTile; ++m) {
#pragma GCC unroll 8
        for (int n = 0; n < Tiles; ++n) {
          for (int h = 0; h < 2; ++h) partial[m][n][h] = _mm256_setzero_si256();
        }
      }
      static_assert(kFours % 2 == 0, "the panel of a line is no multiple of the loop's step");
      for (long long step = kFours / 2 * first; step < kFours / 2 * last; ++step) {
#pragma GCC unroll 2
        for (int u = 0; u < 2; ++u) {  // k = 4 q .. + 3
          const long long q = 2 * step + u;
          __m256i codes[Tiles][2];
#pragma GCC unroll 8
          for (int n = 0; n < Tiles; ++n) {
            const uint8_t* bytes = w + (q * Tiles + n) * kLineBytes;
            for (int h = 0; h < 2; ++h) codes[n][h] = _mm256_load_si256(reinterpret_cast<const __m256i*>(bytes) + h);
          }
#pragma GCC unroll 32
          for (int m = 0; m < TokenTile; ++m) {
            const int8_t* four = x + (q * TokenTile + m) * 4;
            const __m256i xm = _mm256_set1_epi32(*reinterpret_cast<const Dword*>(four));
#pragma GCC unroll 8
            for (int n = 0; n < Tiles; ++n) {
              for (int h = 0; h < 2; ++h) {
                partial[m][n][h] = _mm256_add_epi16(partial[m][n][h], _mm256_maddubs_epi16(codes[n][h], xm));
              }
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
    const int32_t* x_sums = a->x_sums + (Group == 0 ? 0 : g * a->sums_stride);
    int32_t* sums = a->y + (Group == 0 ? 0 : g * a->group_stride);
#pragma GCC unroll 32
    for (int m = 0; m < TokenTile; ++m) {
      if (token + m >= a->tokens) break;
      const int32_t x_sum = x_sums[token + m];
#pragma GCC unroll 8
      for (int n = 0; n < Tiles; ++n) {
        int32_t* y = sums + (token + m) * a->y_stride + (tile + n) * BITNET_TILE_ROWS;
        for (int h = 0; h < 2; ++h) {
          const __m256i sum = _mm256_sub_epi32(total[m][n][h], _mm256_set1_epi32(x_sum));
          _mm256_storeu_si256(reinterpret_cast<__m256i*>(y) + h, sum);
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
}  // namespace bitnet_kernels::avx2_family

#endif  // BITNET_GENERATED_I2S_GEMM_AVX2_H_
