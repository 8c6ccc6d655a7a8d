// The layouts of I2_S, TL1 and TL2 against the formulas of FORMATS.md, one weight at a time, over shapes and tiles.
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstdlib>
#include <limits>
#include <utility>
#include <vector>

#include "runtime/formats/encode.h"
#include "tests/formats_files.h"

namespace bitnet {
namespace {

using namespace formats;
using test::all_codes;
using test::Codes;
using test::OneTensor;
using test::open_error;
using test::open_ternary;
using test::random_codes;
using test::Raw;
using test::TextFile;

void put_bits(Raw& bytes, std::int64_t byte, int shift, int bits) {
  auto& at = bytes.at(static_cast<std::size_t>(byte));
  at = static_cast<std::uint8_t>(at | bits << shift);
}

// Codes and scale of an I2_S tensor.
Raw i2s_bytes(I2sLayout layout, const Codes& codes, std::int64_t rows, std::int64_t columns) {
  Raw bytes(static_cast<std::size_t>(rows * columns / 4 + 32));
  for (std::int64_t i = 0; i < rows * columns; ++i) {
    const int code = codes[static_cast<std::size_t>(i)];
    if (layout == I2sLayout::k4Row) {
      const std::int64_t row = i / columns;
      put_bits(bytes, row / 4 * columns + i % columns, static_cast<int>(6 - 2 * (row % 4)), code);
      continue;
    }
    const std::int64_t field = layout == I2sLayout::kX86 ? 32 : 16;
    const std::int64_t j = i % (4 * field);
    put_bits(bytes, i / (4 * field) * field + j % field, static_cast<int>(6 - 2 * (j / field)), code);
  }
  return bytes;
}

int weight(const Codes& codes, std::int64_t index) { return codes[static_cast<std::size_t>(index)] - 1; }

Raw tl1_bytes(const Codes& codes, std::int64_t M, std::int64_t K, const TileShape& tile) {
  Raw bytes(static_cast<std::size_t>(M * K / 4 + 32));
  const std::int64_t BM = tile.bm, BY = tile.by, bm = tile.bmm, by = 256 / bm;
  for (std::int64_t m = 0; m < M; ++m) {
    for (std::int64_t p = 0; p < K / 2; ++p) {
      const int v = 3 * weight(codes, m * K + 2 * p) + weight(codes, m * K + 2 * p + 1) + 4;
      const std::int64_t iM = m / BM, kb = p / (BY / 2), pr = p % (BY / 2), ib = (m % BM) / bm, r = m % bm;
      const std::int64_t gb = pr / (by / 2), pg = pr % (by / 2), h = r / 16, lane = r % 16, q = pg / 2;
      const std::int64_t offset =
          (((((iM * (K / BY) + kb) * (BM / bm) + ib) * (BY / by) + gb) * (bm / 16) + h) * (by / 4) + q) * 16 + lane;
      put_bits(bytes, offset, p % 2 == 0 ? 4 : 0, v);
    }
  }
  return bytes;
}

std::int64_t pad32(std::int64_t bytes) { return (bytes + 31) / 32 * 32; }

Raw tl2_bytes(const Codes& codes, std::int64_t M, std::int64_t K, const TileShape& tile) {
  const std::int64_t F = (K - 256) * M / 3 * 5 / 8 + 256 * M / 2 * 4 / 8;
  Raw bytes(static_cast<std::size_t>(pad32(F) + 32));
  const std::int64_t BM = tile.bm, BK = tile.by;
  const std::int64_t three_k = K / BK * BK, two_k = K - three_k;
  const auto swapped = [](std::int64_t r) { return r / 8 == 1 ? r + 8 : r / 8 == 2 ? r - 8 : r; };
  for (std::int64_t m = 0; m < M; ++m) {
    const std::int64_t iM = m / BM, ib = (m % BM) / 32, r = m % 32;
    for (std::int64_t t = 0; t < three_k / 3; ++t) {
      const std::int64_t at = m * K + 3 * t;
      const int v = 9 * weight(codes, at) + 3 * weight(codes, at + 1) + weight(codes, at + 2);
      const std::int64_t kb = t / (BK / 3), tt = t % (BK / 3), g = tt / 2;
      put_bits(bytes, (((iM * (three_k / BK) + kb) * (BM / 32) + ib) * (BK / 6) + g) * 32 + swapped(r),
               tt % 2 == 0 ? 4 : 0, std::abs(v));
      if (v >= 0) continue;
      const std::int64_t sg = tt / 8, j = tt % 8, L = r % 16;
      const std::int64_t word =
          M * three_k / 6 + (((iM * (three_k / BK) + kb) * (BM / 32) + ib) * (BK / 24) + sg) * 32 + 2 * L;
      const int bit = static_cast<int>(r < 16 ? 15 - 2 * j : 14 - 2 * j);
      put_bits(bytes, word + bit / 8, bit % 8, 1);
    }
    for (std::int64_t p = 0; p < two_k / 2; ++p) {
      const std::int64_t at = m * K + three_k + 2 * p;
      const int v = 3 * weight(codes, at) + weight(codes, at + 1) + 4;
      const std::int64_t kb = p / 16, g = p % 16 / 2;
      put_bits(bytes, M * three_k * 5 / 24 + (((iM * (two_k / 32) + kb) * (BM / 32) + ib) * 8 + g) * 32 + swapped(r),
               p % 2 == 0 ? 4 : 0, v);
    }
  }
  return bytes;
}

constexpr float kScale = 0.625F;

Raw with_scale(Raw bytes, float scale = kScale) {
  std::memcpy(bytes.data() + bytes.size() - 32, &scale, sizeof scale);
  return bytes;
}

// A file that names its tiles, for ReadOptions::tile_config.
struct TileFile : TextFile {
  TileFile(std::int64_t rows, std::int64_t columns, const TileShape& tile)
      : TextFile("[Kernels_0]\nm = " + std::to_string(rows) + "\nk = " + std::to_string(columns) +
                 "\nbm = " + std::to_string(tile.bm) + "\nbk = " + std::to_string(tile.by) +
                 "\nbmm = " + std::to_string(tile.bmm) + "\n") {}
};

// Encoding gives `expected`, in one piece and in several; decoding gives the codes, as a whole and in ranges of rows.
void check_both_ways(const TernaryTarget& target, const ReadOptions& options, const Codes& codes, const Raw& expected) {
  for (const std::int64_t piece : {target.rows, std::int64_t{3}}) {
    REQUIRE(test::encoded(target, codes, ScaleKind::kTensor, 0, std::span(&kScale, 1), piece) == expected);
  }
  const OneTensor file(target.type, target.rows, target.columns, std::as_bytes(std::span(expected)));
  const TernaryMatrix matrix = open_ternary(file.file, file.tensor(), options);
  CHECK(matrix.n() == target.rows);
  CHECK(matrix.k() == target.columns);
  CHECK(matrix.scale_kind() == ScaleKind::kTensor);
  CHECK(matrix.group() == 0);
  REQUIRE(matrix.scales().size() == 1);
  CHECK(matrix.scales()[0] == kScale);
  std::uint64_t undefined = 1;
  REQUIRE(all_codes(matrix, &undefined) == codes);
  CHECK(undefined == 0);
  const std::int64_t begin = target.rows / 3, end = target.rows - target.rows / 4;
  Codes part(static_cast<std::size_t>((end - begin) * target.columns + 1), 0xAB);
  CHECK(matrix.decode(begin, end, part.data()) == 0);
  CHECK(part.back() == 0xAB);
  CHECK(std::equal(part.begin(), part.end() - 1, codes.begin() + begin * target.columns));
}

TEST_CASE("I2_S: three layouts, rows that begin inside a group") {
  struct Shape {
    std::int64_t rows, columns;
  };
  constexpr Shape kShapes[] = {{4, 128}, {32, 4}, {8, 240}, {128, 12}, {4, 8640}, {64, 52}, {12, 2560}};
  std::uint64_t seed = 1;
  for (const auto& [rows, columns] : kShapes) {
    for (const auto layout : {I2sLayout::kX86, I2sLayout::kArm, I2sLayout::k4Row}) {
      CAPTURE(rows);
      CAPTURE(columns);
      CAPTURE(static_cast<int>(layout));
      const Codes codes = random_codes(rows * columns, seed++);
      const TernaryTarget target{gguf::TensorType::kI2_S, rows, columns, layout, std::nullopt};
      ReadOptions options;
      options.i2s_layout = layout;
      check_both_ways(target, options, codes, with_scale(i2s_bytes(layout, codes, rows, columns)));
    }
  }
}

TEST_CASE("I2_S: undefined codes are zeros and counted, in whole groups and at their ends") {
  for (const auto layout : {I2sLayout::kX86, I2sLayout::kArm, I2sLayout::k4Row}) {
    constexpr std::int64_t kRows = 8, kColumns = 240;
    Codes codes = random_codes(kRows * kColumns, 7);
    Codes expected = codes;
    std::uint64_t threes = 0;
    for (std::size_t i = 0; i < codes.size(); i += 13) {
      codes[i] = 3;
      expected[i] = 1;
      ++threes;
    }
    const Raw bytes = with_scale(i2s_bytes(layout, codes, kRows, kColumns));
    const OneTensor file(gguf::TensorType::kI2_S, kRows, kColumns, std::as_bytes(std::span(bytes)));
    ReadOptions options;
    options.i2s_layout = layout;
    const TernaryMatrix matrix = open_ternary(file.file, file.tensor(), options);
    std::uint64_t undefined = 0;
    CHECK(all_codes(matrix, &undefined) == expected);
    CHECK(undefined == threes);
    std::uint64_t by_row = 0;
    for (std::int64_t row = 0; row < kRows; ++row) {
      Codes one(kColumns);
      by_row += matrix.decode(row, row + 1, one.data());
      CHECK(std::equal(one.begin(), one.end(), expected.begin() + row * kColumns));
    }
    CHECK(by_row == threes);
  }
}

TEST_CASE("TL1: every tile of small matrices") {
  struct Shape {
    std::int64_t rows, columns;
  };
  std::size_t tiles = 0;
  for (const auto& [rows, columns] : {Shape{64, 64}, Shape{192, 48}, Shape{128, 96}, Shape{320, 24}}) {
    const Codes codes = random_codes(rows * columns, static_cast<std::uint64_t>(rows + columns));
    for (const std::int64_t bmm : {32, 64}) {
      for (std::int64_t bm = bmm; bm <= rows; bm += bmm) {
        for (std::int64_t by = 256 / bmm; by <= columns; by += 256 / bmm) {
          const TileShape tile{bm, by, bmm};
          if (!check_tile(TileFormat::kTl1, rows, columns, tile).ok()) {
            CHECK((rows % bm != 0 || columns % by != 0));
            continue;
          }
          CAPTURE(rows);
          CAPTURE(columns);
          CAPTURE(bm);
          CAPTURE(by);
          CAPTURE(bmm);
          const TileFile config(rows, columns, tile);
          ReadOptions options;
          options.tile_config = config.path.string();
          check_both_ways({gguf::TensorType::kTL1, rows, columns, I2sLayout::kX86, tile}, options, codes,
                          with_scale(tl1_bytes(codes, rows, columns, tile)));
          ++tiles;
        }
      }
    }
  }
  CHECK(tiles > 60);
}

TEST_CASE("TL2: every tile of small matrices") {
  struct Shape {
    std::int64_t rows, columns;
  };
  std::size_t tiles = 0;
  for (const auto& [rows, columns] : {Shape{64, 256}, Shape{192, 288}, Shape{96, 320}, Shape{160, 480}}) {
    const Codes codes = random_codes(rows * columns, static_cast<std::uint64_t>(rows + columns));
    for (std::int64_t bm = 32; bm <= rows; bm += 32) {
      for (std::int64_t by = 24; by <= columns; by += 24) {
        const TileShape tile{bm, by, 32};
        if (!check_tile(TileFormat::kTl2, rows, columns, tile).ok()) continue;
        CAPTURE(rows);
        CAPTURE(columns);
        CAPTURE(bm);
        CAPTURE(by);
        const TileFile config(rows, columns, tile);
        ReadOptions options;
        options.tile_config = config.path.string();
        check_both_ways({gguf::TensorType::kTL2OrMXFP4, rows, columns, I2sLayout::kX86, tile}, options, codes,
                        with_scale(tl2_bytes(codes, rows, columns, tile)));
        ++tiles;
      }
    }
  }
  CHECK(tiles > 20);
}

TEST_CASE("tiles that do not divide a matrix are refused with the reason") {
  const auto why = [](TileFormat format, std::int64_t rows, std::int64_t columns, const TileShape& tile) {
    const Status status = check_tile(format, rows, columns, tile);
    return status.ok() ? std::string() : status.error().message;
  };
  const auto has = [](const std::string& text, const char* part) { return text.find(part) != std::string::npos; };
  using enum TileFormat;
  CHECK(why(kTl1, 256, 128, {128, 64, 32}).empty());
  CHECK(has(why(kTl1, 250, 128, {128, 64, 32}), "expected rows to be a multiple of bm = 128, found 250"));
  CHECK(has(why(kTl1, 256, 100, {128, 64, 32}), "expected columns to be a multiple of bk = 64, found 100"));
  CHECK(has(why(kTl1, 256, 128, {128, 64, 16}), "expected bmm to be 32 or 64, found 16"));
  CHECK(has(why(kTl1, 96, 128, {96, 64, 64}), "expected bm to be a multiple of bmm = 64, found 96"));
  CHECK(has(why(kTl1, 256, 128, {128, 4, 32}), "expected bk to be a multiple of 256 / bmm = 8, found 4"));
  CHECK(has(why(kTl1, 256, 128, {0, 64, 32}), "expected bm to be positive, found 0"));
  CHECK(has(why(kTl1, 256, 128, {128, -64, 32}), "expected bk to be positive, found -64"));
  CHECK(why(kTl2, 256, 512, {128, 96, 32}).empty());
  CHECK(has(why(kTl2, 256, 512, {128, 96, 64}), "expected bmm to be 32, found 64"));
  CHECK(has(why(kTl2, 256, 224, {128, 96, 32}), "expected at least 256 columns, found 224"));
  CHECK(has(why(kTl2, 256, 512, {128, 100, 32}), "a multiple of eight triples = 24, found 100"));
  CHECK(has(why(kTl2, 256, 500, {128, 96, 32}), "a block of pairs = 32, found 20"));
  // All in pairs: 2 bits a weight are more than the type's size allows for beyond 256 columns.
  CHECK(has(why(kTl2, 128, 288, {128, 480, 32}), "expected at most 9045 bytes of codes under these tiles, found 9216"));
}

TEST_CASE("the known tiles fit the shapes that they are for") {
  struct Shape {
    std::int64_t rows, columns;
  };
  constexpr Shape kKnown[] = {{1536, 4096}, {1536, 1536},  {4096, 1536},  {3200, 8640}, {3200, 3200},
                              {8640, 3200}, {14336, 4096}, {4096, 14336}, {1024, 4096}, {4096, 4096}};
  for (const auto format : {TileFormat::kTl1, TileFormat::kTl2}) {
    for (const auto& [rows, columns] : kKnown) {
      CAPTURE(rows);
      CAPTURE(columns);
      const auto tile = default_tile(format, rows, columns);
      REQUIRE(tile.has_value());
      CHECK(check_tile(format, rows, columns, *tile).ok());
    }
    CHECK_FALSE(default_tile(format, 2560, 2560).has_value());  // 2B-4T: bitnet.cpp has no tiles for it
  }
}

TEST_CASE("TL1: undefined pairs are zeros and counted") {
  constexpr std::int64_t kRows = 1536, kColumns = 1536;  // a shape with known tiles
  const Codes codes = random_codes(kRows * kColumns, 3);
  const TileShape tile = *default_tile(TileFormat::kTl1, kRows, kColumns);
  Raw bytes = with_scale(tl1_bytes(codes, kRows, kColumns, tile));
  bytes[5] = 0x9F;  // both pairs of row 5, columns 0..3 (first tile, first group)
  bytes[6] = static_cast<std::uint8_t>((bytes[6] & 0xF0) | 0xA);
  const OneTensor file(gguf::TensorType::kTL1, kRows, kColumns, std::as_bytes(std::span(bytes)));
  std::uint64_t undefined = 0;
  const Codes found = all_codes(open_ternary(file.file, file.tensor()), &undefined);
  CHECK(undefined == 6);
  Codes expected = codes;
  std::fill_n(expected.begin() + 5 * kColumns, 4, std::uint8_t{1});
  std::fill_n(expected.begin() + 6 * kColumns + 2, 2, std::uint8_t{1});
  CHECK(found == expected);
}

TEST_CASE("TL2: what its writer cannot have written is refused") {
  constexpr std::int64_t kRows = 128, kColumns = 320;
  const TileShape tile{64, 96, 32};
  const TileFile config(kRows, kColumns, tile);
  ReadOptions options;
  options.tile_config = config.path.string();
  Codes codes = random_codes(kRows * kColumns, 4);
  std::fill_n(codes.begin() + 70 * kColumns + 99, 3, std::uint8_t{1});  // one triple of zeros
  const Raw good = with_scale(tl2_bytes(codes, kRows, kColumns, tile));
  const auto error = [&](const Raw& bytes) {
    const OneTensor file(gguf::TensorType::kTL2OrMXFP4, kRows, kColumns, std::as_bytes(std::span(bytes)));
    return open_error(file.file, file.tensor(), options);
  };
  REQUIRE(error(good).empty());

  // The sign of the zero triple: as of a matrix that is negative there and nowhere else.
  Codes one(codes.size(), 1);
  one[70 * kColumns + 99] = 0;
  const Raw minus = tl2_bytes(one, kRows, kColumns, tile);
  Raw signed_zero = good;
  for (std::size_t i = kRows * 288 / 6; i < kRows * 288 / 6 + kRows * 288 / 24; ++i) {
    signed_zero[i] = static_cast<std::uint8_t>(signed_zero[i] | minus[i]);
  }
  const std::string sign = error(signed_zero);
  CHECK_MESSAGE(sign.find("row 70, column 99: expected no sign bit") != std::string::npos, sign);

  const std::size_t data = kRows * 288 * 5 / 24 + kRows * 32 / 4;
  REQUIRE(data < good.size() - 32);
  for (const std::size_t at : {data, good.size() - 33}) {
    Raw junk = good;
    junk[at] = 7;
    const std::string message = error(junk);
    const std::string expected = "expected zeros behind the " + std::to_string(data) +
                                 " bytes of codes, found a byte 7 at " + std::to_string(at);
    CHECK_MESSAGE(message.find(expected) != std::string::npos, message);
  }
  // Behind the scale is padding.
  Raw padding = good;
  padding.back() = 7;
  CHECK(error(padding).empty());

  // Magnitudes 14 and 15 stand for nothing; with a sign, too.
  Raw undefined_bytes = good;
  undefined_bytes[0] = 0xEF;
  const OneTensor file(gguf::TensorType::kTL2OrMXFP4, kRows, kColumns, std::as_bytes(std::span(undefined_bytes)));
  std::uint64_t undefined = 0;
  const Codes found = all_codes(open_ternary(file.file, file.tensor(), options), &undefined);
  CHECK(undefined == 6);
  Codes expected = codes;
  std::fill_n(expected.begin(), 6, std::uint8_t{1});
  CHECK(found == expected);
}

TEST_CASE("a damaged scale is refused, whatever stands behind it") {
  const Codes codes = random_codes(4 * 128, 5);
  for (const float scale : {0.0F, -0.5F, std::numeric_limits<float>::infinity(),
                            std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity()}) {
    const Raw bytes = with_scale(i2s_bytes(I2sLayout::kX86, codes, 4, 128), scale);
    const OneTensor file(gguf::TensorType::kI2_S, 4, 128, std::as_bytes(std::span(bytes)));
    const std::string error = open_error(file.file, file.tensor());
    CHECK_MESSAGE(error.find("memory: tensor 'w' (I2_S): expected a finite positive scale at byte 128") == 0, error);
  }
  Raw junk = with_scale(i2s_bytes(I2sLayout::kX86, codes, 4, 128));
  std::fill(junk.end() - 28, junk.end(), std::uint8_t{0xEE});
  const OneTensor file(gguf::TensorType::kI2_S, 4, 128, std::as_bytes(std::span(junk)));
  CHECK(all_codes(open_ternary(file.file, file.tensor())) == codes);
}

}  // namespace
}  // namespace bitnet
