// Weight layouts: sizes, packing and unpacking of every layout, and the bytes of each by hand.
#include "runtime/kernels/layout.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <random>
#include <string>
#include <vector>

namespace bitnet {
namespace {

constexpr std::uint8_t kGuard = 0xA5;
constexpr std::size_t kGuardBytes = 64;

std::vector<std::uint8_t> random_codes(std::int64_t count, std::mt19937& random) {
  std::vector<std::uint8_t> codes(static_cast<std::size_t>(count));
  for (std::uint8_t& code : codes) code = static_cast<std::uint8_t>(random() % 3);
  return codes;
}

// Packs [n][k] in two calls, as two threads would, and reads every row of every tile back to the end of its last line:
// lines are the same for every K with as many of them.
void check_round_trip(Layout layout, std::int64_t n, std::int64_t k, std::mt19937& random) {
  CAPTURE(std::string(info(layout).name));
  CAPTURE(n);
  CAPTURE(k);
  const std::vector<std::uint8_t> codes = random_codes(n * k, random);
  const std::size_t bytes = matrix_bytes(layout, n, k);
  REQUIRE(bytes == static_cast<std::size_t>(row_tiles(n)) * tile_bytes(layout, k));
  std::vector<std::uint8_t> packed(bytes + kGuardBytes, kGuard);
  const std::int64_t tiles = static_cast<std::int64_t>(random() % static_cast<std::uint32_t>(row_tiles(n) + 1));
  const std::int64_t border = std::min<std::int64_t>(n, tiles * BITNET_TILE_ROWS);
  if (border < n) pack_codes(layout, codes.data() + border * k, border, n, k, packed.data());
  if (border > 0) pack_codes(layout, codes.data(), 0, border, k, packed.data());
  for (std::size_t i = bytes; i < packed.size(); ++i) REQUIRE(packed[i] == kGuard);

  const std::int64_t full_k = round_up(k, info(layout).line_k);
  std::vector<std::uint8_t> row(static_cast<std::size_t>(full_k) + kGuardBytes);
  for (std::int64_t r = 0; r < row_tiles(n) * BITNET_TILE_ROWS; ++r) {
    std::fill(row.begin(), row.end(), kGuard);
    unpack_row(layout, packed.data(), r, full_k, row.data());
    for (std::int64_t i = 0; i < full_k; ++i) {
      const int expected = r < n && i < k ? codes[static_cast<std::size_t>(r * k + i)] : 1;
      REQUIRE(row[static_cast<std::size_t>(i)] == expected);
    }
    // And exactly k of them where k is asked for.
    std::fill(row.begin(), row.end(), kGuard);
    unpack_row(layout, packed.data(), r, k, row.data());
    for (std::size_t i = static_cast<std::size_t>(k); i < row.size(); ++i) REQUIRE(row[i] == kGuard);
  }
}

// The byte of t5 for five codes, packed as row 0, j = 0 of a line whose other codes are 1.
std::uint8_t t5_byte(int c0, int c1, int c2, int c3, int c4) {
  std::vector<std::uint8_t> codes(20, 1);
  const int five[] = {c0, c1, c2, c3, c4};
  for (std::size_t p = 0; p < 5; ++p) codes[4 * p] = static_cast<std::uint8_t>(five[p]);
  std::vector<std::uint8_t> packed(matrix_bytes(Layout::kT5, 1, 20));
  pack_codes(Layout::kT5, codes.data(), 0, 1, 20, packed.data());
  return packed[0];
}

}  // namespace

TEST_CASE("layouts have names, and lines of whole 64-byte units") {
  for (const Layout layout : kAllLayouts) {
    const LayoutInfo& of = info(layout);
    CHECK(parse_layout(of.name) == layout);
    CHECK(of.line_k >= 1);
    CHECK(of.line_bytes % 64 == 0);
    CHECK(of.k_groups == (64 % of.line_k == 0));
    CHECK(layout_of(format_of(layout)) == layout);
    // An activation row may be read to the end of the last line.
    for (std::int64_t k = 1; k < 300; ++k) CHECK(round_up(k, of.line_k) <= BITNET_ACTIVATION_WIDTH(k));
  }
  CHECK(!parse_layout("t3"));
  CHECK(!parse_layout(""));
}

TEST_CASE("packing and unpacking agree, padding is weight 0") {
  std::mt19937 random(4);
  for (const Layout layout : kAllLayouts) {
    for (const std::int64_t n : {1, 15, 16, 17, 40}) {
      for (const std::int64_t k : {1, 2, 3, 4, 15, 16, 17, 19, 20, 21, 39, 40, 41, 70}) {
        check_round_trip(layout, n, k, random);
      }
    }
    for (int i = 0; i < 40; ++i) {
      const std::int64_t n = 1 + static_cast<std::int64_t>(random() % 70);
      check_round_trip(layout, n, 1 + static_cast<std::int64_t>(random() % 500), random);
    }
  }
}

TEST_CASE("t2: the first bytes by hand") {
  // Row 1 has code 2 at k = 6 (j = 2, p = 1), 0 at k = 0, 1 elsewhere.
  std::vector<std::uint8_t> codes(32, 1);
  codes[16] = 0;
  codes[16 + 6] = 2;
  std::vector<std::uint8_t> packed(matrix_bytes(Layout::kT2, 2, 16));
  pack_codes(Layout::kT2, codes.data(), 0, 2, 16, packed.data());
  CHECK(packed.size() == 64);
  CHECK(packed[4] == 0x54);
  CHECK(packed[6] == 0x59);
  CHECK(packed[5] == 0x55);
}

TEST_CASE("t5: bytes by hand") {
  CHECK(t5_byte(1, 1, 1, 1, 1) == 0x2A);  // j = 40: v = 10, y = 0; q = 1, u = 21, which only q = 1 has: m = 0
  CHECK(t5_byte(0, 0, 0, 0, 0) == 0x2D);  // v = 0, y = 0; q = 2, u = 22, which q = 1 has too: m = 1
  CHECK(t5_byte(2, 2, 2, 2, 2) == 0x28);  // j = 80: v = 20, y = 0; q = 0, u = 20: m = 0
  CHECK(t5_byte(2, 0, 0, 0, 0) == 0xAD);  // v = 0, y = 2; q = 2, u = 22: m = 1
  CHECK(t5_byte(1, 1, 1, 1, 0) == 0x41);  // v = 10, y = 0; q = 2: u = 32, so u = 0, y = 1, m = 1
  // Row 1 has code 2 at k = 18 (j = 2, p = 4), 1 elsewhere.
  std::vector<std::uint8_t> codes(40, 1);
  codes[20 + 18] = 2;
  std::vector<std::uint8_t> packed(matrix_bytes(Layout::kT5, 2, 20));
  pack_codes(Layout::kT5, codes.data(), 0, 2, 20, packed.data());
  CHECK(packed.size() == 64);
  CHECK(packed[5] == 0x2A);
  CHECK(packed[6] == 0x14);  // v = 10, y = 0; q = 0, u = 10: m = 0
  CHECK(packed[63] == 0x2A);
}

TEST_CASE("t5: every five codes, by the decoder's arithmetic") {
  std::vector<int> fifth(64, -1);  // h by bits 5..0
  std::vector<bool> seen(256, false);
  for (int index = 0; index < 243; ++index) {
    const int c[] = {index % 3, index / 3 % 3, index / 9 % 3, index / 27 % 3, index / 81};
    const int byte = t5_byte(c[0], c[1], c[2], c[3], c[4]);
    CHECK(!seen[static_cast<std::size_t>(byte)]);
    seen[static_cast<std::size_t>(byte)] = true;
    const int h = 211 + 22 * c[4];
    int& in_table = fifth[static_cast<std::size_t>(byte % 64)];
    CHECK((in_table == -1 || in_table == h));
    in_table = h;
    const int j = index % 81;
    CHECK((byte + h + 1) / 2 % 128 == 32 * (j % 4) + j / 4);
  }
}

}  // namespace bitnet
