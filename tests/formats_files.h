// What the tests of runtime/formats share: GGUF files of one tensor in memory, random codes, and the layouts of
// FORMATS.md once more, one weight at a time.
#pragma once

#include <doctest/doctest.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <random>
#include <string>
#include <vector>

#include "runtime/formats/encode.h"
#include "runtime/formats/options.h"
#include "runtime/formats/ternary.h"
#include "runtime/formats/tiles.h"
#include "runtime/gguf/gguf.h"

namespace bitnet::test {

using Codes = std::vector<std::uint8_t>;
using Raw = std::vector<std::uint8_t>;

// A file whose tensor "w" [columns, rows] holds `data`. Keep it where it is: File views its bytes.
struct OneTensor {
  std::vector<std::byte> bytes;
  gguf::File file;

  OneTensor(gguf::TensorType type, std::int64_t rows, std::int64_t columns, std::span<const std::byte> data) {
    gguf::Writer writer;
    writer.add_tensor("w", type, {static_cast<std::uint64_t>(columns), static_cast<std::uint64_t>(rows)});
    auto header = writer.header();
    REQUIRE_MESSAGE(header.ok(), header.error().message);
    bytes = std::move(*header);
    bytes.resize((bytes.size() + 31) / 32 * 32);
    bytes.insert(bytes.end(), data.begin(), data.end());
    auto parsed = gguf::File::parse(bytes, "memory");
    REQUIRE_MESSAGE(parsed.ok(), parsed.error().message);
    file = std::move(*parsed);
  }
  OneTensor(const OneTensor&) = delete;
  OneTensor& operator=(const OneTensor&) = delete;

  [[nodiscard]] const gguf::Tensor& tensor() const { return file.tensors()[0]; }
};

inline Codes random_codes(std::int64_t count, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  Codes codes(static_cast<std::size_t>(count));
  for (auto& code : codes) code = static_cast<std::uint8_t>(random() % 3);
  return codes;
}

inline formats::TernaryMatrix open_ternary(const gguf::File& file, const gguf::Tensor& tensor,
                                           const formats::ReadOptions& options = {}) {
  std::vector<std::string> notes;
  auto opened = formats::TernaryMatrix::open(file, tensor, options, notes);
  REQUIRE_MESSAGE(opened.ok(), opened.error().message);
  REQUIRE(opened->has_value());
  return **opened;
}

inline std::string open_error(const gguf::File& file, const gguf::Tensor& tensor,
                              const formats::ReadOptions& options = {}) {
  std::vector<std::string> notes;
  const auto opened = formats::TernaryMatrix::open(file, tensor, options, notes);
  return opened.ok() ? std::string() : opened.error().message;
}

inline Codes all_codes(const formats::TernaryMatrix& matrix, std::uint64_t* undefined = nullptr) {
  Codes codes(static_cast<std::size_t>(matrix.n() * matrix.k()));
  const std::uint64_t found = matrix.decode(0, matrix.n(), codes.data());
  if (undefined != nullptr) *undefined = found;
  return codes;
}

// The codes as `target` has them, given to the encoder in pieces of `piece` rows.
inline Raw encoded(const formats::TernaryTarget& target, const Codes& codes, formats::ScaleKind kind,
                   std::int32_t group, std::span<const float> scales, std::int64_t piece) {
  auto encoder = formats::TernaryEncoder::make(target, kind, group, scales);
  REQUIRE_MESSAGE(encoder.ok(), encoder.error().message);
  for (std::int64_t row = 0; row < target.rows; row += piece) {
    CHECK_FALSE(encoder->finish().ok());
    const auto first = static_cast<std::size_t>(row * target.columns);
    const auto count = static_cast<std::size_t>(std::min(piece, target.rows - row) * target.columns);
    REQUIRE(encoder->add_rows(std::span(codes).subspan(first, count)).ok());
  }
  CHECK_FALSE(encoder->add_rows(std::span(codes).first(static_cast<std::size_t>(target.columns))).ok());
  const auto bytes = encoder->finish();
  REQUIRE(bytes.ok());
  Raw result(bytes->size());
  std::memcpy(result.data(), bytes->data(), result.size());
  return result;
}

// A text that goes away with the test.
struct TextFile {
  std::filesystem::path path;
  explicit TextFile(const std::string& text) {
    std::string name = (std::filesystem::temp_directory_path() / "bitnet_text_XXXXXX").string();
    const int descriptor = mkstemp(name.data());
    REQUIRE(descriptor >= 0);
    close(descriptor);
    path = name;
    std::ofstream(path) << text;
  }
  TextFile(const TextFile&) = delete;
  TextFile& operator=(const TextFile&) = delete;
  ~TextFile() { std::filesystem::remove(path); }
};

}  // namespace bitnet::test
