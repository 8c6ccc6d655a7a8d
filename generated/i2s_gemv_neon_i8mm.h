// i2s_gemv for NEON with I8MM: int32 matrix-vector products over layout t2 (runtime/kernels/layout.h).
//
// GENERATED from templates/gemv.h.j2 and templates/dict/neon_i8mm/i2s.j2
// by templates/render.py. DO NOT EDIT: change the templates and run templates/render.py again.
//
// A line is four registers of four rows. Fields 0, 1 and 2 are masked in place, 1, 4 and 16 times their codes, field 3
// is shifted down; each meets its four activations by SDOT. Sums of the same factor share an accumulator and are put
// right at the end.
#ifndef BITNET_GENERATED_I2S_GEMV_NEON_I8MM_H_
#define BITNET_GENERATED_I2S_GEMV_NEON_I8MM_H_

#include <arm_neon.h>
#include <stddef.h>
#include <stdint.h>

#include "runtime/kernels/kernel_abi.h"

// All sums are int32: there is no int16 accumulation to bound.

namespace bitnet_kernels::neon_i8mm_family {
namespace {
namespace i2s_gemv_detail {

// A line: 16 rows x kLineK weights (runtime/kernels/layout_t2.cc), which meet kFours times 4 activations.
constexpr long long kLineK = 16;
constexpr long long kLineBytes = 64;
[[maybe_unused]] constexpr int kFours = kLineK / 4;

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
  const uint8x16_t mask0 = vdupq_n_u8(0x03);
  const uint8x16_t mask1 = vdupq_n_u8(0x0C);
  const uint8x16_t mask2 = vdupq_n_u8(0x30);
  for (long long t = 0; t < count; ++t, ++tile) {
    const uint8_t* w[Streams];
#pragma GCC unroll 8
    for (int s = 0; s < Streams; ++s) w[s] = a->weights + (tile + s * distance) * lines * kLineBytes;
    for (long long g = 0; g < groups; ++g) {
      const long long begin = g * group_lines;
      const long long end = Group == 0 || begin + group_lines > lines ? lines : begin + group_lines;
      int32x4_t total[Streams][4][3];  // rows 4h .. 4h + 3: fields 0 and 3, field 1 times 4, field 2 times 16
#pragma GCC unroll 8
      for (int s = 0; s < Streams; ++s) {
        for (int h = 0; h < 4; ++h) total[s][h][0] = total[s][h][1] = total[s][h][2] = vdupq_n_s32(0);
      }
      for (long long i = begin; i < end; ++i) {
        const int8_t* x = a->x + i * kLineK;
        const int8x16_t fours = vld1q_s8(x);
#pragma GCC unroll 8
        for (int s = 0; s < Streams; ++s) {
          const uint8_t* line = w[s] + i * kLineBytes;
          if constexpr (Prefetch != 0) __builtin_prefetch(line + Prefetch, 0, 2);
#pragma GCC unroll 4
          for (int h = 0; h < 4; ++h) {
            const uint8x16_t packed = vld1q_u8(line + 16 * h);
            const int8x16_t field0 = vreinterpretq_s8_u8(vandq_u8(packed, mask0));
            const int8x16_t field1 = vreinterpretq_s8_u8(vandq_u8(packed, mask1));
            const int8x16_t field2 = vreinterpretq_s8_u8(vandq_u8(packed, mask2));
            const int8x16_t field3 = vreinterpretq_s8_u8(vshrq_n_u8(packed, 6));
            total[s][h][0] = vdotq_laneq_s32(total[s][h][0], field0, fours, 0);
            total[s][h][1] = vdotq_laneq_s32(total[s][h][1], field1, fours, 1);
            total[s][h][2] = vdotq_laneq_s32(total[s][h][2], field2, fours, 2);
            total[s][h][0] = vdotq_laneq_s32(total[s][h][0], field3, fours, 3);
          }
        }
      }
      const int32_t x_sum = a->x_sums[g];
      int32_t* sums = a->y + (Group == 0 ? 0 : g * a->y_stride);
#pragma GCC unroll 8
      for (int s = 0; s < Streams; ++s) {
        int32_t* y = sums + (tile + s * distance) * BITNET_TILE_ROWS;
        for (int h = 0; h < 4; ++h) {
          int32x4_t sum = vaddq_s32(total[s][h][0], vshrq_n_s32(total[s][h][1], 2));
          sum = vaddq_s32(sum, vshrq_n_s32(total[s][h][2], 4));
          vst1q_s32(y + 4 * h, vsubq_s32(sum, vdupq_n_s32(x_sum)));
        }
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

// y = W x for rows a->row_begin .. a->row_end (kernel_abi.h, op gemv), exact for K <= 2000000.
//   N, K      the matrix; K = 0 reads a->k. Rows always come from the arguments.
//   Group     k of a K-group, whole lines; 0: one sum over K
//   Streams   tiles worked on side by side: the row range is cut into that many parts
//   Prefetch  bytes ahead of each stream that are fetched into L2; 0: none. Past the end it touches nothing.
template <long long N, long long K, int Group, int Streams, int Prefetch>
inline void i2s_gemv(const bitnet_gemv_args* a) {
  namespace detail = i2s_gemv_detail;
  static_assert(Group == 0 || ((Group == 64 || Group == 128 || Group == 256) && Group % detail::kLineK == 0),
                "i2s_gemv: no K-groups of this size");
  static_assert(N >= 0 && K >= 0 && K <= 2000000LL && Streams >= 1 && Streams <= 8 && Prefetch >= 0,
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
}  // namespace bitnet_kernels::neon_i8mm_family

#endif  // BITNET_GENERATED_I2S_GEMV_NEON_I8MM_H_
