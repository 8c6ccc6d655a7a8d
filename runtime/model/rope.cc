#include "runtime/model/rope.h"

#include <bit>
#include <cstddef>

namespace bitnet {

namespace {

// The two below are float_to_half and back without branches, so that the compiler makes vector code of the loops; they
// run for every query, key and value. All three cases are computed and one is selected: normal halves round the
// mantissa as an integer (a carry raises the exponent), subnormal ones are rounded by adding 0.5, whose last place is
// 2^-24, and from 65520 on the result is infinite. NaN becomes a quiet NaN.
constexpr std::uint32_t kSign = 0x80000000U;
constexpr std::uint32_t kInfinity = 0x7F800000U;
constexpr std::uint32_t kOverflow = 0x477FF000U;        // 65520
constexpr std::uint32_t kSmallestNormal = 0x38800000U;  // 2^-14

std::uint32_t rounded_bits(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t magnitude = bits & ~kSign;
  const std::uint32_t normal = (magnitude + 0xFFFU + (magnitude >> 13 & 1U)) & ~0x1FFFU;
  const auto small = std::bit_cast<std::uint32_t>((std::bit_cast<float>(magnitude) + 0.5F) - 0.5F);
  std::uint32_t result = magnitude < kSmallestNormal ? small : normal;
  result = magnitude >= kOverflow ? kInfinity : result;
  result = magnitude > kInfinity ? (magnitude & ~0x1FFFU) | 0x400000U : result;
  return result | (bits & kSign);
}

// Of a float that is a half already.
std::uint16_t half_bits(std::uint32_t rounded) {
  const std::uint32_t magnitude = rounded & ~kSign;
  const std::uint32_t normal = (magnitude - (112U << 23)) >> 13;
  const std::uint32_t small = std::bit_cast<std::uint32_t>(std::bit_cast<float>(magnitude) + 0.5F) & 0x7FFFFFU;
  std::uint32_t result = magnitude < kSmallestNormal ? small : normal;
  result = magnitude >= kInfinity ? 0x7C00U | (magnitude >> 13 & 0x3FFU) : result;
  return static_cast<std::uint16_t>(result | (rounded & kSign) >> 16);
}

}  // namespace

void round_to_half(std::span<float> values) {
  for (float& value : values) value = std::bit_cast<float>(rounded_bits(value));
}

void convert_to_half(std::span<const float> values, std::uint16_t* out) {
  for (std::size_t i = 0; i < values.size(); ++i) out[i] = half_bits(rounded_bits(values[i]));
}

}  // namespace bitnet
