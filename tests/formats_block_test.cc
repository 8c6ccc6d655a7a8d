// Block types: scale kinds, what is not ternary, dense types without a pair in the assets; and what open() says.
#include <doctest/doctest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <map>
#include <utility>
#include <vector>

#include "runtime/base/half.h"
#include "runtime/formats/dense.h"
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
using enum gguf::TensorType;

bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

void put_half(std::uint8_t* at, float value) {
  const std::uint16_t half = float_to_half(value);
  std::memcpy(at, &half, sizeof half);
}

Raw encoded(gguf::TensorType type, std::int64_t rows, std::int64_t columns, const Codes& codes, ScaleKind kind,
            std::int32_t group, const std::vector<float>& scales) {
  return test::encoded({type, rows, columns, I2sLayout::kX86, std::nullopt}, codes, kind, group, scales, rows);
}

// Q2_0 and PQ2_0: d, then four codes in a byte, the first in the lowest bits.
Raw two_bit_blocks(std::int64_t group, const Codes& codes, const std::vector<float>& scales) {
  Raw bytes;
  for (std::size_t block = 0; block < codes.size() / static_cast<std::size_t>(group); ++block) {
    const std::size_t at = bytes.size();
    bytes.resize(at + 2 + static_cast<std::size_t>(group) / 4);
    put_half(&bytes[at], scales[block % scales.size()]);
    for (std::size_t i = 0; i < static_cast<std::size_t>(group); ++i) {
      auto& byte = bytes[at + 2 + i / 4];
      byte = static_cast<std::uint8_t>(byte | codes[block * static_cast<std::size_t>(group) + i] << 2 * (i % 4));
    }
  }
  return bytes;
}

constexpr std::int64_t kRows = 6, kColumns = 768;

TEST_CASE("TQ1_0 and TQ2_0 keep codes and scales of every kind; the kind found is the smallest that is exact") {
  const Codes codes = random_codes(kRows * kColumns, 11);
  struct Case {
    ScaleKind kind;
    std::int32_t group;
    std::vector<float> scales;
    ScaleKind found;
  };
  std::vector<float> groups;
  for (int i = 0; i < 18; ++i) groups.push_back(0.25F + 0.125F * static_cast<float>(i));
  const std::vector<Case> cases = {
      {ScaleKind::kTensor, 0, {0.75F}, ScaleKind::kTensor},
      {ScaleKind::kRow, 0, {1, 2, 3, 4, 5, 6}, ScaleKind::kRow},
      {ScaleKind::kRow, 0, {-1, 2, 3, 1, 5, 6}, ScaleKind::kRow},
      {ScaleKind::kRow, 0, {2, 2, 2, 2, 2, 2}, ScaleKind::kTensor},
      {ScaleKind::kGroup, 256, groups, ScaleKind::kGroup},
      {ScaleKind::kGroup, 768, {1, 2, 3, 4, 5, 6}, ScaleKind::kRow},
      {ScaleKind::kGroup, 256, {1, 2, 3, 4, 5, 6, 1, 2, 3, 4, 5, 6, 1, 2, 3, 4, 5, 6}, ScaleKind::kRow},
  };
  for (const auto type : {kTQ1_0, kTQ2_0}) {
    for (const Case& test : cases) {
      CAPTURE(&test - cases.data());
      const Raw bytes = encoded(type, kRows, kColumns, codes, test.kind, test.group, test.scales);
      const OneTensor file(type, kRows, kColumns, std::as_bytes(std::span(bytes)));
      const TernaryMatrix matrix = open_ternary(file.file, file.tensor());
      CHECK(all_codes(matrix) == codes);
      CHECK(matrix.scale_kind() == test.found);
      CHECK(matrix.group() == (test.found == ScaleKind::kGroup ? 256 : 0));
      const std::size_t count = test.found == ScaleKind::kTensor ? 1 : test.found == ScaleKind::kRow ? 6 : 18;
      REQUIRE(matrix.scales().size() == count);
      CHECK(std::equal(matrix.scales().begin(), matrix.scales().end(), test.scales.begin()));
    }
  }
}

