// tl2_gemv for AVX2: int32 matrix-vector products over layout tl2 (runtime/kernels/layout_tl.cc).
//
// GENERATED from templates/lut_gemv.h.j2 and templates/dict/avx2/tl2.j2
// by templates/render.py. DO NOT EDIT: change the templates and run templates/render.py again.
//
// The call first computes, for every 3 activations that share an index, the sums of all their combinations with
// weights -1, 0, +1 into a table of 16 entries in its scratch; from then on 3 weights are one lookup.
//
// The two halves of a register look up two triples of the same 16 rows (vpshufb), vpsignb negates: a shift brings the
// sign of block b to bit 7 of each byte. The two digits of an entry are added up as bytes, after 8 lookups joined and
// widened (vpunpckbw, vpmaddubsw), and go to int32 every 5 lines.
#ifndef BITNET_GENERATED_TL2_GEMV_AVX2_H_
#define BITNET_GENERATED_TL2_GEMV_AVX2_H_

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
constexpr int kLaneLookups = 16;
constexpr int kFlushLines = 32767 / kLargestEntry / kLaneLookups;
constexpr int kChain = kFlushLines * kLaneLookups;
static_assert(kFlushLines >= 1 && kChain * kLargestEntry <= 32767, "an int16 sum of tl2_gemv could overflow");

