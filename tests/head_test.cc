// The screened head against every row scored exactly: the tokens that a selection can choose, and their logits, must be
// the same to the last bit, for random and for adversarial rows, states, penalties and selections.
#include <doctest/doctest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <numeric>
#include <random>
#include <string>
#include <unordered_map>
#include <vector>

#include "runtime/base/half.h"
#include "runtime/base/thread_pool.h"
#include "runtime/kernels/kernel.h"
#include "runtime/model/head_screen.h"
#include "runtime/model/screened_head.h"

namespace bitnet {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

Kernel kernel_of(Op op, Format format, std::int64_t n, std::int64_t k) {
  const std::vector<Isa> usable = executable_isas();
  const Kernel* kernel = find_kernel(builtin_kernels(), usable, {.op = op, .format = format, .n = n, .k = k});
  REQUIRE(kernel != nullptr);
  return *kernel;
}

// A head in one of the formats, with its screened copy.
struct Head {
  Format format;
  std::int64_t vocab;
  std::int64_t hidden;
  std::vector<std::byte> weights;
  Buffer block;
  HeadMatrix matrix;

  Head(Format format_of, std::int64_t rows, std::int64_t columns, const std::vector<float>& values)
      : format(format_of), vocab(rows), hidden(columns) {
    const std::size_t size = format == Format::kF32 ? 4 : 2;
    weights.resize(values.size() * size);
    for (std::size_t i = 0; i < values.size(); ++i) {
      const auto bits = std::bit_cast<std::uint32_t>(values[i]);
      const std::uint16_t narrow =
          format == Format::kBf16 ? static_cast<std::uint16_t>(bits >> 16) : float_to_half(values[i]);
      if (format == Format::kF32) {
        std::memcpy(&weights[i * size], &bits, size);
      } else {
        std::memcpy(&weights[i * size], &narrow, size);
      }
    }
    Result<Buffer> made = Buffer::allocate(screened_layout(vocab, hidden).bytes);
    REQUIRE(made.ok());
    block = std::move(*made);
    make_screened_rows(format, weights.data(), vocab, hidden, 0, vocab, block.data());
    matrix = {.weights = weights.data(),
              .rows = screened_rows(block.data(), vocab, hidden),
              .exact = kernel_of(Op::kHead, format, vocab, hidden),
              .screen = kernel_of(Op::kHeadScreen, Format::kI8, vocab, hidden)};
  }

