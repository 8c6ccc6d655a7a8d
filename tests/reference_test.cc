// The reference against double precision: the oracle of the kernels must itself be right.
#include "runtime/reference/reference.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "runtime/base/half.h"

namespace bitnet {

TEST_CASE("exp: relative error below 2e-7 over its range") {
  double worst = 0.0;
  for (int i = 0; i <= 2000000; ++i) {
    const float x = -87.0F + 175.7F * static_cast<float>(i) / 2000000.0F;
    const double truth = std::exp(static_cast<double>(x));
    worst = std::max(worst, std::fabs(static_cast<double>(reference::exp(x)) - truth) / truth);
  }
  MESSAGE("largest relative error " << worst);
  CHECK(worst < 2e-7);
}

TEST_CASE("exp: exact at zero, finite and positive at the ends") {
  CHECK(reference::exp(0.0F) == 1.0F);
  CHECK(reference::exp(-0.0F) == 1.0F);
  const float largest = reference::exp(1000.0F);
  CHECK(std::isfinite(largest));
  CHECK(largest == reference::exp(88.72283F));
  CHECK(largest > 3.4e38F);
  const float smallest = reference::exp(-1000.0F);
  CHECK(smallest > 0.0F);
  CHECK(smallest == reference::exp(-87.33654F));
  CHECK(smallest < 1.2e-38F);
}

TEST_CASE("dot and sum keep 16 lanes and the fixed tree") {
  // 1e8 and -1e8 meet in lane 0 before the small values of lane 1 join: any other order loses them.
  std::vector<float> a(33, 0.0F);
  a[0] = 1e8F;
  a[16] = -1e8F;
  a[1] = 0.25F;
  a[17] = 0.25F;
  a[32] = 0.5F;
  CHECK(reference::sum(a.data(), 33) == 1.0F);
  const std::vector<float> ones(33, 1.0F);
  CHECK(reference::dot(a.data(), ones.data(), 33) == 1.0F);
  // Lanes 0 and 8 meet first: (2^24 + -2^24) + 1, where 2^24 + 1 first would lose the 1.
  std::vector<float> b(16, 0.0F);
  b[0] = 16777216.0F;
  b[8] = -16777216.0F;
  b[4] = 1.0F;
  CHECK(reference::sum(b.data(), 16) == 1.0F);
  // Lane 1 joins last.
  b[1] = 16777216.0F;
  CHECK(reference::sum(b.data(), 16) == 16777216.0F);
}

TEST_CASE("products and sums are rounded separately") {
  // (1 + 2^-12)^2 = 1 + 2^-11 + 2^-24: the last bit survives only in a fused multiply-add.
  std::vector<float> a(17, 0.0F);
  a[0] = 1.0F;
  a[16] = 1.0F + 0x1p-12F;
  std::vector<float> b = a;
  b[0] = -(1.0F + 0x1p-11F);
  CHECK(reference::dot(a.data(), b.data(), 17) == 0.0F);
}

TEST_CASE("quantize: ties to even, the range, the floor of the scale") {
  const std::vector<float> x = {127.0F, 0.5F, 1.5F, -0.5F, -1.5F, 2.5F, -127.0F};
  std::vector<std::int8_t> q(x.size());
  float scale = 0.0F;
  std::int32_t sum = 0;
  reference::quantize(x.data(), 7, q.data(), &scale, &sum);
  CHECK(scale == 1.0F);
  CHECK(q == std::vector<std::int8_t>{127, 0, 2, 0, -2, 2, -127});
  CHECK(sum == 2);
  const std::vector<float> tiny(7, 1e-8F);
  reference::quantize(tiny.data(), 7, q.data(), &scale, &sum);
  CHECK(scale == 127.0F / 1e-5F);
  CHECK(sum == 0);
  // However the scale is rounded, the largest value becomes 127.
  std::mt19937 random(1);
  for (int i = 0; i < 20000; ++i) {
    const float value =
        std::ldexp(1.0F + static_cast<float>(random() % 8388608) / 8388608.0F, static_cast<int>(random() % 140) - 15);
    const float pair[2] = {value, -value};
    reference::quantize(pair, 2, q.data(), &scale, &sum);
    REQUIRE(q[0] == 127);
    REQUIRE(q[1] == -127);
  }
}

TEST_CASE("norm and gates against double precision") {
  std::mt19937 random(2);
  std::normal_distribution<float> normal;
  const std::int64_t k = 2560;
  std::vector<float> x(k);
  std::vector<float> gain(k);
  for (std::size_t i = 0; i < x.size(); ++i) {
    x[i] = normal(random);
    gain[i] = normal(random);
  }
  std::vector<float> y(k);
  reference::norm(x.data(), gain.data(), k, 1e-5F, y.data());
  double square = 0.0;
  for (const float v : x) square += static_cast<double>(v) * static_cast<double>(v);
  const double inv = 1.0 / std::sqrt(square / static_cast<double>(k) + 1e-5);
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double truth = static_cast<double>(x[i]) * inv * static_cast<double>(gain[i]);
    // Inverse, two products: 4 roundings of 2^-24, and the sum's share.
    REQUIRE(std::fabs(static_cast<double>(y[i]) - truth) <= 5e-7 * std::fabs(truth));
  }
  reference::silu_gate(x.data(), gain.data(), k, y.data());
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double g = static_cast<double>(x[i]);
    const double truth = g / (1.0 + std::exp(-g)) * static_cast<double>(gain[i]);
    REQUIRE(std::fabs(static_cast<double>(y[i]) - truth) <= 6e-7 * std::fabs(truth));
  }
  reference::relu2_gate(x.data(), gain.data(), k, y.data());
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double r = std::max(static_cast<double>(x[i]), 0.0);
    const double truth = r * r * static_cast<double>(gain[i]);
    REQUIRE(std::fabs(static_cast<double>(y[i]) - truth) <= 2e-7 * std::fabs(truth));
  }
}