// The digits of 2 x 16 entries: `low` and `high` [2][16].
BITNET_INT16_BOUND(2, kLargestEntry + kBase)
inline void store_entries(__m256i entries0, __m256i entries1, __m256i* low, __m256i* high) {
  const __m256i factor = _mm256_set1_epi16(kHighFactor);
  const __m256i base = _mm256_set1_epi16(kBase);
  const __m256i high0 = _mm256_mulhrs_epi16(entries0, factor);
  const __m256i high1 = _mm256_mulhrs_epi16(entries1, factor);
  const __m256i low0 = _mm256_sub_epi16(entries0, _mm256_mullo_epi16(high0, base));
  const __m256i low1 = _mm256_sub_epi16(entries1, _mm256_mullo_epi16(high1, base));
  // vpacksswb works on halves: 0xD8 puts the quarters in order again.
  _mm256_store_si256(low, _mm256_permute4x64_epi64(_mm256_packs_epi16(low0, low1), 0xD8));
  _mm256_store_si256(high, _mm256_permute4x64_epi64(_mm256_packs_epi16(high0, high1), 0xD8));
}
// Word `index` of either half, in all words of that half.
inline __m256i repeat_word(__m256i words, int index) {
  return _mm256_shuffle_epi8(words, _mm256_set1_epi16(static_cast<short>(0x0100 + 0x0202 * index)));
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
  __m256i weight[kWeights];
  for (int p = 0; p < kWeights; ++p) weight[p] = _mm256_load_si256(reinterpret_cast<const __m256i*>(kEntry.of[p]));
  for (long long i = 0; i < lines; ++i, table += kTableBytes, x += kLineK) {
    // [block][digit][j][16]
    __m256i* out = reinterpret_cast<__m256i*>(table);
#pragma GCC unroll 8
    for (int b = 0; b < 8; ++b) {
      // 12 activations; those of the last block are read from 4 before them, as nothing may be read beyond the line.
      const __m128i from = _mm_loadu_si128(reinterpret_cast<const __m128i*>(x + (b < 7 ? 12 * b : 80)));
      const __m256i words = _mm256_cvtepi8_epi16(b < 7 ? from : _mm_srli_si128(from, 4));
      const __m256i first8 = _mm256_permute2x128_si256(words, words, 0x00);
      const __m256i last4 = _mm256_permute2x128_si256(words, words, 0x11);
      __m256i entries[4];
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) {
        const __m256i product0 = _mm256_sign_epi16(repeat_word(first8, j), weight[0]);
        const __m256i product1 = _mm256_sign_epi16(repeat_word(first8, 4 + j), weight[1]);
        const __m256i product2 = _mm256_sign_epi16(repeat_word(last4, j), weight[2]);
        entries[j] = _mm256_add_epi16(_mm256_add_epi16(product0, product1), product2);
      }
      store_entries(entries[0], entries[1], out + 4 * b, out + 4 * b + 2);
      store_entries(entries[2], entries[3], out + 4 * b + 1, out + 4 * b + 3);
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
  const __m256i nibble = _mm256_set1_epi8(0x0F);
  const __m256i factors = _mm256_set1_epi16(0x0100 * kBase + 1);
  const __m256i positive = _mm256_set1_epi8(1);
  for (long long t = 0; t < count; ++t, ++tile) {
    const uint8_t* w[Streams];
#pragma GCC unroll 8
    for (int s = 0; s < Streams; ++s) w[s] = a->weights + (tile + s * distance) * lines * kLineBytes;

    __m256i total[Streams][2];  // rows 0..7, 8..15
#pragma GCC unroll 8
    for (int s = 0; s < Streams; ++s) {
      for (int h = 0; h < 2; ++h) total[s][h] = _mm256_setzero_si256();
    }
    for (long long first = 0; first < lines; first += kFlushLines) {
      const long long last = first + kFlushLines < lines ? first + kFlushLines : lines;
      __m256i word[Streams][2];  // int16: two sums of rows 0..7 each, two of rows 8..15
#pragma GCC unroll 8
      for (int s = 0; s < Streams; ++s) {
        for (int h = 0; h < 2; ++h) word[s][h] = _mm256_setzero_si256();
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
          const __m256i* parts = reinterpret_cast<const __m256i*>(line);
          const __m256i* tables_of = reinterpret_cast<const __m256i*>(table);
#pragma GCC unroll 2
          for (int h = 0; h < 2; ++h) {  // j = 2h, 2h + 1
            const __m256i signs = _mm256_load_si256(parts + 8 + h);
            __m256i low = _mm256_setzero_si256();
            __m256i high = _mm256_setzero_si256();
#pragma GCC unroll 8
            for (int b = 0; b < kByteLookups; ++b) {  // blocks
              const __m256i indices = _mm256_load_si256(parts + b / 2 * 2 + h);
              const __m256i index = _mm256_and_si256(b % 2 == 0 ? indices : _mm256_srli_epi16(indices, 4), nibble);
              const __m256i sign = _mm256_or_si256(_mm256_slli_epi16(signs, b), positive);
              const __m256i low_b = _mm256_shuffle_epi8(tables_of[4 * b + h], index);
              const __m256i high_b = _mm256_shuffle_epi8(tables_of[4 * b + 2 + h], index);
              low = _mm256_add_epi8(low, _mm256_sign_epi8(low_b, sign));
              high = _mm256_add_epi8(high, _mm256_sign_epi8(high_b, sign));
            }
            const __m256i sum0 = _mm256_maddubs_epi16(factors, _mm256_unpacklo_epi8(low, high));
            const __m256i sum1 = _mm256_maddubs_epi16(factors, _mm256_unpackhi_epi8(low, high));
            word[s][0] = _mm256_add_epi16(word[s][0], sum0);
            word[s][1] = _mm256_add_epi16(word[s][1], sum1);
          }
        }
      }
#pragma GCC unroll 8
      for (int s = 0; s < Streams; ++s) {
        for (int h = 0; h < 2; ++h) {
          const __m256i sum0 = _mm256_cvtepi16_epi32(_mm256_castsi256_si128(word[s][h]));
          const __m256i sum1 = _mm256_cvtepi16_epi32(_mm256_extracti128_si256(word[s][h], 1));
          total[s][h] = _mm256_add_epi32(total[s][h], _mm256_add_epi32(sum0, sum1));
        }
      }
    }
#pragma GCC unroll 8
    for (int s = 0; s < Streams; ++s) {
      int32_t* y = a->y + (tile + s * distance) * BITNET_TILE_ROWS;
      for (int h = 0; h < 2; ++h) _mm256_storeu_si256(reinterpret_cast<__m256i*>(y) + h, total[s][h]);
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
}  // namespace bitnet_kernels::avx2_family

#endif  // BITNET_GENERATED_TL2_GEMV_AVX2_H_
