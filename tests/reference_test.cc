// The reference against double precision: the oracle of the kernels must itself be right.
#include "runtime/reference/reference.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <limits>
#include <numbers>
#include <random>
#include <vector>

#include "runtime/base/half.h"
#include "runtime/kernels/kernel.h"

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

TEST_CASE("gelu against double precision; where v overflows") {
  std::mt19937 random(5);
  std::normal_distribution<float> normal;
  const std::int64_t k = 4096;
  std::vector<float> x(k);
  std::vector<float> up(k);
  for (std::size_t i = 0; i < x.size(); ++i) {
    x[i] = 2.0F * normal(random);
    up[i] = normal(random);
  }
  std::vector<float> y(k);
  std::vector<float> gated(k);
  reference::gelu(x.data(), k, y.data());
  reference::gelu_gate(x.data(), up.data(), k, gated.data());
  for (std::size_t i = 0; i < x.size(); ++i) {
    const auto v = static_cast<double>(x[i]);
    const double half = std::sqrt(2.0 / std::numbers::pi) * (v + 0.044715 * v * v * v);
    const double truth = v / (1.0 + std::exp(-2.0 * half));
    REQUIRE(std::fabs(0.5 * v * (1.0 + std::tanh(half)) - truth) <= 1e-14);
    // v = 2 half has six roundings (constants included), which exp turns into as many of |v| times their size; exp
    // itself has 2e-7, the sum and the quotient one each.
    const double bound = (6.0 * std::fabs(2.0 * half) + 8.0) * 0x1p-24 * std::fabs(truth);
    REQUIRE(std::fabs(static_cast<double>(y[i]) - truth) <= bound);
    REQUIRE(gated[i] == y[i] * up[i]);
  }
  const std::vector<float> far = {0.0F, 1e30F, -1e4F, 3e38F};
  reference::gelu(far.data(), 4, y.data());
  CHECK(y[0] == 0.0F);
  CHECK(y[1] == 1e30F);
  CHECK(std::fabs(y[2]) < 1e-30F);
  CHECK(y[3] == 3e38F);
}

TEST_CASE("layer_norm against double precision") {
  std::mt19937 random(6);
  std::normal_distribution<float> normal;
  const std::int64_t k = 2560;
  std::vector<float> x(k);
  std::vector<float> gain(k);
  std::vector<float> bias(k);
  for (std::size_t i = 0; i < x.size(); ++i) {
    x[i] = 3.0F + normal(random);
    gain[i] = normal(random);
    bias[i] = normal(random);
  }
  std::vector<float> y(k);
  reference::layer_norm(x.data(), gain.data(), bias.data(), k, 1e-5F, y.data());
  double mean = 0.0;
  for (const float v : x) mean += static_cast<double>(v) / static_cast<double>(k);
  double square = 0.0;
  for (const float v : x) square += (static_cast<double>(v) - mean) * (static_cast<double>(v) - mean);
  const double inv = 1.0 / std::sqrt(square / static_cast<double>(k) + 1e-5);
  for (std::size_t i = 0; i < x.size(); ++i) {
    const auto g = static_cast<double>(gain[i]);
    const double truth = (static_cast<double>(x[i]) - mean) * inv * g + static_cast<double>(bias[i]);
    // Sums of 160 values a lane: at most 164 roundings of 2^-24, 1e-5, of the mean of |x|, 3; the rest is as in norm.
    REQUIRE(std::fabs(static_cast<double>(y[i]) - truth) <= 4e-5 * std::fabs(g) + 1e-6 * (1.0 + std::fabs(truth)));
  }
}

