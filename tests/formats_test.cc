// Ternary and dense tensor types against files of other writers: values and bytes.
#include <doctest/doctest.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "runtime/formats/dense.h"
#include "runtime/formats/encode.h"
#include "runtime/formats/ternary.h"
#include "runtime/formats/tiles.h"
#include "tests/assets.h"
#include "tests/formats_files.h"

namespace bitnet {
namespace {

using namespace formats;
using test::all_codes;
using test::Codes;
using test::open_ternary;

TEST_CASE("bitnet.cpp's I2_S, TL1 and TL2 of one model hold the same integers") {
  const auto i2s = test::asset("bitnet_cpp/tiny.b158.i2_s.gguf", "three types of one model");
  if (!i2s) return;
  const auto file = gguf::File::open(*i2s);
  REQUIRE(file.ok());
  for (const std::string type : {"tl1", "tl2"}) {
    CAPTURE(type);
    const auto path = test::asset("bitnet_cpp/tiny.b158." + type + ".gguf", "TL1 and TL2");
    const auto tiles = test::asset("bitnet_cpp/" + type + ".ini", "tiles of TL1 and TL2");
    REQUIRE((path && tiles));
    const auto other = gguf::File::open(*path);
    REQUIRE(other.ok());
    ReadOptions options;
    options.tile_config = *tiles;
    std::size_t compared = 0;
    for (const gguf::Tensor& tensor : file->tensors()) {
      if (tensor.type != gguf::TensorType::kI2_S) continue;
      CAPTURE(tensor.name);
      const gguf::Tensor* same = other->find_tensor(tensor.name);
      REQUIRE(same != nullptr);
      const TernaryMatrix expected = open_ternary(*file, tensor);
      const TernaryMatrix found = open_ternary(*other, *same, options);
      std::uint64_t undefined = 1;
      CHECK(all_codes(found, &undefined) == all_codes(expected));
      CHECK(undefined == 0);
      CHECK(found.scale_kind() == ScaleKind::kTensor);
      CHECK(found.scales()[0] == expected.scales()[0]);
      ++compared;
    }
    CHECK(compared == 21);
  }
}

// A model's tensors of all three types again, from the codes of one of them.
TEST_CASE("encoding bitnet.cpp's integers gives its bytes") {
  const auto i2s = test::asset("bitnet_cpp/tiny.b158.i2_s.gguf", "bytes of I2_S, TL1 and TL2");
  if (!i2s) return;
  const auto file = gguf::File::open(*i2s);
  REQUIRE(file.ok());
  for (const std::string type : {"i2_s", "tl1", "tl2"}) {
    CAPTURE(type);
    const auto path = test::asset("bitnet_cpp/tiny.b158." + type + ".gguf", "bytes of I2_S, TL1 and TL2");
    REQUIRE(path);
    const auto other = gguf::File::open(*path);
    REQUIRE(other.ok());
    std::optional<TileTable> tiles;
    if (type != "i2_s") {
      auto table = TileTable::read(*test::asset("bitnet_cpp/" + type + ".ini", "tiles"));
      REQUIRE(table.ok());
      tiles = std::move(*table);
    }
    std::size_t compared = 0;
    for (const gguf::Tensor& tensor : file->tensors()) {
      if (tensor.type != gguf::TensorType::kI2_S) continue;
      CAPTURE(tensor.name);
      const TernaryMatrix matrix = open_ternary(*file, tensor);
      const gguf::Tensor* expected = other->find_tensor(tensor.name);
      REQUIRE(expected != nullptr);
      TernaryTarget target{expected->type, matrix.n(), matrix.k(), I2sLayout::kX86, std::nullopt};
      if (tiles) target.tile = tiles->find(matrix.n(), matrix.k());
      auto encoder = TernaryEncoder::make(target, matrix.scale_kind(), matrix.group(), matrix.scales());
      REQUIRE_MESSAGE(encoder.ok(), encoder.error().message);
      const Codes codes = all_codes(matrix);
      REQUIRE(encoder->add_rows(codes).ok());
      const auto bytes = encoder->finish();
      REQUIRE(bytes.ok());
      // Behind I2_S's scale its writer leaves what its buffer held.
      const std::size_t junk = type == "i2_s" ? 28 : 0;
      REQUIRE(bytes->size() == expected->data.size());
      CHECK(std::equal(bytes->begin(), bytes->end() - static_cast<std::ptrdiff_t>(junk), expected->data.begin()));
      CHECK(std::all_of(bytes->end() - 28, bytes->end(), [](std::byte b) { return b == std::byte{0}; }));
      ++compared;
    }
    CHECK(compared == 21);
  }
}

std::vector<std::byte> read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  const std::vector<char> text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  std::vector<std::byte> bytes(text.size());
  std::memcpy(bytes.data(), text.data(), text.size());
  return bytes;
}

std::vector<float> read_floats(const std::string& path) {
  const auto bytes = read_file(path);
  std::vector<float> floats(bytes.size() / sizeof(float));
  std::memcpy(floats.data(), bytes.data(), bytes.size());
  return floats;
}

bool same_bits(std::span<const float> a, std::span<const float> b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size_bytes()) == 0;
}

