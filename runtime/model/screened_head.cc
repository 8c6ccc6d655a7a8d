// Rounding. With s the stored scale, r = fl(w * fl(1/s)) is within 2.01u of w/s relative to it (u = 2^-24), and the
// kernel's q - r is exact, so in units of s:
//   ||w/s - q|| <= ||r - q|| + 2.01u ||w/s|| and ||w/s|| <= ||q|| + ||w/s - q||,
// from which ||w/s - q|| <= (||r - q|| + 3u ||q||) * (1 + 2^-20). The kernel's sum of (r - q)^2 is short by at most
// 1e-4 of itself, and by an underflow of each term: r and the squares lose at most 2^-149 each, less than 2^-100 by
// element.
#include "runtime/model/screened_head.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "runtime/base/half.h"
#include "runtime/base/math.h"
#include "runtime/formats/dense.h"
#include "runtime/kernels/builtin.h"
#include "runtime/model/dense_rows.h"

namespace bitnet {
namespace {

// Largest weight of a row that is quantised. Within these bounds no scale, and no product of two scales, leaves the
// normal floats.
constexpr float kSmallest = 0x1p-60F;
constexpr float kLargest = 0x1p60F;

// The smallest float >= value >= 0.
float rounded_up(double value) {
  const auto nearest = static_cast<float>(value);
  return static_cast<double>(nearest) >= value ? nearest : std::nextafter(nearest, std::numeric_limits<float>::max());
}

bool all_finite(Format format, const std::byte* row, std::int64_t hidden) {
  for (std::int64_t i = 0; i < hidden; ++i) {
    if (format == Format::kF32) {
      if (!std::isfinite(reinterpret_cast<const float*>(row)[i])) return false;
      continue;
    }
    const std::uint16_t exponent = format == Format::kF16 ? 0x7C00 : 0x7F80;
    if ((reinterpret_cast<const std::uint16_t*>(row)[i] & exponent) == exponent) return false;
  }
  return true;
}

}  // namespace

ScreenedLayout screened_layout(std::int64_t vocab, std::int64_t hidden) {
  constexpr std::size_t kLine = 64;
  ScreenedLayout layout;
  layout.stride = round_up<std::int64_t>(hidden, 64);
  const auto rows = static_cast<std::size_t>(vocab);
  const std::size_t floats = round_up(rows * sizeof(float), kLine);
  layout.scales = rows * static_cast<std::size_t>(layout.stride);
  layout.errors = layout.scales + floats;
  layout.norms = layout.errors + floats;
  layout.bytes = layout.norms + floats;
  return layout;
}

void make_screened_rows(Format format, const std::byte* weights, std::int64_t vocab, std::int64_t hidden,
                        std::int64_t row_begin, std::int64_t row_end, std::byte* out) {
  const ScreenedLayout layout = screened_layout(vocab, hidden);
  auto* scales = reinterpret_cast<float*>(out + layout.scales);
  auto* errors = reinterpret_cast<float*>(out + layout.errors);
  auto* norms = reinterpret_cast<float*>(out + layout.norms);
  // Rows of blocks are screened as the floats that they stand for.
  const std::size_t stride = row_bytes(format, hidden);
  std::vector<float> floats(format == Format::kQ8 ? static_cast<std::size_t>(hidden) : 0);
  const Format as = format == Format::kQ8 ? Format::kF32 : format;
  const builtin::Family& kernels = builtin::best_family();
  const builtin::ScreenRow screen_row = as == Format::kF32    ? kernels.screen_row_f32
                                        : as == Format::kBf16 ? kernels.screen_row_bf16
                                                              : kernels.screen_row_f16;
  const std::int64_t written = round_up<std::int64_t>(hidden, 16);  // by the kernel
  for (std::int64_t r = row_begin; r < row_end; ++r) {
    const std::byte* row = weights + static_cast<std::size_t>(r) * stride;
    if (format == Format::kQ8) {
      formats::decode_floats(gguf::TensorType::kQ8_0, row, 0, floats);
      row = reinterpret_cast<const std::byte*>(floats.data());
    }
    auto* q = reinterpret_cast<std::int8_t*>(out + layout.rows) + r * layout.stride;
    builtin::ScreenedSums sums{};
    screen_row(row, hidden, kSmallest, kLargest, q, &sums);
    const double squares = sums.errors * (1.0 + 1e-4) + static_cast<double>(hidden) * 0x1p-100;
    const double length = std::sqrt(sums.squares);
    const double error = (std::sqrt(squares) + 3 * 0x1p-24 * length) * (1.0 + 0x1p-20);
    const auto scale = static_cast<double>(sums.scale);
    if (sums.scale > 0.0F && std::isfinite(error)) {
      scales[r] = sums.scale;
      errors[r] = rounded_up(error * scale * (1.0 + 0x1p-50));
      norms[r] = rounded_up(length * scale * (1.0 + 0x1p-50));
      std::memset(q + written, 0, static_cast<std::size_t>(layout.stride - written));
      continue;
    }
    const bool tiny = sums.largest < kSmallest && all_finite(as, row, hidden);
    scales[r] = 0.0F;
    errors[r] = tiny ? rounded_up(std::sqrt(static_cast<double>(hidden)) * static_cast<double>(sums.largest) * 1.001)
                     : std::numeric_limits<float>::infinity();
    norms[r] = 0.0F;
    std::memset(q, 0, static_cast<std::size_t>(layout.stride));
  }
  // The padding behind the three arrays belongs to the last row.
  if (row_end == vocab) {
    const std::size_t end = static_cast<std::size_t>(vocab) * sizeof(float);
    const std::size_t gap = layout.errors - layout.scales - end;
    for (const std::size_t part : {layout.scales, layout.errors, layout.norms}) std::memset(out + part + end, 0, gap);
  }
}

ScreenedRows screened_rows(const std::byte* block, std::int64_t vocab, std::int64_t hidden) {
  const ScreenedLayout layout = screened_layout(vocab, hidden);
  return {vocab,
          hidden,
          reinterpret_cast<const std::int8_t*>(block + layout.rows),
          reinterpret_cast<const float*>(block + layout.scales),
          reinterpret_cast<const float*>(block + layout.errors),
          reinterpret_cast<const float*>(block + layout.norms)};
}

}  // namespace bitnet
