// One ternary product to be computed: weights, activations and the expected sums, made once and shared by every kernel
// of the shape, whatever its layout, operation and target. A cache keeps those of the shape that was asked for last.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "runtime/kernels/layout.h"
#include "tests/kernel_tester.h"
#include "tests/kernel_tester_support.h"

namespace bitnet::test {

enum class Values : std::uint8_t { kRandom, kExtreme, kAlternating, kSparse, kZero, kConstant };
inline constexpr Values kAllValues[] = {Values::kRandom, Values::kExtreme, Values::kAlternating,
                                        Values::kSparse, Values::kZero,    Values::kConstant};

class TernaryProblem {
 public:
  // `group` as in Kernel::group. Deterministic in all arguments but `tokens`, which only adds tokens.
  TernaryProblem(TestPlan::Shape shape, std::int64_t group, Values values, std::int64_t tokens);

  [[nodiscard]] std::string name() const;
  // The matrix in a layout: 64-byte aligned, ends at an inaccessible page.
  [[nodiscard]] const std::uint8_t* packed(Layout layout);
  // Token row, BITNET_ACTIVATION_WIDTH(k) int8.
  [[nodiscard]] const std::int8_t* x(std::int64_t token) const { return x_.data() + token * width; }
  [[nodiscard]] std::int32_t x_sum(std::int64_t token, std::int64_t g) const { return x_sums_[at(token, g)]; }
  // Expected sums of a token and group, [padded_rows].
  [[nodiscard]] const std::int32_t* expected(std::int64_t token, std::int64_t g) const {
    return expected_.data() + at(token, g) * static_cast<std::size_t>(padded_rows);
  }
  // Not empty if the tester's own fast dot product disagrees with the scalar reference.
  [[nodiscard]] const std::string& oracle_error() const { return oracle_error_; }

  const std::int64_t n;
  const std::int64_t k;
  const std::int64_t group;
  const std::int64_t groups;       // sums a row
  const std::int64_t group_width;  // k of a group; the last one may be shorter
  const std::int64_t width;        // BITNET_ACTIVATION_WIDTH(k)
  const std::int64_t padded_rows;
  const std::int64_t tokens;
  const Values values;

 private:
  [[nodiscard]] std::size_t at(std::int64_t token, std::int64_t g) const {
    return static_cast<std::size_t>(token * groups + g);
  }
  void make_weights();
  void make_activations();
  void multiply();

  std::vector<std::uint8_t> codes_;     // [n][k]
  std::vector<std::int8_t> x_;          // [tokens][width]
  std::vector<std::int32_t> x_sums_;    // [tokens][groups]
  std::vector<std::int32_t> expected_;  // [tokens][groups][padded_rows]
  std::string oracle_error_;
  std::map<Layout, std::unique_ptr<Region>> packed_;
  std::map<Layout, const std::uint8_t*> packed_data_;
};

class ProblemCache {
 public:
  // A problem with at least `tokens` tokens. Problems of another shape or group than the last one's are dropped.
  TernaryProblem& get(TestPlan::Shape shape, std::int64_t group, Values values, std::int64_t tokens);

 private:
  std::tuple<std::int64_t, std::int64_t, std::int64_t> place_{0, 0, 0};
  std::map<Values, std::unique_ptr<TernaryProblem>> problems_;
};

void test_ternary(const Kernel& kernel, const TestPlan& plan, ProblemCache& cache, Failures& failures);

}  // namespace bitnet::test
