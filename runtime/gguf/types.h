// What parser and writer share: sizes of metadata scalars, limits of names, the two meanings of tensor type 39.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "runtime/gguf/gguf.h"

namespace bitnet::gguf {

static_assert(std::endian::native == std::endian::little, "GGUF is little-endian and is read in place");

inline constexpr std::uint32_t kMagic = 0x46554747;  // "GGUF"
inline constexpr std::uint32_t kVersion = 3;
inline constexpr std::uint32_t kDefaultAlignment = 32;
inline constexpr std::size_t kMaxDims = 4;
inline constexpr std::uint64_t kMaxKeyBytes = 65535;      // GGUF specification
inline constexpr std::uint64_t kMaxTensorNameBytes = 63;  // ggml keeps names in char[64]
inline constexpr std::string_view kAlignmentKey = "general.alignment";

// Bytes of one scalar in the file; 0 for strings, arrays and unknown types.
[[nodiscard]] std::size_t scalar_bytes(ValueType type);
[[nodiscard]] bool is_known(ValueType type);
[[nodiscard]] bool is_known(TensorType type);
// ne[0] of a tensor of this type is a multiple of this many elements (1 for unknown types and for id 39).
[[nodiscard]] std::uint64_t row_granule(TensorType type);
// A name or key for a message: quoted, control bytes and non-ASCII escaped, shortened.
[[nodiscard]] std::string quoted(std::string_view text);

// max(1, ne[0]) * max(1, ne[1]) * ... if it and each dimension fit into int64: the bound within which every product of
// dimensions is safe, zero dimensions included.
[[nodiscard]] std::optional<std::uint64_t> checked_extent(std::span<const std::uint64_t> ne);

// Bytes that the codes of a TL2 matrix may take: F of FORMATS.md section 4. Precondition: tl2_bytes(ne).
[[nodiscard]] std::uint64_t tl2_code_bytes(std::uint64_t rows, std::uint64_t columns);

// Type id 39 under its two readings; nullopt if the shape is impossible in it.
[[nodiscard]] std::optional<std::uint64_t> tl2_bytes(std::span<const std::uint64_t> ne);
[[nodiscard]] std::optional<std::uint64_t> mxfp4_bytes(std::span<const std::uint64_t> ne);

// One meaning of a type id that has two.
struct Reading {
  TensorType type;  // what the reader calls it
  std::string_view name;
  std::optional<std::uint64_t> bytes;  // nullopt: impossible in the tensor's shape
};
// Ids 39 (TL2, MXFP4) and 42 (Q2_0, PQ2_0); nullopt for every other.
[[nodiscard]] std::optional<std::array<Reading, 2>> two_readings(const Tensor& tensor);

}  // namespace bitnet::gguf
