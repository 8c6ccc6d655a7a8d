// Small integer helpers shared by layouts and sizes.
#pragma once

#include <cstddef>
#include <cstdint>

namespace bitnet {

// a >= 0, b > 0.
template <typename T>
[[nodiscard]] constexpr T ceil_div(T a, T b) {
  return (a + b - 1) / b;
}
template <typename T>
[[nodiscard]] constexpr T round_up(T a, T b) {
  return ceil_div(a, b) * b;
}

}  // namespace bitnet
