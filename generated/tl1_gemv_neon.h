// tl1_gemv for NEON: int32 matrix-vector products over layout tl1 (runtime/kernels/layout_tl.cc).
//
// GENERATED from templates/lut_gemv.h.j2 and templates/dict/neon/tl1.j2
// by templates/render.py. DO NOT EDIT: change the templates and run templates/render.py again.
//
// The call first computes, for every 2 activations that share an index, the sums of all their combinations with
// weights -1, 0, +1 into a table of 16 entries in its scratch; from then on 2 weights are one lookup.
//
// 16 rows are looked up at once. An entry v is kept as two bytes, v = 64 * high + low with the sign of v on both. The
// low parts of two tables that share a byte of indices are stored as 189 + low and 63 - low, so that UABAL, which adds
// the distance of two bytes to 16 bits, adds both of them (and 126) at once. High parts are zero unless two activations
// together pass 63, which is rare in a model: a line's tables say whether any is not, and only then are they read.
#ifndef BITNET_GENERATED_TL1_GEMV_NEON_H_
#define BITNET_GENERATED_TL1_GEMV_NEON_H_

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
namespace tl1_gemv_detail {

// A line: 16 rows x kLineK weights; kWeights of them share an index.
constexpr long long kLineK = 16;
constexpr long long kLineBytes = 64;
constexpr int kWeights = 2;
// 16 entries of two bytes for every index of a row.
constexpr long long kTableBytes = kLineK / kWeights * 32;
constexpr int kLargestEntry = kWeights * 127;

// kEntry.of[p][e]: the weight that activation p has in table entry e, 0 in entries that no index names.
struct Entries {
  alignas(64) int16_t of[kWeights][16];
};
constexpr Entries make_entries() {
  Entries entries = {};
  for (int e = 0; e < 9; ++e) {
    entries.of[0][e] = static_cast<int16_t>(e % 3 - 1);
    entries.of[1][e] = static_cast<int16_t>(e / 3 - 1);
  }
  return entries;
}
constexpr Entries kEntry = make_entries();

// Lookups of a line that are added into the same int16 lane, and the lines after which these go to int32.
constexpr int kLaneLookups = 8;
constexpr int kFlushLines = 32767 / kLargestEntry / kLaneLookups;
constexpr int kChain = kFlushLines * kLaneLookups;
static_assert(kFlushLines >= 1 && kChain * kLargestEntry <= 32767, "an int16 sum of tl1_gemv could overflow");

// Of a line: four columns of 16 bytes, each with two tables of low parts, then of high parts.
constexpr int kColumns = 4;
constexpr int kHighTables = 128;
constexpr int kHighFlag = kHighTables + 15;  // in an entry that no index names
constexpr int kUnit = 64;
constexpr int kLargestLow = kUnit - 1;
constexpr int kLargestHigh = kLargestEntry / kUnit;
// The first of two bytes is never smaller than the second; their distance is the sum of both parts and this.
constexpr int kLowBias = 2 * kLargestLow;
constexpr int kHighBias = 2 * kLargestHigh;
static_assert(2 * kLowBias <= 255 && kColumns * 2 * kLargestHigh <= 127, "sums of bytes");

// Entries of two activations.
struct Parts {
  int8x16_t low;
  int8x16_t high;
};
BITNET_INT16_BOUND(kWeights, 127)
inline void split(int8_t x0, int8_t x1, int half, int16x8_t& low, int16x8_t& high) {
  const int16x8_t entry = vmlaq_n_s16(vmulq_n_s16(vld1q_s16(kEntry.of[0] + 8 * half), x0),
                                      vld1q_s16(kEntry.of[1] + 8 * half), x1);
  // Rounded towards zero.
  const int16x8_t sign = vshrq_n_s16(entry, 15);
  high = vshrq_n_s16(vaddq_s16(entry, vandq_s16(sign, vdupq_n_s16(kUnit - 1))), 6);
  low = vsubq_s16(entry, vshlq_n_s16(high, 6));
}
inline Parts parts(int8_t x0, int8_t x1) {
  int16x8_t low[2];
  int16x8_t high[2];
  split(x0, x1, 0, low[0], high[0]);
  split(x0, x1, 1, low[1], high[1]);
  return {vcombine_s8(vmovn_s16(low[0]), vmovn_s16(low[1])), vcombine_s8(vmovn_s16(high[0]), vmovn_s16(high[1]))};
}

constexpr long long lines_of(long long k) { return (k + kLineK - 1) / kLineK; }
template <long long K>
constexpr long long line_count([[maybe_unused]] const bitnet_gemv_args* a) {
  return lines_of(K != 0 ? K : a->k);
}

// The tables of all lines, in the scratch.
template <long long K>
BITNET_INT16_BOUND(kWeights, 127)
inline void build(const bitnet_gemv_args* a) {
  const long long lines = line_count<K>(a);
  uint8_t* table = static_cast<uint8_t*>(a->scratch);
  const int8_t* x = a->x;
  const int8x16_t low_first = vdupq_n_s8(static_cast<int8_t>(kLargestLow + kLowBias));
  const int8x16_t low_second = vdupq_n_s8(kLargestLow);
  const int8x16_t high_first = vdupq_n_s8(kLargestHigh + kHighBias);
  const int8x16_t high_second = vdupq_n_s8(kLargestHigh);
  for (long long i = 0; i < lines; ++i, table += kTableBytes, x += kLineK) {
    int8x16_t any = vdupq_n_s8(0);
    for (int j = 0; j < kColumns; ++j) {
      const Parts first = parts(x[j], x[4 + j]);
      const Parts second = parts(x[8 + j], x[12 + j]);
      any = vorrq_s8(any, vorrq_s8(first.high, second.high));
      int8_t* column = reinterpret_cast<int8_t*>(table) + 32 * j;
      vst1q_s8(column, vaddq_s8(low_first, first.low));
      vst1q_s8(column + 16, vsubq_s8(low_second, second.low));
      vst1q_s8(column + kHighTables, vaddq_s8(high_first, first.high));
      vst1q_s8(column + kHighTables + 16, vsubq_s8(high_second, second.high));
    }
    table[kHighFlag] = vmaxvq_u8(vreinterpretq_u8_s8(any)) != 0;
  }
}

// Tiles tile .. tile + count - 1 and, with several streams, the same number of tiles `distance`, 2 * `distance`, ...
// further on. Streams are read side by side: far-apart addresses keep more memory requests in flight than one stream,
// and share the tables.
template <long long K, int Group, int Streams, int Prefetch>
BITNET_INT16_BOUND(kChain, kLargestEntry)
inline void pass(const bitnet_gemv_args* a, long long tile, long long distance, long long count) {
  const long long lines = line_count<K>(a);
  const uint8_t* tables = static_cast<const uint8_t*>(a->scratch);
  const uint8x16_t mask = vdupq_n_u8(15);
  for (long long t = 0; t < count; ++t, ++tile) {
    const uint8_t* w[Streams];
#pragma GCC unroll 8
    for (int s = 0; s < Streams; ++s) w[s] = a->weights + (tile + s * distance) * lines * kLineBytes;

    // One round per K-group, or one for all of K.
    const long long group_lines = Group != 0 ? Group / kLineK : lines;
    for (long long group = 0, begin = 0; begin < lines; ++group, begin += group_lines) {
      const long long end = begin + group_lines < lines ? begin + group_lines : lines;
      int32x4_t total[Streams][4];  // rows 4h .. 4h + 3
#pragma GCC unroll 8
      for (int s = 0; s < Streams; ++s) {
        for (int h = 0; h < 4; ++h) total[s][h] = vdupq_n_s32(0);
      }
      for (long long first = begin; first < end; first += kFlushLines) {
        const long long last = first + kFlushLines < end ? first + kFlushLines : end;
        uint16x8_t word[Streams][2];  // rows 0 .. 7, 8 .. 15; they wrap, which the bias taken off at the end undoes
#pragma GCC unroll 8
        for (int s = 0; s < Streams; ++s) {
          word[s][0] = word[s][1] = vdupq_n_u16(0);
        }
        for (long long i = first; i < last; ++i) {
          const uint8_t* table = tables + i * kTableBytes;
#pragma GCC unroll 8
          for (int s = 0; s < Streams; ++s) {
            const uint8_t* line = w[s] + i * kLineBytes;
            if constexpr (Prefetch != 0) __builtin_prefetch(line + Prefetch, 0, 2);
#pragma GCC unroll 4
            for (int j = 0; j < kColumns; ++j) {
              const uint8x16_t packed = vld1q_u8(line + 16 * j);
              const uint8x16_t first = vqtbl1q_u8(vld1q_u8(table + 32 * j), vandq_u8(packed, mask));
              const uint8x16_t second = vqtbl1q_u8(vld1q_u8(table + 32 * j + 16), vshrq_n_u8(packed, 4));
              word[s][0] = vabal_u8(word[s][0], vget_low_u8(first), vget_low_u8(second));
              word[s][1] = vabal_high_u8(word[s][1], first, second);
            }
            if (__builtin_expect(table[kHighFlag] != 0, 0)) {
              uint8x16_t sum = vdupq_n_u8(static_cast<uint8_t>(-kColumns * kHighBias));
              for (int j = 0; j < kColumns; ++j) {
                const uint8x16_t packed = vld1q_u8(line + 16 * j);
                const uint8_t* high = table + kHighTables + 32 * j;
                sum = vabaq_u8(sum, vqtbl1q_u8(vld1q_u8(high), vandq_u8(packed, mask)),
                               vqtbl1q_u8(vld1q_u8(high + 16), vshrq_n_u8(packed, 4)));
              }
              const int8x16_t highs = vreinterpretq_s8_u8(sum);
              const int8x16_t unit = vdupq_n_s8(kUnit);
              word[s][0] = vreinterpretq_u16_s16(
                  vmlal_s8(vreinterpretq_s16_u16(word[s][0]), vget_low_s8(highs), vget_low_s8(unit)));
              word[s][1] = vreinterpretq_u16_s16(vmlal_high_s8(vreinterpretq_s16_u16(word[s][1]), highs, unit));
            }
          }
        }
#pragma GCC unroll 8
        for (int s = 0; s < Streams; ++s) {
          const int16x8_t bias = vdupq_n_s16(static_cast<int16_t>((last - first) * kColumns * kLowBias));
          for (int half = 0; half < 2; ++half) {
            const int16x8_t sum = vsubq_s16(vreinterpretq_s16_u16(word[s][half]), bias);
            total[s][2 * half] = vaddw_s16(total[s][2 * half], vget_low_s16(sum));
            total[s][2 * half + 1] = vaddw_high_s16(total[s][2 * half + 1], sum);
          }
        }
      }
#pragma GCC unroll 8
      for (int s = 0; s < Streams; ++s) {
        int32_t* y = a->y + (tile + s * distance) * BITNET_TILE_ROWS;
        y += Group != 0 ? group * a->y_stride : 0;
        for (int h = 0; h < 4; ++h) vst1q_s32(y + 4 * h, total[s][h]);
      }
    }
  }
}

}  // namespace tl1_gemv_detail

