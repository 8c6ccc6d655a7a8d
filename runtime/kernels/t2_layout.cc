// Packing into layout t2. A line of 64 bytes is 16 rows x 16 k, so a tile is filled line by line: the 16 rows are read
// side by side, each write is one whole line.
#include "runtime/kernels/t2_layout.h"

#include <algorithm>
#include <cstring>

namespace bitnet::t2 {
namespace {

constexpr std::uint8_t kPadByte = 0x55;  // four codes 1

// The 4 bytes (j = 0..3) of one row in one line from its 16 codes.
void pack_line_row(const std::uint8_t* codes, std::uint8_t* out) {
  for (int j = 0; j < 4; ++j) {
    out[j] = static_cast<std::uint8_t>(codes[j] | (codes[4 + j] << 2) | (codes[8 + j] << 4) | (codes[12 + j] << 6));
  }
}

}  // namespace

void pack_codes(const std::uint8_t* codes, std::int64_t row_begin, std::int64_t row_end, std::int64_t k,
                std::uint8_t* out) {
  const std::int64_t line_count = lines(k);
  for (std::int64_t tile = row_begin / BITNET_T2_TILE_ROWS; tile * BITNET_T2_TILE_ROWS < row_end; ++tile) {
    const std::int64_t first = tile * BITNET_T2_TILE_ROWS;
    const std::int64_t rows = std::min<std::int64_t>(BITNET_T2_TILE_ROWS, row_end - first);
    const std::uint8_t* source = codes + (first - row_begin) * k;
    std::uint8_t* line = out + static_cast<std::size_t>(tile) * tile_bytes(k);
    for (std::int64_t i = 0; i < line_count; ++i, line += BITNET_T2_LINE_BYTES) {
      const std::int64_t k_begin = i * BITNET_T2_LINE_K;
      const std::int64_t width = std::min<std::int64_t>(BITNET_T2_LINE_K, k - k_begin);
      for (std::int64_t r = 0; r < rows; ++r) {
        const std::uint8_t* row = source + r * k + k_begin;
        if (width == BITNET_T2_LINE_K) {
          pack_line_row(row, line + 4 * r);
        } else {
          std::uint8_t padded[BITNET_T2_LINE_K];
          std::memset(padded, 1, sizeof padded);
          std::memcpy(padded, row, static_cast<std::size_t>(width));
          pack_line_row(padded, line + 4 * r);
        }
      }
      std::memset(line + 4 * rows, kPadByte, static_cast<std::size_t>(4 * (BITNET_T2_TILE_ROWS - rows)));
    }
  }
}

void unpack_row(const std::uint8_t* packed, std::int64_t row, std::int64_t k, std::uint8_t* codes) {
  const std::uint8_t* tile = packed + static_cast<std::size_t>(row / BITNET_T2_TILE_ROWS) * tile_bytes(k);
  const std::int64_t r = row % BITNET_T2_TILE_ROWS;
  for (std::int64_t i = 0; i < k; ++i) {
    const std::int64_t in_line = i % BITNET_T2_LINE_K;
    const std::uint8_t byte = tile[i / BITNET_T2_LINE_K * BITNET_T2_LINE_BYTES + 4 * r + in_line % 4];
    codes[i] = static_cast<std::uint8_t>((byte >> (2 * (in_line / 4))) & 3);
  }
}

void pack_activations(const std::int8_t* rows, std::int64_t tokens, std::int64_t k, std::int32_t mr,
                      std::int64_t block_begin, std::int64_t block_end, std::int8_t* out) {
  const std::int64_t width = round_up<std::int64_t>(k, BITNET_ACTIVATION_PAD);
  for (std::int64_t block = block_begin; block < block_end; ++block) {
    std::int8_t* block_out = out + block * mr * width;
    for (std::int64_t t = 0; t < mr; ++t) {
      const std::int64_t token = block * mr + t;
      std::int8_t* to = block_out + 4 * t;
      if (token >= tokens) {
        for (std::int64_t i = 0; i < width; i += 4, to += 4 * mr) std::memset(to, 0, 4);
        continue;
      }
      const std::int8_t* from = rows + token * width;
      for (std::int64_t i = 0; i < width; i += 4, to += 4 * mr) std::memcpy(to, from + i, 4);
    }
  }
}

}  // namespace bitnet::t2
