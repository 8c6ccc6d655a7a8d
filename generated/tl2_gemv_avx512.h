// tl2_gemv for AVX-512 with VNNI: int32 matrix-vector products over layout tl2 (runtime/kernels/layout_tl.cc).
//
// GENERATED from templates/lut_gemv.h.j2 and templates/dict/avx512/tl2.j2
// by templates/render.py. DO NOT EDIT: change the templates and run templates/render.py again.
//
// The call first computes, for every 3 activations that share an index, the sums of all their combinations with
// weights -1, 0, +1 into a table of 16 entries in its scratch; from then on 3 weights are one lookup.
//
// The four quarters of a register look up four triples of the same 16 rows (vpshufb). The sign bits of a block become a
// mask register (vptestnmb), under which the positive digits are added. Digits are added up as bytes, after a line
// joined and widened (vpunpckbw, vpmaddubsw), and go to int32 every 10 lines.
#ifndef BITNET_GENERATED_TL2_GEMV_AVX512_H_
#define BITNET_GENERATED_TL2_GEMV_AVX512_H_

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

namespace bitnet_kernels::avx512_family {
namespace {
namespace tl2_gemv_detail {

// A line: 16 rows x kLineK weights; kWeights of them share an index.
constexpr long long kLineK = 96;
constexpr long long kLineBytes = 320;
constexpr int kWeights = 3;
// 16 entries of two bytes for every index of a row.
constexpr long long kTableBytes = kLineK / kWeights * 32;
constexpr int kLargestEntry = kWeights * 127;

// kEntry.of[p][e]: the weight that activation p has in table entry e, 0 in entries that no index names.
struct Entries {
  alignas(64) int16_t of[kWeights][16];
};
constexpr Entries make_entries() {
  Entries entries = {};
  for (int e = 0; e < 14; ++e) {
    entries.of[0][e] = static_cast<int16_t>((e + 13) % 3 - 1);
    entries.of[1][e] = static_cast<int16_t>((e + 13) / 3 % 3 - 1);
    entries.of[2][e] = static_cast<int16_t>((e + 13) / 9 - 1);
  }
  return entries;
}
constexpr Entries kEntry = make_entries();

// An entry is kept as two signed bytes, entry = kBase * high + low, high = (entry * kHighFactor + 2^14) >> 15 (the
// rounding high product of 16-bit units). Both digits are so small that several fit into a byte's sum. Since low is
// what high leaves, every base and factor that pass the static_assert below give the same sums.
constexpr int kBase = 28;
constexpr int kHighFactor = 1170;
constexpr int largest_digit() {
  int largest = 0;
  for (int entry = -kLargestEntry; entry <= kLargestEntry; ++entry) {
    const int high = (entry * kHighFactor + (1 << 14)) >> 15;
    const int low = entry - kBase * high;
    const int digit = high * high > low * low ? high : low;
    const int size = digit < 0 ? -digit : digit;
    largest = size > largest ? size : largest;
  }
  return largest;
}
// Lookups of a line whose digits are added into the same byte.
constexpr int kByteLookups = 8;
static_assert(kByteLookups * largest_digit() <= 127, "an int8 sum of tl2_gemv could overflow");
// Lookups of a line that are added into the same int16 lane, and the lines after which these go to int32.
constexpr int kLaneLookups = 8;
constexpr int kFlushLines = 32767 / kLargestEntry / kLaneLookups;
constexpr int kChain = kFlushLines * kLaneLookups;
static_assert(kFlushLines >= 1 && kChain * kLargestEntry <= 32767, "an int16 sum of tl2_gemv could overflow");

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
  __m512i weight[kWeights];
  for (int p = 0; p < kWeights; ++p) {
    weight[p] = _mm512_broadcast_i64x4(_mm256_load_si256(reinterpret_cast<const __m256i*>(kEntry.of[p])));
  }
  const __m512i factor = _mm512_set1_epi16(kHighFactor);
  const __m512i base = _mm512_set1_epi16(kBase);
  // Word 0 sixteen times, word 1 sixteen times.
  const __m512i pair = _mm512_inserti64x4(_mm512_setzero_si512(), _mm256_set1_epi16(1), 1);
  for (long long i = 0; i < lines; ++i, table += kTableBytes, x += kLineK) {
    // [block][digit][j][16]
    __m256i* out = reinterpret_cast<__m256i*>(table);
#pragma GCC unroll 8
    for (int b = 0; b < 8; ++b) {
      // 12 activations; those of the last block are read from 4 before them, as nothing may be read beyond the line.
      const __m128i from = _mm_loadu_si128(reinterpret_cast<const __m128i*>(x + (b < 7 ? 12 * b : 80)));
      const __m512i words = _mm512_castsi256_si512(_mm256_cvtepi8_epi16(b < 7 ? from : _mm_srli_si128(from, 4)));
#pragma GCC unroll 2
      for (int h = 0; h < 2; ++h) {  // j = 2h, 2h + 1
        __m512i entries = _mm512_setzero_si512();
#pragma GCC unroll 3
        for (int p = 0; p < kWeights; ++p) {
          const __m512i index = _mm512_add_epi16(pair, _mm512_set1_epi16(static_cast<short>(4 * p + 2 * h)));
          const __m512i x2 = _mm512_permutexvar_epi16(index, words);
          entries = _mm512_add_epi16(entries, _mm512_mullo_epi16(x2, weight[p]));
        }
        const __m512i high = _mm512_mulhrs_epi16(entries, factor);
        const __m512i low = _mm512_sub_epi16(entries, _mm512_mullo_epi16(high, base));
        _mm256_store_si256(out + 4 * b + h, _mm512_cvtepi16_epi8(low));
        _mm256_store_si256(out + 4 * b + 2 + h, _mm512_cvtepi16_epi8(high));
      }
    }
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
  const __m512i nibble = _mm512_set1_epi8(0x0F);
  const __m512i zero = _mm512_setzero_si512();
  const __m512i factors = _mm512_set1_epi16(0x0100 * kBase + 1);
  for (long long t = 0; t < count; ++t, ++tile) {
    const uint8_t* w[Streams];
#pragma GCC unroll 8
    for (int s = 0; s < Streams; ++s) w[s] = a->weights + (tile + s * distance) * lines * kLineBytes;

    __m512i total[Streams][2];  // two sums of rows 0..7 each, two of rows 8..15
#pragma GCC unroll 8
    for (int s = 0; s < Streams; ++s) {
      for (int h = 0; h < 2; ++h) total[s][h] = _mm512_setzero_si512();
    }
    for (long long first = 0; first < lines; first += kFlushLines) {
      const long long last = first + kFlushLines < lines ? first + kFlushLines : lines;
      __m512i word[Streams][2];  // int16: four sums of rows 0..7 each, four of rows 8..15
#pragma GCC unroll 8
      for (int s = 0; s < Streams; ++s) {
        for (int h = 0; h < 2; ++h) word[s][h] = _mm512_setzero_si512();
      }
      for (long long i = first; i < last; ++i) {
        const uint8_t* table = tables + i * kTableBytes;
#pragma GCC unroll 8
        for (int s = 0; s < Streams; ++s) {
          const uint8_t* line = w[s] + i * kLineBytes;
          if constexpr (Prefetch != 0) {
            const char* ahead = reinterpret_cast<const char*>(line) + Prefetch;
            for (int c = 0; c < 5; ++c) _mm_prefetch(ahead + 64 * c, _MM_HINT_T1);
          }
          const __m512i* parts = reinterpret_cast<const __m512i*>(line);
          const __m512i* tables_of = reinterpret_cast<const __m512i*>(table);
          const __m512i signs = _mm512_load_si512(parts + 4);
          // The signed sum is twice the positive digits minus all: two operations a digit. Bytes may wrap on the way,
          // the sum does not.
          __m512i low = zero;
          __m512i high = zero;
          __m512i positive_low = zero;
          __m512i positive_high = zero;
#pragma GCC unroll 8
          for (int b = 0; b < kByteLookups; ++b) {  // blocks
            const __m512i indices = _mm512_load_si512(parts + b / 2);
            const __m512i index = _mm512_and_si512(b % 2 == 0 ? indices : _mm512_srli_epi16(indices, 4), nibble);
            const __mmask64 positive = _mm512_testn_epi8_mask(signs, _mm512_set1_epi8(static_cast<char>(0x80 >> b)));
            const __m512i low_b = _mm512_shuffle_epi8(_mm512_load_si512(tables_of + 2 * b), index);
            const __m512i high_b = _mm512_shuffle_epi8(_mm512_load_si512(tables_of + 2 * b + 1), index);
            low = _mm512_sub_epi8(low, low_b);
            high = _mm512_sub_epi8(high, high_b);
            positive_low = _mm512_mask_add_epi8(positive_low, positive, positive_low, low_b);
            positive_high = _mm512_mask_add_epi8(positive_high, positive, positive_high, high_b);
          }
          low = _mm512_add_epi8(low, _mm512_add_epi8(positive_low, positive_low));
          high = _mm512_add_epi8(high, _mm512_add_epi8(positive_high, positive_high));
          const __m512i sum0 = _mm512_maddubs_epi16(factors, _mm512_unpacklo_epi8(low, high));
          const __m512i sum1 = _mm512_maddubs_epi16(factors, _mm512_unpackhi_epi8(low, high));
          word[s][0] = _mm512_add_epi16(word[s][0], sum0);
          word[s][1] = _mm512_add_epi16(word[s][1], sum1);
        }
      }
#pragma GCC unroll 8
      for (int s = 0; s < Streams; ++s) {
        for (int h = 0; h < 2; ++h) {
          const __m512i sum0 = _mm512_cvtepi16_epi32(_mm512_castsi512_si256(word[s][h]));
          const __m512i sum1 = _mm512_cvtepi16_epi32(_mm512_extracti64x4_epi64(word[s][h], 1));
          total[s][h] = _mm512_add_epi32(total[s][h], _mm512_add_epi32(sum0, sum1));
        }
      }
    }
#pragma GCC unroll 8
    for (int s = 0; s < Streams; ++s) {
      int32_t* y = a->y + (tile + s * distance) * BITNET_TILE_ROWS;
      for (int h = 0; h < 2; ++h) {
        const __m256i sum0 = _mm512_castsi512_si256(total[s][h]);
        const __m256i sum1 = _mm512_extracti64x4_epi64(total[s][h], 1);
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(y) + h, _mm256_add_epi32(sum0, sum1));
      }
    }
  }
}

}  // namespace tl2_gemv_detail

// Scratch that a call with inputs of length k needs, in bytes: the tables.
constexpr size_t tl2_gemv_scratch_bytes_for(long long k) {
  using namespace tl2_gemv_detail;
  return static_cast<size_t>(lines_of(k) * kTableBytes);
}

// The same for a constant K.
template <long long K, int Group, int Streams>
constexpr size_t tl2_gemv_scratch_bytes() {
  static_assert(K > 0, "tl2_gemv: scratch depends on K, ask tl2_gemv_scratch_bytes_for");
  return tl2_gemv_scratch_bytes_for(K);
}

// y = W x for rows a->row_begin .. a->row_end (kernel_abi.h, op gemv), exact for K <= 8000000.
//   N, K      the matrix; K = 0 reads a->k. Rows always come from the arguments.
//   Group     K-group: 0, this layout has none
//   Streams   tiles worked on side by side: the row range is cut into that many parts
//   Prefetch  bytes ahead of each stream that are fetched into L2; 0: none. Past the end it touches nothing.
template <long long N, long long K, int Group, int Streams, int Prefetch>
inline void tl2_gemv(const bitnet_gemv_args* a) {
  static_assert(Group == 0, "tl2_gemv: no K-groups, lines of 96 k do not divide them");
  static_assert(N >= 0 && K >= 0 && K <= 8000000LL && Streams >= 1 && Streams <= 8 && Prefetch >= 0,
                "tl2_gemv: parameter out of range");
  const long long begin = a->row_begin / BITNET_TILE_ROWS;
  const long long end = (a->row_end + BITNET_TILE_ROWS - 1) / BITNET_TILE_ROWS;
  const long long part = (end - begin) / Streams;
  tl2_gemv_detail::build<K>(a);
  tl2_gemv_detail::pass<K, Group, Streams, Prefetch>(a, begin, part, part);
  if constexpr (Streams > 1) {
    const long long rest = begin + part * Streams;
    tl2_gemv_detail::pass<K, Group, 1, Prefetch>(a, rest, 0, end - rest);
  }
}

}  // namespace
}  // namespace bitnet_kernels::avx512_family

#endif  // BITNET_GENERATED_TL2_GEMV_AVX512_H_
