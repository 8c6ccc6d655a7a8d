// i2s_gemv for NEON: int32 matrix-vector products over layout t2 (runtime/kernels/layout.h).
//
// GENERATED from templates/gemv.h.j2 and templates/dict/neon/i2s.j2
// by templates/render.py. DO NOT EDIT: change the templates and run templates/render.py again.
//
// A line is four registers of four rows. Shifts and a mask give the four 2-bit fields; SMLAL adds 8 products of a field
// and of activations, four k a row, into int16 sums, which go to int32 every 32 lines.
#ifndef BITNET_GENERATED_I2S_GEMV_NEON_H_
#define BITNET_GENERATED_I2S_GEMV_NEON_H_

#include <arm_neon.h>
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

namespace bitnet_kernels::neon_family {
namespace {
namespace i2s_gemv_detail {

// A line: 16 rows x kLineK weights (runtime/kernels/layout_t2.cc), which meet kFours times 4 activations.
constexpr long long kLineK = 16;
constexpr long long kLineBytes = 64;
[[maybe_unused]] constexpr int kFours = kLineK / 4;

// Lane `lane`, four of 16 activations, for every row. `lane` is a constant once loops are unrolled.
inline int8x16_t spread(int8x16_t fours, int lane) {
  const int32x4_t lanes = vreinterpretq_s32_s8(fours);
  switch (lane) {
    case 0:
      return vreinterpretq_s8_s32(vdupq_laneq_s32(lanes, 0));
    case 1:
      return vreinterpretq_s8_s32(vdupq_laneq_s32(lanes, 1));
    case 2:
      return vreinterpretq_s8_s32(vdupq_laneq_s32(lanes, 2));
    default:
      return vreinterpretq_s8_s32(vdupq_laneq_s32(lanes, 3));
  }
}

// Each line adds four products to a sum; the largest is a code of 2 times 127.
constexpr int kFlushLines = 32;
constexpr int kChain = 4 * kFlushLines;
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
  const uint8x16_t mask = vdupq_n_u8(3);
  for (long long t = 0; t < count; ++t, ++tile) {
    const uint8_t* w[Streams];
#pragma GCC unroll 8
    for (int s = 0; s < Streams; ++s) w[s] = a->weights + (tile + s * distance) * lines * kLineBytes;
    for (long long g = 0; g < groups; ++g) {
      const long long begin = g * group_lines;
      const long long end = Group == 0 || begin + group_lines > lines ? lines : begin + group_lines;
      int32x4_t total[Streams][4][2];  // rows 4h and 4h + 1, rows 4h + 2 and 4h + 3, each in two halves
#pragma GCC unroll 8
      for (int s = 0; s < Streams; ++s) {
        for (int h = 0; h < 4; ++h) total[s][h][0] = total[s][h][1] = vdupq_n_s32(0);
      }
      for (long long first = begin; first < end; first += kFlushLines) {
        const long long last = first + kFlushLines < end ? first + kFlushLines : end;
        int16x8_t partial[Streams][4][2];
#pragma GCC unroll 8
        for (int s = 0; s < Streams; ++s) {
          for (int h = 0; h < 4; ++h) partial[s][h][0] = partial[s][h][1] = vdupq_n_s16(0);
        }
        for (long long i = first; i < last; ++i) {
          const int8_t* x = a->x + i * kLineK;
          const int8x16_t fours = vld1q_s8(x);
          const int8x16_t xp[kFours] = {spread(fours, 0), spread(fours, 1), spread(fours, 2), spread(fours, 3)};
#pragma GCC unroll 8
          for (int s = 0; s < Streams; ++s) {
            const uint8_t* line = w[s] + i * kLineBytes;
            if constexpr (Prefetch != 0) __builtin_prefetch(line + Prefetch, 0, 2);
#pragma GCC unroll 4
            for (int h = 0; h < 4; ++h) {
              const uint8x16_t packed = vld1q_u8(line + 16 * h);
              const uint8x16_t fields[kFours] = {vandq_u8(packed, mask), vandq_u8(vshrq_n_u8(packed, 2), mask),
                                                 vandq_u8(vshrq_n_u8(packed, 4), mask), vshrq_n_u8(packed, 6)};
#pragma GCC unroll 4
              for (int p = 0; p < kFours; ++p) {
                const int8x16_t codes = vreinterpretq_s8_u8(fields[p]);
                partial[s][h][0] = vmlal_s8(partial[s][h][0], vget_low_s8(codes), vget_low_s8(xp[p]));
                partial[s][h][1] = vmlal_high_s8(partial[s][h][1], codes, xp[p]);
              }
            }
          }
        }
#pragma GCC unroll 8
        for (int s = 0; s < Streams; ++s) {
          for (int h = 0; h < 4; ++h) {
            for (int e = 0; e < 2; ++e) total[s][h][e] = vpadalq_s16(total[s][h][e], partial[s][h][e]);
          }
        }
      }
      const int32_t x_sum = a->x_sums[g];
      int32_t* sums = a->y + (Group == 0 ? 0 : g * a->y_stride);
#pragma GCC unroll 8
      for (int s = 0; s < Streams; ++s) {
        int32_t* y = sums + (tile + s * distance) * BITNET_TILE_ROWS;
        for (int h = 0; h < 4; ++h) {
          const int32x4_t sum = vpaddq_s32(total[s][h][0], total[s][h][1]);
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
}  // namespace bitnet_kernels::neon_family

#endif  // BITNET_GENERATED_I2S_GEMV_NEON_H_
