// I2_S (x86 layout) -> t2.
//
// Both layouts hold 2-bit codes, but a byte of I2_S holds four weights that lie 32 columns apart, and a byte of t2 four
// that lie 4 columns apart. Take 16 source bytes of one row: field f (bits 7-2f:6-2f) of byte b is the weight of column
// 32f + b of its group of 128. As four dwords a, b, c, d, field f of all of them are 16 consecutive columns, that is
// the row's dword in one t2 line: a supplies field p = 0 of the target, b p = 1, and so on. So the four dwords and the
// four target dwords are a 4 x 4 transposition of 2-bit elements, done for 4 byte positions and, in 64 bits, for two
// rows at once. This holds where a row begins on a group (K % 128 == 0); every other K is decoded by its flat index.
#include <bit>
#include <cstdint>
#include <cstring>
#include <vector>

#include "runtime/kernels/t2_layout.h"
#include "runtime/model/config.h"

namespace bitnet {
namespace {

static_assert(std::endian::native == std::endian::little, "the packer reads and writes little-endian words");

constexpr std::int64_t kGroup = 128;                // weights
constexpr std::int64_t kGroupBytes = 32;            // of I2_S
constexpr std::int64_t kGroupLines = 8;             // of t2
constexpr std::uint64_t kPad = 0x5555555555555555;  // code 1 everywhere

// Maps rows of the stacked product to rows of its parts.
struct RowSource {
  const std::uint8_t* codes;  // of the part
  std::int64_t row;           // in the part
};
RowSource find_row(const FusedMatrix& product, std::int64_t row) {
  for (const gguf::Tensor* part : product.parts) {
    const auto rows = static_cast<std::int64_t>(part->ne[1]);
    if (row < rows) return {reinterpret_cast<const std::uint8_t*>(part->data.data()), row};
    row -= rows;
  }
  return {nullptr, 0};  // a pad row
}

std::uint64_t load_pair(const std::uint8_t* low, const std::uint8_t* high) {
  std::uint32_t a = 0;
  std::uint32_t b = 0;
  std::memcpy(&a, low, 4);
  std::memcpy(&b, high, 4);
  return a | std::uint64_t{b} << 32;
}

// Code 3 -> 1; counts them.
std::uint64_t legal(std::uint64_t codes, std::uint64_t& illegal) {
  const std::uint64_t threes = codes & (codes >> 1) & kPad;
  if (threes != 0) [[unlikely]] {
    illegal += static_cast<std::uint64_t>(std::popcount(threes));
    codes ^= threes << 1;
  }
  return codes;
}

// One tile (16 rows) with K a multiple of 128. rows[r] is the first byte of row r.
std::uint64_t pack_tile(const std::uint8_t* const* rows, std::int64_t k, std::uint8_t* out) {
  constexpr std::uint64_t kNibbles = 0x0F0F0F0F0F0F0F0F;
  constexpr std::uint64_t kPairs = 0x3333333333333333;
  std::uint64_t illegal = 0;
  for (std::int64_t group = 0; group < k / kGroup; ++group) {
    std::uint8_t* lines = out + group * kGroupLines * BITNET_T2_LINE_BYTES;
    for (std::int64_t half = 0; half < 2; ++half) {
      const std::int64_t at = group * kGroupBytes + half * 16;
      for (std::int64_t r = 0; r < BITNET_T2_TILE_ROWS; r += 2) {
        const std::uint8_t* low = rows[r] + at;
        const std::uint8_t* high = rows[r + 1] + at;
        const std::uint64_t a = legal(load_pair(low, high), illegal);
        const std::uint64_t b = legal(load_pair(low + 4, high + 4), illegal);
        const std::uint64_t c = legal(load_pair(low + 8, high + 8), illegal);
        const std::uint64_t d = legal(load_pair(low + 12, high + 12), illegal);
        // Low and high nibbles: field pairs {3, 2} and {1, 0}; a, b below, c, d above.
        const std::uint64_t ac_low = (a & kNibbles) | (c & kNibbles) << 4;
        const std::uint64_t bd_low = (b & kNibbles) | (d & kNibbles) << 4;
        const std::uint64_t ac_high = (a >> 4 & kNibbles) | (c & ~kNibbles);
        const std::uint64_t bd_high = (b >> 4 & kNibbles) | (d & ~kNibbles);
        const std::uint64_t fields[4] = {
            (ac_high >> 2 & kPairs) | (bd_high & ~kPairs),
            (ac_high & kPairs) | (bd_high & kPairs) << 2,
            (ac_low >> 2 & kPairs) | (bd_low & ~kPairs),
            (ac_low & kPairs) | (bd_low & kPairs) << 2,
        };
        for (std::int64_t f = 0; f < 4; ++f) {
          std::memcpy(lines + (2 * f + half) * BITNET_T2_LINE_BYTES + 4 * r, &fields[f], 8);
        }
      }
    }
  }
  return illegal;
}

// Codes of weights [flat, flat + count) in runs that stay inside one field of one group.
std::uint64_t decode(const std::uint8_t* codes, std::int64_t flat, std::int64_t count, std::uint8_t* out) {
  std::uint64_t illegal = 0;
  while (count > 0) {
    const std::int64_t in_group = flat % kGroup;
    const std::int64_t first = in_group % 32;
    const std::int64_t run = std::min<std::int64_t>(32 - first, count);
    const int shift = static_cast<int>(6 - 2 * (in_group / 32));
    const std::uint8_t* source = codes + flat / kGroup * kGroupBytes + first;
    for (std::int64_t i = 0; i < run; ++i) {
      const auto code = static_cast<std::uint8_t>(source[i] >> shift & 3);
      const std::uint8_t three = code == 3 ? 1 : 0;
      illegal += three;
      out[i] = static_cast<std::uint8_t>(code - 2 * three);
    }
    flat += run;
    out += run;
    count -= run;
  }
  return illegal;
}

}  // namespace

std::uint64_t pack_product(const FusedMatrix& product, std::int64_t row_begin, std::int64_t row_end,
                           std::uint8_t* out) {
  const std::int64_t k = product.k;
  const bool whole_groups = k % kGroup == 0;
  // One pad row (fast path), or one tile of codes (generic path).
  std::vector<std::uint8_t> work(static_cast<std::size_t>(whole_groups ? k / 4 : k * BITNET_T2_TILE_ROWS), 0x55);
  std::uint64_t illegal = 0;
  for (std::int64_t tile_row = row_begin; tile_row < row_end; tile_row += BITNET_T2_TILE_ROWS) {
    if (whole_groups) {
      const std::uint8_t* rows[BITNET_T2_TILE_ROWS];
      for (std::int64_t r = 0; r < BITNET_T2_TILE_ROWS; ++r) {
        const RowSource source = find_row(product, tile_row + r);
        rows[r] = source.codes == nullptr ? work.data() : source.codes + source.row * (k / 4);
      }
      illegal += pack_tile(rows, k, out + static_cast<std::size_t>(tile_row / BITNET_T2_TILE_ROWS) * t2::tile_bytes(k));
      continue;
    }
    const std::int64_t last = std::min<std::int64_t>(tile_row + BITNET_T2_TILE_ROWS, product.n);
    for (std::int64_t row = tile_row; row < last; ++row) {
      const RowSource source = find_row(product, row);
      illegal += decode(source.codes, source.row * k, k, work.data() + (row - tile_row) * k);
    }
    t2::pack_codes(work.data(), tile_row, last, k, out);
  }
  return illegal;
}

}  // namespace bitnet
