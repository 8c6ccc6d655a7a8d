#include "runtime/convert/llama3_scaling.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace bitnet::convert {
namespace {

constexpr double kTolerance = 1e-5;
constexpr double kRounding = 2e-6;

// Of pair i in radians a position.
double frequency(std::int64_t i, float base, std::int64_t dim) {
  return std::pow(static_cast<double>(base), -2.0 * static_cast<double>(i) / static_cast<double>(dim));
}

// Beyond every tolerance where a number is none.
double deviation(std::span<const float> factors, const std::vector<float>& made) {
  double worst = 0;
  for (std::size_t i = 0; i < factors.size(); ++i) {
    const auto stated = static_cast<double>(factors[i]);
    const double difference = std::fabs(stated - static_cast<double>(made[i])) / static_cast<double>(made[i]);
    worst = std::max(worst, std::isfinite(difference) ? difference : 1.0);
  }
  return worst;
}

// The blended factors say how often a pair turns between the two bounds: (turns - low) / (high - low) is a straight
// line in the frequency. Its slope and its zero, in units of the original context.
struct Line {
  double slope = 0, zero = 0;
};
std::optional<Line> line_of(std::span<const float> factors, float largest, float base, std::int64_t dim) {
  const auto smooth = [&](std::size_t i) {
    const double least = 1.0 / static_cast<double>(largest);
    return (1.0 / static_cast<double>(factors[i]) - least) / (1.0 - least);
  };
  const auto turns = [&](std::size_t i) {
    return frequency(static_cast<std::int64_t>(i), base, dim) / (2.0 * std::numbers::pi);
  };
  std::optional<std::size_t> first;
  std::optional<std::size_t> last;
  for (std::size_t i = 0; i < factors.size(); ++i) {
    if (!(factors[i] > 1.0F && factors[i] < largest)) continue;
    if (!first) first = i;
    last = i;
  }
  if (!first || *first == *last) return std::nullopt;
  const double slope = (smooth(*first) - smooth(*last)) / (turns(*first) - turns(*last));
  return Line{slope, turns(*first) - smooth(*first) / slope};
}

}  // namespace

std::vector<float> llama3_factors(const Llama3Scaling& scaling, float base, std::int64_t dim) {
  const auto factor = static_cast<double>(scaling.factor);
  const auto low = static_cast<double>(scaling.low);
  const auto high = static_cast<double>(scaling.high);
  std::vector<float> factors;
  factors.reserve(static_cast<std::size_t>(dim / 2));
  for (std::int64_t i = 0; i < dim / 2; ++i) {
    const double turns =
        static_cast<double>(scaling.original_context) * frequency(i, base, dim) / (2.0 * std::numbers::pi);
    double divisor = 1.0;
    if (turns < low) {
      divisor = factor;
    } else if (turns <= high) {
      const double smooth = (turns - low) / (high - low);
      divisor = 1.0 / ((1.0 - smooth) / factor + smooth);
    }
    factors.push_back(static_cast<float>(divisor));
  }
  return factors;
}

std::optional<FoundScaling> find_llama3(std::span<const float> factors, float base, std::int64_t dim) {
  if (factors.size() != static_cast<std::size_t>(dim / 2) || factors.empty()) return std::nullopt;
  const float largest = *std::max_element(factors.begin(), factors.end());
  if (!std::isfinite(largest) || !(largest >= 1.0F)) return std::nullopt;
  std::optional<FoundScaling> best;
  const auto try_one = [&](const Llama3Scaling& scaling) {
    if (!(scaling.low > 0.0F && scaling.high > scaling.low)) return;
    const double found = deviation(factors, llama3_factors(scaling, base, dim));
    if (found > kTolerance) return;
    // Among those that differ by the rounding of floats alone, the first has the most usual numbers.
    if (best && (best->deviation <= kRounding ? found != 0.0 || best->deviation == 0.0 : found >= best->deviation)) {
      return;
    }
    best = FoundScaling{scaling, found};
  };
  constexpr std::int64_t kContexts[] = {8192, 4096, 2048, 16384, 32768, 65536, 131072, 1024, 512, 256};
  const auto line = line_of(factors, largest, base, dim);
  for (const std::int64_t context : kContexts) {
    try_one({largest, 1.0F, 4.0F, context});
    if (!line) continue;
    const double low = line->zero * static_cast<double>(context);
    const double high = low + static_cast<double>(context) / line->slope;
    constexpr double kMost = 1e9;  // beyond it nothing is a number of turns
    if (!(std::fabs(low) < kMost && std::fabs(high) < kMost)) continue;
    for (const double steps : {1.0, 8.0}) {  // whole bounds, then eighths
      try_one({largest, static_cast<float>(std::round(low * steps) / steps),
               static_cast<float>(std::round(high * steps) / steps), context});
    }
    try_one({largest, static_cast<float>(low), static_cast<float>(high), context});
  }
  return best;
}

}  // namespace bitnet::convert