namespace {

// One head's keys or values for `positions` positions, both as a page table has them and as double.
struct Cache {
  Cache(Format format, std::int64_t positions, std::int64_t dim, std::mt19937& random)
      : values(static_cast<std::size_t>(positions * dim)) {
    std::normal_distribution<float> normal;
    const bool int8 = format == Format::kI8;
    const std::int64_t page_bytes = BITNET_ATTENTION_CHUNK * (int8                     ? dim + 4
                                                              : format == Format::kF32 ? 4 * dim
                                                                                       : 2 * dim);
    for (std::int64_t j = 0; j < positions; ++j) {
      if (j % BITNET_ATTENTION_CHUNK == 0) pages.emplace_back(static_cast<std::size_t>(page_bytes));
      const std::int64_t row = j % BITNET_ATTENTION_CHUNK;
      std::byte* page = pages.back().data();
      const float factor = 0.02F + 0.001F * static_cast<float>(row % 7);
      if (int8) std::memcpy(page + BITNET_ATTENTION_CHUNK * dim + row * 4, &factor, 4);
      for (std::int64_t d = 0; d < dim; ++d) {
        const float value = normal(random);
        double& stored = values[static_cast<std::size_t>(j * dim + d)];
        if (int8) {
          const auto q = static_cast<std::int8_t>(std::clamp(value * 40.0F, -127.0F, 127.0F));
          std::memcpy(page + row * dim + d, &q, 1);
          stored = static_cast<double>(q) * static_cast<double>(factor);
        } else if (format == Format::kF32) {
          std::memcpy(page + 4 * (row * dim + d), &value, 4);
          stored = static_cast<double>(value);
        } else {
          const std::uint16_t half = float_to_half(value);
          std::memcpy(page + 2 * (row * dim + d), &half, 2);
          stored = static_cast<double>(half_to_float(half));
        }
      }
    }
    for (const auto& page : pages) table.push_back(page.data());
  }
  std::vector<double> values;  // [positions][dim]
  std::vector<std::vector<std::byte>> pages;
  std::vector<const void*> table;
};

void test_attention(Format format, std::int64_t window) {
  const bool int8 = format == Format::kI8;
  const bool single = format == Format::kF32;
  std::mt19937 random(3);
  std::normal_distribution<float> normal;
  const std::int64_t heads = 2;
  const std::int64_t dim = 20;
  const std::int64_t tokens = 90;
  const std::int64_t past = 470;  // rows that end on both sides of position 512
  const std::int64_t stride = heads * dim + 1;
  const Cache keys(format, past + tokens, dim, random);
  const Cache values(format, past + tokens, dim, random);
  std::vector<float> q(static_cast<std::size_t>(tokens * stride));
  for (float& v : q) v = single ? normal(random) : half_to_float(float_to_half(normal(random)));
  std::vector<float> y(q.size());
  const bitnet_attention_args args = {.q = q.data(),
                                      .key_pages = keys.table.data(),
                                      .value_pages = values.table.data(),
                                      .y = y.data(),
                                      .scratch = nullptr,
                                      .heads = heads,
                                      .head_dim = dim,
                                      .tokens = tokens,
                                      .past = past,
                                      .window = window,
                                      .q_stride = stride,
                                      .y_stride = stride,
                                      .next = nullptr,
                                      .scale = 0.25F};
  (int8 ? reference::attention_i8 : single ? reference::attention_f32 : reference::attention_f16)(args);
  for (std::int64_t t = 0; t < tokens; ++t) {
    for (std::int64_t h = 0; h < heads; ++h) {
      const std::int64_t row = t * stride + h * dim;
      std::vector<double> weights;
      double total = 0.0;
      const std::int64_t first = window == 0 ? 0 : std::max<std::int64_t>(0, past + t - window + 1);
      for (std::int64_t j = first; j <= past + t; ++j) {
        double s = 0.0;
        for (std::int64_t d = 0; d < dim; ++d) {
          s += static_cast<double>(q[static_cast<std::size_t>(row + d)]) *
               keys.values[static_cast<std::size_t>(j * dim + d)];
        }
        weights.push_back(std::exp(s * 0.25));
        total += weights.back();
      }
      for (std::int64_t d = 0; d < dim; ++d) {
        const auto value = [&](std::size_t j) {
          return values.values[(static_cast<std::size_t>(first) + j) * static_cast<std::size_t>(dim) +
                               static_cast<std::size_t>(d)];
        };
        double truth = 0.0;
        for (std::size_t j = 0; j < weights.size(); ++j) truth += weights[j] / total * value(j);
        // A weight is off by 2^-13 of itself, one with a factor once more; y is the mean by weight of the values, so
        // that only their distances from it count (and, with factors, themselves). The rest is as without rounding,
        // which is all that there is of float32.
        double spread = 0.0;
        for (std::size_t j = 0; j < weights.size(); ++j) {
          spread += weights[j] / total * (std::fabs(value(j) - truth) + (int8 ? std::fabs(value(j)) : 0.0));
        }
        REQUIRE(std::fabs(static_cast<double>(y[static_cast<std::size_t>(row + d)]) - truth) <
                3e-6 + (single ? 0.0 : 1.001 * 0x1p-13 * spread));
      }
    }
  }
}

}  // namespace

