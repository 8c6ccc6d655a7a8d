// I2_S (x86 layout) -> the layouts of the kernels. Any layout can be made from decoded rows (runtime/kernels/layout.h);
// t2 and t5, the common ones, have shorter ways.
//
// I2_S and t2 both hold 2-bit codes, but a byte of I2_S holds four weights that lie 32 columns apart, and a byte of t2
// four that lie 4 columns apart. Take 16 source bytes of one row: field f (bits 7-2f:6-2f) of byte b is the weight of
// column 32f + b of its group of 128. As four dwords a, b, c, d, field f of all of them are 16 consecutive columns,
// that is the row's dword in one t2 line: a supplies field p = 0 of the target, b p = 1, and so on. So the four dwords
// and the four target dwords are a 4 x 4 transposition of 2-bit elements, done for 4 byte positions and, in 64 bits,
// for two rows at once. Where K is an odd multiple of 64, every other row begins in the middle of a group: the low
// nibbles of one group and the high ones of the next, put together, are 128 columns of such a row in the same form.
// Every other K is decoded by its flat index, and so are all matrices of the other layouts.
//
// For t5 the dwords of the 16 rows are put side by side, so that each step is the same arithmetic on 64 bytes: a field
// of them is one dword of codes of every row, and five such dwords are encoded into one line, by the formulas of
// layout_t5.cc on four bytes at a time, none of which ever carries into the next.
#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <cstring>
#include <vector>

#include "runtime/kernels/layout.h"
#include "runtime/model/config.h"

