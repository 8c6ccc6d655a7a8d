// Counting a ternary matrix, and making one from floats.
#include "runtime/formats/ternarize.h"

#include <doctest/doctest.h>

#include <array>
#include <cmath>
#include <limits>
#include <thread>
#include <vector>

#include "runtime/formats/census.h"
#include "runtime/formats/encode.h"
#include "tests/formats_files.h"

namespace bitnet {
namespace {

using namespace formats;
using test::Codes;
using test::OneTensor;
using test::open_ternary;
using test::random_codes;

bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

TEST_CASE("a census counts what is there, in parts and by threads as well") {
  constexpr std::int64_t kRows = 300, kColumns = 512;
  const Codes codes = random_codes(kRows * kColumns, 21);
  std::array<std::uint64_t, 3> expected{};
  for (const std::uint8_t code : codes) ++expected[code];
  const float scale = 0.25F;
  auto encoder = TernaryEncoder::make({gguf::TensorType::kI2_S, kRows, kColumns, I2sLayout::kX86, std::nullopt},
                                      ScaleKind::kTensor, 0, std::span(&scale, 1));
  REQUIRE(encoder.ok());
  REQUIRE(encoder->add_rows(codes).ok());
  std::vector<std::byte> bytes(encoder->finish()->begin(), encoder->finish()->end());
  const OneTensor file(gguf::TensorType::kI2_S, kRows, kColumns, bytes);
  const TernaryMatrix matrix = open_ternary(file.file, file.tensor());
  const auto check = [&](const Census& census) {
    CHECK(census.minus == expected[0]);
    CHECK(census.zero == expected[1]);
    CHECK(census.plus == expected[2]);
    CHECK(census.undefined == 0);
    CHECK(census.weights() == codes.size());
    CHECK(census.least_scale == 0.25F);
    CHECK(census.largest_scale == 0.25F);
    CHECK_FALSE(implausible(census).has_value());
  };
  check(take_census(matrix));
  std::array<Census, 3> parts;
  std::vector<std::thread> threads;
  for (std::int64_t i = 0; i < 3; ++i) {
    threads.emplace_back([&, i] { parts[static_cast<std::size_t>(i)] = take_census(matrix, i * 100, i * 100 + 100); });
  }
  for (auto& thread : threads) thread.join();
  Census sum;
  for (const Census& part : parts) sum += part;
  check(sum);

  bytes[0] = std::byte{0xFF};
  const OneTensor damaged(gguf::TensorType::kI2_S, kRows, kColumns, bytes);
  const Census found = take_census(open_ternary(damaged.file, damaged.tensor()));
  CHECK(found.undefined == 4);
  CHECK(found.weights() == codes.size());
  CHECK(has(*implausible(found), "4 of 153600 codes have no meaning"));
}

TEST_CASE("the range of scales leaves zeros out") {
  const std::vector<float> scales = {0.5F, -2.0F, 0.0F, 1.0F};
  const Codes codes(4 * 256, 2);
  auto encoder = TernaryEncoder::make({gguf::TensorType::kTQ2_0, 4, 256, I2sLayout::kX86, std::nullopt},
                                      ScaleKind::kRow, 0, scales);
  REQUIRE(encoder.ok());
  REQUIRE(encoder->add_rows(codes).ok());
  const auto bytes = encoder->finish();
  const OneTensor file(gguf::TensorType::kTQ2_0, 4, 256, *bytes);
  const Census census = take_census(open_ternary(file.file, file.tensor()));
  CHECK(census.least_scale == 0.5F);
  CHECK(census.largest_scale == 2.0F);
  CHECK(census.zero == 256);
}

TEST_CASE("implausible numbers are named, plausible ones are not") {
  const Census good{.minus = 3000, .zero = 4000, .plus = 3000, .least_scale = 0.01F, .largest_scale = 0.02F};
  CHECK_FALSE(implausible(good).has_value());
  Census binary = good;  // Q1_0
  binary.zero = 0;
  CHECK_FALSE(implausible(binary).has_value());
  Census few = {.plus = 64, .least_scale = 1, .largest_scale = 1};
  CHECK_FALSE(implausible(few).has_value());
  Census constant = {.minus = 1, .zero = 9999, .plus = 1, .least_scale = 1, .largest_scale = 1};
  CHECK(has(implausible(constant).value_or(""), "of the weights have one value"));
  Census lopsided = good;
  lopsided.plus = 10000;
  CHECK(has(implausible(lopsided).value_or(""), "3000 weights -1 against 10000 weights +1"));
  Census large = good;
  large.largest_scale = large.least_scale = 5000;
  CHECK(has(implausible(large).value_or(""), "scales from 5000"));
  Census small = good;
  small.least_scale = 1e-9F;
  CHECK(has(implausible(small).value_or(""), "scales from 1e-09"));
  Census wide = good;
  wide.least_scale = 1e-4F;
  wide.largest_scale = 1;
  CHECK(has(implausible(wide).value_or(""), "in one matrix"));
}

// floats in pieces of `piece`.
MagnitudeProbe probed(const std::vector<float>& floats, std::int64_t columns, std::size_t piece) {
  MagnitudeProbe probe(columns);
  for (std::size_t at = 0; at < floats.size(); at += piece) {
    REQUIRE(probe.add(std::span(floats).subspan(at, std::min(piece, floats.size() - at))).ok());
  }
  return probe;
}

TEST_CASE("whether floats are ternary, in pieces of any size") {
  constexpr std::int64_t kRows = 5, kColumns = 37;
  const Codes codes = random_codes(kRows * kColumns, 22);
  std::vector<float> one, by_row;
  for (std::size_t i = 0; i < codes.size(); ++i) {
    one.push_back(0.037F * static_cast<float>(codes[i] - 1));
    by_row.push_back((0.1F + static_cast<float>(i / kColumns)) * static_cast<float>(codes[i] - 1));
  }
  for (const std::size_t piece : {std::size_t{1}, std::size_t{10}, std::size_t{37}, std::size_t{100}, one.size()}) {
    CAPTURE(piece);
    MagnitudeProbe probe = probed(one, kColumns, piece);
    CHECK(probe.ternary() == ScaleKind::kTensor);
    CHECK(probe.scales(ScaleKind::kTensor) == std::vector<float>{0.037F});
    CHECK(probe.witness().empty());
    CHECK(probe.absmean() == probed(one, kColumns, one.size()).absmean());

    probe = probed(by_row, kColumns, piece);
    CHECK(probe.ternary() == ScaleKind::kRow);
    CHECK(probe.scales(ScaleKind::kRow) == std::vector<float>{0.1F, 1.1F, 2.1F, 3.1F, 4.1F});

    // One in a million is a rounding, two are another magnitude.
    std::vector<float> near = one;
    near[60] = 0.037F * (1 + 0.9e-6F);
    CHECK(probed(near, kColumns, piece).ternary() == ScaleKind::kTensor);
    near[60] = 0.037F * (1 + 2e-6F);
    near[61] = 0.037F;
    MagnitudeProbe other = probed(near, kColumns, piece);
    CHECK_FALSE(other.ternary().has_value());
    CHECK(has(other.witness(), "row 1 has weights of magnitude 0.037 and 0.037"));
    near[60] = 1e-12F;
    CHECK(has(probed(near, kColumns, piece).witness(), "row 1 has weights of magnitude 1e-12 and 0.037"));
  }
  const std::vector<float> zeros(kRows * kColumns, -0.0F);
  const MagnitudeProbe nothing = probed(zeros, kColumns, 50);
  CHECK(nothing.ternary() == ScaleKind::kTensor);
  CHECK(nothing.scales(ScaleKind::kTensor) == std::vector<float>{1.0F});
  CHECK(nothing.absmean() == 1e-5F);

  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity()}) {
    std::vector<float> broken = one;
    broken[75] = bad;
    MagnitudeProbe probe(kColumns);
    const Status status = probe.add(broken);
    REQUIRE_FALSE(status.ok());
    CHECK(has(status.error().message, "row 2, column 1: expected a finite number"));
  }
}

