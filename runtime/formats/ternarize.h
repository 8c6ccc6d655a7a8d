// From floats to ternary codes, in one or two passes over rows that come in pieces of any size: whether a matrix is
// ternary already, and absmean rounding of one that is not.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "runtime/base/result.h"
#include "runtime/formats/ternary.h"

namespace bitnet::formats {

// First pass: magnitudes. A matrix is ternary if all its weights but exact zeros have one magnitude, to within 1e-6 of
// the largest; by rows, if that holds within each row.
class MagnitudeProbe {
 public:
  explicit MagnitudeProbe(std::int64_t columns) : columns_(static_cast<std::size_t>(columns)) {}

  // The next weights in row-major order. kTensorMapping for one that is not finite (row and column are named).
  [[nodiscard]] Status add(std::span<const float> weights);

  // The smallest scale kind under which everything that was added is ternary; nullopt if it is not. kGroup is not
  // tried.
  [[nodiscard]] std::optional<ScaleKind> ternary() const;
  // Largest magnitude of the matrix, or of each row: the scales of what ternary() found. A row or matrix of zeros
  // has 1.
  [[nodiscard]] std::vector<float> scales(ScaleKind kind) const;
  // Why it is not: "row 3 has weights of magnitude 0.25 and 0.75". Empty if ternary() has a value.
  [[nodiscard]] std::string witness() const;
  // max(mean |w|, 1e-5): the scale of absmean rounding, 1e-5 as in training (an empty or zero matrix has that).
  [[nodiscard]] float absmean() const;

 private:
  struct Range {
    float least = 0;  // of the magnitudes that are not 0; 0: none yet
    float largest = 0;
    void add(const Range& other);
    [[nodiscard]] bool one_magnitude() const;
  };
  std::size_t columns_;
  std::size_t count_ = 0;
  std::array<double, 4> sums_{};  // of weights whose index is i modulo 4
  Range matrix_;
  std::vector<Range> rows_;
};

// What rounding to scale * {-1, 0, +1} changed.
struct RoundingError {
  double squares = 0;  // sum of (w - scale * t)^2
  double energy = 0;   // sum of w^2
  double largest = 0;  // max |w - scale * t|

  // sqrt(squares / energy); 0 for a matrix of zeros.
  [[nodiscard]] double relative() const;
};

// Second pass: codes[i] = clip(round_half_even(weights[i] / scale), -1, +1) + 1. Adds to `error`. Preconditions: finite
// weights, scale > 0, as many codes as weights. Of a matrix that is ternary under this scale it gives its codes.
void round_to_ternary(std::span<const float> weights, float scale, std::uint8_t* codes, RoundingError& error);

}  // namespace bitnet::formats
