// Sums are double in four lanes by index, so that a result does not depend on how the matrix was cut into pieces and
// the loops vectorise.
#include "runtime/formats/ternarize.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "runtime/formats/codec.h"

namespace bitnet::formats {
namespace {

constexpr float kLeastAbsmean = 1e-5F;
constexpr double kTolerance = 1e-6;
constexpr std::uint32_t kMagnitudeBits = 0x7fffffff;
constexpr std::uint32_t kInfinityBits = 0x7f800000;

// Magnitudes in the order of their bits, which is that of their values: least is one less than the smallest of them
// that is not 0, wrapping 0 to the largest number there is.
struct BitRange {
  std::uint32_t least_less_one = std::numeric_limits<std::uint32_t>::max();
  std::uint32_t largest = 0;
};
BitRange bit_range(std::span<const float> weights) {
  BitRange range;
  for (const float weight : weights) {
    const std::uint32_t bits = std::bit_cast<std::uint32_t>(weight) & kMagnitudeBits;
    range.least_less_one = std::min(range.least_less_one, bits - 1U);
    range.largest = std::max(range.largest, bits);
  }
  return range;
}

void add_magnitudes(std::span<const float> weights, std::size_t first, std::array<double, 4>& sums) {
  std::size_t i = 0;
  for (; i < weights.size() && (first + i) % 4 != 0; ++i) {
    sums[(first + i) % 4] += static_cast<double>(std::fabs(weights[i]));
  }
  for (; i + 4 <= weights.size(); i += 4) {
    for (std::size_t lane = 0; lane < 4; ++lane) sums[lane] += static_cast<double>(std::fabs(weights[i + lane]));
  }
  for (; i < weights.size(); ++i) sums[(first + i) % 4] += static_cast<double>(std::fabs(weights[i]));
}

}  // namespace

void MagnitudeProbe::Range::add(const Range& other) {
  if (other.largest == 0) return;
  least = least == 0 ? other.least : std::min(least, other.least);
  largest = std::max(largest, other.largest);
}

bool MagnitudeProbe::Range::one_magnitude() const {
  return static_cast<double>(largest) - static_cast<double>(least) <= kTolerance * static_cast<double>(largest);
}

Status MagnitudeProbe::add(std::span<const float> weights) {
  while (!weights.empty()) {
    const std::size_t column = count_ % columns_;
    const auto piece = weights.first(std::min(weights.size(), columns_ - column));
    const BitRange bits = bit_range(piece);
    if (bits.largest >= kInfinityBits) {
      const auto bad = std::find_if(piece.begin(), piece.end(), [](float weight) { return !std::isfinite(weight); });
      return Error{ErrorCode::kTensorMapping,
                   "row " + std::to_string(count_ / columns_) + ", column " +
                       std::to_string(column + static_cast<std::size_t>(bad - piece.begin())) +
                       ": expected a finite number, found " + number_text(*bad) +
                       "; the checkpoint is damaged: export it again"};
    }
    if (column == 0) rows_.emplace_back();
    if (bits.largest != 0) {
      const Range range = {std::bit_cast<float>(bits.least_less_one + 1U), std::bit_cast<float>(bits.largest)};
      matrix_.add(range);
      rows_.back().add(range);
    }
    add_magnitudes(piece, count_, sums_);
    count_ += piece.size();
    weights = weights.subspan(piece.size());
  }
  return {};
}

std::optional<ScaleKind> MagnitudeProbe::ternary() const {
  if (matrix_.one_magnitude()) return ScaleKind::kTensor;
  const bool by_row = std::all_of(rows_.begin(), rows_.end(), [](const Range& row) { return row.one_magnitude(); });
  return by_row ? std::optional(ScaleKind::kRow) : std::nullopt;
}

std::vector<float> MagnitudeProbe::scales(ScaleKind kind) const {
  const auto scale = [](const Range& range) { return range.largest == 0 ? 1.0F : range.largest; };
  if (kind != ScaleKind::kRow) return {scale(matrix_)};
  std::vector<float> result;
  result.reserve(rows_.size());
  for (const Range& row : rows_) result.push_back(scale(row));
  return result;
}

std::string MagnitudeProbe::witness() const {
  const auto row = std::find_if(rows_.begin(), rows_.end(), [](const Range& range) { return !range.one_magnitude(); });
  if (row == rows_.end()) return {};
  return "row " + std::to_string(row - rows_.begin()) + " has weights of magnitude " + number_text(row->least) +
         " and " + number_text(row->largest);
}

float MagnitudeProbe::absmean() const {
  const double sum = (sums_[0] + sums_[1]) + (sums_[2] + sums_[3]);
  return std::max(count_ == 0 ? 0.0F : static_cast<float>(sum / static_cast<double>(count_)), kLeastAbsmean);
}

double RoundingError::relative() const { return energy == 0 ? 0 : std::sqrt(squares / energy); }

void round_to_ternary(std::span<const float> weights, float scale, std::uint8_t* codes, RoundingError& error) {
  // Half even: 0.5 goes to 0, 1.5 beyond the clip. So a value is +-1 if and only if its magnitude exceeds one half.
  const auto wide_scale = static_cast<double>(scale);
  std::array<double, 4> squares{};
  std::array<double, 4> energy{};
  std::array<double, 4> largest{};
  const auto round_one = [&](std::size_t i, std::size_t lane) {
    const float ratio = weights[i] / scale;
    const int value = (ratio > 0.5F ? 1 : 0) - (ratio < -0.5F ? 1 : 0);
    codes[i] = static_cast<std::uint8_t>(value + 1);
    const auto weight = static_cast<double>(weights[i]);
    const double difference = std::fabs(weight - wide_scale * value);
    squares[lane] += difference * difference;
    energy[lane] += weight * weight;
    largest[lane] = std::max(largest[lane], difference);
  };
  std::size_t i = 0;
  for (; i + 4 <= weights.size(); i += 4) {
    for (std::size_t lane = 0; lane < 4; ++lane) round_one(i + lane, lane);
  }
  for (; i < weights.size(); ++i) round_one(i, i % 4);
  for (std::size_t lane = 0; lane < 4; ++lane) {
    error.squares += squares[lane];
    error.energy += energy[lane];
    error.largest = std::max(error.largest, largest[lane]);
  }
}

}  // namespace bitnet::formats