TEST_CASE("absmean rounding: the mean magnitude, half to even, clipped, with its error") {
  const std::vector<float> weights = {0.0F, 1.0F, -1.0F, 2.0F, -8.0F, 1.001F, -1.001F, 0.5F, 3.498F};
  const MagnitudeProbe probe = probed(weights, 9, 4);
  CHECK(probe.absmean() == doctest::Approx(2.0).epsilon(1e-6));
  Codes codes(weights.size());
  RoundingError error;
  round_to_ternary(weights, 2.0F, codes.data(), error);
  CHECK(codes == Codes{1, 1, 1, 2, 0, 2, 0, 1, 2});
  double squares = 0, energy = 0;
  for (std::size_t i = 0; i < weights.size(); ++i) {
    const double difference = static_cast<double>(weights[i]) - 2.0 * (codes[i] - 1);
    squares += difference * difference;
    energy += static_cast<double>(weights[i]) * static_cast<double>(weights[i]);
  }
  CHECK(error.squares == doctest::Approx(squares));
  CHECK(error.energy == doctest::Approx(energy));
  CHECK(error.largest == 6.0);
  CHECK(error.relative() == doctest::Approx(std::sqrt(squares / energy)));
  RoundingError more = error;
  round_to_ternary(weights, 2.0F, codes.data(), more);
  CHECK(more.squares == doctest::Approx(2 * squares));
  CHECK(RoundingError().relative() == 0);

  // A ternary matrix keeps its codes and loses nothing.
  const Codes expected = random_codes(1000, 23);
  std::vector<float> exact;
  for (const std::uint8_t code : expected) exact.push_back(0.1F * static_cast<float>(code - 1));
  Codes found(exact.size());
  RoundingError none;
  round_to_ternary(exact, probed(exact, 100, 100).scales(ScaleKind::kTensor)[0], found.data(), none);
  CHECK(found == expected);
  CHECK(none.squares == 0);
}

}  // namespace
}  // namespace bitnet