TEST_CASE("codes and scale give the bytes of the floats that they stand for") {
  Codes codes = random_codes(kRows * kColumns, 12);
  std::fill_n(codes.begin() + 256, 256, std::uint8_t{1});  // a block of zeros
  for (const auto type : {kTQ1_0, kTQ2_0}) {
    const std::vector<float> scales = {0.37F, 1.5F, 0.011F, 3.0F, 1e-3F, 42.0F};
    std::vector<float> floats;
    for (std::size_t i = 0; i < codes.size(); ++i) {
      floats.push_back(static_cast<float>(codes[i] - 1) * scales[i / kColumns]);
    }
    const Raw bytes = encoded(type, kRows, kColumns, codes, ScaleKind::kRow, 0, scales);
    Raw expected(bytes.size());
    encode_floats(type, floats, reinterpret_cast<std::byte*>(expected.data()));
    CHECK(bytes == expected);
  }
}

TEST_CASE("a block of scale 0 is zeros, whatever its codes are, and fits to every kind") {
  for (const auto& [type, group] : {std::pair{kQ2_0, 64}, std::pair{kPQ2_0, 128}}) {
    const Codes codes = random_codes(kRows * kColumns, 13);
    const auto row_blocks = static_cast<std::size_t>(kColumns / group);
    std::vector<float> scales(kRows * row_blocks, 0.5F);
    scales[1] = 0;
    scales[row_blocks] = -0.0F;
    Codes expected = codes;
    std::fill_n(expected.begin() + group, group, std::uint8_t{1});
    std::fill_n(expected.begin() + kColumns, group, std::uint8_t{1});
    Raw bytes = two_bit_blocks(group, codes, scales);
    bytes[static_cast<std::size_t>(2 + group / 4) + 2] = 0xFF;  // not ternary, but nothing of it is left
    const OneTensor file(type, kRows, kColumns, std::as_bytes(std::span(bytes)));
    const TernaryMatrix matrix = open_ternary(file.file, file.tensor());
    CHECK(matrix.scale_kind() == ScaleKind::kTensor);
    CHECK(matrix.scales()[0] == 0.5F);
    CHECK(all_codes(matrix) == expected);
  }
}

TEST_CASE("scales by group are group-major, in the group of the type") {
  for (const auto& [type, group] : {std::pair{kQ2_0, 64}, std::pair{kPQ2_0, 128}}) {
    const Codes codes = random_codes(kRows * kColumns, 14);
    const auto row_blocks = static_cast<std::size_t>(kColumns / group);
    std::vector<float> scales;
    for (std::size_t i = 0; i < kRows * row_blocks; ++i) scales.push_back(1.0F + static_cast<float>(i) / 128);
    const Raw bytes = two_bit_blocks(group, codes, scales);
    const OneTensor file(type, kRows, kColumns, std::as_bytes(std::span(bytes)));
    const TernaryMatrix matrix = open_ternary(file.file, file.tensor());
    CHECK(matrix.scale_kind() == ScaleKind::kGroup);
    CHECK(matrix.group() == group);
    CHECK(all_codes(matrix) == codes);
    for (std::size_t row = 0; row < kRows; ++row) {
      for (std::size_t b = 0; b < row_blocks; ++b)
        CHECK(matrix.scales()[b * kRows + row] == scales[row * row_blocks + b]);
    }
  }
}

TEST_CASE("Q1_0 is -1 and +1; its scales reduce as the others'") {
  Raw bytes;
  Codes expected;
  for (int block = 0; block < 4; ++block) {
    const std::size_t at = bytes.size();
    bytes.resize(at + 18);
    put_half(&bytes[at], block < 2 ? 0.5F : 0.25F);
    for (std::size_t i = 0; i < 128; ++i) {
      const bool plus = i * i % 7 < 3;
      if (plus) bytes[at + 2 + i / 8] = static_cast<std::uint8_t>(bytes[at + 2 + i / 8] | 1 << i % 8);
      expected.push_back(plus ? 2 : 0);
    }
  }
  const OneTensor file(kQ1_0, 2, 256, std::as_bytes(std::span(bytes)));
  const TernaryMatrix matrix = open_ternary(file.file, file.tensor());
  CHECK(all_codes(matrix) == expected);
  CHECK(matrix.scale_kind() == ScaleKind::kRow);
}

