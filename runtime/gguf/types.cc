// Names and sizes of value and tensor types.
//
// Block formats are a table: elements per block along ne[0] and bytes per block. I2_S and TL1 have one scale per
// tensor, so their size is not a multiple of blocks (K*M/4 + 32), and id 39 means TL2 to bitnet.cpp and MXFP4 to
// everyone else (the reader decides by the space that the file gives the tensor).
#include "runtime/gguf/types.h"

#include <cassert>
#include <cstring>
#include <limits>

#include "runtime/base/math.h"

namespace bitnet::gguf {
namespace {

constexpr std::uint64_t kMaxExtent = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
constexpr std::uint64_t kScaleTail = 32;    // float32 scale and 28 bytes of padding behind the codes of I2_S, TL1, TL2
constexpr std::uint64_t kCodesPerByte = 4;  // of I2_S and TL1

struct TypeInfo {
  TensorType type;
  std::string_view name;
  std::uint32_t block_elements;  // 0: no block format, sized by a formula
  std::uint32_t block_bytes;
};

constexpr TypeInfo kTypes[] = {
    {TensorType::kF32, "F32", 1, 4},
    {TensorType::kF16, "F16", 1, 2},
    {TensorType::kQ4_0, "Q4_0", 32, 18},
    {TensorType::kQ4_1, "Q4_1", 32, 20},
    {TensorType::kQ5_0, "Q5_0", 32, 22},
    {TensorType::kQ5_1, "Q5_1", 32, 24},
    {TensorType::kQ8_0, "Q8_0", 32, 34},
    {TensorType::kQ8_1, "Q8_1", 32, 36},
    {TensorType::kQ2_K, "Q2_K", 256, 84},
    {TensorType::kQ3_K, "Q3_K", 256, 110},
    {TensorType::kQ4_K, "Q4_K", 256, 144},
    {TensorType::kQ5_K, "Q5_K", 256, 176},
    {TensorType::kQ6_K, "Q6_K", 256, 210},
    {TensorType::kQ8_K, "Q8_K", 256, 292},
    {TensorType::kIQ2_XXS, "IQ2_XXS", 256, 66},
    {TensorType::kIQ2_XS, "IQ2_XS", 256, 74},
    {TensorType::kIQ3_XXS, "IQ3_XXS", 256, 98},
    {TensorType::kIQ1_S, "IQ1_S", 256, 50},
    {TensorType::kIQ4_NL, "IQ4_NL", 32, 18},
    {TensorType::kIQ3_S, "IQ3_S", 256, 110},
    {TensorType::kIQ2_S, "IQ2_S", 256, 82},
    {TensorType::kIQ4_XS, "IQ4_XS", 256, 136},
    {TensorType::kI8, "I8", 1, 1},
    {TensorType::kI16, "I16", 1, 2},
    {TensorType::kI32, "I32", 1, 4},
    {TensorType::kI64, "I64", 1, 8},
    {TensorType::kF64, "F64", 1, 8},
    {TensorType::kIQ1_M, "IQ1_M", 256, 56},
    {TensorType::kBF16, "BF16", 1, 2},
    {TensorType::kTQ1_0, "TQ1_0", 256, 54},
    {TensorType::kTQ2_0, "TQ2_0", 256, 66},
    {TensorType::kI2_S, "I2_S", 0, 0},
    {TensorType::kTL1, "TL1", 0, 0},
    {TensorType::kTL2OrMXFP4, "TL2|MXFP4", 0, 0},
    {TensorType::kNVFP4, "NVFP4", 64, 36},
    {TensorType::kQ1_0, "Q1_0", 128, 18},
    {TensorType::kQ2_0, "Q2_0", 64, 18},
    {TensorType::kPQ2_0, "PQ2_0", 128, 34},
};

constexpr std::uint32_t kMxfp4BlockElements = 32;
constexpr std::uint32_t kMxfp4BlockBytes = 17;

const TypeInfo* info(TensorType type) {
  for (const TypeInfo& entry : kTypes) {
    if (entry.type == type) return &entry;
  }
  return nullptr;
}

std::uint64_t elements(std::span<const std::uint64_t> ne) {
  std::uint64_t product = 1;
  for (const std::uint64_t n : ne) product *= n;
  return product;
}

// Precondition: checked_extent(ne). The row length ne[0] must be whole blocks.
std::optional<std::uint64_t> block_format_bytes(std::span<const std::uint64_t> ne, std::uint64_t block_elements,
                                                std::uint64_t block_bytes) {
  const std::uint64_t row = ne.empty() ? 1 : ne[0];
  if (row % block_elements != 0) return std::nullopt;
  const std::uint64_t blocks = elements(ne) / block_elements;
  if (blocks > kMaxExtent / block_bytes) return std::nullopt;
  return blocks * block_bytes;
}

}  // namespace

std::string_view to_string(ValueType type) {
  switch (type) {
    case ValueType::kU8:
      return "u8";
    case ValueType::kI8:
      return "i8";
    case ValueType::kU16:
      return "u16";
    case ValueType::kI16:
      return "i16";
    case ValueType::kU32:
      return "u32";
    case ValueType::kI32:
      return "i32";
    case ValueType::kF32:
      return "f32";
    case ValueType::kBool:
      return "bool";
    case ValueType::kString:
      return "string";
    case ValueType::kArray:
      return "array";
    case ValueType::kU64:
      return "u64";
    case ValueType::kI64:
      return "i64";
    case ValueType::kF64:
      return "f64";
  }
  return "unknown";
}

std::size_t scalar_bytes(ValueType type) {
  switch (type) {
    case ValueType::kU8:
    case ValueType::kI8:
    case ValueType::kBool:
      return 1;
    case ValueType::kU16:
    case ValueType::kI16:
      return 2;
    case ValueType::kU32:
    case ValueType::kI32:
    case ValueType::kF32:
      return 4;
    case ValueType::kU64:
    case ValueType::kI64:
    case ValueType::kF64:
      return 8;
    case ValueType::kString:
    case ValueType::kArray:
      break;
  }
  return 0;
}

bool is_known(ValueType type) { return static_cast<std::uint32_t>(type) <= 12; }
bool is_known(TensorType type) { return info(type) != nullptr; }

std::uint64_t row_granule(TensorType type) {
  if (type == TensorType::kI2_S || type == TensorType::kTL1) return kCodesPerByte;
  const TypeInfo* known = info(type);
  return known == nullptr || known->block_elements == 0 ? 1 : known->block_elements;
}

std::string quoted(std::string_view text) {
  constexpr std::size_t kLongest = 80;
  constexpr char kDigits[] = "0123456789abcdef";
  std::string result = "'";
  for (const char c : text.substr(0, kLongest)) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte >= 0x20 && byte < 0x7f) {
      result.push_back(c);
    } else {
      result += {'\\', 'x', kDigits[byte >> 4], kDigits[byte & 15]};
    }
  }
  result += text.size() > kLongest ? "...'" : "'";
  return result;
}