TEST_CASE("attention against double precision, across chunks and for several tokens") {
  SUBCASE("float16") { test_attention(Format::kF16, 0); }
  SUBCASE("int8 with factors") { test_attention(Format::kI8, 0); }
  SUBCASE("float32") { test_attention(Format::kF32, 0); }
  // A window within a chunk, over the border of two, and of one position.
  for (const std::int64_t window : {37, 300, 1}) {
    CAPTURE(window);
    for (const Format format : {Format::kF16, Format::kI8, Format::kF32}) test_attention(format, window);
  }
}

TEST_CASE("softmax: sums to 1, order of the inputs, equal to double precision") {
  std::mt19937 random(4);
  std::normal_distribution<float> normal;
  std::vector<float> x(1000);
  for (float& v : x) v = 5.0F * normal(random);
  std::vector<float> y(x.size());
  reference::softmax(x.data(), 1000, y.data());
  double total = 0.0;
  for (const float v : x) total += std::exp(static_cast<double>(v));
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double truth = std::exp(static_cast<double>(x[i])) / total;
    // exp, the sum's roundings, the rounding of x - m (half a unit of up to 32), the quotient.
    REQUIRE(std::fabs(static_cast<double>(y[i]) - truth) <= 5e-6 * truth);
  }
  reference::softmax(x.data(), 1, y.data());
  CHECK(y[0] == 1.0F);
}

TEST_CASE("rope: NEOX and NORM turn the same pairs, stored differently") {
  const float cosines[] = {0.6F, 0.0F};
  const float sines[] = {0.8F, 1.0F};
  std::vector<float> neox = {1.0F, 2.0F, 3.0F, 4.0F, 9.0F};  // pairs (1, 3), (2, 4); 9 stays
  std::vector<float> norm = {1.0F, 3.0F, 2.0F, 4.0F, 9.0F};
  bitnet_rope_args args = {.x = neox.data(),
                           .cosines = cosines,
                           .sines = sines,
                           .rows = 1,
                           .stride = 5,
                           .rope_dim = 4,
                           .kind = BITNET_ROPE_NEOX};
  reference::rope(args);
  args.x = norm.data();
  args.kind = BITNET_ROPE_NORM;
  reference::rope(args);
  CHECK(neox == std::vector<float>{1.0F * 0.6F - 3.0F * 0.8F, -4.0F, 1.0F * 0.8F + 3.0F * 0.6F, 2.0F, 9.0F});
  CHECK(norm == std::vector<float>{neox[0], neox[2], neox[1], neox[3], 9.0F});
}