// Against bytes that are put together above, and through the reader.
TEST_CASE("Q2_0, PQ2_0 and Q1_0 are written as they are read: codes, scales of each kind, blocks of zeros") {
  using enum ScaleKind;
  for (const auto& [type, block] : {std::pair{kQ2_0, 64}, {kPQ2_0, 128}, {kQ1_0, 128}}) {
    CAPTURE(block);
    Codes codes = random_codes(kRows * kColumns, 17);
    if (type == kQ1_0) {
      for (std::uint8_t& code : codes) code = code == 1 ? std::uint8_t{2} : code;
    }
    std::fill_n(codes.begin() + kColumns, block, std::uint8_t{1});
    const auto row_blocks = static_cast<std::size_t>(kColumns / block);
    std::vector<float> groups;  // [block of a row][row]
    for (std::size_t i = 0; i < kRows * row_blocks; ++i) groups.push_back(0.5F + static_cast<float>(i) / 256);
    const std::vector<float> wide(groups.begin(), groups.begin() + kRows * 3);  // of 256 columns
    const struct {
      ScaleKind kind;
      std::int32_t group;
      std::vector<float> scales;
    } cases[] = {{kGroup, block, groups}, {kGroup, 256, wide}, {kRow, 0, {1, 2, 3, 4, 5, 6}}, {kTensor, 0, {0.75F}}};
    for (const auto& test : cases) {
      const auto scale_of = [&](std::size_t row, std::size_t b) {
        if (test.kind == kTensor) return test.scales[0];
        if (test.kind == kRow) return test.scales[row];
        return test.scales[b * static_cast<std::size_t>(block) / static_cast<std::size_t>(test.group) * kRows + row];
      };
      const Raw bytes = encoded(type, kRows, kColumns, codes, test.kind, test.group, test.scales);
      if (type != kQ1_0) {
        std::vector<float> by_block;
        for (std::size_t i = 0; i < kRows * row_blocks; ++i)
          by_block.push_back(scale_of(i / row_blocks, i % row_blocks));
        by_block[row_blocks] = 0;
        CHECK(bytes == two_bit_blocks(block, codes, by_block));
      }
      const OneTensor file(type, kRows, kColumns, std::as_bytes(std::span(bytes)));
      const TernaryMatrix matrix = open_ternary(file.file, file.tensor());
      CHECK(all_codes(matrix) == codes);
      CHECK((matrix.scale_kind() == test.kind));
      std::vector<float> floats(codes.size());
      decode_floats(type, file.tensor().data.data(), 0, floats);
      int wrong = 0;
      for (std::size_t i = 0; i < codes.size(); ++i) {
        const float scale = scale_of(i / kColumns, i % kColumns / static_cast<std::size_t>(block));
        // Q1_0 has no zero but that of a zero scale.
        wrong += floats[i] != static_cast<float>(codes[i] - 1) * scale ? 1 : 0;
      }
      CHECK(wrong == 0);
    }
  }
  const float scale = 1;
  auto encoder = TernaryEncoder::make({kQ1_0, 2, 256, I2sLayout::kX86, std::nullopt}, kTensor, 0, std::span(&scale, 1));
  REQUIRE(encoder.ok());
  Codes codes(512, 2);
  codes[256 + 128 + 5] = 1;
  const Status refused = encoder->add_rows(codes);
  REQUIRE_FALSE(refused.ok());
  CHECK_MESSAGE(has(refused.error().message, "row 1, column 133: expected -1 or +1"), refused.error().message);
}

