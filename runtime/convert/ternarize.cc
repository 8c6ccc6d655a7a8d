#include "runtime/convert/ternarize.h"

#include <algorithm>
#include <cmath>

namespace bitnet::convert {

using formats::ScaleKind;

void TernaryDetector::Range::add(float magnitude) {
  if (magnitude == 0.0F) return;
  least = most == 0.0F ? magnitude : std::min(least, magnitude);
  most = std::max(most, magnitude);
}

void TernaryDetector::Range::add(const Range& other) {
  add(other.least);
  add(other.most);
}

TernaryDetector::TernaryDetector(std::int64_t rows, std::int64_t columns)
    : columns_(columns), blocks_possible_(columns % kScaleBlock == 0) {
  rows_.reserve(static_cast<std::size_t>(rows));
  if (blocks_possible_) blocks_.reserve(static_cast<std::size_t>(rows * (columns / kScaleBlock)));
}

void TernaryDetector::add_row(const float* values) {
  Range row;
  const std::int64_t step = blocks_possible_ ? kScaleBlock : columns_;
  for (std::int64_t first = 0; first < columns_; first += step) {
    Range block;
    for (std::int64_t c = first; c < first + step; ++c) block.add(std::fabs(values[c]));
    if (!block.one()) {
      blocks_hold_ = false;
      if (place_.empty()) {
        const float* odd = std::find_if(values + first, values + first + step, [&](float value) {
          return value != 0.0F && block.most - std::fabs(value) > block.most * kSameMagnitude;
        });
        place_ = "row " + std::to_string(row_) + ", column " + std::to_string(odd - values) +
                 ": expected 0 or a magnitude of " + std::to_string(block.most) + ", found " + std::to_string(*odd);
      }
    }
    if (blocks_possible_) blocks_.push_back(block);
    row.add(block);
  }
  rows_hold_ = rows_hold_ && row.one();
  all_.add(row);
  rows_.push_back(row);
  ++row_;
}

std::optional<Scales> TernaryDetector::result() const {
  Scales scales;
  if (all_.one()) {
    scales.values = {all_.scale()};
    return scales;
  }
  if (rows_hold_) {
    scales.kind = ScaleKind::kRow;
    for (const Range& row : rows_) scales.values.push_back(row.scale());
    return scales;
  }
  if (!blocks_possible_ || !blocks_hold_) return std::nullopt;
  scales.kind = ScaleKind::kGroup;
  scales.group = static_cast<std::int32_t>(kScaleBlock);
  const auto groups = static_cast<std::size_t>(columns_ / kScaleBlock);
  scales.values.resize(blocks_.size());
  for (std::size_t row = 0; row < rows_.size(); ++row) {
    for (std::size_t group = 0; group < groups; ++group) {
      scales.values[group * rows_.size() + row] = blocks_[row * groups + group].scale();
    }
  }
  return scales;
}

float absmean_scale(double sum, std::uint64_t count) {
  constexpr float kLeast = 1e-5F;
  return std::max(static_cast<float>(sum / static_cast<double>(count)), kLeast);
}

void absmean_codes(const float* values, std::int64_t count, float scale, std::uint8_t* codes) {
  const float inverse = 1.0F / scale;  // the layers multiply by it, which rounds otherwise than a division
  for (std::int64_t i = 0; i < count; ++i) {
    const float rounded = std::nearbyint(values[i] * inverse);
    codes[i] = static_cast<std::uint8_t>(std::clamp(rounded, -1.0F, 1.0F) + 1.0F);
  }
}

}  // namespace bitnet::convert
