// i2s_gemv for any xsimd architecture: int32 matrix-vector products over layout t2 (runtime/kernels/layout.h).
//
// GENERATED from templates/gemv.h.j2 and templates/dict/xsimd/i2s.j2
// by templates/render.py. DO NOT EDIT: change the templates and run templates/render.py again.
//
// A line is seen as int16 lanes: lane L holds bytes 2L and 2L + 1 of row L / 2. The codes of the even and of the odd
// bytes are shifted and masked out, multiplied in int16 with the activations of the same k, and added. Every 16 lines
// the int16 sums go to int32, one lane a row.
#ifndef BITNET_GENERATED_I2S_GEMV_XSIMD_H_
#define BITNET_GENERATED_I2S_GEMV_XSIMD_H_

#include <stddef.h>
#include <stdint.h>

#include <xsimd/xsimd.hpp>

#include "runtime/kernels/kernel_abi.h"

#ifndef BITNET_XSIMD_ARCH
#error "define BITNET_XSIMD_ARCH as an xsimd architecture, e.g. xsimd::sse2 or xsimd::avx2, before including this file"
#endif

// Marks a function that accumulates in int16: `chain` products of at most `product` each. The audit of generated code
// refuses int16 accumulation outside such a function and checks chain * product <= 32767.
#ifndef BITNET_INT16_BOUND
#ifdef __clang__
#define BITNET_INT16_BOUND(chain, product) __attribute__((annotate("bitnet.int16_bound", chain, product)))
#else
#define BITNET_INT16_BOUND(chain, product)
#endif
#endif