TEST_CASE("blocks with twice the scale in them are no ternary matrix, and say so") {
  for (const auto& [type, name] : {std::pair{kQ2_0, "Q2_0"}, std::pair{kPQ2_0, "PQ2_0"}, std::pair{kTQ2_0, "TQ2_0"}}) {
    Codes codes = random_codes(kRows * kColumns, 15);
    Raw bytes = type == kTQ2_0 ? encoded(type, kRows, kColumns, codes, ScaleKind::kTensor, 0, {0.5F})
                               : two_bit_blocks(type == kQ2_0 ? 64 : 128, codes, {0.5F});
    bytes[bytes.size() / 2 + 5] = 0xFF;  // codes of the middle block
    const OneTensor file(type, kRows, kColumns, std::as_bytes(std::span(bytes)));
    std::vector<std::string> notes;
    const auto opened = TernaryMatrix::open(file.file, file.tensor(), {}, notes);
    REQUIRE(opened.ok());
    CHECK_FALSE(opened->has_value());
    REQUIRE(notes.size() == 1);
    CHECK(has(notes[0], std::string("tensor w of type ") + name));
    std::vector<float> floats(kRows * kColumns);
    decode_floats(type, file.tensor().data.data(), 0, floats);
    CHECK(*std::max_element(floats.begin(), floats.end()) == 1.0F);
  }
}

TEST_CASE("a block scale that is not finite is refused with its place") {
  Raw bytes = two_bit_blocks(64, random_codes(kRows * kColumns, 16), {0.5F});
  put_half(&bytes[18 * 14], std::numeric_limits<float>::infinity());
  const OneTensor file(kQ2_0, kRows, kColumns, std::as_bytes(std::span(bytes)));
  const std::string error = open_error(file.file, file.tensor());
  CHECK_MESSAGE(has(error, "(Q2_0): row 1, block 2: expected a finite scale, found inf"), error);
}

// Types without a pair in the assets: Q4_1 and Q5_1 by their formula, Q5_K by what its fifth bits add to Q4_K.
TEST_CASE("no elements of nowhere are decoded") {
  for (const gguf::TensorType type : {kF32, kF16, kQ8_0, kQ6_K}) {
    decode_floats(type, nullptr, 0, {});  // UBSan tells
  }
}

TEST_CASE("Q4_1, Q5_1 and Q5_K") {
  std::mt19937 random(17);
  Raw block(176);
  for (auto& byte : block) byte = static_cast<std::uint8_t>(random());
  put_half(block.data(), 0.0625F);
  put_half(block.data() + 2, -1.5F);
  const auto* bytes = reinterpret_cast<const std::byte*>(block.data());
  std::vector<float> out(32);
  decode_floats(kQ4_1, bytes, 0, out);
  for (std::size_t i = 0; i < 32; ++i) {
    const int code = i < 16 ? block[4 + i] % 16 : block[4 + i - 16] / 16;
    CHECK(out[i] == static_cast<float>(code) * 0.0625F - 1.5F);
  }
  decode_floats(kQ5_1, bytes, 0, out);
  for (std::size_t i = 0; i < 32; ++i) {
    const int low = i < 16 ? block[8 + i] % 16 : block[8 + i - 16] / 16;
    const int fifth = block[4 + i / 8] >> i % 8 & 1;
    CHECK(out[i] == static_cast<float>(low + 16 * fifth) * 0.0625F - 1.5F);
  }
  Raw four(144);  // the same block without its fifth bits
  std::copy_n(block.begin(), 16, four.begin());
  std::copy_n(block.begin() + 48, 128, four.begin() + 16);
  Raw steps = four;  // ... and with all codes 1 and 0: their difference is the scale of the sub-block
  Raw none = four;
  std::fill(steps.begin() + 16, steps.end(), std::uint8_t{0x11});
  std::fill(none.begin() + 16, none.end(), std::uint8_t{0});
  const auto decode = [](gguf::TensorType type, const Raw& raw) {
    std::vector<float> floats(256);
    decode_floats(type, reinterpret_cast<const std::byte*>(raw.data()), 0, floats);
    return floats;
  };
  const auto five = decode(kQ5_K, block), low = decode(kQ4_K, four), one = decode(kQ4_K, steps),
             zero = decode(kQ4_K, none);
  for (std::size_t i = 0; i < 256; ++i) {
    const int fifth = block[16 + i % 32] >> i / 32 & 1;
    const float scale = one[i] - zero[i];  // exact: d is 2^-4, dmin 1.5, all sums have few bits
    CHECK(five[i] == low[i] + 16 * scale * static_cast<float>(fifth));
  }
}