struct NumericType {
  const char* name;
  gguf::TensorType type;
};
constexpr std::int64_t kRows = 4, kColumns = 512;
constexpr NumericType kNumericTypes[] = {
    {"f16", gguf::TensorType::kF16},   {"bf16", gguf::TensorType::kBF16},   {"q8_0", gguf::TensorType::kQ8_0},
    {"q4_0", gguf::TensorType::kQ4_0}, {"q5_0", gguf::TensorType::kQ5_0},   {"q4_K", gguf::TensorType::kQ4_K},
    {"q6_K", gguf::TensorType::kQ6_K}, {"tq1_0", gguf::TensorType::kTQ1_0}, {"tq2_0", gguf::TensorType::kTQ2_0},
    {"q1_0", gguf::TensorType::kQ1_0}, {"q2_0", gguf::TensorType::kQ2_0},
};

TEST_CASE("ggml's blocks decode to ggml's floats and are encoded to ggml's bytes") {
  for (const auto& [name, type] : kNumericTypes) {
    for (const std::string values : {"general", "ternary"}) {
      const std::string stem = std::string("numerics/") + name + "_" + values;
      CAPTURE(stem);
      const auto packed_path = test::asset(stem + ".packed.bin", "floats and bytes of block types");
      if (!packed_path) return;
      const auto packed = read_file(*packed_path);
      const auto expected = read_floats(*test::asset(stem + ".dequant_f32.bin", "floats"));
      REQUIRE(expected.size() == kRows * kColumns);
      CHECK(is_dense(type));
      std::vector<float> found(expected.size());
      decode_floats(type, packed.data(), 0, found);
      CHECK(same_bits(found, expected));
      // From the middle, and ending inside a block.
      found.assign(kColumns - 7, 0);
      decode_floats(type, packed.data(), kColumns, found);
      CHECK(same_bits(found, std::span(expected).subspan(kColumns, kColumns - 7)));

      if (!is_encodable(type)) continue;
      const auto input = read_floats(*test::asset("numerics/input_" + values + "_4x512_f32.bin", "inputs"));
      std::vector<std::byte> bytes(packed.size());
      encode_floats(type, input, bytes.data());
      CHECK(bytes == packed);
    }
  }
}

TEST_CASE("ternary block types hold the values of the floats that they decode to") {
  for (const auto& [name, type] : kNumericTypes) {
    if (std::string(name).find("q1_0") == std::string::npos && std::string(name).find("q2_0") == std::string::npos) {
      continue;
    }
    for (const std::string values : {"general", "ternary"}) {
      const std::string stem = std::string("numerics/") + name + "_" + values;
      CAPTURE(stem);
      const auto packed_path = test::asset(stem + ".packed.bin", "ternary blocks");
      if (!packed_path) return;
      const test::OneTensor file(type, kRows, kColumns, read_file(*packed_path));
      const auto expected = read_floats(*test::asset(stem + ".dequant_f32.bin", "floats"));
      std::vector<std::string> notes;
      const auto opened = TernaryMatrix::open(file.file, file.tensor(), {}, notes);
      REQUIRE_MESSAGE(opened.ok(), opened.error().message);
      REQUIRE(opened->has_value());
      const TernaryMatrix& matrix = **opened;
      const Codes codes = all_codes(matrix);
      for (std::int64_t row = 0; row < kRows; ++row) {
        for (std::int64_t column = 0; column < kColumns; ++column) {
          std::size_t scale = 0;
          if (matrix.scale_kind() == ScaleKind::kRow) scale = static_cast<std::size_t>(row);
          if (matrix.scale_kind() == ScaleKind::kGroup) {
            scale = static_cast<std::size_t>(column / matrix.group() * kRows + row);
          }
          const auto at = static_cast<std::size_t>(row * kColumns + column);
          REQUIRE(static_cast<float>(codes[at] - 1) * matrix.scales()[scale] == expected[at]);
        }
      }
    }
  }
}

TEST_CASE("the three layouts of I2_S, written by other programs") {
  const auto input_path = test::asset("numerics/input_ternary_1scale_4x512_f32.bin", "layouts of I2_S");
  if (!input_path) return;
  const auto input = read_floats(*input_path);
  Codes expected;
  for (const float value : input) expected.push_back(value > 0 ? 2 : value < 0 ? 0 : 1);
  const std::pair<I2sLayout, const char*> layouts[] = {
      {I2sLayout::kX86, "i2_s_x86_actparallel"}, {I2sLayout::kArm, "i2_s_neon"}, {I2sLayout::k4Row, "i2_s_x86_1x4"}};
  for (const auto& [layout, name] : layouts) {
    CAPTURE(name);
    const auto packed = read_file(*test::asset(std::string("numerics/") + name + ".packed.bin", "layouts of I2_S"));
    const test::OneTensor file(gguf::TensorType::kI2_S, kRows, kColumns, packed);
    ReadOptions options;
    options.i2s_layout = layout;
    const TernaryMatrix matrix = open_ternary(file.file, file.tensor(), options);
    CHECK(all_codes(matrix) == expected);
    CHECK(matrix.scales()[0] == 0.75F);
    auto encoder = TernaryEncoder::make({gguf::TensorType::kI2_S, kRows, kColumns, layout, std::nullopt},
                                        ScaleKind::kTensor, 0, matrix.scales());
    REQUIRE(encoder.ok());
    REQUIRE(encoder->add_rows(expected).ok());
    const auto bytes = encoder->finish();
    REQUIRE(bytes.ok());
    CHECK(std::equal(bytes->begin(), bytes->end() - 28, packed.begin(), packed.end() - 28));
  }
}

}  // namespace
}  // namespace bitnet
