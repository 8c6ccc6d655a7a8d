// I2_S (x86 layout) -> a tile of t2 or t5, for K a multiple of 64. Plain code, which each unit of the built-in kernels
// compiles for its own instructions; of integers only, so that all give the same bytes.
//
// I2_S and t2 both hold 2-bit codes, but a byte of I2_S holds four weights that lie 32 columns apart, and a byte of t2
// four that lie 4 columns apart. Take 16 source bytes of one row: field f (bits 7-2f:6-2f) of byte b is the weight of
// column 32f + b of its group of 128. As four dwords a, b, c, d, field f of all of them are 16 consecutive columns,
// that is the row's dword in one t2 line: a supplies field p = 0 of the target, b p = 1, and so on. So the four dwords
// and the four target dwords are a 4 x 4 transposition of 2-bit elements, done for 4 byte positions and, side by side,
// for all 16 rows. Where K is an odd multiple of 64, every other row begins in the middle of a group: the low nibbles
// of one group and the high ones of the next, put together, are 128 columns of such a row in the same form.
//
// For t5 a field of the rows' dwords is one dword of codes of every row, and five such dwords are encoded into one
// line, by the formulas of layout_t5.cc on four bytes at a time, none of which ever carries into the next.
//
// Included by builtin_family.h only.
#pragma once

#include "runtime/kernels/builtin.h"