TEST_CASE("float rounding of F16, BF16 and Q8_0") {
  const std::vector<float> values = {1.0F,  1.00390625F, 1.01171875F, -1.00390625F, 65519.0F, 1e-8F,
                                     -0.0F, 3.0e38F,     0x1p-140F,   0x1.ffp0F,    0.1F,     -0.1F};
  Raw bytes(2 * values.size());
  encode_floats(kBF16, values, reinterpret_cast<std::byte*>(bytes.data()));
  std::vector<float> back(values.size());
  decode_floats(kBF16, reinterpret_cast<const std::byte*>(bytes.data()), 0, back);
  CHECK(back[0] == 1.0F);
  CHECK(back[1] == 1.0F);       // a tie, down to even
  CHECK(back[2] == 1.015625F);  // a tie, up to even
  CHECK(back[3] == -1.0F);
  CHECK(back[9] == 2.0F);  // a carry into the exponent
  CHECK(std::signbit(back[6]));
  for (std::size_t i = 0; i < values.size(); ++i) {
    CHECK(std::fabs(back[i] - values[i]) <= std::fabs(values[i]) / 256 + 0x1p-133F);
  }
  encode_floats(kF16, values, reinterpret_cast<std::byte*>(bytes.data()));
  for (std::size_t i = 0; i < values.size(); ++i) {
    CHECK((bytes[2 * i] | bytes[2 * i + 1] << 8) == float_to_half(values[i]));
  }
  decode_floats(kF16, reinterpret_cast<const std::byte*>(bytes.data()), 0, back);
  CHECK(back[4] == 65504.0F);
  CHECK(std::isinf(back[7]));
  std::vector<float> block(32, 0.0F), decoded(32, 1.0F);
  Raw packed(34, 0xAB);
  encode_floats(kQ8_0, block, reinterpret_cast<std::byte*>(packed.data()));
  CHECK(packed == Raw(34, 0));
  block[3] = -127;  // a scale of 1
  const std::pair<float, int> steps[] = {{0.5F, 1}, {-0.5F, -1}, {2.5F, 3}, {-2.5F, -3}, {0.499F, 0}, {-126.5F, -127}};
  for (std::size_t i = 0; i < std::size(steps); ++i) block[4 + i] = steps[i].first;
  encode_floats(kQ8_0, block, reinterpret_cast<std::byte*>(packed.data()));
  CHECK(static_cast<std::int8_t>(packed[5]) == -127);
  for (std::size_t i = 0; i < std::size(steps); ++i) CHECK(static_cast<std::int8_t>(packed[6 + i]) == steps[i].second);
  decode_floats(kQ8_0, reinterpret_cast<const std::byte*>(packed.data()), 0, decoded);
  CHECK(decoded[3] == -127);
  CHECK(decoded[6] == 3);
}

TEST_CASE("F16 rounds as float_to_half does") {
  // Around every float16 number and every tie between two of them, both signs; and numbers from all over.
  std::vector<float> values;
  for (std::uint32_t half = 0; half < 0x8000U; ++half) {
    const auto bits = std::bit_cast<std::uint32_t>(half_to_float(static_cast<std::uint16_t>(half)));
    for (const std::uint32_t tie : {0U, 0x1000U}) {
      for (const std::uint32_t step : {0xffffffffU, 0U, 1U}) {
        for (const std::uint32_t sign : {0U, 0x80000000U})
          values.push_back(std::bit_cast<float>((bits + tie + step) ^ sign));
      }
    }
  }
  for (std::uint32_t i = 0; i < 1U << 20; ++i) values.push_back(std::bit_cast<float>(i * 4099U));
  Raw bytes(2 * values.size() + 1);
  encode_floats(kF16, values, reinterpret_cast<std::byte*>(bytes.data() + 1));  // anywhere
  std::size_t wrong = 0;
  for (std::size_t i = 0; i < values.size(); ++i) {
    wrong += (bytes[2 * i + 1] | bytes[2 * i + 2] << 8) != float_to_half(values[i]) ? 1 : 0;
  }
  CHECK(wrong == 0);
}