TEST_CASE("attention against double precision, across chunks") {
  std::mt19937 random(3);
  std::normal_distribution<float> normal;
  const std::int64_t heads = 2;
  const std::int64_t dim = 20;
  const std::int64_t length = 600;
  const std::int64_t stride = 50;
  std::vector<float> q(static_cast<std::size_t>(heads * dim));
  std::vector<std::uint16_t> key(static_cast<std::size_t>(length * stride));
  std::vector<std::uint16_t> value(key.size());
  for (float& v : q) v = half_to_float(float_to_half(normal(random)));
  for (std::size_t i = 0; i < key.size(); ++i) {
    key[i] = float_to_half(normal(random));
    value[i] = float_to_half(normal(random));
  }
  std::vector<float> y(q.size());
  reference::attention(q.data(), key.data(), value.data(), heads, dim, length, stride, 0.25F, y.data());
  for (std::int64_t h = 0; h < heads; ++h) {
    std::vector<double> weights;
    double total = 0.0;
    for (std::int64_t j = 0; j < length; ++j) {
      double s = 0.0;
      for (std::int64_t d = 0; d < dim; ++d) {
        s += static_cast<double>(q[static_cast<std::size_t>(h * dim + d)]) *
             static_cast<double>(half_to_float(key[static_cast<std::size_t>(j * stride + d)]));
      }
      weights.push_back(std::exp(s * 0.25));
      total += weights.back();
    }
    for (std::int64_t d = 0; d < dim; ++d) {
      double truth = 0.0;
      for (std::int64_t j = 0; j < length; ++j) {
        truth += weights[static_cast<std::size_t>(j)] / total *
                 static_cast<double>(half_to_float(value[static_cast<std::size_t>(j * stride + d)]));
      }
      REQUIRE(std::fabs(static_cast<double>(y[static_cast<std::size_t>(h * dim + d)]) - truth) < 2e-6);
    }
  }
}

TEST_CASE("ternary_dot and head") {
  const std::int8_t w[] = {1, 0, -1, 1};
  const std::int8_t x[] = {127, 5, -127, -3};
  CHECK(reference::ternary_dot(w, x, 4) == 251);
  const std::uint16_t half[] = {0x3C00, 0xC000, 0x0001, 0x7BFF};  // 1, -2, 2^-24, 65504
  const float v[] = {1.0F, 1.0F};
  float y[2];
  reference::head_f16(half, v, 2, 2, y);
  CHECK(y[0] == -1.0F);
  CHECK(y[1] == 65504.0F);
  const float rows[] = {1.5F, 2.0F, -1.0F, 4.0F};
  reference::head_f32(rows, v, 2, 2, y);
  CHECK(y[0] == 3.5F);
  CHECK(y[1] == 3.0F);
}

}  // namespace bitnet