namespace bitnet::builtin {
namespace {

constexpr long long kPackRows = BITNET_TILE_ROWS;
constexpr long long kPackGroup = 128;      // weights
constexpr long long kPackGroupBytes = 32;  // of I2_S
constexpr long long kPackLine = 64;        // bytes
constexpr uint32_t kOnes = 0x01010101;
constexpr uint32_t kPairs = 0x55555555;

enum class Groups { kAligned, kAny, kLastHalf };

// The compilers' own vectors: a row's dwords of one group; and what a register of the unit holds.
using Words = uint32_t __attribute__((vector_size(32)));
using Lanes = uint32_t __attribute__((vector_size(BITNET_PACK_VECTOR)));
constexpr long long kWords = 8;
constexpr long long kLanes = BITNET_PACK_VECTOR / 4;

template <typename Vector>
[[gnu::always_inline]] inline void load(Vector& words, const void* from) {
  __builtin_memcpy(&words, from, sizeof words);
}

// Code 3 -> 1; counts them.
[[gnu::noinline]] unsigned long long make_legal(uint32_t (*words)[kPackRows]) {
  unsigned long long illegal = 0;
  for (long long d = 0; d < kWords; ++d) {
    for (long long r = 0; r < kPackRows; ++r) {
      const uint32_t threes = words[d][r] & words[d][r] >> 1 & kPairs;
      illegal += static_cast<unsigned long long>(__builtin_popcount(threes));
      words[d][r] ^= threes << 1;
    }
  }
  return illegal;
}

// m[i] dword j -> to[j][column + i].
[[gnu::always_inline]] inline void transpose(const Words* m, uint32_t (*to)[kPackRows], long long column) {
  Words pairs[kWords];
  for (int i = 0; i < 8; i += 2) {
    pairs[i] = __builtin_shufflevector(m[i], m[i + 1], 0, 8, 1, 9, 4, 12, 5, 13);
    pairs[i + 1] = __builtin_shufflevector(m[i], m[i + 1], 2, 10, 3, 11, 6, 14, 7, 15);
  }
  Words fours[kWords];
  for (int i = 0; i < 8; i += 4) {
    fours[i] = __builtin_shufflevector(pairs[i], pairs[i + 2], 0, 1, 8, 9, 4, 5, 12, 13);
    fours[i + 1] = __builtin_shufflevector(pairs[i], pairs[i + 2], 2, 3, 10, 11, 6, 7, 14, 15);
    fours[i + 2] = __builtin_shufflevector(pairs[i + 1], pairs[i + 3], 0, 1, 8, 9, 4, 5, 12, 13);
    fours[i + 3] = __builtin_shufflevector(pairs[i + 1], pairs[i + 3], 2, 3, 10, 11, 6, 7, 14, 15);
  }
  for (int j = 0; j < 4; ++j) {
    const Words low = __builtin_shufflevector(fours[j], fours[j + 4], 0, 1, 2, 3, 8, 9, 10, 11);
    const Words high = __builtin_shufflevector(fours[j], fours[j + 4], 4, 5, 6, 7, 12, 13, 14, 15);
    __builtin_memcpy(to[j] + column, &low, sizeof low);
    __builtin_memcpy(to[j + 4] + column, &high, sizeof high);
  }
}

// 128 columns of each row, dword d of row r at words[d][r]; of the last 64 columns (kLastHalf) as fields 0 and 1, the
// others zero.
template <Groups kKind>
[[gnu::always_inline]] inline unsigned long long load_rows(const PackRow* rows, uint32_t (*words)[kPackRows]) {
  constexpr uint32_t kLow = 0x0F0F0F0F;
  Words any = {};
  for (long long first = 0; first < kPackRows; first += kWords) {
    Words group[kWords];
    for (long long r = 0; r < kWords; ++r) {
      const PackRow& row = rows[first + r];
      Words bytes;
      load(bytes, row.group);
      if constexpr (kKind == Groups::kAny) {
        if (row.offset) {
          Words next;
          load(next, row.group + kPackGroupBytes);
          bytes = (bytes & kLow) << 4 | (next >> 4 & kLow);
        }
      }
      if constexpr (kKind == Groups::kLastHalf) bytes = row.offset ? (bytes & kLow) << 4 : bytes & ~kLow;
      any |= bytes & bytes >> 1 & kPairs;
      group[r] = bytes;
    }
    transpose(group, words, first);
  }
  uint32_t threes = 0;
  for (int i = 0; i < 8; ++i) threes |= any[i];
  return threes != 0 ? make_legal(words) : 0;
}

// 128 columns (64 for kLastHalf) of 16 rows -> 8 lines (4) of t2.
template <Groups kKind>
unsigned long long pack_t2_group(const PackRow* rows, uint8_t* lines) {
  constexpr uint32_t kNibbles = 0x0F0F0F0F;
  constexpr uint32_t kLowPairs = 0x33333333;
  constexpr long long kFields = kKind == Groups::kLastHalf ? 2 : 4;
  uint32_t words[kWords][kPackRows];
  const unsigned long long illegal = load_rows<kKind>(rows, words);
  for (long long half = 0; half < 2; ++half) {
    const uint32_t(*word)[kPackRows] = words + 4 * half;
    uint32_t field[4][kPackRows];
    for (long long r = 0; r < kPackRows; ++r) {
      const uint32_t a = word[0][r];
      const uint32_t b = word[1][r];
      const uint32_t c = word[2][r];
      const uint32_t d = word[3][r];
      // Low and high nibbles: field pairs {3, 2} and {1, 0}; a, b below, c, d above.
      const uint32_t ac_low = (a & kNibbles) | (c & kNibbles) << 4;
      const uint32_t bd_low = (b & kNibbles) | (d & kNibbles) << 4;
      const uint32_t ac_high = (a >> 4 & kNibbles) | (c & ~kNibbles);
      const uint32_t bd_high = (b >> 4 & kNibbles) | (d & ~kNibbles);
      field[0][r] = (ac_high >> 2 & kLowPairs) | (bd_high & ~kLowPairs);
      field[1][r] = (ac_high & kLowPairs) | (bd_high & kLowPairs) << 2;
      field[2][r] = (ac_low >> 2 & kLowPairs) | (bd_low & ~kLowPairs);
      field[3][r] = (ac_low & kLowPairs) | (bd_low & kLowPairs) << 2;
    }
    for (long long f = 0; f < kFields; ++f) __builtin_memcpy(lines + (2 * f + half) * kPackLine, field[f], kPackLine);
  }
  return illegal;
}

// Calls whole(whether a row is offset) for each group of the tile, last_half() for what is left, and moves the rows on.
template <typename Whole, typename LastHalf>
[[gnu::always_inline]] inline unsigned long long for_groups(PackRow* rows, long long k, Whole whole,
                                                            LastHalf last_half) {
  bool any_offset = false;
  for (long long r = 0; r < kPackRows; ++r) any_offset |= rows[r].offset;
  unsigned long long illegal = 0;
  for (long long group = 0; group < k / kPackGroup; ++group) {
    illegal += whole(any_offset);
    for (long long r = 0; r < kPackRows; ++r) rows[r].group += rows[r].step;
  }
  if (k % kPackGroup != 0) illegal += last_half();
  return illegal;
}

unsigned long long pack_t2(PackRow* rows, long long k, uint8_t* out) noexcept {
  return for_groups(
      rows, k,
      [&](bool any_offset) {
        uint8_t* lines = out;
        out += 8 * kPackLine;
        return any_offset ? pack_t2_group<Groups::kAny>(rows, lines) : pack_t2_group<Groups::kAligned>(rows, lines);
      },
      [&] { return pack_t2_group<Groups::kLastHalf>(rows, out); });
}

// The dwords of one code each, k = 4n .. 4n + 3 of 16 rows at words[n], and their lines.
constexpr long long kT5Words = 5;  // of a line
constexpr long long kGroupWords = kPackGroup / 4;
constexpr long long kT5Groups = kT5Words;  // whole lines again

// 128 columns (64 for kLastHalf) of 16 rows -> 32 words (16).
template <Groups kKind>
unsigned long long unpack_group(const PackRow* rows, uint32_t (*words)[kPackRows]) {
  constexpr int kFields = kKind == Groups::kLastHalf ? 2 : 4;
  uint32_t source[kWords][kPackRows];
  const unsigned long long illegal = load_rows<kKind>(rows, source);
  for (long long d = 0; d < kWords; ++d) {
    for (long long r = 0; r < kPackRows; r += kLanes) {
      Lanes bytes;
      load(bytes, source[d] + r);
      for (int f = 0; f < kFields; ++f) {
        const Lanes codes = bytes >> (6 - 2 * f) & 3 * kOnes;
        __builtin_memcpy(words[kWords * f + d] + r, &codes, sizeof codes);
      }
    }
  }
  return illegal;
}

[[gnu::always_inline]] inline void encode_t5_line(const uint32_t (*words)[kPackRows], uint8_t* line) {
  for (long long r = 0; r < kPackRows; r += kLanes) {
    Lanes c0, c1, c2, c3, c4;
    load(c0, words[0] + r);
    load(c1, words[1] + r);
    load(c2, words[2] + r);
    load(c3, words[3] + r);
    load(c4, words[4] + r);
    const Lanes c23 = c2 + c3 + (c3 << 1);
    const Lanes c123 = c1 + c23 + (c23 << 1);
    const Lanes j = c0 + c123 + (c123 << 1);  // c0 + 3 c1 + 9 c2 + 27 c3 <= 80
    const Lanes q = 2 * kOnes - c4;
    const Lanes sum = (j >> 2 & 31 * kOnes) + q + (q << 1) + (q << 3);  // v + 11 q <= 42
    const Lanes u = sum & 31 * kOnes;
    const Lanes y = (j + (sum >> 5 & kOnes)) & 3 * kOnes;
    // m: q = 2 shares every u with a smaller q, q = 1 those up to 20, where u + 11 has no bit 5.
    const Lanes m = (q >> 1 & kOnes) | (q & ~((u + 11 * kOnes) >> 5) & kOnes);
    const Lanes bytes = y << 6 | u << 1 | m;
    __builtin_memcpy(line + 4 * r, &bytes, sizeof bytes);
  }
}

// Five groups are 32 whole lines.
unsigned long long pack_t5(PackRow* rows, long long k, uint8_t* out) noexcept {
  uint32_t words[kT5Groups * kGroupWords][kPackRows];
  long long filled = 0;
  const auto encode = [&] {
    for (; filled % kT5Words != 0; ++filled) {
      for (long long r = 0; r < kPackRows; ++r) words[filled][r] = kOnes;
    }
    for (long long at = 0; at < filled; at += kT5Words, out += kPackLine) encode_t5_line(words + at, out);
    filled = 0;
  };
  const unsigned long long illegal = for_groups(
      rows, k,
      [&](bool any_offset) {
        const unsigned long long found = any_offset ? unpack_group<Groups::kAny>(rows, words + filled)
                                                    : unpack_group<Groups::kAligned>(rows, words + filled);
        filled += kGroupWords;
        if (filled == kT5Groups * kGroupWords) encode();
        return found;
      },
      [&] {
        const unsigned long long found = unpack_group<Groups::kLastHalf>(rows, words + filled);
        filled += kGroupWords / 2;
        return found;
      });
  encode();
  return illegal;
}

}  // namespace
}  // namespace bitnet::builtin
