// t5_gemv for any CPU: int32 matrix-vector products over layout t5 (runtime/kernels/layout.h).
//
// GENERATED from templates/gemv.h.j2 and templates/dict/scalar/t5.j2
// by templates/render.py. DO NOT EDIT: change the templates and run templates/render.py again.
//
// One line at a time: each of its 64 bytes belongs to one row and is looked up for five codes, 4 k apart.
#ifndef BITNET_GENERATED_T5_GEMV_SCALAR_H_
#define BITNET_GENERATED_T5_GEMV_SCALAR_H_

#include <stddef.h>
#include <stdint.h>

#include "runtime/kernels/kernel_abi.h"

// All sums are int32: there is no int16 accumulation to bound.

namespace bitnet_kernels::scalar_family {
namespace {
namespace t5_gemv_detail {

// A line: 16 rows x kLineK weights (runtime/kernels/layout_t5.cc), which meet kFours times 4 activations.
constexpr long long kLineK = 20;
constexpr long long kLineBytes = 64;
[[maybe_unused]] constexpr int kFours = kLineK / 4;

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

template <long long K>
constexpr long long line_count([[maybe_unused]] const bitnet_gemv_args* a) {
  return ((K != 0 ? K : a->k) + kLineK - 1) / kLineK;
}

// Tiles tile .. tile + count - 1 and, with several streams, the same number of tiles `distance`, 2 * `distance`, ...
// further on. Streams are read side by side: far-apart addresses keep more memory requests in flight than one stream.
template <long long K, int Group, int Streams, int Prefetch>
inline void pass(const bitnet_gemv_args* a, long long tile, long long distance, long long count) {
  const long long lines = line_count<K>(a);
  const long long group_lines = Group == 0 ? lines : Group / kLineK;
  const long long groups = Group == 0 ? 1 : (lines + group_lines - 1) / group_lines;
  for (long long t = 0; t < count; ++t, ++tile) {
    const uint8_t* w[Streams];
#pragma GCC unroll 8
    for (int s = 0; s < Streams; ++s) w[s] = a->weights + (tile + s * distance) * lines * kLineBytes;
    for (long long g = 0; g < groups; ++g) {
      const long long begin = g * group_lines;
      const long long end = Group == 0 || begin + group_lines > lines ? lines : begin + group_lines;
      int32_t total[Streams][kRows];
#pragma GCC unroll 8
      for (int s = 0; s < Streams; ++s) {
        for (int r = 0; r < kRows; ++r) total[s][r] = 0;
      }
      for (long long i = begin; i < end; ++i) {
        const int8_t* x = a->x + i * kLineK;
#pragma GCC unroll 8
        for (int s = 0; s < Streams; ++s) {
          const uint8_t* line = w[s] + i * kLineBytes;
          if constexpr (Prefetch != 0) __builtin_prefetch(line + Prefetch, 0, 2);
          for (int r = 0; r < kRows; ++r) {
            for (int j = 0; j < 4; ++j) {
              const int codes = kCodes.of[line[4 * r + j]];
              total[s][r] += (codes & 3) * x[j] + ((codes >> 2) & 3) * x[4 + j];
              total[s][r] += ((codes >> 4) & 3) * x[8 + j] + ((codes >> 6) & 3) * x[12 + j];
              total[s][r] += (codes >> 8) * x[16 + j];
            }
          }
        }
      }
      const int32_t x_sum = a->x_sums[g];
      int32_t* sums = a->y + (Group == 0 ? 0 : g * a->y_stride);
#pragma GCC unroll 8
      for (int s = 0; s < Streams; ++s) {
        int32_t* y = sums + (tile + s * distance) * BITNET_TILE_ROWS;
        for (int r = 0; r < kRows; ++r) y[r] = total[s][r] - x_sum;
      }
    }
  }
}

}  // namespace t5_gemv_detail

// Scratch that a call needs, in bytes: none.
template <long long K, int Group, int Streams>
constexpr size_t t5_gemv_scratch_bytes() {
  return 0;
}

// y = W x for rows a->row_begin .. a->row_end (kernel_abi.h, op gemv), exact for K <= 8000000.
//   N, K      the matrix; K = 0 reads a->k. Rows always come from the arguments.
//   Group     k of a K-group, whole lines; 0: one sum over K
//   Streams   tiles worked on side by side: the row range is cut into that many parts
//   Prefetch  bytes ahead of each stream that are fetched into L2; 0: none. Past the end it touches nothing.
template <long long N, long long K, int Group, int Streams, int Prefetch>
inline void t5_gemv(const bitnet_gemv_args* a) {
  namespace detail = t5_gemv_detail;
  static_assert(Group == 0 || ((Group == 64 || Group == 128 || Group == 256) && Group % detail::kLineK == 0),
                "t5_gemv: no K-groups of this size");
  static_assert(N >= 0 && K >= 0 && K <= 8000000LL && Streams >= 1 && Streams <= 8 && Prefetch >= 0,
                "t5_gemv: parameter out of range");
  const long long begin = a->row_begin / BITNET_TILE_ROWS;
  const long long end = (a->row_end + BITNET_TILE_ROWS - 1) / BITNET_TILE_ROWS;
  const long long part = (end - begin) / Streams;
  detail::pass<K, Group, Streams, Prefetch>(a, begin, part, part);
  if constexpr (Streams > 1) {
    const long long rest = begin + part * Streams;
    detail::pass<K, Group, 1, Prefetch>(a, rest, 0, end - rest);
  }
}

}  // namespace
}  // namespace bitnet_kernels::scalar_family

#endif  // BITNET_GENERATED_T5_GEMV_SCALAR_H_
