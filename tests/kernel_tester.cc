// Plans, and the ternary operations: every token count and row split over problems that all kernels of a shape share.
#include "tests/kernel_tester.h"

#include <algorithm>
#include <memory>
#include <numeric>
#include <thread>

#include "runtime/base/math.h"
#include "runtime/kernels/layout.h"
#include "tests/kernel_tester_support.h"
#include "tests/quick.h"
#include "tests/ternary_problem.h"

namespace bitnet::test {
namespace {

constexpr std::int64_t kTile = BITNET_TILE_ROWS;
// Matrices of at least this many weights are "large": fewer kinds of values, and threads.
constexpr std::int64_t kLarge = 1 << 18;

std::size_t index(std::int64_t i) { return static_cast<std::size_t>(i); }

// Row ranges that cut N into `parts`, at multiples of 16.
std::vector<std::pair<std::int64_t, std::int64_t>> split(std::int64_t n, std::int64_t parts) {
  const std::int64_t tiles = ceil_div(n, kTile);
  std::vector<std::pair<std::int64_t, std::int64_t>> ranges;
  for (std::int64_t p = 0; p < parts; ++p) {
    const std::int64_t begin = tiles * p / parts * kTile;
    const std::int64_t end = std::min(tiles * (p + 1) / parts * kTile, n);
    if (begin < end) ranges.emplace_back(begin, end);
  }
  return ranges;
}

// Runs one token count of a case; a gemv has one token and no stride.
class TernaryRun {
 public:
  TernaryRun(const Kernel& kernel, TernaryProblem& problem, std::int64_t most_tokens, Failures& failures)
      : kernel_(kernel),
        problem_(problem),
        packed_(problem.packed(layout_of(kernel.format))),
        failures_(failures),
        mr_(kernel.op == Op::kGemm ? kernel.token_tile : 1),
        group_stride_(problem.padded_rows + (problem.groups > 1 ? 16 : 0)),
        stride_(problem.groups * group_stride_ + (kernel.op == Op::kGemm ? 16 : 0)),
        x_(index(round_up<std::int64_t>(most_tokens, mr_) * problem.width)),
        x_sums_(index(round_up<std::int64_t>(most_tokens, mr_) * problem.groups) * 4),
        y_(index(most_tokens * stride_) * 4) {
    for (int i = 0; i < 4; ++i)
      scratch_.push_back(std::make_unique<Region>(std::max<std::size_t>(kernel.scratch_bytes, 64)));
  }

  // `first_token`: which activations a gemv takes. Parts are separate calls, in threads if `threaded`.
  void run(std::int64_t first_token, std::int64_t tokens, std::int64_t parts, bool threaded) {
    tokens_ = tokens;
    first_token_ = first_token;
    where_ = problem_.name() + ", tokens " + std::to_string(tokens) + ", row ranges " + std::to_string(parts) +
             (threaded ? " in threads" : "");
    make_inputs();
    y_data_ = y_.place<std::int32_t>(tokens * stride_, 64);
    const auto ranges = split(problem_.n, parts);
    std::vector<char> fine(ranges.size(), 1);
    if (threaded) {
      std::vector<std::thread> pool;
      for (std::size_t i = 0; i < ranges.size(); ++i) {
        pool.emplace_back([&, i] { fine[i] = call_range(ranges[i], i) ? 1 : 0; });
      }
      for (std::thread& thread : pool) thread.join();
    } else {
      // The last range first: what it leaves of the others' rows is checked before they run.
      for (std::size_t i = ranges.size(); i-- > 0;) {
        fine[i] = call_range(ranges[i], i) ? 1 : 0;
        if (i + 1 == ranges.size() && i > 0 && fine[i] != 0 && !check_untouched(ranges[i].first)) return;
      }
    }
    if (std::count(fine.begin(), fine.end(), 0) != 0)
      return failures_.add(where_, "it touched memory outside its arrays");
    check_values();
    check_guards();
  }

 private:
  void make_inputs() {
    const std::int64_t padded_tokens = round_up<std::int64_t>(tokens_, mr_);
    x_data_ = x_.place<std::int8_t>(padded_tokens * problem_.width, 64);
    const std::int8_t* rows = problem_.x(first_token_);
    sums_data_ = x_sums_.place<std::int32_t>(padded_tokens * problem_.groups);
    std::fill_n(sums_data_, padded_tokens * problem_.groups, 0);
    for (std::int64_t g = 0; g < problem_.groups; ++g) {
      for (std::int64_t t = 0; t < tokens_; ++t) {
        sums_data_[g * padded_tokens + t] = problem_.x_sum(first_token_ + t, g);
      }
    }
    if (kernel_.op == Op::kGemm) {
      pack_activations(rows, tokens_, problem_.k, mr_, 0, padded_tokens / mr_, x_data_);
    } else {
      std::copy_n(rows, problem_.width, x_data_);
    }
  }

