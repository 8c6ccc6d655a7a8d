// Files of Hugging Face style directories, written for tests by code that shares nothing with the readers: SafeTensors
// from a list of tensors or from any header text, and SentencePiece models field by field.
#pragma once

#include <doctest/doctest.h>

#include <bit>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>
#include <string_view>
#include <vector>

namespace bitnet::test {

inline void write_file(const std::string& path, std::string_view bytes) {
  std::ofstream stream(path, std::ios::binary | std::ios::trunc);
  stream.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  stream.close();
  REQUIRE(stream.good());
}

inline std::string read_file(const std::string& path) {
  std::ifstream stream(path, std::ios::binary);
  REQUIRE(stream.good());
  return {std::istreambuf_iterator<char>(stream), {}};
}

template <typename T>
std::string little_endian(T value) {
  std::string bytes(sizeof value, '\0');
  std::memcpy(bytes.data(), &value, sizeof value);
  return bytes;
}

// Length, header, data: right or wrong.
inline std::string safetensors_bytes(std::string_view header, std::string_view data = "") {
  std::string bytes = little_endian(static_cast<std::uint64_t>(header.size()));
  bytes += header;
  bytes += data;
  return bytes;
}

struct HfTensor {
  std::string name;
  std::string dtype;
  std::vector<std::int64_t> shape;
  std::string data;
};

inline std::string safetensors_bytes(const std::vector<HfTensor>& tensors) {
  std::string header = "{\"__metadata__\":{\"format\":\"pt\"}";
  std::string data;
  for (const HfTensor& tensor : tensors) {
    header += ",\"" + tensor.name + "\":{\"dtype\":\"" + tensor.dtype + "\",\"shape\":[";
    for (std::size_t i = 0; i < tensor.shape.size(); ++i) {
      header += (i > 0 ? "," : "") + std::to_string(tensor.shape[i]);
    }
    header += "],\"data_offsets\":[" + std::to_string(data.size()) + ",";
    data += tensor.data;
    header += std::to_string(data.size()) + "]}";
  }
  header += "}";
  header.resize((header.size() + 7) / 8 * 8, ' ');
  return safetensors_bytes(std::string_view(header), data);
}

// Protobuf's wire format.
inline std::string varint(std::uint64_t value) {
  std::string bytes;
  for (; value >= 0x80; value >>= 7) bytes.push_back(static_cast<char>(0x80 | (value & 0x7f)));
  bytes.push_back(static_cast<char>(value));
  return bytes;
}
inline std::string number_field(std::uint32_t field, std::int64_t value) {
  return varint(std::uint64_t{field} << 3) + varint(static_cast<std::uint64_t>(value));
}
inline std::string bytes_field(std::uint32_t field, std::string_view value) {
  return varint(std::uint64_t{field} << 3 | 2) + varint(value.size()) + std::string(value);
}
inline std::string float_field(std::uint32_t field, float value) {
  return varint(std::uint64_t{field} << 3 | 5) + little_endian(std::bit_cast<std::uint32_t>(value));
}

struct SpmPiece {
  std::string piece;
  float score = 0;
  std::int64_t type = 1;
};

// A SentencePiece model: <unk>, <s>, </s>, the 256 bytes, and the pieces that a test adds.
struct SpmModel {
  std::vector<SpmPiece> pieces = {{"<unk>", 0, 2}, {"<s>", 0, 3}, {"</s>", 0, 3}};
  // Fields of trainer_spec and normalizer_spec, encoded. bos_id, eos_id and unk_id have their defaults 1, 2, 0.
  std::string trainer = number_field(3, 2) + number_field(35, 1);
  std::string normalizer = bytes_field(1, "identity") + number_field(3, 1) + number_field(4, 0) + number_field(5, 1);
  std::string more;  // further fields of the model

  SpmModel() {
    constexpr std::string_view kDigits = "0123456789ABCDEF";
    for (std::size_t byte = 0; byte < 256; ++byte) {
      pieces.push_back({std::string("<0x") + kDigits[byte / 16] + kDigits[byte % 16] + ">", 0, 6});
    }
  }
  void add(const std::string& piece, float score, std::int64_t type = 1) { pieces.push_back({piece, score, type}); }
  [[nodiscard]] std::string bytes() const {
    std::string result;
    for (const SpmPiece& piece : pieces) {
      std::string fields = bytes_field(1, piece.piece) + float_field(2, piece.score);
      if (piece.type != 1) fields += number_field(3, piece.type);  // 1 is the default
      result += bytes_field(1, fields);
    }
    return result + bytes_field(2, trainer) + bytes_field(3, normalizer) + more;
  }
};

}  // namespace bitnet::test
