// i2s_gemv for AVX2: int32 matrix-vector products over layout t2 (runtime/kernels/layout.h).
//
// GENERATED from templates/gemv.h.j2 and templates/dict/avx2/i2s.j2
// by templates/render.py. DO NOT EDIT: change the templates and run templates/render.py again.
//
// A line is two registers of 8 rows. One shift by 4 and two masks give the four 2-bit fields, two of them in place and
// two times 4 their codes; vpmaddubsw adds pairs of products into two int16 sums a register, which go to int32 every 8
// lines: the x4 sum first, as it is, and the x1 sum times 4.
#ifndef BITNET_GENERATED_I2S_GEMV_AVX2_H_
#define BITNET_GENERATED_I2S_GEMV_AVX2_H_

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
namespace i2s_gemv_detail {

// A line: 16 rows x kLineK weights (runtime/kernels/layout_t2.cc), which meet kFours times 4 activations.
constexpr long long kLineK = 16;
constexpr long long kLineBytes = 64;
[[maybe_unused]] constexpr int kFours = kLineK / 4;

// Four int8 activations, read at once.
typedef int32_t Dword __attribute__((__may_alias__));
// Each line adds two vpmaddubsw results to a sum; the largest is two codes of 8 (4 * 2) times 127.
constexpr int kFlushLines = 8;
constexpr int kChain = 2 * kFlushLines;
constexpr int kLargestProduct = 2 * (4 * 2) * 127;
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
  const __m256i mask0 = _mm256_set1_epi8(0x03);
  const __m256i mask1 = _mm256_set1_epi8(0x0C);
  const __m256i ones = _mm256_set1_epi16(1);
  const __m256i fours = _mm256_set1_epi16(4);
  for (long long t = 0; t < count; ++t, ++tile) {
    const uint8_t* w[Streams];
#pragma GCC unroll 8
    for (int s = 0; s < Streams; ++s) w[s] = a->weights + (tile + s * distance) * lines * kLineBytes;
    for (long long g = 0; g < groups; ++g) {
      const long long begin = g * group_lines;
      const long long end = Group == 0 || begin + group_lines > lines ? lines : begin + group_lines;
      __m256i total[Streams][2];
#pragma GCC unroll 8
      for (int s = 0; s < Streams; ++s) {
        for (int h = 0; h < 2; ++h) total[s][h] = _mm256_setzero_si256();
      }
      for (long long first = begin; first < end; first += kFlushLines) {
        const long long last = first + kFlushLines < end ? first + kFlushLines : end;
        __m256i partial1[Streams][2];  // int16, fields 0 and 2
        __m256i partial4[Streams][2];  // int16, fields 1 and 3, times 4
#pragma GCC unroll 8
        for (int s = 0; s < Streams; ++s) {
          for (int h = 0; h < 2; ++h) partial1[s][h] = partial4[s][h] = _mm256_setzero_si256();
        }
        for (long long i = first; i < last; ++i) {
          const int8_t* x = a->x + i * kLineK;
          const Dword* fours = reinterpret_cast<const Dword*>(x);
          const __m256i x0 = _mm256_set1_epi32(fours[0]);
          const __m256i x1 = _mm256_set1_epi32(fours[1]);
          const __m256i x2 = _mm256_set1_epi32(fours[2]);
          const __m256i x3 = _mm256_set1_epi32(fours[3]);
#pragma GCC unroll 8
          for (int s = 0; s < Streams; ++s) {
            const uint8_t* line = w[s] + i * kLineBytes;
            if constexpr (Prefetch != 0) _mm_prefetch(reinterpret_cast<const char*>(line) + Prefetch, _MM_HINT_T1);
#pragma GCC unroll 2
            for (int h = 0; h < 2; ++h) {
              const __m256i codes = _mm256_load_si256(reinterpret_cast<const __m256i*>(line) + h);
              const __m256i upper = _mm256_srli_epi16(codes, 4);
              const __m256i dot0 = _mm256_maddubs_epi16(_mm256_and_si256(codes, mask0), x0);
              const __m256i dot1 = _mm256_maddubs_epi16(_mm256_and_si256(codes, mask1), x1);
              const __m256i dot2 = _mm256_maddubs_epi16(_mm256_and_si256(upper, mask0), x2);
              const __m256i dot3 = _mm256_maddubs_epi16(_mm256_and_si256(upper, mask1), x3);
              partial1[s][h] = _mm256_add_epi16(partial1[s][h], _mm256_add_epi16(dot0, dot2));
              partial4[s][h] = _mm256_add_epi16(partial4[s][h], _mm256_add_epi16(dot1, dot3));
            }
          }
        }
#pragma GCC unroll 8
        for (int s = 0; s < Streams; ++s) {
          for (int h = 0; h < 2; ++h) {
            const __m256i sum1 = _mm256_madd_epi16(partial1[s][h], fours);
            const __m256i sum4 = _mm256_madd_epi16(partial4[s][h], ones);
            total[s][h] = _mm256_add_epi32(total[s][h], _mm256_add_epi32(sum1, sum4));
          }
        }
      }
      const int32_t x_sum = a->x_sums[g];
      int32_t* sums = a->y + (Group == 0 ? 0 : g * a->y_stride);
#pragma GCC unroll 8
      for (int s = 0; s < Streams; ++s) {
        int32_t* y = sums + (tile + s * distance) * BITNET_TILE_ROWS;
        for (int h = 0; h < 2; ++h) {
          const __m256i sum = _mm256_sub_epi32(_mm256_srai_epi32(total[s][h], 2), _mm256_set1_epi32(x_sum));
          _mm256_storeu_si256(reinterpret_cast<__m256i*>(y) + h, sum);
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
}  // namespace bitnet_kernels::avx2_family

#endif  // BITNET_GENERATED_I2S_GEMV_AVX2_H_
