// tl1_gemv for any CPU: int32 matrix-vector products over layout tl1 (runtime/kernels/layout_tl.cc).
//
// GENERATED from templates/lut_gemv.h.j2 and templates/dict/scalar/tl1.j2
// by templates/render.py. DO NOT EDIT: change the templates and run templates/render.py again.
//
// The call first computes, for every 2 activations that share an index, the sums of all their combinations with
// weights -1, 0, +1 into a table of 16 entries in its scratch; from then on 2 weights are one lookup.
//
// The tables are int16. Each nibble of a line is one lookup and belongs to one row.
#ifndef BITNET_GENERATED_TL1_GEMV_SCALAR_H_
#define BITNET_GENERATED_TL1_GEMV_SCALAR_H_

#include <stddef.h>
#include <stdint.h>

#include "runtime/kernels/kernel_abi.h"

// All sums are int32: there is no int16 accumulation to bound.

namespace bitnet_kernels::scalar_family {
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

constexpr int kRows = BITNET_TILE_ROWS;
// An entry of a table.
typedef int16_t Sum __attribute__((__may_alias__));

constexpr long long lines_of(long long k) { return (k + kLineK - 1) / kLineK; }
template <long long K>
constexpr long long line_count([[maybe_unused]] const bitnet_gemv_args* a) {
  return lines_of(K != 0 ? K : a->k);
}

// The tables of all lines, in the scratch.
template <long long K>
inline void build(const bitnet_gemv_args* a) {
  const long long lines = line_count<K>(a);
  uint8_t* table = static_cast<uint8_t*>(a->scratch);
  const int8_t* x = a->x;
  for (long long i = 0; i < lines; ++i, table += kTableBytes, x += kLineK) {
    // [nibble][j][16]
    Sum* entries = reinterpret_cast<Sum*>(table);
    for (int half = 0; half < 2; ++half) {
      for (int j = 0; j < 4; ++j, entries += 16) {
        const int x0 = x[8 * half + j];
        const int x1 = x[8 * half + 4 + j];
        for (int e = 0; e < 16; ++e) entries[e] = static_cast<Sum>(kEntry.of[0][e] * x0 + kEntry.of[1][e] * x1);
      }
    }
  }
}

// Tiles tile .. tile + count - 1 and, with several streams, the same number of tiles `distance`, 2 * `distance`, ...
// further on. Streams are read side by side: far-apart addresses keep more memory requests in flight than one stream,
// and share the tables.
template <long long K, int Group, int Streams, int Prefetch>
inline void pass(const bitnet_gemv_args* a, long long tile, long long distance, long long count) {
  const long long lines = line_count<K>(a);
  const uint8_t* tables = static_cast<const uint8_t*>(a->scratch);
  for (long long t = 0; t < count; ++t, ++tile) {
    const uint8_t* w[Streams];
#pragma GCC unroll 8
    for (int s = 0; s < Streams; ++s) w[s] = a->weights + (tile + s * distance) * lines * kLineBytes;

    // One round per K-group, or one for all of K.
    const long long group_lines = Group != 0 ? Group / kLineK : lines;
    for (long long group = 0, begin = 0; begin < lines; ++group, begin += group_lines) {
      const long long end = begin + group_lines < lines ? begin + group_lines : lines;
      int32_t total[Streams][kRows];
#pragma GCC unroll 8
      for (int s = 0; s < Streams; ++s) {
        for (int r = 0; r < kRows; ++r) total[s][r] = 0;
      }
      for (long long i = begin; i < end; ++i) {
        const uint8_t* table = tables + i * kTableBytes;
#pragma GCC unroll 8
        for (int s = 0; s < Streams; ++s) {
          const uint8_t* line = w[s] + i * kLineBytes;
          if constexpr (Prefetch != 0) __builtin_prefetch(line + Prefetch, 0, 2);
          const Sum* entries = reinterpret_cast<const Sum*>(table);
          for (int j = 0; j < 4; ++j) {
            const Sum* low = entries + 16 * j;
            const Sum* high = entries + 16 * (4 + j);
            for (int r = 0; r < kRows; ++r) total[s][r] += low[line[16 * j + r] & 15] + high[line[16 * j + r] >> 4];
          }
        }
      }
#pragma GCC unroll 8
      for (int s = 0; s < Streams; ++s) {
        int32_t* y = a->y + (tile + s * distance) * BITNET_TILE_ROWS;
        y += Group != 0 ? group * a->y_stride : 0;
        for (int r = 0; r < kRows; ++r) y[r] = total[s][r];
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
}  // namespace bitnet_kernels::scalar_family

#endif  // BITNET_GENERATED_TL1_GEMV_SCALAR_H_