  [[nodiscard]] float at(std::int64_t row, std::int64_t i) const {
    const auto index = static_cast<std::size_t>(row * hidden + i);
    if (format == Format::kF32) return reinterpret_cast<const float*>(weights.data())[index];
    const std::uint16_t bits = reinterpret_cast<const std::uint16_t*>(weights.data())[index];
    return format == Format::kF16 ? half_to_float(bits) : std::bit_cast<float>(std::uint32_t{bits} << 16);
  }
  [[nodiscard]] std::vector<float> exact(const float* x) const {
    std::vector<float> logits(static_cast<std::size_t>(vocab));
    matrix.exact(bitnet_head_args{weights.data(), x, logits.data(), 0, vocab, hidden});
    return logits;
  }
};

// Logits that a caller changes before it chooses.
using Changes = std::unordered_map<std::int32_t, std::function<float(float)>>;
float change(const void* self, std::int32_t id, float logit) {
  return static_cast<const Changes*>(self)->at(id)(logit);
}

struct Choice {
  std::int32_t id;
  float value;
  bool operator==(const Choice& other) const {
    return id == other.id && std::bit_cast<std::uint32_t>(value) == std::bit_cast<std::uint32_t>(other.value);
  }
};

// The `top` largest adjusted logits, of equal ones those with the lower ids.
std::vector<Choice> choose(const Logits& logits, const Changes& changes, std::int64_t top) {
  std::vector<Choice> all;
  for (std::size_t i = 0; i < logits.values.size(); ++i) {
    const auto id = logits.ids.empty() ? static_cast<std::int32_t>(i) : logits.ids[i];
    const auto changed = changes.find(id);
    all.push_back({id, changed == changes.end() ? logits.values[i] : changed->second(logits.values[i])});
  }
  std::stable_sort(all.begin(), all.end(), [](const Choice& a, const Choice& b) { return a.value > b.value; });
  all.resize(std::min(all.size(), static_cast<std::size_t>(top)));
  return all;
}

// Checks one token of a screen against its exact logits; returns how many rows were scored again.
std::int64_t check_selection(HeadScreen& screen, std::int64_t token, const std::vector<float>& exact,
                             const Changes& changes, std::int64_t top) {
  std::vector<std::int32_t> adjusted;
  for (const auto& [id, changed] : changes) adjusted.push_back(id);
  std::vector<float> scratch(exact.size());
  const Logits some =
      screen.select(token, {.top = top, .adjusted = adjusted, .adjust = change, .self = &changes}, scratch.data());
  REQUIRE(some.ids.size() == some.values.size());
  bool same = true;
  for (std::size_t i = 0; i < some.ids.size(); ++i) {
    const auto id = static_cast<std::size_t>(some.ids[i]);
    same = same && (i == 0 || some.ids[i] > some.ids[i - 1]) && std::memcmp(&some.values[i], &exact[id], 4) == 0;
  }
  CHECK(same);  // ids ascend, values are the exact ones
  for (const std::int32_t id : adjusted) CHECK(std::binary_search(some.ids.begin(), some.ids.end(), id));
  CHECK(choose(some, changes, top) == choose({exact, {}}, changes, top));
  CHECK(screen.rescored() >= static_cast<std::int64_t>(some.ids.size()));
  return screen.rescored();
}

void check_state(const Head& head, ThreadPool& pool, const std::vector<float>& x, const Changes& changes,
                 std::initializer_list<std::int64_t> tops) {
  Result<HeadScreen> screen = HeadScreen::create(head.matrix, pool);
  REQUIRE(screen.ok());
  const std::int64_t tokens = static_cast<std::int64_t>(x.size()) / head.hidden;
  screen->screen(x.data(), tokens);
  for (std::int64_t t = 0; t < tokens; ++t) {
    REQUIRE(screen->usable(t));
    const std::vector<float> exact = head.exact(x.data() + t * head.hidden);
    for (const std::int64_t top : tops) {
      if (top < head.vocab) check_selection(*screen, t, exact, changes, top);
    }
  }
}

std::unique_ptr<ThreadPool> pool_of(int threads) {
  Result<std::unique_ptr<ThreadPool>> pool = ThreadPool::create(threads);
  REQUIRE(pool.ok());
  return std::move(*pool);
}

enum class Rows { kNormal, kOutliers, kTwins, kTiny, kScales, kSparse };
constexpr Rows kRowKinds[] = {Rows::kNormal, Rows::kOutliers, Rows::kTwins, Rows::kTiny, Rows::kScales, Rows::kSparse};
enum class States { kNormal, kOutlier, kZero, kSmall, kSteps };
constexpr States kStateKinds[] = {States::kNormal, States::kOutlier, States::kZero, States::kSmall, States::kSteps};

std::vector<float> make_rows(Rows kind, std::int64_t vocab, std::int64_t hidden, std::mt19937& random) {
  std::normal_distribution<float> normal(0.0F, 0.05F);
  std::vector<float> w(static_cast<std::size_t>(vocab * hidden));
  for (float& value : w) value = normal(random);
  for (std::int64_t r = 0; r < vocab; ++r) {
    float* row = w.data() + r * hidden;
    if (kind == Rows::kOutliers && r % 3 == 0) row[random() % static_cast<unsigned>(hidden)] = 60.0F;
    if (kind == Rows::kScales) {
      const float scale = std::exp2(static_cast<float>(static_cast<int>(random() % 24) - 12));
      for (std::int64_t i = 0; i < hidden; ++i) row[i] *= scale;
    }
    // Subnormal in float16; some rows are zero.
    if (kind == Rows::kTiny) {
      for (std::int64_t i = 0; i < hidden; ++i) row[i] *= r % 5 == 0 ? 0.0F : 1e-6F;
    }
    if (kind == Rows::kSparse) {
      for (std::int64_t i = 0; i < hidden; ++i) row[i] = random() % 8 == 0 ? row[i] : 0.0F;
    }
    // Copies of an earlier row, every other one changed in the last bit of one weight.
    if (kind == Rows::kTwins && r >= 8) {
      std::copy_n(w.data() + (r % 8) * hidden, hidden, row);
      float& one = row[random() % static_cast<unsigned>(hidden)];
      if (r % 2 == 0) one = half_to_float(static_cast<std::uint16_t>(float_to_half(one) + 1));
    }
  }
  return w;
}

std::vector<float> make_state(States kind, std::int64_t hidden, std::mt19937& random) {
  std::normal_distribution<float> normal;
  std::vector<float> x(static_cast<std::size_t>(hidden));
  for (float& value : x) {
    value = kind == States::kZero ? 0.0F : kind == States::kSmall ? 1e-9F * normal(random) : normal(random);
    if (kind == States::kSteps) value = std::round(value * 2.0F);
  }
  if (kind == States::kOutlier) x[random() % x.size()] = 1e4F;
  return x;
}

// Penalties on some tokens; one lifts a low row to the top, another pushes the top row away.
Changes make_changes(const std::vector<float>& exact, std::mt19937& random) {
  Changes changes;
  for (int i = 0; i < 6; ++i) {
    const float penalty = 0.1F * static_cast<float>(i);
    changes[static_cast<std::int32_t>(random() % exact.size())] = [penalty](float v) { return v - penalty; };
  }
  const auto highest = std::max_element(exact.begin(), exact.end());
  const auto lowest = std::min_element(exact.begin(), exact.end());
  const float above = *highest + 1.0F;
  changes[static_cast<std::int32_t>(lowest - exact.begin())] = [above](float) { return above; };
  changes[static_cast<std::int32_t>(highest - exact.begin())] = [](float v) { return v - 1000.0F; };
  return changes;
}

TEST_CASE("screened rows: the norms cover the difference, tightly, and the bytes do not depend on the split") {
  std::mt19937 random(1);
  for (const Format format : {Format::kF16, Format::kBf16, Format::kF32}) {
    for (const Rows kind : kRowKinds) {
      const std::int64_t vocab = 37;
      const std::int64_t hidden = kind == Rows::kNormal ? 20000 : 150;  // beyond one chunk of sums
      const Head head(format, vocab, hidden, make_rows(kind, vocab, hidden, random));
      const ScreenedRows& rows = head.matrix.rows;
      const ScreenedLayout layout = screened_layout(vocab, hidden);
      CHECK(layout.stride % 64 == 0);
      CHECK(layout.bytes % 64 == 0);
      for (std::int64_t r = 0; r < vocab; ++r) {
        long double error = 0;
        long double norm = 0;
        for (std::int64_t i = 0; i < hidden; ++i) {
          const long double copy = static_cast<long double>(rows.rows[r * layout.stride + i]) * rows.scales[r];
          error += (head.at(r, i) - copy) * (head.at(r, i) - copy);
          norm += copy * copy;
        }
        for (std::int64_t i = hidden; i < layout.stride; ++i) REQUIRE(rows.rows[r * layout.stride + i] == 0);
        REQUIRE(rows.errors[r] >= std::sqrt(error));
        REQUIRE(rows.norms[r] >= std::sqrt(norm));
        REQUIRE(rows.norms[r] <= std::sqrt(norm) * 1.000001L);
        REQUIRE(rows.errors[r] <= std::sqrt(error) * 1.001L + 1e-5L * std::sqrt(norm));
      }
      Result<Buffer> again = Buffer::allocate(layout.bytes);
      REQUIRE(again.ok());
      std::memset(again->data(), 0x5A, layout.bytes);
      for (const auto& [begin, end] : {std::pair{16, 37}, {0, 5}, {5, 16}}) {
        make_screened_rows(format, head.weights.data(), vocab, hidden, begin, end, again->data());
      }
      CHECK(std::memcmp(again->data(), head.block.data(), layout.bytes) == 0);
    }
  }
}

TEST_CASE("screened rows: what cannot be bounded has an infinite norm, and no state is usable then") {
  const std::int64_t hidden = 70;
  const std::unique_ptr<ThreadPool> pool = pool_of(1);
  const std::vector<float> x(static_cast<std::size_t>(hidden), 1.0F);
  for (const float bad : {kInfinity, -kInfinity, std::numeric_limits<float>::quiet_NaN(), 1e30F}) {
    for (const float others : {0.5F, 0.0F}) {
      std::vector<float> w(static_cast<std::size_t>(3 * hidden), others);
      w[static_cast<std::size_t>(hidden + 33)] = bad;
      const Head head(Format::kF32, 3, hidden, w);
      CHECK(head.matrix.rows.errors[1] == kInfinity);
      CHECK(head.matrix.rows.scales[1] == 0.0F);
      CHECK(head.matrix.rows.errors[0] < 1.0F);
      Result<HeadScreen> screen = HeadScreen::create(head.matrix, *pool);
      REQUIRE(screen.ok());
      screen->screen(x.data(), 1);
      CHECK_FALSE(screen->usable(0));
    }
  }
  // Below 2^-60 everywhere: no int8 at all, and an error that covers the row.
  const Head tiny(Format::kF32, 1, hidden, std::vector<float>(static_cast<std::size_t>(hidden), 1e-40F));
  CHECK(tiny.matrix.rows.scales[0] == 0.0F);
  CHECK(tiny.matrix.rows.errors[0] >= 1e-40F * std::sqrt(70.0F));
  CHECK(tiny.matrix.rows.errors[0] < 1e-39F * std::sqrt(70.0F));
}

TEST_CASE("states that are not finite, or near the ends of float32, are not usable") {
  std::mt19937 random(2);
  const std::int64_t hidden = 96;
  const std::unique_ptr<ThreadPool> pool = pool_of(1);
  const Head head(Format::kF32, 40, hidden, make_rows(Rows::kNormal, 40, hidden, random));
  Result<HeadScreen> screen = HeadScreen::create(head.matrix, *pool);
  REQUIRE(screen.ok());
  const auto usable = [&](float value) {
    std::vector<float> x = make_state(States::kNormal, hidden, random);
    x[5] = value;
    screen->screen(x.data(), 1);
    return screen->usable(0);
  };
  CHECK(usable(1.0F));
  CHECK(usable(1e15F));
  CHECK_FALSE(usable(kInfinity));
  CHECK_FALSE(usable(-std::numeric_limits<float>::quiet_NaN()));
  CHECK_FALSE(usable(1e30F));
  const std::vector<float> small(static_cast<std::size_t>(hidden), 1e-30F);
  screen->screen(small.data(), 1);
  CHECK_FALSE(screen->usable(0));
  // Rows and state within their ranges, but not their product.
  std::vector<float> w(static_cast<std::size_t>(hidden), 0x1p59F);
  const Head large(Format::kF32, 1, hidden, w);
  Result<HeadScreen> other = HeadScreen::create(large.matrix, *pool);
  REQUIRE(other.ok());
  const std::vector<float> x(static_cast<std::size_t>(hidden), 0x1p59F);
  other->screen(x.data(), 1);
  CHECK_FALSE(other->usable(0));
}

TEST_CASE("selections are those of the exact head: kinds of rows, states, formats, penalties, threads") {
  std::mt19937 random(3);
  int turn = 0;
  for (const Format format : {Format::kF16, Format::kBf16, Format::kF32}) {
    for (const Rows rows : kRowKinds) {
      for (const States state : kStateKinds) {
        const std::int64_t vocab = 200 + static_cast<std::int64_t>(random() % 1200);
        const std::int64_t hidden = 1 + static_cast<std::int64_t>(random() % 200);
        const std::unique_ptr<ThreadPool> pool = pool_of(1 + turn++ % 4);
        const Head head(format, vocab, hidden, make_rows(rows, vocab, hidden, random));
        const std::vector<float> x = make_state(state, hidden, random);
        CAPTURE(static_cast<int>(rows));
        CAPTURE(static_cast<int>(state));
        CAPTURE(vocab);
        CAPTURE(hidden);
        check_state(head, *pool, x, {}, {1, 5, 50, 1000, vocab - 1});
        check_state(head, *pool, x, make_changes(head.exact(x.data()), random), {1, 5, 50, vocab - 1});
      }
    }
  }
}

TEST_CASE("several tokens share a pass, each with its own selection") {
  std::mt19937 random(4);
  const std::int64_t vocab = 900;
  const std::int64_t hidden = 130;
  const Head head(Format::kF16, vocab, hidden, make_rows(Rows::kNormal, vocab, hidden, random));
  for (int threads = 1; threads <= 4; ++threads) {
    const std::unique_ptr<ThreadPool> pool = pool_of(threads);
    for (std::int64_t tokens = 1; tokens <= HeadScreen::kTokens; ++tokens) {
      std::vector<float> x;
      for (std::int64_t t = 0; t < tokens; ++t) {
        const std::vector<float> one = make_state(kStateKinds[random() % std::size(kStateKinds)], hidden, random);
        x.insert(x.end(), one.begin(), one.end());
      }
      check_state(head, *pool, x, {}, {1, 40});
    }
  }
}

// Rows whose int8 copies are wrong by as much as a bound allows: w = w^ + d sign(x) with |x| constant makes Cauchy and
// Schwarz equal. The true winner's score lies almost two bounds below the best score.
TEST_CASE("rows at their bounds") {
  const std::int64_t hidden = 256;
  const std::int64_t vocab = 64;
  const std::unique_ptr<ThreadPool> pool = pool_of(2);
  std::mt19937 random(5);
  for (int round = 0; round < 400; ++round) {
    std::vector<float> x(static_cast<std::size_t>(hidden));
    for (float& value : x) value = (random() & 1) != 0 ? 32767.0F : -32767.0F;
    std::vector<float> w(static_cast<std::size_t>(vocab * hidden), 0.0F);
    const auto fill = [&](std::int64_t row, float base, float error) {
      for (std::int64_t i = 0; i < hidden; ++i) {
        const float sign = x[static_cast<std::size_t>(i)] > 0 ? 1.0F : -1.0F;
        w[static_cast<std::size_t>(row * hidden + i)] = sign * (base + error);
      }
      // The row's largest weight: its scale is 1. It adds nothing: its twin has the other sign of x.
      w[static_cast<std::size_t>(row * hidden)] = 127.0F;
    };
    // Scores 256 * base; true values 256 * (base + error).
    const auto winner = static_cast<std::int64_t>(random() % vocab);
    const auto decoy = (winner + 1 + static_cast<std::int64_t>(random() % (vocab - 1))) % vocab;
    for (std::int64_t r = 0; r < vocab; ++r) fill(r, 1.0F, 0.0F);
    const float error = 0.45F + 0.0001F * static_cast<float>(round);
    fill(decoy, 10.0F, -error);
    fill(winner, 9.0F, error);
    const Head head(Format::kF32, vocab, hidden, w);
    const std::vector<float> exact = head.exact(x.data());
    REQUIRE((exact[static_cast<std::size_t>(winner)] > exact[static_cast<std::size_t>(decoy)]) ==
            (error > 0.5F - 1e-6F));
    check_state(head, *pool, x, {}, {1, 2, 3});
  }
}

TEST_CASE("states at their bounds") {
  const std::int64_t hidden = 128;
  const std::int64_t vocab = 70;
  const std::unique_ptr<ThreadPool> pool = pool_of(3);
  std::mt19937 random(6);
  for (int round = 0; round < 300; ++round) {
    // x^ = x rounded to whole numbers, since the largest is 32767; rows are +-1: exact in int8.
    std::vector<float> x(static_cast<std::size_t>(hidden));
    for (float& value : x) value = static_cast<float>(random() % 200) + ((random() & 1) != 0 ? 0.49F : 0.51F);
    x[0] = 32767.0F;
    std::vector<float> w(static_cast<std::size_t>(vocab * hidden));
    for (std::int64_t r = 0; r < vocab; ++r) {
      for (std::int64_t i = 0; i < hidden; ++i) {
        const float value = x[static_cast<std::size_t>(i)];
        // Rows of even number gain what is rounded away, the others lose it; a few signs differ from row to row.
        const bool up = std::round(value) < value;
        const bool flipped = random() % 40 == 0;
        w[static_cast<std::size_t>(r * hidden + i)] = (up == (r % 2 == 0)) != flipped ? 1.0F : -1.0F;
      }
    }
    check_state(Head(Format::kF16, vocab, hidden, w), *pool, x, {}, {1, 2, 7, 30});
  }
}

TEST_CASE("few rows are scored again where rows are as in a model") {
  std::mt19937 random(7);
  const std::int64_t vocab = 8000;
  const std::int64_t hidden = 512;
  const std::unique_ptr<ThreadPool> pool = pool_of(2);
  const Head head(Format::kF16, vocab, hidden, make_rows(Rows::kNormal, vocab, hidden, random));
  Result<HeadScreen> screen = HeadScreen::create(head.matrix, *pool);
  REQUIRE(screen.ok());
  const std::vector<float> x = make_state(States::kNormal, hidden, random);
  screen->screen(x.data(), 1);
  const std::vector<float> exact = head.exact(x.data());
  CHECK(check_selection(*screen, 0, exact, {}, 1) < 50);
  CHECK(check_selection(*screen, 0, exact, {}, 50) < 400);
}

}  // namespace
}  // namespace bitnet
