// Layouts tl1 and tl2: weights as 4-bit indices into a table of activation sums, for byte lookups of 16 entries
// (pshufb, tbl). 16 bytes stand for the 16 rows of a tile, so that one lookup serves all rows that share a table.
//
// tl1, 2 bits a weight. A line is 64 bytes and holds 16 rows x 16 k. Byte 16j + r (j 0..3), of row r:
//   bits 3..0   pair of k = 16i + j,     16i + 4 + j
//   bits 7..4   pair of k = 16i + 8 + j, 16i + 12 + j
// A pair's index is c0 + 3 c1 of its two codes; 0..8 of 16 are used.
//
// tl2, 1.67 bits a weight. A line is 320 bytes and holds 16 rows x 96 k: eight blocks b of 12 k, in each of them four
// triples j of k = 96i + 12b + 4p + j (p 0..2). With t = code - 1 a triple is v = t0 + 3 t1 + 9 t2, index |v| (0..13 of
// 16 are used) and sign v < 0; the sums of -v are those of v negated.
//   byte 64c + 16j + r (c 0..3)   bits 3..0 the index of block 2c, bits 7..4 of block 2c + 1
//   byte 256 + 16j + r            bit 7-b the sign of block b
//
// In both, j counts k within a 32-bit unit, as in t2: four lookups side by side (j) are the order in which activations
// are packed for GEMM.
#include <algorithm>
#include <cstring>

#include "runtime/kernels/layout_detail.h"

namespace bitnet::layout_detail {
namespace {

constexpr std::int64_t kRows = BITNET_TILE_ROWS;

constexpr std::int64_t kTl1LineK = 16;
constexpr std::int64_t kTl1LineBytes = 64;

constexpr std::int64_t kTl2LineK = 96;
constexpr std::int64_t kTl2LineBytes = 320;
constexpr std::int64_t kTl2Blocks = 8;
constexpr std::int64_t kTl2Signs = 256;  // their offset in a line

// The codes of one row of one line, code 1 beyond k.
template <std::int64_t LineK>
void line_codes(const std::uint8_t* row, std::int64_t line, std::int64_t k, std::uint8_t* out) {
  const std::int64_t width = std::min<std::int64_t>(LineK, k - line * LineK);
  std::memset(out, 1, LineK);
  std::memcpy(out, row + line * LineK, static_cast<std::size_t>(width));
}

void pack_tl1_tile(const std::uint8_t* codes, std::int64_t rows, std::int64_t k, std::uint8_t* tile) {
  constexpr int kPad = 0x44;  // index 4 twice: codes 1, 1
  std::memset(tile, kPad, static_cast<std::size_t>(ceil_div(k, kTl1LineK) * kTl1LineBytes));
  std::uint8_t c[kTl1LineK];
  for (std::int64_t i = 0; i * kTl1LineK < k; ++i, tile += kTl1LineBytes) {
    for (std::int64_t r = 0; r < rows; ++r) {
      line_codes<kTl1LineK>(codes + r * k, i, k, c);
      for (int j = 0; j < 4; ++j) {
        const int low = c[j] + 3 * c[4 + j];
        const int high = c[8 + j] + 3 * c[12 + j];
        tile[16 * j + r] = static_cast<std::uint8_t>(low | (high << 4));
      }
    }
  }
}

void unpack_tl1_row(const std::uint8_t* tile, std::int64_t r, std::int64_t k, std::uint8_t* codes) {
  for (std::int64_t i = 0; i < k; ++i) {
    const std::int64_t in_line = i % kTl1LineK;
    const std::uint8_t byte = tile[i / kTl1LineK * kTl1LineBytes + 16 * (in_line % 4) + r];
    const int index = in_line < 8 ? byte & 15 : byte >> 4;
    codes[i] = static_cast<std::uint8_t>(in_line % 8 < 4 ? index % 3 : index / 3);
  }
}

void pack_tl2_tile(const std::uint8_t* codes, std::int64_t rows, std::int64_t k, std::uint8_t* tile) {
  // Index 0, sign 0: codes 1, 1, 1.
  std::memset(tile, 0, static_cast<std::size_t>(ceil_div(k, kTl2LineK) * kTl2LineBytes));
  std::uint8_t c[kTl2LineK];
  for (std::int64_t i = 0; i * kTl2LineK < k; ++i, tile += kTl2LineBytes) {
    for (std::int64_t r = 0; r < rows; ++r) {
      line_codes<kTl2LineK>(codes + r * k, i, k, c);
      for (int b = 0; b < kTl2Blocks; ++b) {
        for (int j = 0; j < 4; ++j) {
          const std::uint8_t* triple = c + 12 * b + j;
          const int v = triple[0] + 3 * triple[4] + 9 * triple[8] - 13;
          const int index = v < 0 ? -v : v;
          std::uint8_t& indices = tile[64 * (b / 2) + 16 * j + r];
          std::uint8_t& signs = tile[kTl2Signs + 16 * j + r];
          indices = static_cast<std::uint8_t>(indices | (index << (4 * (b % 2))));
          signs = static_cast<std::uint8_t>(signs | (v < 0 ? 0x80 >> b : 0));
        }
      }
    }
  }
}

void unpack_tl2_row(const std::uint8_t* tile, std::int64_t r, std::int64_t k, std::uint8_t* codes) {
  for (std::int64_t i = 0; i < k; ++i) {
    const std::uint8_t* line = tile + i / kTl2LineK * kTl2LineBytes;
    const std::int64_t in_line = i % kTl2LineK;
    const std::int64_t b = in_line / 12;
    const std::int64_t p = in_line % 12 / 4;
    const std::int64_t byte = 16 * (in_line % 4) + r;
    const int index = (line[64 * (b / 2) + byte] >> (4 * (b % 2))) & 15;
    const bool negative = ((line[kTl2Signs + byte] << b) & 0x80) != 0;
    const int v = (negative ? -index : index) + 13;
    codes[i] = static_cast<std::uint8_t>(p == 0 ? v % 3 : p == 1 ? v / 3 % 3 : v / 9);
  }
}

}  // namespace

constinit const LayoutCode kTl1 = {{"tl1", kTl1LineK, kTl1LineBytes, true}, pack_tl1_tile, unpack_tl1_row};
constinit const LayoutCode kTl2 = {{"tl2", kTl2LineK, kTl2LineBytes, false}, pack_tl2_tile, unpack_tl2_row};

static_assert(64 % kTl1LineK == 0, "K-groups are whole lines of tl1");
static_assert(kRows == 16, "a lookup of 16 bytes serves the rows of a tile");

}  // namespace bitnet::layout_detail
