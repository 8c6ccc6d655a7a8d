// i2s_batch for AVX2: int32 products of a few tokens over layout t2 (runtime/kernels/layout.h).
//
// GENERATED from templates/batch.h.j2 and templates/dict/avx2/i2s.j2
// by templates/render.py. DO NOT EDIT: change the templates and run templates/render.py again.
//
// As i2s_gemv, for a few tokens: a line is two registers of 8 rows, its four fields are shifted and masked out once and
// multiplied with every token; vpmaddubsw adds pairs of products into int16 sums, which go to int32 every 16 lines.
#ifndef BITNET_GENERATED_I2S_BATCH_AVX2_H_
#define BITNET_GENERATED_I2S_BATCH_AVX2_H_

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
namespace i2s_batch_detail {

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

// Tokens whose sums fit the registers; more are served by further passes over the tile, which by then is near.
constexpr int kPassTokens = 4;

// Tiles tile .. tile + count - 1 and, with several streams (`Tiles`), the same number of tiles `distance`,
// 2 * `distance`, ... further on, read side by side.
template <long long K, int M, int Tiles, int Prefetch>
BITNET_INT16_BOUND(kChain, kLargestProduct)
inline void pass(const bitnet_gemm_args* a, long long tile, long long distance, long long count) {
  constexpr int TokenTile = M < kPassTokens ? M : kPassTokens;
  static_assert(M % TokenTile == 0, "i2s_batch: M is no multiple of the tokens of a pass");
  const long long lines = ((K != 0 ? K : a->k) + kLineK - 1) / kLineK;
  const __m256i mask = _mm256_set1_epi8(0x03);
  const __m256i ones = _mm256_set1_epi16(1);
  for (long long t = 0; t < count; ++t, ++tile) {
    const uint8_t* w[Tiles];
#pragma GCC unroll 8
    for (int n = 0; n < Tiles; ++n) w[n] = a->weights + (tile + n * distance) * lines * kLineBytes;
#pragma GCC unroll 1
    for (int from = 0; from < M; from += TokenTile) {
      if (from >= a->tokens) break;
      const int8_t* x = a->x + from * 4;
      __m256i total[TokenTile][Tiles][2];
#pragma GCC unroll 8
      for (int m = 0; m < TokenTile; ++m) {
#pragma GCC unroll 8
        for (int n = 0; n < Tiles; ++n) {
          for (int h = 0; h < 2; ++h) total[m][n][h] = _mm256_setzero_si256();
        }
      }
      for (long long first = 0; first < lines; first += kFlushLines) {
        const long long last = first + kFlushLines < lines ? first + kFlushLines : lines;
        __m256i partial[TokenTile][Tiles][2];  // int16
#pragma GCC unroll 8
        for (int m = 0; m < TokenTile; ++m) {
#pragma GCC unroll 8
          for (int n = 0; n < Tiles; ++n) {
            for (int h = 0; h < 2; ++h) partial[m][n][h] = _mm256_setzero_si256();
          }
        }
        for (long long i = first; i < last; ++i) {
          __m256i packed[Tiles][2];
#pragma GCC unroll 8
          for (int n = 0; n < Tiles; ++n) {
            const uint8_t* line = w[n] + i * kLineBytes;
            if constexpr (Prefetch != 0) _mm_prefetch(reinterpret_cast<const char*>(line) + Prefetch, _MM_HINT_T0);
            for (int h = 0; h < 2; ++h) packed[n][h] = _mm256_load_si256(reinterpret_cast<const __m256i*>(line) + h);
          }
#pragma GCC unroll 4
          for (int p = 0; p < kFours; ++p) {  // k = kLineK i + 4 p .. + 3
            __m256i codes[Tiles][2];
#pragma GCC unroll 8
            for (int n = 0; n < Tiles; ++n) {
              for (int h = 0; h < 2; ++h) codes[n][h] = _mm256_and_si256(_mm256_srli_epi16(packed[n][h], 2 * p), mask);
            }
#pragma GCC unroll 8
            for (int m = 0; m < TokenTile; ++m) {
              const int8_t* four = x + ((kFours * i + p) * M + m) * 4;
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
#pragma GCC unroll 8
        for (int m = 0; m < TokenTile; ++m) {
#pragma GCC unroll 8
          for (int n = 0; n < Tiles; ++n) {
            for (int h = 0; h < 2; ++h) {
              total[m][n][h] = _mm256_add_epi32(total[m][n][h], _mm256_madd_epi16(partial[m][n][h], ones));
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
          for (int h = 0; h < 2; ++h) {
            const __m256i sum = _mm256_sub_epi32(total[m][n][h], _mm256_set1_epi32(x_sum));
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(y) + h, sum);
          }
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
}  // namespace bitnet_kernels::avx2_family

#endif  // BITNET_GENERATED_I2S_BATCH_AVX2_H_
