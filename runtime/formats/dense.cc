// Dequantisation, a block at a time. The order of the products is ggml's, since it decides the last bit: block scale
// times sub-block scale first, then times the code.
#include "runtime/formats/dense.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cassert>
#include <cstring>

#include "runtime/base/half.h"
#include "runtime/base/math.h"
#include "runtime/formats/blocks.h"

namespace bitnet::formats {
namespace {

using Decode = void (*)(const std::uint8_t* block, float* out);

struct DenseType {
  std::uint32_t elements = 0;  // 0: not such a type
  std::uint32_t bytes = 0;
  std::uint32_t at_once = 0;  // blocks that `decode` takes
  Decode decode = nullptr;
};

constexpr std::size_t kSmall = 32;   // elements of a small block
constexpr std::size_t kLarge = 256;  // of a K block

float half_at(const std::uint8_t* at) {
  std::uint16_t bits = 0;
  std::memcpy(&bits, at, sizeof bits);
  return half_to_float(bits);
}

void f32(const std::uint8_t* block, float* out) { std::memcpy(out, block, sizeof *out); }

constexpr std::size_t kHalves = 16;  // elements of a "block" of F16 and BF16: what is converted at once

// All ones if a < b, else 0; both below 2^31. A comparison would be turned into branches.
std::uint32_t below(std::uint32_t a, std::uint32_t b) {
  return static_cast<std::uint32_t>(static_cast<std::int32_t>(a - b) >> 31);
}

// half_to_float() without branches, so that it vectorises. Subnormals are made by an exact subtraction of normal
// numbers, which no flush-to-zero mode touches.
void f16(const std::uint8_t* block, float* out) {
  constexpr std::uint32_t kExponent = 0x7c00U << 13;
  constexpr std::uint32_t kRebias = 112U << 23;
  std::array<std::uint16_t, kHalves> halves;
  std::memcpy(halves.data(), block, sizeof halves);
  for (std::size_t i = 0; i < kHalves; ++i) {
    const std::uint32_t half = halves[i];
    const std::uint32_t shifted = (half & 0x7fffU) << 13;
    const std::uint32_t normal = shifted + kRebias;
    const float subnormal = std::bit_cast<float>(normal + (1U << 23)) - 0x1p-14F;
    const std::uint32_t is_subnormal = below(shifted, 1U << 23);
    const std::uint32_t is_special = below(kExponent - 1, shifted);
    const std::uint32_t is_nan = below(kExponent, shifted);
    const std::uint32_t large = normal + (kRebias & is_special);
    const std::uint32_t bits =
        (std::bit_cast<std::uint32_t>(subnormal) & is_subnormal) | ((large | (0x400000U & is_nan)) & ~is_subnormal);
    out[i] = std::bit_cast<float>(bits | (half & 0x8000U) << 16);
  }
}

void bf16(const std::uint8_t* block, float* out) {
  std::array<std::uint16_t, kHalves> halves;
  std::memcpy(halves.data(), block, sizeof halves);
  for (std::size_t i = 0; i < kHalves; ++i) out[i] = std::bit_cast<float>(std::uint32_t{halves[i]} << 16);
}

void q8_0(const std::uint8_t* block, float* out) {
  const float d = half_at(block);
  for (std::size_t i = 0; i < kSmall; ++i) out[i] = static_cast<float>(static_cast<std::int8_t>(block[2 + i])) * d;
}

// The low nibbles are the first half of a block, the high ones the second.
void q4_0(const std::uint8_t* block, float* out) {
  const float d = half_at(block);
  for (std::size_t i = 0; i < kSmall / 2; ++i) {
    const int byte = block[2 + i];
    out[i] = static_cast<float>((byte & 15) - 8) * d;
    out[i + kSmall / 2] = static_cast<float>((byte >> 4) - 8) * d;
  }
}

void q4_1(const std::uint8_t* block, float* out) {
  const float d = half_at(block);
  const float least = half_at(block + 2);
  for (std::size_t i = 0; i < kSmall / 2; ++i) {
    const int byte = block[4 + i];
    out[i] = static_cast<float>(byte & 15) * d + least;
    out[i + kSmall / 2] = static_cast<float>(byte >> 4) * d + least;
  }
}

// Five bits: nibbles as above, the fifth of element i at bit i of a word before them.
template <typename Value>
void five_bits(const std::uint8_t* block, float* out, const Value& value) {
  std::uint32_t fifth = 0;
  std::memcpy(&fifth, block, sizeof fifth);
  for (std::size_t i = 0; i < kSmall / 2; ++i) {
    const int byte = block[4 + i];
    out[i] = value((byte & 15) | static_cast<int>(fifth >> i & 1U) << 4);
    out[i + kSmall / 2] = value((byte >> 4) | static_cast<int>(fifth >> (i + kSmall / 2) & 1U) << 4);
  }
}

void q5_0(const std::uint8_t* block, float* out) {
  const float d = half_at(block);
  five_bits(block + 2, out, [d](int code) { return static_cast<float>(code - 16) * d; });
}

void q5_1(const std::uint8_t* block, float* out) {
  const float d = half_at(block);
  const float least = half_at(block + 2);
  five_bits(block + 4, out, [d, least](int code) { return static_cast<float>(code) * d + least; });
}

// Scale and minimum, six bits each, of sub-block j of Q4_K and Q5_K: the first four stand in bytes of their own, the
// others' low four bits in a byte together and their high two above those of the first.
struct ScaleAndMinimum {
  float scale, least;
};
ScaleAndMinimum scale_and_minimum(const std::uint8_t* packed, std::size_t j) {
  if (j < 4) return {static_cast<float>(packed[j] & 63), static_cast<float>(packed[j + 4] & 63)};
  const int low = packed[j + 4];
  return {static_cast<float>((low & 15) | (packed[j - 4] >> 6) << 4),
          static_cast<float>((low >> 4) | (packed[j] >> 6) << 4)};
}

// Of each 64 elements the first 32 are the low nibbles of 32 bytes, the others the high ones; Q5_K's fifth bits of
// sub-block j are bit j of 32 bytes.
template <bool kFifth>
void q45_k(const std::uint8_t* block, float* out) {
  const float d = half_at(block);
  const float d_least = half_at(block + 2);
  const std::uint8_t* fifth = block + 16;
  const std::uint8_t* nibbles = block + 16 + (kFifth ? 32 : 0);
  for (std::size_t j = 0; j < 8; ++j) {
    const ScaleAndMinimum sub = scale_and_minimum(block + 4, j);
    const float scale = d * sub.scale;
    const float least = d_least * sub.least;
    for (std::size_t i = 0; i < 32; ++i) {
      int code = nibbles[j / 2 * 32 + i] >> (j % 2 == 0 ? 0 : 4) & 15;
      if constexpr (kFifth) code += (fifth[i] >> j & 1) << 4;
      out[j * 32 + i] = scale * static_cast<float>(code) - least;
    }
  }
}

// Per 128 elements: 64 bytes of low nibbles, 32 bytes of upper bit pairs, and an int8 scale for every 16 elements.
void q6_k(const std::uint8_t* block, float* out) {
  const std::uint8_t* low = block;
  const std::uint8_t* high = block + 128;
  const std::uint8_t* scales = block + 192;
  const float d = half_at(block + 208);
  for (std::size_t e = 0; e < kLarge; ++e) {
    const std::size_t half = e / 128;
    const std::size_t quarter = e % 128 / 32;
    const std::size_t i = e % 32;
    const int nibble = low[half * 64 + quarter % 2 * 32 + i] >> (quarter < 2 ? 0 : 4) & 15;
    const int upper = high[half * 32 + i] >> (2 * quarter) & 3;
    const float scale = d * static_cast<float>(static_cast<std::int8_t>(scales[e / 16]));
    out[e] = scale * static_cast<float>((nibble | upper << 4) - 32);
  }
}

template <gguf::TensorType kType>
void ternary(const std::uint8_t* block, float* out) {
  const BlockType type = block_type(kType);
  std::array<std::uint8_t, kMostBlockElements> codes;
  type.codes(block, codes.data());
  const float d = block_scale(type, block);
  for (std::size_t i = 0; i < type.elements; ++i) out[i] = static_cast<float>(codes[i] - 1) * d;
}

DenseType dense_type(gguf::TensorType type) {
  using enum gguf::TensorType;
  switch (type) {
    case kF32:
      return {1, 4, 1, &f32};
    case kF16:
      return {1, 2, kHalves, &f16};
    case kBF16:
      return {1, 2, kHalves, &bf16};
    case kQ8_0:
      return {32, 34, 1, &q8_0};
    case kQ4_0:
      return {32, 18, 1, &q4_0};
    case kQ4_1:
      return {32, 20, 1, &q4_1};
    case kQ5_0:
      return {32, 22, 1, &q5_0};
    case kQ5_1:
      return {32, 24, 1, &q5_1};
    case kQ4_K:
      return {256, 144, 1, &q45_k<false>};
    case kQ5_K:
      return {256, 176, 1, &q45_k<true>};
    case kQ6_K:
      return {256, 210, 1, &q6_k};
    case kTQ1_0:
      return {256, 54, 1, &ternary<kTQ1_0>};
    case kTQ2_0:
      return {256, 66, 1, &ternary<kTQ2_0>};
    case kQ2_0:
      return {64, 18, 1, &ternary<kQ2_0>};
    case kPQ2_0:
      return {128, 34, 1, &ternary<kPQ2_0>};
    case kQ1_0:
      return {128, 18, 1, &ternary<kQ1_0>};
    default:
      return {};
  }
}

}  // namespace

bool is_dense(gguf::TensorType type) { return dense_type(type).elements != 0; }

std::uint64_t block_elements(gguf::TensorType type) { return dense_type(type).elements; }

void decode_floats(gguf::TensorType type, const std::byte* blocks, std::uint64_t first, std::span<float> out) {
  const DenseType dense = dense_type(type);
  assert(dense.elements != 0 && first % dense.elements == 0);
  if (out.empty()) return;  // of a tensor without elements, whose data may be nowhere
  const std::uint8_t* block = reinterpret_cast<const std::uint8_t*>(blocks) + first / dense.elements * dense.bytes;
  if (type == gguf::TensorType::kF32) {
    std::memcpy(out.data(), block, out.size_bytes());
    return;
  }
  const std::size_t elements = dense.elements * dense.at_once;
  const std::size_t bytes = dense.bytes * dense.at_once;
  while (out.size() >= elements) {
    dense.decode(block, out.data());
    block += bytes;
    out = out.subspan(elements);
  }
  if (out.empty()) return;
  // No byte behind the last block is read.
  std::array<std::uint8_t, kLarge> bytes_left{};
  std::array<float, kLarge> floats;
  std::memcpy(bytes_left.data(), block, ceil_div<std::size_t>(out.size(), dense.elements) * dense.bytes);
  dense.decode(bytes_left.data(), floats.data());
  std::copy_n(floats.begin(), out.size(), out.begin());
}

}  // namespace bitnet::formats