TEST_CASE("all float16 numbers, in any cut") {
  std::vector<std::uint16_t> halves;
  for (unsigned bits = 0; bits < 65536; ++bits) halves.push_back(static_cast<std::uint16_t>(bits));
  std::vector<float> found(65536);
  decode_floats(kF16, reinterpret_cast<const std::byte*>(halves.data()), 0, found);
  std::size_t wrong = 0;
  for (unsigned bits = 0; bits < 65536; ++bits) {
    const auto expected = half_to_float(static_cast<std::uint16_t>(bits));
    wrong += std::bit_cast<std::uint32_t>(found[bits]) != std::bit_cast<std::uint32_t>(expected) ? 1 : 0;
  }
  CHECK(wrong == 0);
  for (std::size_t first : {0U, 1U, 1000U, 65530U}) {
    for (std::size_t count = 0; count <= 6; ++count) {
      // Bytes of their own, so that a sanitizer sees a read behind them.
      const std::vector<std::uint16_t> own(halves.begin(), halves.begin() + static_cast<std::ptrdiff_t>(first + count));
      std::vector<float> part(count);
      decode_floats(kF16, reinterpret_cast<const std::byte*>(own.data()), first, part);
      for (std::size_t i = 0; i < count; ++i) {
        CHECK(std::bit_cast<std::uint32_t>(part[i]) == std::bit_cast<std::uint32_t>(found[first + i]));
      }
    }
  }
}

TEST_CASE("what a type cannot hold is refused before anything is written") {
  const auto why = [](const TernaryTarget& target, ScaleKind kind, std::int32_t group,
                      const std::vector<float>& scales) {
    const auto encoder = TernaryEncoder::make(target, kind, group, scales);
    return encoder.ok() ? std::string() : encoder.error().message;
  };
  const auto target = [](gguf::TensorType type, std::int64_t rows, std::int64_t columns) {
    return TernaryTarget{type, rows, columns, I2sLayout::kX86, std::nullopt};
  };
  using enum ScaleKind;
  CHECK(why(target(kI2_S, 4, 128), kTensor, 0, {1}).empty());
  CHECK(has(why(target(kI2_S, 4, 120), kTensor, 0, {1}), "rows x columns to be a multiple of 128, found 4 x 120"));
  CHECK(has(why(target(kI2_S, 4, 126), kTensor, 0, {1}), "a multiple of 4 columns"));
  CHECK(has(why(target(kI2_S, 0, 128), kTensor, 0, {1}), "not empty"));
  CHECK(has(why(target(kI2_S, 4, 128), kTensor, 0, {0}), "expected a finite positive scale, found 0"));
  CHECK(has(why(target(kI2_S, 4, 128), kTensor, 0, {1, 2}), "expected 1 scales, found 2"));
  CHECK(has(why(target(kI2_S, 4, 128), kRow, 0, {1, 2, 3, 4}), "one scale for the whole matrix"));
  CHECK(has(why(target(kTL1, 128, 128), kTensor, 0, {1}), "TL1 of 128 x 128: no tile parameters are known"));
  CHECK(has(why(target(kTL2OrMXFP4, 128, 128), kTensor, 0, {1}), "TL2 of 128 x 128: expected a multiple of 4"));
  CHECK(has(why(target(kTQ1_0, 4, 8640), kTensor, 0, {1}), "a multiple of 256 columns"));
  CHECK(has(why(target(kTQ2_0, 4, 256), kGroup, 128, std::vector<float>(8, 1)), "one for 128"));
  CHECK(has(why(target(kTQ2_0, 4, 256), kGroup, 100, std::vector<float>(8, 1)), "groups that divide the columns"));
  CHECK(has(why(target(kTQ2_0, 4, 256), kTensor, 0, {70000}), "float16 can hold, found 70000"));
  CHECK(has(why(target(kQ8_0, 4, 256), kTensor, 0, {1}), "expected I2_S, TL1, TL2, TQ1_0, TQ2_0, Q2_0"));
  CHECK(has(why(target(kPQ2_0, 4, 192), kTensor, 0, {1}), "a multiple of 128 columns"));
  CHECK(has(why(target(kPQ2_0, 4, 256), kGroup, 64, std::vector<float>(16, 1)), "choose q2_0 or f16"));
  CHECK(has(why(target(kTQ2_0, 4, 256), kGroup, 128, std::vector<float>(8, 1)), "choose q2_0, pq2_0 or f16"));
  CHECK(why(target(kQ2_0, 4, 256), kGroup, 128, std::vector<float>(8, 1)).empty());
  TernaryTarget wrong_tile = target(kTL1, 128, 128);
  wrong_tile.tile = TileShape{96, 64, 32};
  CHECK(has(why(wrong_tile, kTensor, 0, {1}), "expected rows to be a multiple of bm = 96, found 128"));
  const std::int64_t huge = std::int64_t{1} << 62;
  CHECK(has(why(target(kI2_S, huge, 128), kTensor, 0, {1}), "I2_S of"));

  const float scale = 1;
  auto encoder = TernaryEncoder::make(target(kI2_S, 4, 128), kTensor, 0, std::span(&scale, 1));
  REQUIRE(encoder.ok());
  Codes codes(256, 1);
  codes[130] = 3;
  const Status refused = encoder->add_rows(codes);
  REQUIRE_FALSE(refused.ok());
  CHECK(has(refused.error().message, "row 1, column 2: expected code 0, 1 or 2, found 3"));
  CHECK_FALSE(encoder->add_rows(std::span(codes).first(100)).ok());
  CHECK(encoder->scale_loss() == 0);
  const float third = 1.0F / 3;
  auto rounded = TernaryEncoder::make(target(kTQ1_0, 1, 256), kTensor, 0, std::span(&third, 1));
  REQUIRE(rounded.ok());
  CHECK(rounded->scale_loss() > 0);
  CHECK(rounded->scale_loss() <= 0x1p-11);
}

