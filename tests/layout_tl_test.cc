// Layouts tl1 and tl2 byte by byte: every index and sign, against the definition in runtime/kernels/layout_tl.cc
// written out here once more, from the side of the reader. Sizes, padding and round trips are in layout_test.cc, for
// all layouts.
#include <doctest/doctest.h>

#include <cstdlib>
#include <random>
#include <vector>

#include "runtime/kernels/layout.h"

namespace bitnet {
namespace {

// Packs one matrix of `rows` rows.
std::vector<std::uint8_t> packed(Layout layout, const std::vector<std::uint8_t>& codes, std::int64_t rows) {
  const std::int64_t k = static_cast<std::int64_t>(codes.size()) / rows;
  std::vector<std::uint8_t> bytes(matrix_bytes(layout, rows, k));
  pack_codes(layout, codes.data(), 0, rows, k, bytes.data());
  return bytes;
}

// Weight of row r at k, from the bytes of tl1.
int tl1_weight(const std::vector<std::uint8_t>& bytes, std::int64_t k_total, std::int64_t row, std::int64_t k) {
  const std::int64_t line = row / 16 * ((k_total + 15) / 16) + k / 16;
  const int byte = bytes[static_cast<std::size_t>(64 * line + 16 * (k % 4) + row % 16)];
  const int index = k % 16 < 8 ? byte % 16 : byte / 16;
  return (k % 8 < 4 ? index % 3 : index / 3) - 1;
}

// The same of tl2: digit p of balanced ternary.
int tl2_weight(const std::vector<std::uint8_t>& bytes, std::int64_t k_total, std::int64_t row, std::int64_t k) {
  const std::int64_t line = row / 16 * ((k_total + 95) / 96) + k / 96;
  const std::int64_t block = k % 96 / 12;
  const std::int64_t lane = 320 * line + 16 * (k % 4) + row % 16;
  const int byte = bytes[static_cast<std::size_t>(lane + 64 * (block / 2))];
  const int signs = bytes[static_cast<std::size_t>(lane + 256)];
  int rest = block % 2 == 0 ? byte % 16 : byte / 16;
  if ((signs >> (7 - block)) % 2 != 0) rest = -rest;
  int weight = 0;
  for (std::int64_t p = 0; p <= k % 12 / 4; ++p) {
    weight = (rest + 30) % 3;  // 0, 1, 2 for digits 0, 1, -1
    weight = weight == 2 ? -1 : weight;
    rest = (rest - weight) / 3;
  }
  return weight;
}

}  // namespace

TEST_CASE("tl1 and tl2: sizes of their lines") {
  CHECK(tile_bytes(Layout::kTl1, 16) == 64);
  CHECK(tile_bytes(Layout::kTl1, 17) == 128);
  CHECK(tile_bytes(Layout::kTl2, 96) == 320);
  CHECK(tile_bytes(Layout::kTl2, 97) == 640);
  CHECK(info(Layout::kTl1).k_groups);
  CHECK(!info(Layout::kTl2).k_groups);
}

TEST_CASE("tl1: all pairs in all places of a line") {
  for (int pair = 0; pair < 9; ++pair) {
    for (std::size_t place = 0; place < 8; ++place) {  // place = 4 * nibble + j
      const std::size_t j = place % 4;
      const std::size_t first = place / 4 * 8 + j;
      std::vector<std::uint8_t> codes(std::size_t{16} * 5, 1);
      const std::size_t row = 3;
      codes[row * 16 + first] = static_cast<std::uint8_t>(pair % 3);
      codes[row * 16 + first + 4] = static_cast<std::uint8_t>(pair / 3);
      const std::vector<std::uint8_t> bytes = packed(Layout::kTl1, codes, 5);
      for (std::size_t i = 0; i < bytes.size(); ++i) {
        int expected = 0x44;
        if (i == 16 * j + row) expected = place < 4 ? 0x40 + pair : 16 * pair + 4;
        CHECK(bytes[i] == expected);
      }
    }
  }
}

TEST_CASE("tl2: all triples in all places of a line") {
  for (int triple = 0; triple < 27; ++triple) {
    for (std::size_t place = 0; place < 32; ++place) {  // place = 4 * block + j
      const std::size_t block = place / 4;
      const std::size_t j = place % 4;
      std::vector<std::uint8_t> codes(std::size_t{96} * 2, 1);
      const std::size_t row = 1;
      const std::size_t first = row * 96 + 12 * block + j;
      codes[first] = static_cast<std::uint8_t>(triple % 3);
      codes[first + 4] = static_cast<std::uint8_t>(triple / 3 % 3);
      codes[first + 8] = static_cast<std::uint8_t>(triple / 9);
      const std::vector<std::uint8_t> bytes = packed(Layout::kTl2, codes, 2);
      const int index = std::abs(triple - 13);
      for (std::size_t i = 0; i < bytes.size(); ++i) {
        int expected = 0;
        if (i == 64 * (block / 2) + 16 * j + row) expected = block % 2 == 0 ? index : 16 * index;
        if (i == 256 + 16 * j + row && triple < 13) expected = 0x80 >> block;
        CHECK(bytes[i] == expected);
      }
    }
  }
}

TEST_CASE("tl1 and tl2: the reader's definition and unpack_row agree, on any shape") {
  std::mt19937 random(12);
  for (int round = 0; round < 60; ++round) {
    const std::int64_t n = 1 + static_cast<std::int64_t>(random() % 50);
    const std::int64_t k = 1 + static_cast<std::int64_t>(random() % 400);
    std::vector<std::uint8_t> codes(static_cast<std::size_t>(n * k));
    // Random, all -1, all +1.
    for (std::uint8_t& code : codes) code = static_cast<std::uint8_t>(round == 0 ? 0 : round == 1 ? 2 : random() % 3);
    const std::vector<std::uint8_t> tl1 = packed(Layout::kTl1, codes, n);
    const std::vector<std::uint8_t> tl2 = packed(Layout::kTl2, codes, n);
    std::vector<std::uint8_t> row1(static_cast<std::size_t>(k));
    std::vector<std::uint8_t> row2(static_cast<std::size_t>(k));
    for (std::int64_t r = 0; r < n; ++r) {
      unpack_row(Layout::kTl1, tl1.data(), r, k, row1.data());
      unpack_row(Layout::kTl2, tl2.data(), r, k, row2.data());
      for (std::int64_t i = 0; i < k; ++i) {
        const int code = codes[static_cast<std::size_t>(r * k + i)];
        REQUIRE(tl1_weight(tl1, k, r, i) == code - 1);
        REQUIRE(tl2_weight(tl2, k, r, i) == code - 1);
        REQUIRE(row1[static_cast<std::size_t>(i)] == code);
        REQUIRE(row2[static_cast<std::size_t>(i)] == code);
      }
    }
  }
}

TEST_CASE("tl1 and tl2: only indices that stand for something, padding is weight 0") {
  std::mt19937 random(13);
  for (const std::int64_t k : {1, 15, 17, 95, 97, 200}) {
    const std::int64_t n = 19;
    std::vector<std::uint8_t> codes(static_cast<std::size_t>(n * k));
    for (std::uint8_t& code : codes) code = static_cast<std::uint8_t>(random() % 3);
    const std::vector<std::uint8_t> tl1 = packed(Layout::kTl1, codes, n);
    for (const std::uint8_t byte : tl1) REQUIRE((byte % 16 <= 8 && byte / 16 <= 8));
    const std::vector<std::uint8_t> tl2 = packed(Layout::kTl2, codes, n);
    for (std::size_t i = 0; i < tl2.size(); ++i) {
      if (i % 320 < 256) REQUIRE((tl2[i] % 16 <= 13 && tl2[i] / 16 <= 13));
    }
    // Rows 19..31 and k beyond the last: weight 0 to the end of the lines.
    for (std::int64_t r = 0; r < 32; ++r) {
      for (std::int64_t i = r < n ? k : 0; i < (k + 15) / 16 * 16; ++i) REQUIRE(tl1_weight(tl1, k, r, i) == 0);
      for (std::int64_t i = r < n ? k : 0; i < (k + 95) / 96 * 96; ++i) REQUIRE(tl2_weight(tl2, k, r, i) == 0);
    }
  }
}

}  // namespace bitnet