std::string_view to_string(TensorType type) {
  const TypeInfo* known = info(type);
  return known == nullptr ? "unknown" : known->name;
}

std::string_view type_name(const Tensor& tensor) {
  if (tensor.type != TensorType::kTL2OrMXFP4) return to_string(tensor.type);
  return is_tl2(tensor) ? "TL2" : "MXFP4";
}

bool is_tl2(const Tensor& tensor) {
  return tensor.type == TensorType::kTL2OrMXFP4 &&
         mxfp4_bytes(std::span(tensor.ne).first(tensor.n_dims)) != tensor.bytes;
}

std::optional<std::uint64_t> checked_extent(std::span<const std::uint64_t> ne) {
  std::uint64_t product = 1;
  for (const std::uint64_t n : ne) {
    if (n == 0) continue;
    if (n > kMaxExtent / product) return std::nullopt;
    product *= n;
  }
  return product;
}

std::optional<std::uint64_t> mxfp4_bytes(std::span<const std::uint64_t> ne) {
  if (!checked_extent(ne)) return std::nullopt;
  return block_format_bytes(ne, kMxfp4BlockElements, kMxfp4BlockBytes);
}

// F = floor((K-256)*M/3*5/8) + 256*M/2*4/8, each division rounding down.
std::uint64_t tl2_code_bytes(std::uint64_t rows, std::uint64_t columns) {
  return (columns - 256) * rows / 3 * 5 / 8 + 256 * rows / 2 * 4 / 8;
}

