// Counting codes: with codes 0, 1, 2 the number of twos and the sum of all give the rest.
#include "runtime/formats/census.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "runtime/formats/codec.h"

namespace bitnet::formats {
namespace {

constexpr std::int64_t kPieceCodes = std::int64_t{1} << 16;
constexpr std::uint64_t kEnoughWeights = 4096;
constexpr float kLeastScale = 0x1p-20F;
constexpr float kLargestScale = 0x1p10F;
constexpr float kWidestRange = 0x1p10F;

std::string percent(std::uint64_t part, std::uint64_t whole) {
  return number_text(static_cast<float>(part) * 100.0F / static_cast<float>(whole)) + " %";
}

}  // namespace

Census& Census::operator+=(const Census& other) {
  minus += other.minus;
  zero += other.zero;
  plus += other.plus;
  undefined += other.undefined;
  if (least_scale == 0 || (other.least_scale != 0 && other.least_scale < least_scale)) least_scale = other.least_scale;
  largest_scale = std::max(largest_scale, other.largest_scale);
  return *this;
}

Census take_census(const TernaryMatrix& matrix, std::int64_t row_begin, std::int64_t row_end) {
  Census census;
  for (const float scale : matrix.scales()) {
    const float magnitude = std::fabs(scale);
    if (magnitude == 0) continue;
    census.least_scale = census.least_scale == 0 ? magnitude : std::min(census.least_scale, magnitude);
    census.largest_scale = std::max(census.largest_scale, magnitude);
  }
  const std::int64_t rows = std::max<std::int64_t>(1, kPieceCodes / matrix.k());
  std::vector<std::uint8_t> codes(static_cast<std::size_t>(std::min(rows, row_end - row_begin) * matrix.k()));
  for (std::int64_t row = row_begin; row < row_end; row += rows) {
    const std::int64_t end = std::min(row + rows, row_end);
    census.undefined += matrix.decode(row, end, codes.data());
    const auto count = static_cast<std::size_t>((end - row) * matrix.k());
    std::uint64_t sum = 0;
    std::uint64_t plus = 0;
    for (std::size_t i = 0; i < count; ++i) {
      sum += codes[i];
      plus += codes[i] >> 1;
    }
    const std::uint64_t zero = sum - 2 * plus;
    census.plus += plus;
    census.zero += zero;
    census.minus += count - plus - zero;
  }
  return census;
}

Census take_census(const TernaryMatrix& matrix) { return take_census(matrix, 0, matrix.n()); }

std::optional<std::string> implausible(const Census& census) {
  const std::uint64_t all = census.weights();
  if (census.undefined > 0) {
    return std::to_string(census.undefined) + " of " + std::to_string(all) +
           " codes have no meaning and were read as 0: the file is damaged or its layout is another one";
  }
  if (census.least_scale != 0 && (census.least_scale < kLeastScale || census.largest_scale > kLargestScale)) {
    return "scales from " + number_text(census.least_scale) + " to " + number_text(census.largest_scale) +
           " are outside of what models have: the file is damaged, or its scale is meant to divide";
  }
  if (census.largest_scale > census.least_scale * kWidestRange) {
    return "scales from " + number_text(census.least_scale) + " to " + number_text(census.largest_scale) +
           " in one matrix: the file is damaged";
  }
  if (all < kEnoughWeights) return std::nullopt;
  const std::uint64_t most = std::max({census.minus, census.zero, census.plus});
  if (most > all / 100 * 99) {
    return percent(most, all) + " of the weights have one value: the file is damaged or its layout is another one";
  }
  const auto [fewer, more] = std::minmax(census.minus, census.plus);
  if (more > 3 * fewer) {
    return std::to_string(census.minus) + " weights -1 against " + std::to_string(census.plus) +
           " weights +1: the file is damaged or its layout is another one";
  }
  return std::nullopt;
}

}  // namespace bitnet::formats
