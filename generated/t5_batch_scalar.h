// t5_batch for any CPU: int32 products of a few tokens over layout t5 (runtime/kernels/layout.h).
//
// GENERATED from templates/batch.h.j2 and templates/dict/scalar/t5.j2
// by templates/render.py. DO NOT EDIT: change the templates and run templates/render.py again.
//
// One line at a time: its bytes are looked up once, and the codes, four k of every row, multiplied with every token.
#ifndef BITNET_GENERATED_T5_BATCH_SCALAR_H_
#define BITNET_GENERATED_T5_BATCH_SCALAR_H_

#include <stddef.h>
#include <stdint.h>

#include "runtime/kernels/kernel_abi.h"

// All sums are int32: there is no int16 accumulation to bound.

namespace bitnet_kernels::scalar_family {
namespace {
namespace t5_batch_detail {

// A line: 16 rows x kLineK weights (runtime/kernels/layout_t5.cc), which meet kFours times 4 activations.
constexpr long long kLineK = 20;
constexpr long long kLineBytes = 64;
constexpr int kFours = kLineK / 4;

constexpr int kRows = BITNET_TILE_ROWS;

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
// The five codes of every byte, digit p in bits 2p+1:2p.
struct Codes {
  uint16_t of[256];
};
constexpr Codes make_codes() {
  Codes codes = {};
  for (int c4 = 0; c4 < 3; ++c4) {
    for (int j = 0; j < 81; ++j) codes.of[encode(j, c4)] = static_cast<uint16_t>(fields(j) | c4 << 8);
  }
  return codes;
}
constexpr Codes kCodes = make_codes();

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
  for (long long t = 0; t < count; ++t, ++tile) {
    const uint8_t* w[Tiles];
#pragma GCC unroll 8
    for (int n = 0; n < Tiles; ++n) w[n] = a->weights + (tile + n * distance) * lines * kLineBytes;
#pragma GCC unroll 1
    for (int from = 0; from < M; from += TokenTile) {
      if (from >= a->tokens) break;
      const int8_t* x = a->x + from * 4;
      int32_t total[TokenTile][Tiles][kRows];
#pragma GCC unroll 8
      for (int m = 0; m < TokenTile; ++m) {
#pragma GCC unroll 8
        for (int n = 0; n < Tiles; ++n) {
          for (int r = 0; r < kRows; ++r) total[m][n][r] = 0;
        }
      }
      for (long long i = 0; i < lines; ++i) {
        if constexpr (kFar) {
#pragma GCC unroll 8
          for (int b = 0; b < kStepBytes; b += 64) __builtin_prefetch(x + i * kStepBytes + b + kAheadBytes, 0, 3);
        }
        uint16_t packed[Tiles][kLineBytes];
#pragma GCC unroll 8
        for (int n = 0; n < Tiles; ++n) {
          const uint8_t* line = w[n] + i * kLineBytes;
          if constexpr (Prefetch != 0) __builtin_prefetch(line + Prefetch, 0, 2);
          for (int b = 0; b < kLineBytes; ++b) packed[n][b] = kCodes.of[line[b]];
        }
#pragma GCC unroll 5
        for (int p = 0; p < kFours; ++p) {  // k = kLineK i + 4 p .. + 3
          uint8_t codes[Tiles][kLineBytes];
#pragma GCC unroll 8
          for (int n = 0; n < Tiles; ++n) {
            for (int b = 0; b < kLineBytes; ++b) codes[n][b] = (packed[n][b] >> (2 * p)) & 3;
          }
#pragma GCC unroll 8
          for (int m = 0; m < TokenTile; ++m) {
            const int8_t* four = x + ((kFours * i + p) * M + m) * 4;
#pragma GCC unroll 8
            for (int n = 0; n < Tiles; ++n) {
              for (int r = 0; r < kRows; ++r) {
                for (int j = 0; j < 4; ++j) total[m][n][r] += codes[n][4 * r + j] * four[j];
              }
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
          for (int r = 0; r < kRows; ++r) y[r] = total[m][n][r] - x_sum;
        }
      }
    }
  }
}

}  // namespace t5_batch_detail

// Y = X W^T for rows a->row_begin .. a->row_end and a->tokens <= M tokens (kernel_abi.h, op gemm), exact for
// K <= 8000000. No scratch.
//   N, K      the matrix; K = 0 reads a->k. Rows always come from the arguments.
//   M         the most tokens, and the token tile of the packed activations
//   Streams   tiles worked on side by side: the row range is cut into that many parts
//   Prefetch  bytes ahead of each stream that are fetched into L2; 0: none. Past the end it touches nothing.
template <long long N, long long K, int M, int Streams, int Prefetch>
inline void t5_batch(const bitnet_gemm_args* a) {
  namespace detail = t5_batch_detail;
  static_assert(N >= 0 && K >= 0 && K <= 8000000LL, "t5_batch: matrix size out of range");
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
}  // namespace bitnet_kernels::scalar_family

#endif  // BITNET_GENERATED_T5_BATCH_SCALAR_H_