std::optional<std::uint64_t> tl2_bytes(std::span<const std::uint64_t> ne) {
  // K >= 256 and K*M < 2^63: no product in F overflows.
  if (!checked_extent(ne) || ne.size() != 2 || ne[0] < 256 || ne[1] == 0) return std::nullopt;
  return round_up<std::uint64_t>(tl2_code_bytes(ne[1], ne[0]), 32) + kScaleTail;
}

std::optional<std::uint64_t> tensor_bytes(TensorType type, std::span<const std::uint64_t> ne) {
  const TypeInfo* known = info(type);
  if (known == nullptr || ne.size() > kMaxDims || !checked_extent(ne)) return std::nullopt;
  switch (type) {
    case TensorType::kI2_S:
    case TensorType::kTL1: {
      const std::uint64_t row = ne.empty() ? 1 : ne[0];
      if (row % kCodesPerByte != 0) return std::nullopt;
      return elements(ne) / kCodesPerByte + kScaleTail;
    }
    case TensorType::kTL2OrMXFP4:
      return std::nullopt;
    default:
      return block_format_bytes(ne, known->block_elements, known->block_bytes);
  }
}

std::optional<std::array<Reading, 2>> two_readings(const Tensor& tensor) {
  const auto shape = std::span(tensor.ne).first(tensor.n_dims);
  if (tensor.type == TensorType::kTL2OrMXFP4) {
    return {{Reading{tensor.type, "TL2", tl2_bytes(shape)}, Reading{tensor.type, "MXFP4", mxfp4_bytes(shape)}}};
  }
  if (tensor.type == TensorType::kQ2_0) {
    const auto reading = [&](TensorType type) { return Reading{type, to_string(type), tensor_bytes(type, shape)}; };
    return {{reading(TensorType::kQ2_0), reading(TensorType::kPQ2_0)}};
  }
  return std::nullopt;
}

std::vector<std::string_view> Array::strings() const {
  assert(type == ValueType::kString);
  std::vector<std::string_view> result;
  if (type != ValueType::kString) return result;
  result.reserve(count);
  std::size_t at = 0;
  for (std::uint64_t i = 0; i < count; ++i) {
    std::uint64_t length = 0;
    std::memcpy(&length, bytes.data() + at, sizeof(length));
    at += sizeof(length);
    result.emplace_back(reinterpret_cast<const char*>(bytes.data() + at), length);
    at += length;
  }
  return result;
}

template <typename T>
std::vector<T> Array::values() const {
  assert(scalar_bytes(type) == sizeof(T));
  // Sized by the bytes that are there, so that even a broken precondition reads nothing else.
  std::vector<T> result(bytes.size() / sizeof(T));
  if (!result.empty()) std::memcpy(result.data(), bytes.data(), result.size() * sizeof(T));
  return result;
}

template <>
std::vector<bool> Array::values<bool>() const {
  assert(type == ValueType::kBool);
  std::vector<bool> result;
  result.reserve(bytes.size());
  for (const std::byte byte : bytes) result.push_back(byte != std::byte{0});
  return result;
}

template std::vector<std::uint8_t> Array::values<std::uint8_t>() const;
template std::vector<std::int8_t> Array::values<std::int8_t>() const;
template std::vector<std::uint16_t> Array::values<std::uint16_t>() const;
template std::vector<std::int16_t> Array::values<std::int16_t>() const;
template std::vector<std::uint32_t> Array::values<std::uint32_t>() const;
template std::vector<std::int32_t> Array::values<std::int32_t>() const;
template std::vector<float> Array::values<float>() const;
template std::vector<std::uint64_t> Array::values<std::uint64_t>() const;
template std::vector<std::int64_t> Array::values<std::int64_t>() const;
template std::vector<double> Array::values<double>() const;

}  // namespace bitnet::gguf
