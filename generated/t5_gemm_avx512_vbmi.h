// t5_gemm for AVX-512 with VNNI and VBMI: int32 products over layout t5 (runtime/kernels/layout.h).
//
// GENERATED from templates/gemm.h.j2 and templates/dict/avx512_vbmi/t5.j2
// by templates/render.py. DO NOT EDIT: change the templates and run templates/render.py again.
//
// A line is loaded and decoded by three byte lookups once and multiplied with the whole token tile; the activations of
// a token are broadcast out of memory by vpdpbusd itself or, with several row tiles, once for all of them.
#ifndef BITNET_GENERATED_T5_GEMM_AVX512_VBMI_H_
#define BITNET_GENERATED_T5_GEMM_AVX512_VBMI_H_

#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>

#include "runtime/kernels/kernel_abi.h"

// All sums are int32: there is no int16 accumulation to bound.

namespace bitnet_kernels::avx512_vbmi_family {
namespace {
namespace t5_gemm_detail {

// A line: 16 rows x kLineK weights (runtime/kernels/layout_t5.cc), which meet kFours times 4 activations.
constexpr long long kLineK = 20;
constexpr long long kLineBytes = 64;
constexpr int kFours = kLineK / 4;

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

// Packed activations that are multiplied with one row of tiles before the next: they stay in a 1 MiB L2 cache beside
// the weights, which then stream from memory once per that many bytes of activations.
constexpr long long kActivationBytes = 512 * 1024;
template <long long K>
constexpr long long line_count([[maybe_unused]] const bitnet_gemm_args* a) {
  return ((K != 0 ? K : a->k) + kLineK - 1) / kLineK;
}

// Packed activations of one token block.
template <long long K, int TokenTile>
constexpr long long block_bytes([[maybe_unused]] const bitnet_gemm_args* a) {
  return BITNET_ACTIVATION_WIDTH(K != 0 ? K : a->k) * TokenTile;
}

// Tokens `token` .. + TokenTile - 1 times `Tiles` row tiles from `tile` on; x is the block's packed activations.
template <long long K, int Group, int TokenTile, int Tiles>
inline void block(const bitnet_gemm_args* a, const int8_t* x, long long token, long long tile) {
  const long long lines = line_count<K>(a);
  const long long group_lines = Group == 0 ? lines : Group / kLineK;
  const long long groups = Group == 0 ? 1 : (lines + group_lines - 1) / group_lines;
  const __m512i table_h = _mm512_load_si512(kTables.h);
  const __m512i table_low = _mm512_load_si512(kTables.four);
  const __m512i table_high = _mm512_load_si512(kTables.four + 64);
  const __m512i table_fifth = _mm512_load_si512(kTables.fifth);
  const __m512i mask = _mm512_set1_epi8(0x03);
  const uint8_t* w = a->weights + tile * lines * kLineBytes;
  for (long long g = 0; g < groups; ++g) {
    const long long begin = g * group_lines;
    const long long end = Group == 0 || begin + group_lines > lines ? lines : begin + group_lines;
    __m512i total[TokenTile][Tiles];
#pragma GCC unroll 32
    for (int m = 0; m < TokenTile; ++m) {
#pragma GCC unroll 8
      for (int n = 0; n < Tiles; ++n) {
        total[m][n] = _mm512_setzero_si512();
      }
    }
    for (long long i = begin; i < end; ++i) {
      __m512i packed[Tiles];  // codes 0 to 3, in fields
      __m512i fifth[Tiles];   // code 4
#pragma GCC unroll 8
      for (int n = 0; n < Tiles; ++n) {
        const uint8_t* line = w + (n * lines + i) * kLineBytes;
        const __m512i bytes = _mm512_load_si512(line);
        const __m512i h = _mm512_permutexvar_epi8(bytes, table_h);
        packed[n] = _mm512_permutex2var_epi8(table_low, _mm512_avg_epu8(bytes, h), table_high);
        fifth[n] = _mm512_permutexvar_epi8(bytes, table_fifth);
      }
#pragma GCC unroll 5
      for (int p = 0; p < kFours; ++p) {  // k = kLineK i + 4 p .. + 3
        __m512i codes[Tiles];
#pragma GCC unroll 8
        for (int n = 0; n < Tiles; ++n) {
          codes[n] = p == 4 ? fifth[n] : _mm512_and_si512(_mm512_srli_epi16(packed[n], 2 * p), mask);
        }
#pragma GCC unroll 32
        for (int m = 0; m < TokenTile; ++m) {
          const int8_t* four = x + ((kFours * i + p) * TokenTile + m) * 4;
          const __m512i xm = _mm512_set1_epi32(*reinterpret_cast<const Dword*>(four));
#pragma GCC unroll 8
          for (int n = 0; n < Tiles; ++n) {
            total[m][n] = _mm512_dpbusd_epi32(total[m][n], codes[n], xm);
          }
        }
      }
    }
    const int32_t* x_sums = a->x_sums + (Group == 0 ? 0 : g * a->sums_stride);
    int32_t* sums = a->y + (Group == 0 ? 0 : g * a->group_stride);
#pragma GCC unroll 32
    for (int m = 0; m < TokenTile; ++m) {
      if (token + m >= a->tokens) break;
      const int32_t x_sum = x_sums[token + m];
#pragma GCC unroll 8
      for (int n = 0; n < Tiles; ++n) {
        int32_t* y = sums + (token + m) * a->y_stride + (tile + n) * BITNET_TILE_ROWS;
        _mm512_storeu_si512(y, _mm512_sub_epi32(total[m][n], _mm512_set1_epi32(x_sum)));
      }
    }
  }
}

// Token blocks first_block .. last_block - 1 times `Tiles` row tiles from `tile` on.
template <long long K, int Group, int TokenTile, int Tiles>
inline void row(const bitnet_gemm_args* a, long long first_block, long long last_block, long long tile) {
  for (long long b = first_block; b < last_block; ++b) {
    block<K, Group, TokenTile, Tiles>(a, a->x + b * block_bytes<K, TokenTile>(a), b * TokenTile, tile);
  }
}

}  // namespace t5_gemm_detail

// Scratch that a call with these parameters and inputs of length k needs, in bytes: see bitnet_gemm_args.
template <int TokenTile, int RowTiles>
constexpr size_t t5_gemm_scratch_bytes_for([[maybe_unused]] long long k) {
  return 0;
}

// The same for a constant K. With K = 0 it depends on the arguments: ask t5_gemm_scratch_bytes_for.
template <long long K, int TokenTile, int RowTiles>
constexpr size_t t5_gemm_scratch_bytes() {
  return t5_gemm_scratch_bytes_for<TokenTile, RowTiles>(K);
}

// Y = X W^T for rows a->row_begin .. a->row_end and all tokens (kernel_abi.h, op gemm); K <= 8000000.
//   N, K       the matrix; K = 0 reads a->k. Rows always come from the arguments.
//   Group      k of a K-group, whole lines; 0: one sum over K
//   TokenTile  tokens of a packed block (MR)
//   RowTiles   row tiles that share a load of the activations
template <long long N, long long K, int Group, int TokenTile, int RowTiles>
inline void t5_gemm(const bitnet_gemm_args* a) {
  namespace detail = t5_gemm_detail;
  static_assert(Group == 0 || ((Group == 64 || Group == 128 || Group == 256) && Group % detail::kLineK == 0),
                "t5_gemm: no K-groups of this size");
  static_assert(N >= 0 && K >= 0 && K <= 8000000LL, "t5_gemm: matrix size out of range");
  static_assert(TokenTile >= 1 && TokenTile <= 32 && RowTiles >= 1 && RowTiles <= 8, "t5_gemm: tile out of range");
  const long long begin = a->row_begin / BITNET_TILE_ROWS;
  const long long end = (a->row_end + BITNET_TILE_ROWS - 1) / BITNET_TILE_ROWS;
  const long long blocks = (a->tokens + TokenTile - 1) / TokenTile;
  const long long fitting = detail::kActivationBytes / detail::block_bytes<K, TokenTile>(a);
  const long long together = fitting > 1 ? fitting : 1;
  for (long long first = 0; first < blocks; first += together) {
    const long long last = first + together < blocks ? first + together : blocks;
    long long tile = begin;
    for (; tile + RowTiles <= end; tile += RowTiles) {
      detail::row<K, Group, TokenTile, RowTiles>(a, first, last, tile);
    }
    for (; tile < end; ++tile) {
      detail::row<K, Group, TokenTile, 1>(a, first, last, tile);
    }
  }
}

}  // namespace
}  // namespace bitnet_kernels::avx512_vbmi_family

#endif  // BITNET_GENERATED_T5_GEMM_AVX512_VBMI_H_