  bool call_range(std::pair<std::int64_t, std::int64_t> range, std::size_t part) {
    void* scratch = kernel_.scratch_bytes == 0
                        ? nullptr
                        : scratch_[part]->place<std::byte>(static_cast<std::int64_t>(kernel_.scratch_bytes), 64);
    if (kernel_.op == Op::kGemv) {
      auto args = poisoned_args<bitnet_gemv_args>();
      args.weights = packed_;
      args.x = x_data_;
      args.y = y_data_;
      args.row_begin = range.first;
      args.row_end = range.second;
      // A kernel with constants ignores these: they stay poisoned.
      if (kernel_.n == 0) args.n = problem_.n;
      if (kernel_.k == 0) args.k = problem_.k;
      args.x_sums = sums_data_;
      args.scratch = scratch;
      if (kernel_.group != 0) args.y_stride = group_stride_;
      return call(kernel_, args);
    }
    auto args = poisoned_args<bitnet_gemm_args>();
    args.weights = packed_;
    args.x = x_data_;
    args.x_sums = sums_data_;
    args.y = y_data_;
    args.scratch = scratch;
    args.row_begin = range.first;
    args.row_end = range.second;
    args.tokens = tokens_;
    args.y_stride = stride_;
    if (kernel_.group != 0) {
      args.group_stride = group_stride_;
      args.sums_stride = round_up<std::int64_t>(tokens_, mr_);
    }
    if (kernel_.n == 0) args.n = problem_.n;
    if (kernel_.k == 0) args.k = problem_.k;
    return call(kernel_, args);
  }

  bool check_untouched(std::int64_t rows) {
    for (std::int64_t t = 0; t < tokens_; ++t) {
      for (std::int64_t r = 0; r < rows; ++r) {
        if (y_data_[t * stride_ + r] != kPatternInt) {
          failures_.add(where_, "token " + std::to_string(t) + " row " + std::to_string(r) +
                                    " was written, but the row range began at " + std::to_string(rows));
          return false;
        }
      }
    }
    return true;
  }

  void check_values() {
    for (std::int64_t t = 0; t < tokens_; ++t) {
      const std::int32_t* found = y_data_ + t * stride_;
      for (std::int64_t at = 0; at < stride_; ++at) {
        const std::int64_t g = at / group_stride_;
        const std::int64_t r = at % group_stride_;
        const bool inside = g < problem_.groups && r < problem_.padded_rows;
        const std::int32_t expected = inside ? problem_.expected(first_token_ + t, g)[r] : kPatternInt;
        if (found[at] == expected) continue;
        const std::string where = "token " + std::to_string(t) +
                                  (problem_.groups > 1 ? " group " + std::to_string(g) : std::string()) + " row " +
                                  std::to_string(r);
        if (!inside) return failures_.add(where_, where + ": y was written there, beyond the rows");
        return failures_.add(where_, where + (r >= problem_.n ? " (padding)" : "") + ": expected " +
                                         std::to_string(expected) + ", found " + std::to_string(found[at]));
      }
    }
  }

  void check_guards() {
    if (!y_.intact()) failures_.add(where_, "guard bytes around y were overwritten");
    if (!x_.intact() || !x_sums_.intact()) failures_.add(where_, "guard bytes around the inputs were overwritten");
    for (const auto& region : scratch_) {
      if (kernel_.scratch_bytes != 0 && !region->intact()) {
        failures_.add(where_, "guard bytes around the scratch were overwritten");
      }
    }
  }

