// The angles of RoPE: own sines, cosines and powers against the C library's in double precision, and the same bits on
// every CPU and compiler that runs this test.
#include "runtime/model/rope.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <random>
#include <vector>

namespace bitnet {
namespace {

// Floats apart, of one sign or both.
std::int64_t distance(float a, float b) {
  const auto order = [](float x) {
    const auto bits = std::bit_cast<std::int32_t>(x);
    return bits < 0 ? -static_cast<std::int64_t>(bits & 0x7FFFFFFF) : static_cast<std::int64_t>(bits);
  };
  return std::abs(order(a) - order(b));
}

struct Comparison {
  std::int64_t values = 0;
  std::int64_t different = 0;
  std::int64_t worst = 0;

  void add(float found, double truth) {
    const std::int64_t apart = distance(found, static_cast<float>(truth));
    ++values;
    if (apart != 0) ++different;
    worst = std::max(worst, apart);
  }
  void add_angle(float angle) {
    float sine = 0.0F;
    float cosine = 0.0F;
    sine_and_cosine(angle, &sine, &cosine);
    add(sine, std::sin(static_cast<double>(angle)));
    add(cosine, std::cos(static_cast<double>(angle)));
  }
};

}  // namespace

TEST_CASE("sine and cosine equal the rounded double functions") {
  Comparison comparison;
  for (int position = 0; position <= 1 << 17; ++position) comparison.add_angle(static_cast<float>(position));
  for (int position = (1 << 24) - 20000; position <= 1 << 24; ++position) {
    comparison.add_angle(static_cast<float>(position));
  }
  // Floats of all sizes up to 2^24, and both neighbours of multiples of pi/4, where a result is near 0 or a quadrant
  // ends.
  const auto top = std::bit_cast<std::uint32_t>(0x1p24F);
  std::mt19937 random(5);
  for (int i = 0; i < 500000; ++i) {
    const auto angle = std::bit_cast<float>(static_cast<std::uint32_t>(random() % (top + 1)));
    comparison.add_angle(angle);
    comparison.add_angle(-angle);
  }
  for (int i = 1; i < 200000; ++i) {
    const auto angle = static_cast<float>(static_cast<double>(i) * (std::atan(1.0) * (i % 2 == 0 ? 1.0 : 100.0)));
    comparison.add_angle(std::nextafter(angle, 0.0F));
    comparison.add_angle(angle);
    comparison.add_angle(std::nextafter(angle, 2.0F * angle));
  }
  MESSAGE(comparison.different << " of " << comparison.values << " differ, by " << comparison.worst << " at most");
  CHECK(comparison.worst <= 1);
  CHECK(comparison.different * 1000000 <= comparison.values);
}

TEST_CASE("sine and cosine at 0 and of tiny angles") {
  float sine = 1.0F;
  float cosine = 0.0F;
  sine_and_cosine(0.0F, &sine, &cosine);
  CHECK(sine == 0.0F);
  CHECK(cosine == 1.0F);
  sine_and_cosine(1e-30F, &sine, &cosine);
  CHECK(sine == 1e-30F);
  CHECK(cosine == 1.0F);
}

TEST_CASE("the factor between pairs equals the rounded double power") {
  Comparison comparison;
  for (std::int64_t dim = 2; dim <= 512; dim += 2) {
    const auto exponent = static_cast<double>(-2.0F / static_cast<float>(dim));
    for (const float base : {1.0F, 2.0F, 3.14159F, 100.0F, 10000.0F, 500000.0F, 1e6F, 1e8F, 3e38F, 0.5F}) {
      comparison.add(rope_factor(dim, base), std::pow(static_cast<double>(base), exponent));
    }
  }
  MESSAGE(comparison.different << " of " << comparison.values << " differ, by " << comparison.worst << " at most");
  CHECK(comparison.worst <= 1);
  CHECK(comparison.different <= 1);
}

TEST_CASE("angles start at the position and are multiplied from pair to pair") {
  float cosines[3];
  float sines[3];
  rope_angles(7, 6, 1000.0F, cosines, sines);
  const float factor = rope_factor(6, 1000.0F);
  CHECK(distance(factor, 0.1F) <= 1);
  float angle = 7.0F;
  for (int i = 0; i < 3; ++i) {
    CHECK(sines[i] == static_cast<float>(std::sin(static_cast<double>(angle))));
    CHECK(cosines[i] == static_cast<float>(std::cos(static_cast<double>(angle))));
    angle *= factor;
  }
}

TEST_CASE("the same bits everywhere") {
  // FNV-1a over the angles of 2000 positions; the constant was computed on x86-64 and must hold on every other CPU.
  std::uint64_t hash = 0xCBF29CE484222325ULL;
  std::vector<float> cosines(64);
  std::vector<float> sines(64);
  for (std::int64_t position = 0; position < 200000; position += 100) {
    rope_angles(position, 128, 500000.0F, cosines.data(), sines.data());
    for (std::size_t i = 0; i < cosines.size(); ++i) {
      for (const float value : {cosines[i], sines[i]}) {
        hash = (hash ^ std::bit_cast<std::uint32_t>(value)) * 0x100000001B3ULL;
      }
    }
  }
  CHECK(hash == 6650161226585664669ULL);
}

}  // namespace bitnet