// Scratch that a call with inputs of length k needs, in bytes: the tables.
constexpr size_t tl1_gemv_scratch_bytes_for(long long k) {
  using namespace tl1_gemv_detail;
  return static_cast<size_t>(lines_of(k) * kTableBytes);
}

// The same for a constant K.
template <long long K, int Group, int Streams>
constexpr size_t tl1_gemv_scratch_bytes() {
  static_assert(K > 0, "tl1_gemv: scratch depends on K, ask tl1_gemv_scratch_bytes_for");
  return tl1_gemv_scratch_bytes_for(K);
}

// y = W x for rows a->row_begin .. a->row_end (kernel_abi.h, op gemv), exact for K <= 8000000.
//   N, K      the matrix; K = 0 reads a->k. Rows always come from the arguments.
//   Group     K-group
//   Streams   tiles worked on side by side: the row range is cut into that many parts
//   Prefetch  bytes ahead of each stream that are fetched into L2; 0: none. Past the end it touches nothing.
template <long long N, long long K, int Group, int Streams, int Prefetch>
inline void tl1_gemv(const bitnet_gemv_args* a) {
  static_assert(Group == 0 || Group == 64 || Group == 128 || Group == 256, "tl1_gemv: K-groups of 0, 64, 128 or 256");
  static_assert(N >= 0 && K >= 0 && K <= 8000000LL && Streams >= 1 && Streams <= 8 && Prefetch >= 0,
                "tl1_gemv: parameter out of range");
  const long long begin = a->row_begin / BITNET_TILE_ROWS;
  const long long end = (a->row_end + BITNET_TILE_ROWS - 1) / BITNET_TILE_ROWS;
  const long long part = (end - begin) / Streams;
  tl1_gemv_detail::build<K>(a);
  tl1_gemv_detail::pass<K, Group, Streams, Prefetch>(a, begin, part, part);
  if constexpr (Streams > 1) {
    const long long rest = begin + part * Streams;
    tl1_gemv_detail::pass<K, Group, 1, Prefetch>(a, rest, 0, end - rest);
  }
}

}  // namespace
}  // namespace bitnet_kernels::neon_family

#endif  // BITNET_GENERATED_TL1_GEMV_NEON_H_