TEST_CASE("epilogue: a scale a tensor, row, or row and group; groups in order; add") {
  const std::int32_t acc[] = {3, -4, 0, 5, 6, 0};  // two groups of two rows, three apart
  const float scales[] = {0.5F, 2.0F, 0.0F, 0.25F, 8.0F};
  float y[] = {100.0F, 200.0F};
  bitnet_epilogue_args args = {.acc = acc,
                               .scales = scales,
                               .y = y,
                               .rows = 2,
                               .groups = 2,
                               .acc_stride = 3,
                               .scale_stride = 3,
                               .activation_scale = 2.0F,
                               .scale_kind = BITNET_SCALE_TENSOR,
                               .add = 0};
  reference::epilogue(args);
  CHECK(y[0] == (3 + 5) * 0.25F);
  CHECK(y[1] == (-4 + 6) * 0.25F);
  args.scale_kind = BITNET_SCALE_ROW;
  args.groups = 1;
  reference::epilogue(args);
  CHECK(y[0] == 3 * 0.25F);
  CHECK(y[1] == -4 * 1.0F);
  args.scale_kind = BITNET_SCALE_GROUP;
  args.groups = 2;
  args.add = 1;
  reference::epilogue(args);
  CHECK(y[0] == 3 * 0.25F + (3 * 0.25F + 5 * 0.125F));
  CHECK(y[1] == -4.0F + (-4 * 1.0F + 6 * 4.0F));
}

TEST_CASE("head_screen: sums beyond int32 and beyond the exact integers of a float, tokens in rows of their own") {
  const std::int64_t k = 20000;  // 32 short of the width
  const auto width = static_cast<std::size_t>(BITNET_SCREEN_WIDTH(k));
  CHECK(width == 20032);
  std::vector<std::int8_t> w(width, 127);
  std::vector<std::int16_t> x(2 * width, 32767);
  x[64] = -32767;  // of the second token
  const float scale = 3.0F;
  const float x_scales[] = {0.5F, 0.25F};
  float y[3] = {0.0F, 7.0F, 0.0F};
  const bitnet_head_screen_args args = {.weights = w.data(),
                                        .x = x.data(),
                                        .row_scales = &scale,
                                        .x_scales = x_scales,
                                        .y = y,
                                        .row_begin = 0,
                                        .row_end = 1,
                                        .tokens = 2,
                                        .y_stride = 2,
                                        .k = k};
  reference::head_screen(args);
  CHECK(y[0] == static_cast<float>(k * 127 * 32767) * 1.5F);
  CHECK(y[1] == 7.0F);
  CHECK(y[2] == static_cast<float>((k - 2) * 127 * 32767) * 0.75F);
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
  const std::uint16_t bfloat[] = {0x3F80, 0xC000, 0x0001, 0x7F7F};  // 1, -2, the smallest and the largest
  reference::head_bf16(bfloat, v, 2, 2, y);
  CHECK(y[0] == -1.0F);
  CHECK(y[1] == 0x1.FEp127F);
  const float rows[] = {1.5F, 2.0F, -1.0F, 4.0F};
  // Two rows of two blocks, k = 33: what lies beyond does not count.
  std::vector<std::uint8_t> blocks(4 * 34, 0x7F);
  for (std::size_t b = 0; b < 4; ++b) {
    const std::uint16_t factor = float_to_half(b % 2 == 0 ? 0.5F : -2.0F);
    std::memcpy(&blocks[b * 34], &factor, 2);
    for (std::size_t i = 0; i < 32 && (b % 2 == 0 || i == 0); ++i) {
      blocks[b * 34 + 2 + i] = static_cast<std::uint8_t>(b < 2 ? 1 : -128);
    }
  }
  const std::vector<float> ones(33, 1.0F);
  reference::head_q8(blocks.data(), ones.data(), 2, 33, y);
  CHECK(y[0] == 0.5F * 32 - 2.0F);
  CHECK(y[1] == -128.0F * (0.5F * 32 - 2.0F));

  reference::head_f32(rows, v, 2, 2, y);
  CHECK(y[0] == 3.5F);
  CHECK(y[1] == 3.0F);
}

}  // namespace bitnet
