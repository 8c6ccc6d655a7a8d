// binary16 by integer arithmetic alone: the result does not depend on the rounding mode, on flush-to-zero, or on what
// the CPU offers, so every target gives the same bits (those of F16C: NaNs become quiet and keep the top of the
// payload).
#include "runtime/base/half.h"

#include <bit>

namespace bitnet {
namespace {

constexpr std::uint32_t kFloatInfinity = 0x7f800000u;
constexpr std::uint32_t kHalfOverflow = 0x477ff000u;   // 65520, the tie between the largest half and the next step
constexpr std::uint32_t kHalfMinNormal = 0x38800000u;  // 2^-14
constexpr std::uint32_t kRebias = 112u << 23;          // exponent bias 127 - 15, in place

}  // namespace

float half_to_float(std::uint16_t h) {
  const std::uint32_t sign = static_cast<std::uint32_t>(h & 0x8000u) << 16;
  const std::uint32_t exponent = (h >> 10) & 0x1fu;
  const std::uint32_t mantissa = h & 0x3ffu;
  if (exponent == 0x1f) {
    const std::uint32_t quiet = mantissa != 0 ? 0x400000u : 0u;
    return std::bit_cast<float>(sign | kFloatInfinity | quiet | (mantissa << 13));
  }
  if (exponent != 0) return std::bit_cast<float>(sign | (((exponent << 23) + kRebias) | (mantissa << 13)));
  if (mantissa == 0) return std::bit_cast<float>(sign);
  // Subnormal: mantissa * 2^-24. Move its leading one to bit 10 and lower the exponent by as much.
  const auto shift = static_cast<std::uint32_t>(std::countl_zero(mantissa)) - 21u;
  const std::uint32_t fraction = (mantissa << shift) & 0x3ffu;
  return std::bit_cast<float>(sign | ((113u - shift) << 23) | (fraction << 13));
}

std::uint16_t float_to_half(float f) {
  const auto bits = std::bit_cast<std::uint32_t>(f);
  const std::uint32_t sign = (bits >> 16) & 0x8000u;
  const std::uint32_t magnitude = bits & 0x7fffffffu;
  std::uint32_t half = 0;
  if (magnitude > kFloatInfinity) {
    half = 0x7e00u | ((magnitude >> 13) & 0x3ffu);
  } else if (magnitude >= kHalfOverflow) {
    half = 0x7c00u;
  } else if (magnitude >= kHalfMinNormal) {
    // A carry out of the mantissa raises the exponent, which is what rounding up means.
    half = (magnitude - kRebias + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  } else {
    // In units of 2^-24: mantissa * 2^-shift; below half a unit nothing is left.
    const std::uint32_t shift = 126u - (magnitude >> 23);
    if (shift <= 24u) {
      const std::uint32_t mantissa = (magnitude & 0x7fffffu) | 0x800000u;
      const std::uint32_t rest = mantissa & ((1u << shift) - 1u);
      const std::uint32_t tie = 1u << (shift - 1u);
      half = mantissa >> shift;
      if (rest > tie || (rest == tie && (half & 1u) != 0)) ++half;
    }
  }
  return static_cast<std::uint16_t>(sign | half);
}

}  // namespace bitnet
