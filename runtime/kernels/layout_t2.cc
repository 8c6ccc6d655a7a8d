// Layout t2, 2 bits a weight: one packing for every ISA.
//
// A line is 64 bytes and holds 16 rows x 16 k: byte 4r+j, bits 2p+1:2p, is the code of row r, k = 16i + 4p + j
// (r 0..15, j 0..3, p 0..3). So a 32-bit lane of a register belongs to one row, the four fields of its bytes are four
// dwords of activations, and no horizontal sum is ever needed.
#include <cstring>

#include "runtime/kernels/layout_detail.h"

namespace bitnet::layout_detail {
namespace {

constexpr std::int64_t kLineK = 16;
constexpr std::int64_t kLineBytes = 64;
constexpr std::uint8_t kPadByte = 0x55;  // four codes 1

// The 4 bytes (j = 0..3) of one row in one line from its 16 codes.
void pack_line_row(const std::uint8_t* codes, std::uint8_t* out) {
  for (int j = 0; j < 4; ++j) {
    out[j] = static_cast<std::uint8_t>(codes[j] | (codes[4 + j] << 2) | (codes[8 + j] << 4) | (codes[12 + j] << 6));
  }
}

// Line by line: the rows are read side by side, each write is one whole line.
void pack_tile(const std::uint8_t* codes, std::int64_t rows, std::int64_t k, std::uint8_t* tile) {
  for (std::int64_t k_begin = 0; k_begin < k; k_begin += kLineK, tile += kLineBytes) {
    const std::int64_t width = k - k_begin < kLineK ? k - k_begin : kLineK;
    for (std::int64_t r = 0; r < rows; ++r) {
      const std::uint8_t* row = codes + r * k + k_begin;
      if (width == kLineK) {
        pack_line_row(row, tile + 4 * r);
      } else {
        std::uint8_t padded[kLineK];
        std::memset(padded, 1, sizeof padded);
        std::memcpy(padded, row, static_cast<std::size_t>(width));
        pack_line_row(padded, tile + 4 * r);
      }
    }
    std::memset(tile + 4 * rows, kPadByte, static_cast<std::size_t>(4 * (BITNET_TILE_ROWS - rows)));
  }
}

void unpack_row(const std::uint8_t* tile, std::int64_t r, std::int64_t k, std::uint8_t* codes) {
  for (std::int64_t i = 0; i < k; ++i) {
    const std::int64_t in_line = i % kLineK;
    const std::uint8_t byte = tile[i / kLineK * kLineBytes + 4 * r + in_line % 4];
    codes[i] = static_cast<std::uint8_t>((byte >> (2 * (in_line / 4))) & 3);
  }
}

}  // namespace

constinit const LayoutCode kT2 = {{"t2", kLineK, kLineBytes, true}, pack_tile, unpack_row};

}  // namespace bitnet::layout_detail