namespace bitnet_kernels::xsimd_family {
namespace {
namespace i2s_gemv_detail {

// A line: 16 rows x kLineK weights (runtime/kernels/layout_t2.cc), which meet kFours times 4 activations.
constexpr long long kLineK = 16;
constexpr long long kLineBytes = 64;
[[maybe_unused]] constexpr int kFours = kLineK / 4;

// Four int8 activations, read at once.
typedef int32_t Dword __attribute__((__may_alias__));
using Words = xsimd::batch<int16_t, BITNET_XSIMD_ARCH>;
using Dwords = xsimd::batch<int32_t, BITNET_XSIMD_ARCH>;
constexpr int kVectors = kLineBytes / (2 * static_cast<int>(Words::size));
static_assert(kVectors >= 1, "a vector is longer than a line");
// Each line adds eight products to a sum; the largest is a code of 2 times 127.
constexpr int kFlushLines = 16;
constexpr int kChain = 8 * kFlushLines;
constexpr int kLargestProduct = 2 * 127;
static_assert(kChain * kLargestProduct <= 32767, "an int16 sum of i2s_gemv could overflow");

template <long long K>
constexpr long long line_count([[maybe_unused]] const bitnet_gemv_args* a) {
  return ((K != 0 ? K : a->k) + kLineK - 1) / kLineK;
}

// Tiles tile .. tile + count - 1 and, with several streams, the same number of tiles `distance`, 2 * `distance`, ...
// further on. Streams are read side by side: far-apart addresses keep more memory requests in flight than one stream.
template <long long K, int Group, int Streams, int Prefetch>
BITNET_INT16_BOUND(kChain, kLargestProduct)
inline void pass(const bitnet_gemv_args* a, long long tile, long long distance, long long count) {
  const long long lines = line_count<K>(a);
  const long long group_lines = Group == 0 ? lines : Group / kLineK;
  const long long groups = Group == 0 ? 1 : (lines + group_lines - 1) / group_lines;
  const Words mask(3);
  for (long long t = 0; t < count; ++t, ++tile) {
    const uint8_t* w[Streams];
#pragma GCC unroll 8
    for (int s = 0; s < Streams; ++s) w[s] = a->weights + (tile + s * distance) * lines * kLineBytes;
    for (long long g = 0; g < groups; ++g) {
      const long long begin = g * group_lines;
      const long long end = Group == 0 || begin + group_lines > lines ? lines : begin + group_lines;
      Dwords total[Streams][kVectors];
#pragma GCC unroll 8
      for (int s = 0; s < Streams; ++s) {
        for (int v = 0; v < kVectors; ++v) total[s][v] = Dwords(0);
      }
      for (long long first = begin; first < end; first += kFlushLines) {
        const long long last = first + kFlushLines < end ? first + kFlushLines : end;
        Words partial[Streams][kVectors];
#pragma GCC unroll 8
        for (int s = 0; s < Streams; ++s) {
          for (int v = 0; v < kVectors; ++v) partial[s][v] = Words(0);
        }
        for (long long i = first; i < last; ++i) {
          const int8_t* x = a->x + i * kLineK;
          const Dword* fours = reinterpret_cast<const Dword*>(x);
          const Words x0 = xsimd::bitwise_cast<Words>(Dwords(fours[0]));
          const Words even0 = (x0 << 8) >> 8;
          const Words odd0 = x0 >> 8;
          const Words x1 = xsimd::bitwise_cast<Words>(Dwords(fours[1]));
          const Words even1 = (x1 << 8) >> 8;
          const Words odd1 = x1 >> 8;
          const Words x2 = xsimd::bitwise_cast<Words>(Dwords(fours[2]));
          const Words even2 = (x2 << 8) >> 8;
          const Words odd2 = x2 >> 8;
          const Words x3 = xsimd::bitwise_cast<Words>(Dwords(fours[3]));
          const Words even3 = (x3 << 8) >> 8;
          const Words odd3 = x3 >> 8;
#pragma GCC unroll 8
          for (int s = 0; s < Streams; ++s) {
            const uint8_t* line = w[s] + i * kLineBytes;
            if constexpr (Prefetch != 0) __builtin_prefetch(line + Prefetch, 0, 2);
#pragma GCC unroll 4
            for (int v = 0; v < kVectors; ++v) {
              const Words codes = Words::load_aligned(reinterpret_cast<const int16_t*>(line) + v * Words::size);
              const Words dot0 = (codes & mask) * even0 + ((codes >> 8) & mask) * odd0;
              const Words dot1 = ((codes >> 2) & mask) * even1 + ((codes >> 10) & mask) * odd1;
              const Words dot2 = ((codes >> 4) & mask) * even2 + ((codes >> 12) & mask) * odd2;
              const Words dot3 = ((codes >> 6) & mask) * even3 + ((codes >> 14) & mask) * odd3;
              partial[s][v] += (dot0 + dot1) + (dot2 + dot3);
            }
          }
        }
#pragma GCC unroll 8
        for (int s = 0; s < Streams; ++s) {
          for (int v = 0; v < kVectors; ++v) {
            const Dwords pairs = xsimd::bitwise_cast<Dwords>(partial[s][v]);
            total[s][v] += ((pairs << 16) >> 16) + (pairs >> 16);
          }
        }
      }
      const int32_t x_sum = a->x_sums[g];
      int32_t* sums = a->y + (Group == 0 ? 0 : g * a->y_stride);
#pragma GCC unroll 8
      for (int s = 0; s < Streams; ++s) {
        int32_t* y = sums + (tile + s * distance) * BITNET_TILE_ROWS;
        for (int v = 0; v < kVectors; ++v) (total[s][v] - Dwords(x_sum)).store_unaligned(y + v * Dwords::size);
      }
    }
  }
}

}  // namespace i2s_gemv_detail

// Scratch that a call needs, in bytes: none.
template <long long K, int Group, int Streams>
constexpr size_t i2s_gemv_scratch_bytes() {
  return 0;
}

// y = W x for rows a->row_begin .. a->row_end (kernel_abi.h, op gemv), exact for K <= 8000000.
//   N, K      the matrix; K = 0 reads a->k. Rows always come from the arguments.
//   Group     k of a K-group, whole lines; 0: one sum over K
//   Streams   tiles worked on side by side: the row range is cut into that many parts
//   Prefetch  bytes ahead of each stream that are fetched into L2; 0: none. Past the end it touches nothing.
template <long long N, long long K, int Group, int Streams, int Prefetch>
inline void i2s_gemv(const bitnet_gemv_args* a) {
  namespace detail = i2s_gemv_detail;
  static_assert(Group == 0 || ((Group == 64 || Group == 128 || Group == 256) && Group % detail::kLineK == 0),
                "i2s_gemv: no K-groups of this size");
  static_assert(N >= 0 && K >= 0 && K <= 8000000LL && Streams >= 1 && Streams <= 8 && Prefetch >= 0,
                "i2s_gemv: parameter out of range");
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
}  // namespace bitnet_kernels::xsimd_family

#endif  // BITNET_GENERATED_I2S_GEMV_XSIMD_H_