  const Kernel& kernel_;
  const TernaryProblem& problem_;
  const std::uint8_t* packed_;
  Failures& failures_;
  std::int64_t mr_;
  std::int64_t group_stride_;
  std::int64_t stride_;
  Region x_;
  Region x_sums_;
  Region y_;
  std::vector<std::unique_ptr<Region>> scratch_;
  std::int64_t tokens_ = 0;
  std::int64_t first_token_ = 0;
  std::string where_;
  std::int8_t* x_data_ = nullptr;
  std::int32_t* sums_data_ = nullptr;
  std::int32_t* y_data_ = nullptr;
};

// Tokens of a problem whose values are not random: two tiles of the widest GEMM and one more.
constexpr std::int64_t kFewTokens = 33;

void run_problem(const Kernel& kernel, const TestPlan& plan, TestPlan::Shape shape, Values values, bool all_tokens,
                 ProblemCache& cache, Failures& failures) {
  const bool gemm = kernel.op == Op::kGemm;
  // A small-batch kernel takes at most m tokens.
  const std::int64_t most = kernel.m != 0 ? kernel.m : plan.tokens.back();
  const std::int64_t few = gemm ? std::min<std::int64_t>(2 * kernel.token_tile + 1, most) : 2;
  TernaryProblem& problem =
      cache.get(shape, kernel.group, values, all_tokens ? std::max(kFewTokens, plan.tokens.back()) : kFewTokens);
  if (!problem.oracle_error().empty()) return failures.add(problem.name(), problem.oracle_error());
  TernaryRun run(kernel, problem, gemm && all_tokens ? std::max(few, most) : few, failures);
  const bool large = shape.n * shape.k >= kLarge;
  if (!gemm) {
    for (std::int64_t parts = 1; parts <= 4; ++parts) {
      if (parts > 1 && split(shape.n, parts).size() < index(parts)) break;
      run.run(parts % 2, 1, parts, false);
    }
    if (large) run.run(0, 1, 4, true);
    return;
  }
  std::vector<std::int64_t> counts = {few};
  if (all_tokens) {
    counts.clear();
    for (const std::int64_t tokens : plan.tokens) {
      if (tokens <= most) counts.push_back(tokens);
    }
  }
  std::int64_t turn = shape.n + shape.k;
  for (const std::int64_t tokens : counts) {
    if (failures.full()) return;
    run.run(0, tokens, 1 + turn++ % 4, false);
  }
  if (large) run.run(0, few, 4, true);
}

}  // namespace

void test_ternary(const Kernel& kernel, const TestPlan& plan, ProblemCache& cache, Failures& failures) {
  std::vector<TestPlan::Shape> shapes = plan.shapes;
  if (kernel.n != 0 || kernel.k != 0) shapes = {{kernel.n, kernel.k}};
  std::size_t turn = 0;
  for (const TestPlan::Shape shape : shapes) {
    const bool large = shape.n * shape.k >= kLarge;
    if (large || shapes.size() == 1) {
      // Every kind of values; all token counts with random ones.
      for (const Values values : kAllValues) {
        if (failures.full()) return;
        if (large && values != Values::kRandom && values != Values::kExtreme && values != Values::kAlternating)
          continue;
        run_problem(kernel, plan, shape, values, values == Values::kRandom, cache, failures);
      }
    } else {
      // The tails take turns with the kinds of values; each runs all token counts.
      if (failures.full()) return;
      run_problem(kernel, plan, shape, kAllValues[turn % std::size(kAllValues)], true, cache, failures);
      ++turn;
    }
  }
}

struct KernelTester::State {
  TestPlan plan;
  ProblemCache cache;
};

KernelTester::KernelTester(TestPlan plan) : state_(std::make_unique<State>()) { state_->plan = std::move(plan); }
KernelTester::~KernelTester() = default;

std::vector<std::string> KernelTester::test(const Kernel& kernel) {
  Failures failures(kernel, state_->plan);
  const FaultGuard guard;
  if (is_ternary(kernel.op)) {
    test_ternary(kernel, state_->plan, state_->cache, failures);
  } else {
    test_dense(kernel, state_->plan, failures);
  }
  return failures.take();
}

std::vector<std::string> test_kernel(const Kernel& kernel, const TestPlan& plan) {
  return KernelTester(plan).test(kernel);
}

TestPlan full_plan() {
  TestPlan plan;
  // Tails of every kind.
  for (std::int64_t n = 1; n <= 35; ++n) {
    for (std::int64_t k = 1; k <= 70; ++k) plan.shapes.push_back({n, k});
  }
  // tiny, large, 2b-4t, and the widest K (3b).
  const TestPlan::Shape models[] = {{160, 128},   {128, 128},   {1536, 1536},  {4608, 1536}, {4096, 1536}, {1536, 4096},
                                    {3840, 2560}, {2560, 2560}, {13824, 2560}, {2560, 6912}, {320, 8640}};
  plan.shapes.insert(plan.shapes.end(), std::begin(models), std::end(models));
  plan.tokens.resize(17);
  std::iota(plan.tokens.begin(), plan.tokens.end(), 1);
  plan.tokens.insert(plan.tokens.end(), {31, 32, 33, 127, 128, 129});
  for (std::int64_t k = 1; k <= 70; ++k) plan.widths.push_back(k);
  plan.widths.insert(plan.widths.end(), {127, 128, 129, 255, 256, 640, 1536, 2560, 4096, 6912, 8640});
  plan.heads = {1, 2, 3, 4, 5, 8};
  plan.head_dims = {1, 7, 16, 20, 64, 80, 128};
  plan.lengths = {1, 2, 17, 63, 64, 65, 255, 256, 257, 513, 1025};
  plan.head_rows = {1, 2, 3, 4, 5, 8, 33};
  return plan;
}

TestPlan quick_plan() {
  TestPlan plan;
  for (const std::int64_t n : {1, 15, 16, 17, 32, 35}) {
    for (const std::int64_t k : {1, 3, 15, 16, 17, 63, 64, 65, 70}) plan.shapes.push_back({n, k});
  }
  const TestPlan::Shape models[] = {{160, 128}, {128, 128}, {48, 2560}, {33, 6912}, {17, 8640}};
  plan.shapes.insert(plan.shapes.end(), std::begin(models), std::end(models));
  plan.tokens = {1, 2, 3, 4, 5, 8, 17};
  plan.widths = {1, 3, 15, 16, 17, 31, 32, 33, 63, 64, 65, 70, 2560};
  plan.heads = {1, 3, 4, 5};
  plan.head_dims = {1, 20, 64, 128};
  plan.lengths = {1, 17, 256, 257, 513};
  plan.head_rows = {1, 4, 5, 9};
  return plan;
}

TestPlan plan_from_environment() { return quick_wanted() ? quick_plan() : full_plan(); }

}  // namespace bitnet::test
