#include "runtime/model/rope.h"

#include <cmath>
#include <cstddef>

#include "runtime/base/half.h"

namespace bitnet {

void rope_angles(std::int64_t position, std::int64_t rope_dim, float base, float* cosines, float* sines) {
  // Functions of the double library rounded to float: equal to the float functions except for rare last-bit cases, and
  // the same on every libm that is accurate to a double ulp.
  const auto factor = static_cast<float>(
      std::pow(static_cast<double>(base), static_cast<double>(-2.0F / static_cast<float>(rope_dim))));
  auto angle = static_cast<float>(position);
  for (std::int64_t i = 0; i < rope_dim / 2; ++i) {
    cosines[i] = static_cast<float>(std::cos(static_cast<double>(angle)));
    sines[i] = static_cast<float>(std::sin(static_cast<double>(angle)));
    angle *= factor;
  }
}

void rope_rotate(float* head, std::int64_t rope_dim, const float* cosines, const float* sines) {
  const std::int64_t half = rope_dim / 2;
  for (std::int64_t i = 0; i < half; ++i) {
    const float a = head[i];
    const float b = head[i + half];
    head[i] = a * cosines[i] - b * sines[i];
    head[i + half] = a * sines[i] + b * cosines[i];
  }
}

void round_to_half(std::span<float> values) {
  for (float& value : values) value = half_to_float(float_to_half(value));
}

void convert_to_half(std::span<const float> values, std::uint16_t* out) {
  for (std::size_t i = 0; i < values.size(); ++i) out[i] = float_to_half(values[i]);
}

}  // namespace bitnet