namespace bitnet {
namespace {

static_assert(std::endian::native == std::endian::little, "the packer reads and writes little-endian words");

constexpr std::int64_t kGroup = 128;      // weights
constexpr std::int64_t kGroupBytes = 32;  // of I2_S
constexpr std::int64_t kGroupLines = 8;   // of t2
constexpr std::int64_t kLineBytes = 64;
constexpr std::uint64_t kPad = 0x5555555555555555;  // code 1 everywhere

// A row of a part of the stacked product; `codes` is null for the pad rows behind the last part.
struct RowSource {
  const std::uint8_t* codes = nullptr;  // of the part
  std::int64_t row = 0;                 // in the part
};
RowSource find_row(const FusedMatrix& product, std::int64_t row) {
  for (const gguf::Tensor* part : product.parts) {
    const auto rows = static_cast<std::int64_t>(part->ne[1]);
    if (row < rows) return {reinterpret_cast<const std::uint8_t*>(part->data.data()), row};
    row -= rows;
  }
  return {};
}

constexpr std::array<std::uint8_t, kGroupBytes> kPadGroup = [] {
  std::array<std::uint8_t, kGroupBytes> group{};
  group.fill(0x55);
  return group;
}();

// Where a row's groups lie.
struct Row {
  const std::uint8_t* group;  // the one that holds its first weight, then the next
  std::int64_t step;          // bytes from group to group; 0 repeats kPadGroup
  bool offset;                // it begins with the second half of that group
};
Row locate(const FusedMatrix& product, std::int64_t row) {
  const RowSource source = find_row(product, row);
  if (source.codes == nullptr) return {kPadGroup.data(), 0, false};
  const std::int64_t first = source.row * product.k;
  return {source.codes + first / kGroup * kGroupBytes, kGroupBytes, first % kGroup != 0};
}

enum class Groups { kAligned, kAny, kLastHalf };

std::uint32_t load_word(const std::uint8_t* from) {
  std::uint32_t word = 0;
  std::memcpy(&word, from, 4);
  return word;
}

// Four bytes of 128 columns of a row; of its last 64 columns (kLastHalf) as fields 0 and 1, the others zero.
template <Groups kKind>
std::uint32_t load(const Row& row, const std::uint8_t* at) {
  constexpr std::uint32_t kLow = 0x0F0F0F0F;
  const std::uint32_t word = load_word(at);
  if constexpr (kKind == Groups::kAligned) return word;
  if constexpr (kKind == Groups::kLastHalf) return row.offset ? (word & kLow) << 4 : word & ~kLow;
  return row.offset ? (word & kLow) << 4 | (load_word(at + kGroupBytes) >> 4 & kLow) : word;
}

template <Groups kKind>
std::uint64_t load_pair(const Row& low, const Row& high, const std::uint8_t* low_at, const std::uint8_t* high_at) {
  return load<kKind>(low, low_at) | std::uint64_t{load<kKind>(high, high_at)} << 32;
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

// 128 columns (64 for kLastHalf) of 16 rows -> 8 lines (4).
template <Groups kKind>
std::uint64_t pack_group(const Row* rows, std::uint8_t* lines) {
  constexpr std::uint64_t kNibbles = 0x0F0F0F0F0F0F0F0F;
  constexpr std::uint64_t kPairs = 0x3333333333333333;
  constexpr std::int64_t kFields = kKind == Groups::kLastHalf ? 2 : 4;
  std::uint64_t illegal = 0;
  for (std::int64_t half = 0; half < 2; ++half) {
    for (std::int64_t r = 0; r < BITNET_TILE_ROWS; r += 2) {
      const Row& low = rows[r];
      const Row& high = rows[r + 1];
      const std::uint8_t* low_at = low.group + half * 16;
      const std::uint8_t* high_at = high.group + half * 16;
      const std::uint64_t a = legal(load_pair<kKind>(low, high, low_at, high_at), illegal);
      const std::uint64_t b = legal(load_pair<kKind>(low, high, low_at + 4, high_at + 4), illegal);
      const std::uint64_t c = legal(load_pair<kKind>(low, high, low_at + 8, high_at + 8), illegal);
      const std::uint64_t d = legal(load_pair<kKind>(low, high, low_at + 12, high_at + 12), illegal);
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
      for (std::int64_t f = 0; f < kFields; ++f) {
        std::memcpy(lines + (2 * f + half) * kLineBytes + 4 * r, &fields[f], 8);
      }
    }
  }
  return illegal;
}

// One tile with K a multiple of 64.
std::uint64_t pack_groups(const FusedMatrix& product, std::int64_t row, std::uint8_t* out) {
  Row rows[BITNET_TILE_ROWS];
  bool any_offset = false;
  for (std::int64_t r = 0; r < BITNET_TILE_ROWS; ++r) {
    rows[r] = locate(product, row + r);
    any_offset |= rows[r].offset;
  }
  const std::int64_t groups = product.k / kGroup;
  std::uint64_t illegal = 0;
  for (std::int64_t group = 0; group < groups; ++group) {
    std::uint8_t* lines = out + group * kGroupLines * kLineBytes;
    illegal += any_offset ? pack_group<Groups::kAny>(rows, lines) : pack_group<Groups::kAligned>(rows, lines);
    for (Row& r : rows) r.group += r.step;
  }
  if (product.k % kGroup != 0) {
    illegal += pack_group<Groups::kLastHalf>(rows, out + groups * kGroupLines * kLineBytes);
  }
  return illegal;
}

// The dwords of one code each, k = 4n .. 4n + 3 of 16 rows at words[n], and their lines.
using RowWords = std::array<std::uint32_t, BITNET_TILE_ROWS>;
constexpr std::int64_t kT5Words = 5;  // of a line
constexpr std::int64_t kGroupWords = kGroup / 4;
constexpr std::int64_t kT5Groups = kT5Words;  // whole lines again
constexpr std::uint32_t kOnes = 0x01010101;

// 128 columns (64 for kLastHalf) of 16 rows -> 32 words (16).
template <Groups kKind>
std::uint64_t unpack_group(const Row* rows, RowWords* words) {
  constexpr int kFields = kKind == Groups::kLastHalf ? 2 : 4;
  std::uint64_t illegal = 0;
  for (std::int64_t d = 0; d < kGroupBytes / 4; ++d) {
    RowWords source;
    for (std::size_t r = 0; r < BITNET_TILE_ROWS; ++r) source[r] = load<kKind>(rows[r], rows[r].group + 4 * d);
    std::uint32_t any = 0;
    for (const std::uint32_t word : source) any |= word & word >> 1 & 0x55555555;
    if (any != 0) [[unlikely]] {
      for (std::uint32_t& word : source) word = static_cast<std::uint32_t>(legal(word, illegal));
    }
    for (int f = 0; f < kFields; ++f) {
      RowWords& out = words[8 * f + d];
      for (std::size_t r = 0; r < BITNET_TILE_ROWS; ++r) out[r] = source[r] >> (6 - 2 * f) & 3 * kOnes;
    }
  }
  return illegal;
}

void encode_t5_line(const RowWords* words, std::uint8_t* line) {
  RowWords out;
  for (std::size_t r = 0; r < BITNET_TILE_ROWS; ++r) {
    const auto thrice = [](std::uint32_t x) { return x + (x << 1); };
    const std::uint32_t j = words[0][r] + thrice(words[1][r] + thrice(words[2][r] + thrice(words[3][r])));  // <= 80
    const std::uint32_t q = 2 * kOnes - words[4][r];
    const std::uint32_t sum = (j >> 2 & 31 * kOnes) + q + (q << 1) + (q << 3);  // v + 11 q <= 42
    const std::uint32_t u = sum & 31 * kOnes;
    const std::uint32_t y = (j + (sum >> 5 & kOnes)) & 3 * kOnes;
    // m: q = 2 shares every u with a smaller q, q = 1 those up to 20, where u + 11 has no bit 5.
    const std::uint32_t m = (q >> 1 & kOnes) | (q & ~((u + 11 * kOnes) >> 5) & kOnes);
    out[r] = y << 6 | u << 1 | m;
  }
  std::memcpy(line, out.data(), sizeof out);
}

// One tile of t5 with K a multiple of 64: five groups are 32 whole lines.
std::uint64_t pack_t5_groups(const FusedMatrix& product, std::int64_t row, std::uint8_t* out) {
  Row rows[BITNET_TILE_ROWS];
  bool any_offset = false;
  for (std::int64_t r = 0; r < BITNET_TILE_ROWS; ++r) {
    rows[r] = locate(product, row + r);
    any_offset |= rows[r].offset;
  }
  RowWords words[kT5Groups * kGroupWords];
  std::int64_t filled = 0;
  const auto encode = [&] {
    for (; filled % kT5Words != 0; ++filled) words[filled].fill(kOnes);
    for (std::int64_t at = 0; at < filled; at += kT5Words, out += kLineBytes) encode_t5_line(words + at, out);
    filled = 0;
  };
  std::uint64_t illegal = 0;
  for (std::int64_t group = 0; group < product.k / kGroup; ++group) {
    illegal += any_offset ? unpack_group<Groups::kAny>(rows, words + filled)
                          : unpack_group<Groups::kAligned>(rows, words + filled);
    for (Row& r : rows) r.group += r.step;
    filled += kGroupWords;
    if (filled == kT5Groups * kGroupWords) encode();
  }
  if (product.k % kGroup != 0) {
    illegal += unpack_group<Groups::kLastHalf>(rows, words + filled);
    filled += kGroupWords / 2;
  }
  encode();
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

// One tile with any K, in any layout. `codes` is work space that is kept from tile to tile.
std::uint64_t pack_decoded(const FusedMatrix& product, Layout layout, std::int64_t tile_row,
                           std::vector<std::uint8_t>& codes, std::uint8_t* out) {
  const std::int64_t k = product.k;
  const std::int64_t rows = std::min<std::int64_t>(BITNET_TILE_ROWS, product.n - tile_row);
  codes.resize(static_cast<std::size_t>(k * BITNET_TILE_ROWS));
  std::uint64_t illegal = 0;
  for (std::int64_t r = 0; r < rows; ++r) {
    const RowSource source = find_row(product, tile_row + r);
    illegal += decode(source.codes, source.row * k, k, codes.data() + r * k);
  }
  pack_codes(layout, codes.data(), 0, rows, k, out);
  return illegal;
}

std::uint64_t pack_any(const FusedMatrix& product, Layout layout, std::int64_t tile_row,
                       std::vector<std::uint8_t>& codes, std::uint8_t* out) {
  if (product.k % (kGroup / 2) == 0) {
    if (layout == Layout::kT2) return pack_groups(product, tile_row, out);
    if (layout == Layout::kT5) return pack_t5_groups(product, tile_row, out);
  }
  return pack_decoded(product, layout, tile_row, codes, out);
}

}  // namespace

std::uint64_t pack_tile(const FusedMatrix& product, Layout layout, std::int64_t tile_row, std::uint8_t* out) {
  std::vector<std::uint8_t> codes;
  return pack_any(product, layout, tile_row, codes, out);
}

std::uint64_t pack_product(const FusedMatrix& product, Layout layout, std::int64_t row_begin, std::int64_t row_end,
                           std::uint8_t* out) {
  std::vector<std::uint8_t> codes;
  const std::size_t bytes = tile_bytes(layout, product.k);
  std::uint64_t illegal = 0;
  for (std::int64_t row = row_begin; row < row_end; row += BITNET_TILE_ROWS) {
    illegal += pack_any(product, layout, row, codes, out + static_cast<std::size_t>(row / BITNET_TILE_ROWS) * bytes);
  }
  return illegal;
}

}  // namespace bitnet
