// Layout t5, 1.6 bits a weight: five weights in a byte, so that less has to come out of memory.
//
// A line is 64 bytes and holds 16 rows x 20 k: byte 4r+j holds the codes c_p (p 0..4) of row r, k = 20i + 4p + j
// (r 0..15, j 0..3); so a 32-bit lane belongs to one row, as in t2. 3^5 = 243 values fit in a byte. Which value stands
// for which codes is chosen for the decoder of AVX-512 VBMI, whose byte tables take 6 and 7 bits of index:
//
//   j = c0 + 3 c1 + 9 c2 + 27 c3, v = j / 4, y = j mod 4     four digits: 0 <= v <= 20
//   q = 2 - c4                                              the fifth digit
//   u = v + 11 q; if u >= 32: u = u - 32, y = (y + 1) mod 4
//   byte = 64 y + 2 u + m, m = 0 for the smallest q that has this u, 1 for the other
//
// The 63 pairs (u, m) tell c4 (bits 5..0, one table of 64 bytes: h = 211 + 22 c4 = 255 - 22 q). The rounded average
// (byte + h + 1) / 2 = 128 + 32 y + u - 11 q is then, mod 128, 32 (j mod 4) + v: the carry of u into y undoes itself.
// So one average and one table of 128 bytes give the other four codes. 13 of the 256 bytes stand for nothing.
#include <array>
#include <cstring>

#include "runtime/kernels/layout_detail.h"

namespace bitnet::layout_detail {
namespace {

constexpr std::int64_t kLineK = 20;
constexpr std::int64_t kLineBytes = 64;
constexpr int kDigits = 5;
constexpr int kValues = 243;

// The byte of index = c0 + 3 c1 + 9 c2 + 27 c3 + 81 c4.
constexpr std::uint8_t encode(int index) {
  const int q = 2 - index / 81;
  const int v = index % 81 / 4;
  const int u = (v + 11 * q) % 32;
  const int y = (index % 81 % 4 + (v + 11 * q) / 32) % 4;
  int m = 0;
  for (int smaller = 0; smaller < q; ++smaller) {
    if ((u - 11 * smaller + 32) % 32 <= 20) m = 1;
  }
  return static_cast<std::uint8_t>(64 * y + 2 * u + m);
}

constexpr std::array<std::uint8_t, kValues> make_bytes() {
  std::array<std::uint8_t, kValues> bytes{};
  for (int index = 0; index < kValues; ++index) bytes[static_cast<std::size_t>(index)] = encode(index);
  return bytes;
}
constexpr std::array<std::uint8_t, kValues> kBytes = make_bytes();

// The codes of a byte; of one that stands for nothing, five times code 1.
using Codes = std::array<std::uint8_t, kDigits>;
constexpr std::array<Codes, 256> make_codes() {
  std::array<Codes, 256> codes{};
  for (Codes& five : codes) five = {1, 1, 1, 1, 1};
  for (int index = 0; index < kValues; ++index) {
    int rest = index;
    for (std::uint8_t& code : codes[kBytes[static_cast<std::size_t>(index)]]) {
      code = static_cast<std::uint8_t>(rest % 3);
      rest /= 3;
    }
  }
  return codes;
}
constexpr std::array<Codes, 256> kCodes = make_codes();

constexpr std::uint8_t kPadByte = kBytes[1 + 3 + 9 + 27 + 81];

// The 4 bytes of one row in one line from its 20 codes. The four indices are computed side by side in one 32-bit word:
// each stays below 243, so nothing is carried from byte to byte, and the order of the bytes does not matter.
void pack_line_row(const std::uint8_t* codes, std::uint8_t* out) {
  std::uint32_t word[kDigits];
  std::memcpy(word, codes, sizeof word);
  const std::uint32_t indices = word[0] + 3 * word[1] + 9 * word[2] + 27 * word[3] + 81 * word[4];
  std::uint8_t index[4];
  std::memcpy(index, &indices, sizeof index);
  for (int j = 0; j < 4; ++j) out[j] = kBytes[index[j]];
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
    codes[i] = kCodes[byte][static_cast<std::size_t>(in_line / 4)];
  }
}

}  // namespace

constinit const LayoutCode kT5 = {{"t5", kLineK, kLineBytes, false}, pack_tile, unpack_row};

}  // namespace bitnet::layout_detail
