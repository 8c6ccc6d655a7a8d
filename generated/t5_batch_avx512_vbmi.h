// t5_batch for AVX-512 with VNNI and VBMI: int32 products of a few tokens over layout t5 (runtime/kernels/layout.h).
//
// GENERATED from templates/batch.h.j2 and templates/dict/avx512_vbmi/t5.j2
// by templates/render.py. DO NOT EDIT: change the templates and run templates/render.py again.
//
// A line is loaded and decoded by three byte lookups once and multiplied with all tokens. With few sums the four fields
// of the looked up codes are masked in place, as in t5_gemv, and each has a sum of its own; with many, where registers
// run out, they are shifted.
#ifndef BITNET_GENERATED_T5_BATCH_AVX512_VBMI_H_
#define BITNET_GENERATED_T5_BATCH_AVX512_VBMI_H_

#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>

#include "runtime/kernels/kernel_abi.h"

// All sums are int32: there is no int16 accumulation to bound.

namespace bitnet_kernels::avx512_vbmi_family {
namespace {
namespace t5_batch_detail {

// A line: 16 rows x kLineK weights (runtime/kernels/layout_t5.cc), which meet kFours times 4 activations.
constexpr long long kLineK = 20;
constexpr long long kLineBytes = 64;
constexpr int kFours = kLineK / 4;

// Four int8 activations, read at once.
typedef int32_t Dword __attribute__((__may_alias__));

// The byte of four digits j = c0 + 3 c1 + 9 c2 + 27 c3 and the fifth, c4 (runtime/kernels/layout_t5.cc).
constexpr int encode(int j, int c4) {
  const int q = 2 - c4;
  const int sum = j / 4 + 11 * q;
  const int u = sum % 32;
  const int y = (j % 4 + sum / 32) % 4;
  const bool shared = q == 2 || (q == 1 && u <= 20);  // a smaller q has this u too
  return 64 * y + 2 * u + (shared ? 1 : 0);
}
// c0 .. c3, digit p in bits 2p+1:2p.
constexpr int fields(int j) { return j % 3 | j / 3 % 3 << 2 | j / 9 % 3 << 4 | j / 27 << 6; }
// h by bits 5..0 of a byte, c4 by the same, and the four other codes by bits 6..0 of the average of byte and h.
struct alignas(64) Tables {
  uint8_t h[64];
  uint8_t fifth[64];
  uint8_t four[128];
};
constexpr Tables make_tables() {
  Tables tables = {};
  for (int c4 = 0; c4 < 3; ++c4) {
    for (int j = 0; j < 81; ++j) {
      const int byte = encode(j, c4);
      const int h = 211 + 22 * c4;
      tables.h[byte % 64] = static_cast<uint8_t>(h);
      tables.fifth[byte % 64] = static_cast<uint8_t>(c4);
      tables.four[(byte + h + 1) / 2 % 128] = static_cast<uint8_t>(fields(j));
    }
  }
  return tables;
}
constexpr Tables kTables = make_tables();

// Fields that stay in place, of `sums` sums (tokens times tiles).
constexpr int in_place(int sums) { return sums <= 4 ? 4 : sums <= 8 ? 2 : 1; }

// Packed activations beyond this leave a 32 KiB L1 cache between two tiles; they are then fetched ahead.
constexpr long long kNearBytes = 24 * 1024;
constexpr long long kAheadBytes = 512;
// Tokens whose sums fit the registers; more are served by further passes over the tile, which by then is near.
constexpr int kPassTokens = 8;

// Tiles tile .. tile + count - 1 and, with several streams (`Tiles`), the same number of tiles `distance`,
// 2 * `distance`, ... further on, read side by side.
template <long long K, int M, int Tiles, int Prefetch>
inline void pass(const bitnet_gemm_args* a, long long tile, long long distance, long long count) {
  constexpr int TokenTile = M < kPassTokens ? M : kPassTokens;
  static_assert(M % TokenTile == 0, "t5_batch: M is no multiple of the tokens of a pass");
  constexpr int kStepBytes = kFours * 4 * M;  // packed activations of a line
  constexpr bool kFar = K == 0 || BITNET_ACTIVATION_WIDTH(K) * M > kNearBytes;
  const long long lines = ((K != 0 ? K : a->k) + kLineK - 1) / kLineK;
  const __m512i table_h = _mm512_load_si512(kTables.h);
  const __m512i table_low = _mm512_load_si512(kTables.four);
  const __m512i table_high = _mm512_load_si512(kTables.four + 64);
  const __m512i table_fifth = _mm512_load_si512(kTables.fifth);
  constexpr int kFields = in_place(TokenTile * Tiles);
  for (long long t = 0; t < count; ++t, ++tile) {
    const uint8_t* w[Tiles];
#pragma GCC unroll 8
    for (int n = 0; n < Tiles; ++n) w[n] = a->weights + (tile + n * distance) * lines * kLineBytes;
#pragma GCC unroll 1
    for (int from = 0; from < M; from += TokenTile) {
      if (from >= a->tokens) break;
      const int8_t* x = a->x + from * 4;
      __m512i total[TokenTile][Tiles][kFields];
#pragma GCC unroll 8
      for (int m = 0; m < TokenTile; ++m) {
#pragma GCC unroll 8
        for (int n = 0; n < Tiles; ++n) {
          for (int f = 0; f < kFields; ++f) total[m][n][f] = _mm512_setzero_si512();
        }
      }
      for (long long i = 0; i < lines; ++i) {
        if constexpr (kFar) {
#pragma GCC unroll 8
          for (int b = 0; b < kStepBytes; b += 64) __builtin_prefetch(x + i * kStepBytes + b + kAheadBytes, 0, 3);
        }
        __m512i packed[Tiles];  // codes 0 to 3, in fields
        __m512i fifth[Tiles];   // code 4
#pragma GCC unroll 8
        for (int n = 0; n < Tiles; ++n) {
          const uint8_t* line = w[n] + i * kLineBytes;
          if constexpr (Prefetch != 0) _mm_prefetch(reinterpret_cast<const char*>(line) + Prefetch, _MM_HINT_T1);
          const __m512i bytes = _mm512_load_si512(line);
          const __m512i h = _mm512_permutexvar_epi8(bytes, table_h);
          packed[n] = _mm512_permutex2var_epi8(table_low, _mm512_avg_epu8(bytes, h), table_high);
          fifth[n] = _mm512_permutexvar_epi8(bytes, table_fifth);
        }
#pragma GCC unroll 5
        for (int p = 0; p < kFours; ++p) {  // k = kLineK i + 4 p .. + 3
          __m512i codes[Tiles];
#pragma GCC unroll 8
          for (int n = 0; n < Tiles; ++n) {
            const int f = p % 4 % kFields;
            const __m512i mask = _mm512_set1_epi8(static_cast<char>(3 << (2 * f)));
            codes[n] = p == 4 ? fifth[n] : _mm512_and_si512(_mm512_srli_epi16(packed[n], 2 * (p - f)), mask);
          }
#pragma GCC unroll 8
          for (int m = 0; m < TokenTile; ++m) {
            const int8_t* four = x + ((kFours * i + p) * M + m) * 4;
            const __m512i xm = _mm512_set1_epi32(*reinterpret_cast<const Dword*>(four));
#pragma GCC unroll 8
            for (int n = 0; n < Tiles; ++n) {
              total[m][n][p % 4 % kFields] = _mm512_dpbusd_epi32(total[m][n][p % 4 % kFields], codes[n], xm);
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
          __m512i sum = _mm512_sub_epi32(total[m][n][0], _mm512_set1_epi32(x_sum));
          for (int f = 1; f < kFields; ++f) sum = _mm512_add_epi32(sum, _mm512_srai_epi32(total[m][n][f], 2 * f));
          _mm512_storeu_si512(y, sum);
        }
      }
    }
  }
}

}  // namespace t5_batch_detail

// Y = X W^T for rows a->row_begin .. a->row_end and a->tokens <= M tokens (kernel_abi.h, op gemm), exact for
// K <= 660000. No scratch.
//   N, K      the matrix; K = 0 reads a->k. Rows always come from the arguments.
//   M         the most tokens, and the token tile of the packed activations
//   Streams   tiles worked on side by side: the row range is cut into that many parts
//   Prefetch  bytes ahead of each stream that are fetched into L2; 0: none. Past the end it touches nothing.
template <long long N, long long K, int M, int Streams, int Prefetch>
inline void t5_batch(const bitnet_gemm_args* a) {
  namespace detail = t5_batch_detail;
  static_assert(N >= 0 && K >= 0 && K <= 660000LL, "t5_batch: matrix size out of range");
  static_assert(M >= 1 && M <= 8 && Streams >= 1 && Streams <= 8 && Prefetch >= 0, "t5_batch: parameter out of range");
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
}  // namespace bitnet_kernels::avx512_vbmi_family

#endif  // BITNET_GENERATED_T5_BATCH_AVX512_VBMI_H_
