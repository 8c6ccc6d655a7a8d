// Float matrices as ternary ones: those that are already, and those that are made so by their mean magnitude.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "runtime/base/result.h"
#include "runtime/formats/ternary.h"

namespace bitnet::convert {

// Two magnitudes that differ by no more than this part of the larger one are one.
inline constexpr float kSameMagnitude = 1e-6F;
inline constexpr std::int64_t kScaleBlock = 256;  // columns of the groups that are looked for, those of TQ1_0 and TQ2_0

// Scales as of formats::TernaryMatrix.
struct Scales {
  formats::ScaleKind kind = formats::ScaleKind::kTensor;
  std::int32_t group = 0;
  std::vector<float> values;
};

// Looks at the rows of a matrix in order, and says at the end whether each of its values is 0 or one magnitude with a
// sign: one magnitude for the matrix, for each row, or for each kScaleBlock columns of a row. Values are finite.
class TernaryDetector {
 public:
  TernaryDetector(std::int64_t rows, std::int64_t columns);
  void add_row(const float* values);
  // After the last row: the smallest kind that holds; nullopt: none does. Scales are the largest magnitudes; what holds
  // nothing but zeros has the scale 1.
  [[nodiscard]] std::optional<Scales> result() const;
  // Where not even blocks of columns have one magnitude: "row 3, column 17: expected 0 or a magnitude of 0.5, found
  // 0.25".
  [[nodiscard]] const std::string& place() const { return place_; }

 private:
  struct Range {
    float least = 0.0F, most = 0.0F;  // of magnitudes above 0; 0: there are none
    void add(float magnitude);
    void add(const Range& other);
    [[nodiscard]] bool one() const { return most - least <= most * kSameMagnitude; }
    [[nodiscard]] float scale() const { return most > 0.0F ? most : 1.0F; }
  };
  std::int64_t columns_;
  std::int64_t row_ = 0;
  bool blocks_possible_, rows_hold_ = true, blocks_hold_ = true;
  Range all_;
  std::vector<Range> rows_, blocks_;  // [rows], [rows][columns / kScaleBlock]
  std::string place_;
};

// The mean magnitude of `count` values whose magnitudes sum up to `sum`, at least 1e-5.
[[nodiscard]] float absmean_scale(double sum, std::uint64_t count);
// code - 1 = the nearest of -1, 0, 1 to value / scale, ties to even.
void absmean_codes(const float* values, std::int64_t count, float scale, std::uint8_t* codes);

}  // namespace bitnet::convert