TEST_CASE("tile tables: what is read, what is refused") {
  const std::string good = "[Kernels_0]\nm = 512\nk = 256\nbm = 128\nbk = 64\nbmm = 32\n";
  const auto error = [](const std::string& text) {
    const TextFile file(text);
    const auto table = TileTable::read(file.path.string());
    return table.ok() ? std::string() : table.error().message;
  };
  const TextFile file(good + "[Kernels_1]\nm = 512\nk = 512\nbm = 64\nbk = 96\nbmm = 64\nother = 1\n");
  const auto table = TileTable::read(file.path.string());
  REQUIRE_MESSAGE(table.ok(), table.error().message);
  CHECK(table->find(512, 256) == TileShape{128, 64, 32});
  CHECK(table->find(512, 512) == TileShape{64, 96, 64});
  CHECK_FALSE(table->find(256, 512).has_value());
  CHECK(error(good + good.substr(0, 8) + "1]\nm = 512\nk = 256\nbm = 128\nbk = 64\nbmm = 32\n").empty());
  CHECK(
      has(error(good + "[Kernels_1]\nm = 512\nk = 256\nbm = 64\nbk = 64\nbmm = 32\n"), "a second tile for 512 x 256"));
  CHECK(has(error(good + "[Kernels_1]\nm = 512\n"), "[Kernels_1]: expected a positive integer k, found none"));
  CHECK(has(error("[a]\nm = 512\nk = \"x\"\nbm = 1\nbk = 1\nbmm = 1\n"), ":3: [a]: expected a positive integer k"));
  CHECK(has(error("[a]\nm = -512\nk = 1\nbm = 1\nbk = 1\nbmm = 1\n"), "found -512"));
  CHECK(has(error("m = 512\n"), "outside of them"));
  CHECK(has(error("[a\n"), ":1: "));
  CHECK(has(error(""), "found none"));
  CHECK_FALSE(TileTable::read("/nonexistent/kernel_config.ini").ok());
}

