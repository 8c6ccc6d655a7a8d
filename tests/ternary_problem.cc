// The expected sums come from a plain int16 loop, which the compiler turns into multiply-adds and which is itself
// compared with the scalar reference on rows of every problem.
#include "tests/ternary_problem.h"

#include <algorithm>
#include <random>

#include "runtime/base/math.h"
#include "runtime/reference/reference.h"

namespace bitnet::test {
namespace {

constexpr const char* kValueNames[] = {"random", "all 127 x all +-1", "+-127 x +-1", "sparse", "zero", "constant"};

std::size_t index(std::int64_t i) { return static_cast<std::size_t>(i); }

std::int8_t any_activation(std::mt19937& random) {
  return static_cast<std::int8_t>(static_cast<int>(random() % 255) - 127);
}

std::int8_t weight(Values values, std::mt19937& random, std::int64_t row, std::int64_t k) {
  switch (values) {
    case Values::kRandom:
      return static_cast<std::int8_t>(static_cast<int>(random() % 3) - 1);
    case Values::kExtreme:
      return row % 2 == 0 ? 1 : -1;
    case Values::kAlternating:
      return (random() & 1) != 0 ? 1 : -1;
    case Values::kSparse:
      return random() % 50 == 0 ? ((random() & 1) != 0 ? 1 : -1) : 0;
    case Values::kZero:
      return 0;
    case Values::kConstant:
      // Every other row with zeros at every other four k: table entries of one and of several activations.
      return static_cast<std::int8_t>(row % 2 != 0 && k / 4 % 2 != 0 ? 0 : row % 3 - 1);
  }
  return 0;
}

std::int8_t activation(Values values, std::mt19937& random, std::int64_t token) {
  switch (values) {
    case Values::kRandom:
      return any_activation(random);
    case Values::kExtreme:
      return token % 2 == 0 ? 127 : -127;
    case Values::kAlternating:
      return (random() & 1) != 0 ? 127 : -127;
    case Values::kSparse:
      return random() % 20 == 0 ? any_activation(random) : std::int8_t{0};
    case Values::kZero:
      return token % 2 == 0 ? 0 : 127;
    case Values::kConstant:
      return static_cast<std::int8_t>(token % 255 - 127);
  }
  return 0;
}

// noinline: one vectorised copy.
[[gnu::noinline]] std::int32_t fast_dot(const std::int16_t* w, const std::int16_t* x, std::int64_t k) {
  std::int32_t sum = 0;
  for (std::int64_t i = 0; i < k; ++i) sum += w[i] * x[i];
  return sum;
}

}  // namespace

TernaryProblem::TernaryProblem(TestPlan::Shape shape, std::int64_t the_group, Values the_values,
                               std::int64_t the_tokens)
    : n(shape.n),
      k(shape.k),
      group(the_group),
      groups(group_count(shape.k, the_group)),
      group_width(the_group == 0 ? shape.k : the_group),
      width(BITNET_ACTIVATION_WIDTH(shape.k)),
      padded_rows(round_up<std::int64_t>(shape.n, BITNET_TILE_ROWS)),
      tokens(the_tokens),
      values(the_values) {
  make_weights();
  make_activations();
  multiply();
}

std::string TernaryProblem::name() const {
  return "N=" + std::to_string(n) + " K=" + std::to_string(k) +
         (group != 0 ? " groups of " + std::to_string(group) : "") + ", values " +
         kValueNames[static_cast<std::size_t>(values)];
}

void TernaryProblem::make_weights() {
  std::mt19937 random(static_cast<unsigned>(n * 31 + k * 7 + static_cast<int>(values)));
  codes_.resize(index(n * k));
  for (std::int64_t r = 0; r < n; ++r) {
    for (std::int64_t i = 0; i < k; ++i) {
      codes_[index(r * k + i)] = static_cast<std::uint8_t>(weight(values, random, r, i) + 1);
    }
  }
}

void TernaryProblem::make_activations() {
  std::mt19937 random(static_cast<unsigned>(k * 131 + static_cast<int>(values)));
  x_.assign(index(tokens * width), 0);
  x_sums_.assign(at(tokens, 0), 0);
  for (std::int64_t t = 0; t < tokens; ++t) {
    for (std::int64_t i = 0; i < k; ++i) {
      const std::int8_t q = activation(values, random, t);
      x_[index(t * width + i)] = q;
      x_sums_[at(t, i / group_width)] += q;
    }
  }
}

void TernaryProblem::multiply() {
  std::vector<std::int16_t> wide_x(index(tokens * k));
  for (std::int64_t t = 0; t < tokens; ++t) std::copy_n(x(t), k, wide_x.begin() + t * k);
  expected_.assign(at(tokens, 0) * index(padded_rows), 0);
  std::vector<std::int16_t> row(index(k));
  std::vector<std::int8_t> narrow_row(index(k));
  for (std::int64_t r = 0; r < n; ++r) {
    for (std::int64_t i = 0; i < k; ++i) {
      narrow_row[index(i)] = static_cast<std::int8_t>(codes_[index(r * k + i)] - 1);
      row[index(i)] = narrow_row[index(i)];
    }
    for (std::int64_t t = 0; t < tokens; ++t) {
      for (std::int64_t g = 0; g < groups; ++g) {
        const std::int64_t first = g * group_width;
        const std::int64_t many = std::min(group_width, k - first);
        const std::int32_t sum = fast_dot(row.data() + first, wide_x.data() + t * k + first, many);
        expected_[at(t, g) * index(padded_rows) + index(r)] = sum;
        if ((r < 2 || r == n - 1) && t == r % tokens &&
            sum != reference::ternary_dot(narrow_row.data() + first, x(t) + first, many)) {
          oracle_error_ = "the tester's own dot product is wrong";
        }
      }
    }
  }
}

const std::uint8_t* TernaryProblem::packed(Layout layout) {
  const auto found = packed_data_.find(layout);
  if (found != packed_data_.end()) return found->second;
  const std::size_t bytes = matrix_bytes(layout, n, k);
  auto region = std::make_unique<Region>(bytes);
  auto* data = region->place<std::uint8_t>(static_cast<std::int64_t>(bytes), 64);
  pack_codes(layout, codes_.data(), 0, n, k, data);
  packed_[layout] = std::move(region);
  packed_data_[layout] = data;
  return data;
}

TernaryProblem& ProblemCache::get(TestPlan::Shape shape, std::int64_t group, Values values, std::int64_t tokens) {
  const std::tuple place{shape.n, shape.k, group};
  if (place != place_) problems_.clear();
  place_ = place;
  std::unique_ptr<TernaryProblem>& problem = problems_[values];
  if (problem == nullptr || problem->tokens < tokens) {
    problem = std::make_unique<TernaryProblem>(shape, group, values, tokens);
  }
  return *problem;
}

}  // namespace bitnet::test
