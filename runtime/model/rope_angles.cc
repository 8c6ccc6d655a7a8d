// Sines and cosines for RoPE from double arithmetic alone: additions, multiplications and divisions, each rounded as
// IEEE 754 has it (the project is built without contraction to fused multiply-adds), so that every CPU and every C
// library gives the same bits. The C library's own functions differ in their last bits from one version to the next.
//
// Accuracy: every double result is within about 4 units of 2^-53 of the truth, so that the float that it is rounded to
// is the correctly rounded one except where the truth lies within 2^-51 of the middle between two floats, and then the
// other neighbour.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <string>

#include "runtime/model/rope.h"

namespace bitnet {
namespace {

// To the nearest integer, half to even, for |x| < 2^51: the sum has no bits behind the point.
double round_to_integer(double x) {
  constexpr double kRound = 0x1.8p52;
  return (x + kRound) - kRound;
}

double power_of_two(std::int64_t e) { return std::bit_cast<double>(static_cast<std::uint64_t>(e + 1023) << 52); }

// x in [-pi/4, pi/4]: Taylor's polynomials, cut off below 2^-56 of the result.
double sine_polynomial(double x) {
  const double z = x * x;
  double p = 1.0 / 355687428096000.0;  // 1 / 17!
  p = p * z - 1.0 / 1307674368000.0;
  p = p * z + 1.0 / 6227020800.0;
  p = p * z - 1.0 / 39916800.0;
  p = p * z + 1.0 / 362880.0;
  p = p * z - 1.0 / 5040.0;
  p = p * z + 1.0 / 120.0;
  p = p * z - 1.0 / 6.0;
  return x + x * (z * p);
}
double cosine_polynomial(double x) {
  const double z = x * x;
  double p = -1.0 / 6402373705728000.0;  // -1 / 18!
  p = p * z + 1.0 / 20922789888000.0;
  p = p * z - 1.0 / 87178291200.0;
  p = p * z + 1.0 / 479001600.0;
  p = p * z - 1.0 / 3628800.0;
  p = p * z + 1.0 / 40320.0;
  p = p * z - 1.0 / 720.0;
  p = p * z + 1.0 / 24.0;
  p = p * z - 0.5;
  return 1.0 + z * p;
}

// ln 2 in two parts; a multiple of the first by up to 2^20 is exact.
constexpr double kLn2High = 0x1.62e42feep-1;
constexpr double kLn2Low = 0x1.a39ef35793c76p-33;

// The natural logarithm of a positive normal number: x = m * 2^e with m in [1/sqrt 2, sqrt 2], and
// log m = 2 artanh s, s = (m - 1) / (m + 1), |s| < 0.172: powers up to s^21.
double logarithm(double x) {
  const auto bits = std::bit_cast<std::uint64_t>(x);
  auto e = static_cast<double>(static_cast<std::int64_t>(bits >> 52) - 1023);
  double m = std::bit_cast<double>((bits & 0xFFFFFFFFFFFFFULL) | 0x3FF0000000000000ULL);
  if (m > 1.4142135623730951) {
    m *= 0.5;
    e += 1.0;
  }
  const double s = (m - 1.0) / (m + 1.0);
  const double z = s * s;
  double p = 1.0 / 21.0;
  for (int odd = 19; odd >= 3; odd -= 2) p = p * z + 1.0 / static_cast<double>(odd);
  return e * kLn2High + (e * kLn2Low + (2.0 * s + 2.0 * s * (z * p)));
}

// e^x for |x| < 700: x = n ln 2 + r, powers of r up to r^13.
double exponential(double x) {
  const double n = round_to_integer(x * 1.4426950408889634);
  const double r = (x - n * kLn2High) - n * kLn2Low;
  double p = 1.0;
  for (int k = 13; k >= 1; --k) p = 1.0 + (r / static_cast<double>(k)) * p;
  return p * power_of_two(static_cast<std::int64_t>(n));
}

}  // namespace

void sine_and_cosine(float angle, float* sine, float* cosine) {
  // pi/2 in four parts, 29 bits each but the last: multiples up to 2^24 are exact, and the subtractions lose nothing
  // that counts, since no float in range comes closer than 2^-33 to a multiple of pi/2 other than 0.
  constexpr double kPart1 = 0x1.921fb54p+0;
  constexpr double kPart2 = 0x1.10b461p-30;
  constexpr double kPart3 = 0x1.a626331p-58;
  constexpr double kPart4 = 0x1.1701b839a252p-88;
  const auto x = static_cast<double>(angle);
  const double n = round_to_integer(x * 0x1.45f306dc9c883p-1);
  const double r = (((x - n * kPart1) - n * kPart2) - n * kPart3) - n * kPart4;
  const double s = sine_polynomial(r);
  const double c = cosine_polynomial(r);
  switch (static_cast<std::int64_t>(n) & 3) {
    case 0:
      *sine = static_cast<float>(s);
      *cosine = static_cast<float>(c);
      break;
    case 1:
      *sine = static_cast<float>(c);
      *cosine = static_cast<float>(-s);
      break;
    case 2:
      *sine = static_cast<float>(-s);
      *cosine = static_cast<float>(-c);
      break;
    default:
      *sine = static_cast<float>(-c);
      *cosine = static_cast<float>(s);
      break;
  }
}

float rope_factor(std::int64_t rope_dim, float base) {
  const float exponent = -2.0F / static_cast<float>(rope_dim);
  return static_cast<float>(exponential(static_cast<double>(exponent) * logarithm(static_cast<double>(base))));
}

void rope_angles(std::int64_t position, std::int64_t rope_dim, float base, float* cosines, float* sines) {
  const float factor = rope_factor(rope_dim, base);
  auto angle = static_cast<float>(position);
  for (std::int64_t i = 0; i < rope_dim / 2; ++i) {
    sine_and_cosine(angle, &sines[i], &cosines[i]);
    angle *= factor;
  }
}

namespace {

// The pair that turns `rotations` times within the original context.
double yarn_pair(const ModelConfig& config, double rotations) {
  constexpr double kTwoPi = 6.283185307179586;
  return static_cast<double>(config.rope_dim) *
         logarithm(static_cast<double>(config.rope_original_context) / (rotations * kTwoPi)) /
         (2.0 * logarithm(static_cast<double>(config.rope_base)));
}

std::vector<float> yarn_divisors(const ModelConfig& config) {
  const auto last = static_cast<double>(config.rope_dim - 1);
  const double low = std::max(0.0, std::floor(yarn_pair(config, static_cast<double>(config.yarn_beta_fast))));
  const double high = std::min(last, std::ceil(yarn_pair(config, static_cast<double>(config.yarn_beta_slow))));
  const double scale = 1.0 / static_cast<double>(config.rope_factor);
  std::vector<float> divisors;
  for (std::int64_t i = 0; i < config.rope_dim / 2; ++i) {
    const double ramp = std::clamp((static_cast<double>(i) - low) / std::max(0.001, high - low), 0.0, 1.0);
    divisors.push_back(static_cast<float>(1.0 / (scale * ramp + (1.0 - ramp))));
  }
  return divisors;
}

}  // namespace

Result<RopeTable> RopeTable::make(const ModelConfig& config, bool window, std::span<const float> factors) {
  RopeTable table;
  table.pairs_ = config.rope_dim / 2;
  if (table.pairs_ == 0) return table;
  table.step_ = rope_factor(config.rope_dim, window ? config.window_rope_base : config.rope_base);
  if (window) return table;
  switch (config.rope_scaling) {
    case RopeScaling::kNone:
      break;
    case RopeScaling::kLinear:
      table.divisors_.assign(static_cast<std::size_t>(table.pairs_), config.rope_factor);
      break;
    case RopeScaling::kYarn:
      table.divisors_ = yarn_divisors(config);
      table.magnitude_ = static_cast<float>(1.0 + 0.1 * logarithm(static_cast<double>(config.rope_factor))) *
                         config.rope_attention_factor;
      break;
    case RopeScaling::kLongrope:
      table.magnitude_ = config.rope_attention_factor;
      break;
  }
  if (factors.empty() && config.rope_scaling != RopeScaling::kLongrope) return table;
  if (factors.size() != static_cast<std::size_t>(table.pairs_)) {
    return Error{ErrorCode::kFailure, "RoPE factors: expected " + std::to_string(table.pairs_) +
                                          ", one for each pair of a head, found " + std::to_string(factors.size())};
  }
  // Below 0.7 angles would leave the range in which sines are exact.
  constexpr float kLeast = 0.7F;
  constexpr float kMost = 1048576.0F;
  for (std::size_t i = 0; i < factors.size(); ++i) {
    if (factors[i] >= kLeast && factors[i] <= kMost) continue;
    return Error{ErrorCode::kFailure,
                 "RoPE factor " + std::to_string(i) + ": expected 0.7..1048576, found " + std::to_string(factors[i])};
  }
  if (table.divisors_.empty()) {
    table.divisors_.assign(factors.begin(), factors.end());
  } else {
    for (std::size_t i = 0; i < factors.size(); ++i) table.divisors_[i] *= factors[i];
  }
  return table;
}

void RopeTable::angles(std::int64_t position, float* cosines, float* sines) const {
  auto angle = static_cast<float>(position);
  for (std::int64_t i = 0; i < pairs_; ++i) {
    const auto at = static_cast<std::size_t>(i);
    sine_and_cosine(divisors_.empty() ? angle : angle / divisors_[at], &sines[i], &cosines[i]);
    if (magnitude_ != 1.0F) {
      sines[i] *= magnitude_;
      cosines[i] *= magnitude_;
    }
    angle *= step_;
  }
}

}  // namespace bitnet