TEST_CASE("assumptions are said once, and refused in strict mode") {
  std::vector<std::string> notes;
  const Raw i2s(4 * 128 / 4 + 32, 0x3F);  // as a float, every four bytes are a positive number
  const OneTensor plain(kI2_S, 4, 128, std::as_bytes(std::span(i2s)));
  for (int i = 0; i < 2; ++i) REQUIRE(TernaryMatrix::open(plain.file, plain.tensor(), {}, notes).ok());
  REQUIRE(notes.size() == 1);
  CHECK(has(notes[0], "--i2s-layout"));

  notes.clear();
  const Raw tl1(std::size_t{1536} * 1536 / 4 + 32, 0x3F);
  const OneTensor known(kTL1, 1536, 1536, std::as_bytes(std::span(tl1)));
  for (int i = 0; i < 2; ++i) REQUIRE(TernaryMatrix::open(known.file, known.tensor(), {}, notes).ok());
  REQUIRE(notes.size() == 1);
  CHECK(has(notes[0], "TL1 matrices of 1536 x 1536: tile parameters assumed (bm 128, bk 64, bmm 64)"));
  ReadOptions strict;
  strict.strict = true;
  const auto refused = TernaryMatrix::open(known.file, known.tensor(), strict, notes);
  REQUIRE_FALSE(refused.ok());
  CHECK(refused.error().code == ErrorCode::kStrict);
  CHECK(has(refused.error().message, "--tile-config"));

  const Raw other(std::size_t{512} * 512 / 4 + 32, 0x3F);
  const OneTensor unknown(kTL1, 512, 512, std::as_bytes(std::span(other)));
  CHECK(has(open_error(unknown.file, unknown.tensor()), "none are known for 512 x 512"));
  const TextFile config("[Kernels_0]\nm = 512\nk = 256\nbm = 128\nbk = 64\nbmm = 32\n");
  ReadOptions given;
  given.tile_config = config.path.string();
  CHECK(has(open_error(unknown.file, unknown.tensor(), given), "found none for 512 x 512"));
  given.strict = true;  // a table that was given is not assumed
  const TextFile fits("[Kernels_0]\nm = 512\nk = 512\nbm = 128\nbk = 64\nbmm = 32\n");
  given.tile_config = fits.path.string();
  CHECK(open_error(unknown.file, unknown.tensor(), given).empty());
  const TextFile cuts("[Kernels_0]\nm = 512\nk = 512\nbm = 96\nbk = 64\nbmm = 32\n");
  given.tile_config = cuts.path.string();
  CHECK(has(open_error(unknown.file, unknown.tensor(), given), "expected rows to be a multiple of bm = 96, found 512"));

  ReadOptions arm;
  arm.i2s_layout = I2sLayout::k4Row;
  const Raw odd(2 * 128 / 4 + 32, 0x3F);
  const OneTensor two(kI2_S, 2, 128, std::as_bytes(std::span(odd)));
  CHECK(
      has(open_error(two.file, two.tensor(), arm), "in the layout 4row: expected a multiple of 4 rows, found 2 x 128"));
}

TEST_CASE("other types, and shapes that are no matrix") {
  std::vector<std::string> notes;
  for (const auto type : {kF32, kF16, kBF16, kQ8_0, kQ4_K}) {
    const Raw zeros(static_cast<std::size_t>(*gguf::tensor_bytes(type, std::vector<std::uint64_t>{256, 2})));
    const OneTensor dense(type, 2, 256, std::as_bytes(std::span(zeros)));
    const auto opened = TernaryMatrix::open(dense.file, dense.tensor(), {}, notes);
    REQUIRE(opened.ok());
    CHECK_FALSE(opened->has_value());
    CHECK(is_dense(type));
  }
  for (const auto type : {kI2_S, kTL1, kTL2OrMXFP4, kIQ2_S, kI32}) CHECK_FALSE(is_dense(type));
  CHECK(notes.empty());

  const Raw i2s(4 * 128 / 4 + 32, 0x3F);
  const OneTensor file(kI2_S, 4, 128, std::as_bytes(std::span(i2s)));
  gguf::Tensor tensor = file.tensor();
  tensor.ne = {128, 2, 2, 1};
  tensor.n_dims = 3;
  CHECK(has(open_error(file.file, tensor), "one or two dimensions that are not 0, found 128 x 2 x 2"));
  tensor.ne = {512, 1, 1, 1};
  tensor.n_dims = 1;
  CHECK(open_ternary(file.file, tensor).n() == 1);
  tensor.ne = {0, 4, 1, 1};
  tensor.n_dims = 2;
  CHECK(has(open_error(file.file, tensor), "found 0 x 4"));
  tensor.n_dims = 0;
  CHECK(has(open_error(file.file, tensor), "found no dimension"));
}

}  // namespace
}  // namespace bitnet
