// t5_gemv for AVX-512 with VNNI and VBMI: int32 matrix-vector products over layout t5 (runtime/kernels/layout.h).
//
// GENERATED from templates/gemv.h.j2 and templates/dict/avx512_vbmi/t5.j2
// by templates/render.py. DO NOT EDIT: change the templates and run templates/render.py again.
//
// A line is one register. vpermb looks up h = 211 + 22 c4 by the low six bits of each byte, vpermi2b the other four
// codes, as 2-bit fields, by the average of the byte and h (runtime/kernels/layout_t5.cc). The fields are masked in
// place, not shifted: field p counts 4^p times its codes, has its own accumulator, and is shifted once, after the last
// line. The fifth digit is multiplied as h, and its sum put right at the end: twelve operations a line.
#ifndef BITNET_GENERATED_T5_GEMV_AVX512_VBMI_H_
#define BITNET_GENERATED_T5_GEMV_AVX512_VBMI_H_

#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>

#include "runtime/kernels/kernel_abi.h"

// All sums are int32: there is no int16 accumulation to bound.

namespace bitnet_kernels::avx512_vbmi_family {
namespace {
namespace t5_gemv_detail {

// A line: 16 rows x kLineK weights (runtime/kernels/layout_t5.cc), which meet kFours times 4 activations.
constexpr long long kLineK = 20;
constexpr long long kLineBytes = 64;
[[maybe_unused]] constexpr int kFours = kLineK / 4;

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

template <long long K>
constexpr long long line_count([[maybe_unused]] const bitnet_gemv_args* a) {
  return ((K != 0 ? K : a->k) + kLineK - 1) / kLineK;
}

// Sum of the activations that meet the last digits: the last 4 of each line.
template <long long K>
inline int32_t sum_of_digit(const bitnet_gemv_args* a) {
  const long long lines = line_count<K>(a);
  int32_t sum = 0;
  for (long long i = 0; i < lines; ++i) {
    const int8_t* x = a->x + (i + 1) * kLineK - 4;
    sum += (x[0] + x[1]) + (x[2] + x[3]);
  }
  return sum;
}

// Tiles tile .. tile + count - 1 and, with several streams, the same number of tiles `distance`, 2 * `distance`, ...
// further on. Streams are read side by side: far-apart addresses keep more memory requests in flight than one stream.
template <long long K, int Group, int Streams, int Prefetch>
inline void pass(const bitnet_gemv_args* a, int32_t digit_sum, long long tile, long long distance, long long count) {
  const long long lines = line_count<K>(a);
  const long long group_lines = Group == 0 ? lines : Group / kLineK;
  const long long groups = Group == 0 ? 1 : (lines + group_lines - 1) / group_lines;
  const __m512i table_h = _mm512_load_si512(kTables.h);
  const __m512i table_low = _mm512_load_si512(kTables.four);
  const __m512i table_high = _mm512_load_si512(kTables.four + 64);
  const __m512i mask0 = _mm512_set1_epi8(0x03);
  const __m512i mask1 = _mm512_set1_epi8(0x0C);
  const __m512i mask2 = _mm512_set1_epi8(0x30);
  const __m512i mask3 = _mm512_set1_epi8(static_cast<char>(0xC0));
  for (long long t = 0; t < count; ++t, ++tile) {
    const uint8_t* w[Streams];
#pragma GCC unroll 8
    for (int s = 0; s < Streams; ++s) w[s] = a->weights + (tile + s * distance) * lines * kLineBytes;
    for (long long g = 0; g < groups; ++g) {
      const long long begin = g * group_lines;
      const long long end = Group == 0 || begin + group_lines > lines ? lines : begin + group_lines;
      __m512i total[Streams][5];
#pragma GCC unroll 8
      for (int s = 0; s < Streams; ++s) {
        for (int p = 0; p < 5; ++p) total[s][p] = _mm512_setzero_si512();
      }
      for (long long i = begin; i < end; ++i) {
        const int8_t* x = a->x + i * kLineK;
        const Dword* fours = reinterpret_cast<const Dword*>(x);
        const __m512i x0 = _mm512_set1_epi32(fours[0]);
        const __m512i x1 = _mm512_set1_epi32(fours[1]);
        const __m512i x2 = _mm512_set1_epi32(fours[2]);
        const __m512i x3 = _mm512_set1_epi32(fours[3]);
        const __m512i x4 = _mm512_set1_epi32(fours[4]);
#pragma GCC unroll 8
        for (int s = 0; s < Streams; ++s) {
          const uint8_t* line = w[s] + i * kLineBytes;
          if constexpr (Prefetch != 0) _mm_prefetch(reinterpret_cast<const char*>(line) + Prefetch, _MM_HINT_T1);
          const __m512i bytes = _mm512_load_si512(line);
          const __m512i h = _mm512_permutexvar_epi8(bytes, table_h);
          const __m512i codes = _mm512_permutex2var_epi8(table_low, _mm512_avg_epu8(bytes, h), table_high);
          total[s][0] = _mm512_dpbusd_epi32(total[s][0], _mm512_and_si512(codes, mask0), x0);
          total[s][1] = _mm512_dpbusd_epi32(total[s][1], _mm512_and_si512(codes, mask1), x1);
          total[s][2] = _mm512_dpbusd_epi32(total[s][2], _mm512_and_si512(codes, mask2), x2);
          total[s][3] = _mm512_dpbusd_epi32(total[s][3], _mm512_and_si512(codes, mask3), x3);
          total[s][4] = _mm512_dpbusd_epi32(total[s][4], h, x4);
        }
      }
      const int32_t x_sum = a->x_sums[g];
      int32_t* sums = a->y + (Group == 0 ? 0 : g * a->y_stride);
#pragma GCC unroll 8
      for (int s = 0; s < Streams; ++s) {
        int32_t* y = sums + (tile + s * distance) * BITNET_TILE_ROWS;
        const __m512i low = _mm512_add_epi32(total[s][0], _mm512_srai_epi32(total[s][1], 2));
        const __m512i high = _mm512_add_epi32(_mm512_srai_epi32(total[s][2], 4), _mm512_srai_epi32(total[s][3], 6));
        // 22 times the sum of the fifth digit: halved, and divided by 11 as 0xBA2E8BA3 * 11 = 1 mod 2^32.
        const __m512i fifth = _mm512_srai_epi32(_mm512_sub_epi32(total[s][4], _mm512_set1_epi32(211 * digit_sum)), 1);
        const __m512i divided = _mm512_mullo_epi32(fifth, _mm512_set1_epi32(static_cast<int>(0xBA2E8BA3)));
        const __m512i sum = _mm512_add_epi32(_mm512_add_epi32(low, high), divided);
        _mm512_storeu_si512(y, _mm512_sub_epi32(sum, _mm512_set1_epi32(x_sum)));
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

// y = W x for rows a->row_begin .. a->row_end (kernel_abi.h, op gemv), exact for K <= 330000.
//   N, K      the matrix; K = 0 reads a->k. Rows always come from the arguments.
//   Group     k of a K-group, whole lines; 0: one sum over K
//   Streams   tiles worked on side by side: the row range is cut into that many parts
//   Prefetch  bytes ahead of each stream that are fetched into L2; 0: none. Past the end it touches nothing.
template <long long N, long long K, int Group, int Streams, int Prefetch>
inline void t5_gemv(const bitnet_gemv_args* a) {
  namespace detail = t5_gemv_detail;
  static_assert(Group == 0 || ((Group == 64 || Group == 128 || Group == 256) && Group % detail::kLineK == 0),
                "t5_gemv: no K-groups of this size");
  static_assert(N >= 0 && K >= 0 && K <= 330000LL && Streams >= 1 && Streams <= 8 && Prefetch >= 0,
                "t5_gemv: parameter out of range");
  const long long begin = a->row_begin / BITNET_TILE_ROWS;
  const long long end = (a->row_end + BITNET_TILE_ROWS - 1) / BITNET_TILE_ROWS;
  const long long part = (end - begin) / Streams;
  const int32_t digit_sum = detail::sum_of_digit<K>(a);
  detail::pass<K, Group, Streams, Prefetch>(a, digit_sum, begin, part, part);
  if constexpr (Streams > 1) {
    const long long rest = begin + part * Streams;
    detail::pass<K, Group, 1, Prefetch>(a, digit_sum, rest, 0, end - rest);
  }
}

}  // namespace
}  // namespace bitnet_kernels::avx512_vbmi_family

#endif  // BITNET_GENERATED_T5_GEMV_AVX512_VBMI_H_
