// The tester's output head: float rows of every format, and the int8 rows of the screening head.
#include <limits>

#include "runtime/base/half.h"
#include "runtime/base/math.h"
#include "runtime/reference/reference.h"
#include "tests/kernel_tester_dense.h"

namespace bitnet::test {
namespace {

// Calls the kernel for rows row_begin .. row_end - 1 of n and compares; rows outside must keep what was there.
template <typename Args>
void test_rows(const Kernel& kernel, Args args, std::int64_t n, std::int64_t row_begin, std::int64_t row_end,
               const float* expected, const std::string& what, Failures& failures) {
  const std::string where =
      "n=" + std::to_string(n) + ", rows " + std::to_string(row_begin) + ".." + std::to_string(row_end) + ", " + what;
  Region y_region(index(n) * sizeof(float));
  auto* y = y_region.place<float>(n);
  args.y = y;
  args.row_begin = row_begin;
  args.row_end = row_end;
  if (!call(kernel, args)) return failures.add(where, kFault);
  if (!same_floats(expected + row_begin, y + row_begin, row_end - row_begin, where, failures)) return;
  for (std::int64_t r = 0; r < n; ++r) {
    if ((r < row_begin || r >= row_end) && std::bit_cast<std::int32_t>(y[r]) != kPatternInt) {
      return failures.add(where, "row " + std::to_string(r) + " was written");
    }
  }
  check_intact({&y_region}, where, failures);
}

template <typename Args>
void test_row_ranges(const Kernel& kernel, const Args& args, std::int64_t n, const float* expected,
                     const std::string& what, Failures& failures) {
  test_rows(kernel, args, n, 0, n, expected, what, failures);
  if (n >= 3 && !failures.full()) test_rows(kernel, args, n, n / 3, n - 1, expected, what, failures);
}

std::uint16_t to_bfloat(float value) { return static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(value) >> 16); }

constexpr std::int64_t kQ8Block = 32;
constexpr std::int64_t kQ8Bytes = 34;

std::int64_t row_bytes(Format format, std::int64_t k) {
  if (format == Format::kQ8) return ceil_div(k, kQ8Block) * kQ8Bytes;
  return k * (format == Format::kF32 ? 4 : 2);
}

void reference_head(Format format, const void* weights, const float* x, std::int64_t n, std::int64_t k, float* y) {
  if (format == Format::kQ8) return reference::head_q8(static_cast<const std::uint8_t*>(weights), x, n, k, y);
  if (format == Format::kF32) return reference::head_f32(static_cast<const float*>(weights), x, n, k, y);
  const auto* bits = static_cast<const std::uint16_t*>(weights);
  (format == Format::kBf16 ? reference::head_bf16 : reference::head_f16)(bits, x, n, k, y);
}

// Factors of the kind, all int8; what lies beyond k is a wrong value, not zero.
void fill_blocks(FloatKind kind, std::mt19937& random, std::uint8_t* blocks, std::int64_t count) {
  std::vector<std::uint16_t> factors(index(count));
  fill_halves(kind, random, factors.data(), count);
  for (std::int64_t b = 0; b < count; ++b) {
    std::uint8_t* block = blocks + b * kQ8Bytes;
    std::memcpy(block, &factors[index(b)], 2);
    for (std::int64_t i = 2; i < kQ8Bytes; ++i) block[i] = static_cast<std::uint8_t>(random());
  }
}

void fill_weights(Format format, FloatKind kind, std::mt19937& random, void* weights, std::int64_t count) {
  if (format == Format::kF32) return fill_floats(kind, random, static_cast<float*>(weights), count);
  auto* bits = static_cast<std::uint16_t*>(weights);
  if (format == Format::kF16) return fill_halves(kind, random, bits, count);
  std::vector<float> wide(index(count));
  fill_floats(kind, random, wide.data(), count);
  std::transform(wide.begin(), wide.end(), bits, to_bfloat);
}

void test_float_rows(const Kernel& kernel, std::int64_t n, std::int64_t k, FloatKind kind, Failures& failures) {
  std::mt19937 random(static_cast<unsigned>(n * 1009 + k));
  const std::int64_t bytes = n * row_bytes(kernel.format, k);
  Region weight_region(index(bytes));
  Region x_region(index(k) * sizeof(float));
  void* weights = weight_region.place<std::byte>(bytes);
  if (kernel.format == Format::kQ8) {
    fill_blocks(kind, random, static_cast<std::uint8_t*>(weights), bytes / kQ8Bytes);
  } else {
    fill_weights(kernel.format, kind, random, weights, n * k);
  }
  std::vector<float> x(index(k));
  fill_floats(kind == FloatKind::kHuge ? FloatKind::kNormal : kind, random, x.data(), k);
  auto args = poisoned_args<bitnet_head_args>();
  args.weights = weights;
  args.x = place_copy(x_region, x);
  if (kernel.k == 0) args.k = k;
  std::vector<float> expected(index(n));
  reference_head(kernel.format, weights, x.data(), n, k, expected.data());
  const std::string what = at(k, kind);
  test_row_ranges(kernel, args, n, expected.data(), what, failures);
  check_intact({&weight_region, &x_region}, what, failures);
}

// Every pattern of 16 bits, as element or as (finite) factor of the element 1, converted exactly: k = 1, x = 1. And a
// matrix large enough for streams.
void test_all_patterns(const Kernel& kernel, Failures& failures) {
  constexpr std::int64_t kCount = 65536;
  const auto bytes = index(row_bytes(kernel.format, 1));
  std::vector<std::uint8_t> patterns(kCount * bytes, 1);
  for (std::size_t i = 0; i < kCount; ++i) {
    const bool finite = (i & 0x7C00) != 0x7C00;
    const auto bits = static_cast<std::uint16_t>(kernel.format == Format::kQ8 && !finite ? 0 : i);
    std::memcpy(&patterns[i * bytes], &bits, sizeof bits);
  }
  Region weight_region(patterns.size());
  const float one = 1.0F;
  auto args = poisoned_args<bitnet_head_args>();
  args.weights = place_copy(weight_region, patterns);
  args.x = &one;
  args.k = 1;
  std::vector<float> expected(kCount);
  reference_head(kernel.format, patterns.data(), &one, kCount, 1, expected.data());
  test_rows(kernel, args, kCount, 0, kCount, expected.data(), "every pattern of 16 bits", failures);
}

// Largest products: sums that leave int32 after a few hundred of them, of one sign or of both.
enum class Screen { kRandom, kLargest, kAlternating, kZero };
constexpr const char* kScreenNames[] = {"random", "all 127 x 32767", "+-127 x +-32767", "zero"};

// Rows row_begin .. row_end - 1 of n for all tokens; what lies between the tokens' rows must keep what was there.
void test_screen_range(const Kernel& kernel, bitnet_head_screen_args args, std::int64_t n, std::int64_t row_begin,
                       std::int64_t row_end, const std::vector<float>& expected, const std::string& what,
                       Failures& failures) {
  const std::string where =
      "n=" + std::to_string(n) + ", rows " + std::to_string(row_begin) + ".." + std::to_string(row_end) + ", " + what;
  Region y_region(expected.size() * sizeof(float));
  auto* y = y_region.place<float>(static_cast<std::int64_t>(expected.size()));
  args.y = y;
  args.row_begin = row_begin;
  args.row_end = row_end;
  if (!call(kernel, args)) return failures.add(where, kFault);
  for (std::int64_t t = 0; t < args.tokens; ++t) {
    const std::string token = where + ", token " + std::to_string(t);
    const float* row = y + t * args.y_stride;
    const float* wanted = expected.data() + t * args.y_stride;
    if (!same_floats(wanted + row_begin, row + row_begin, row_end - row_begin, token, failures)) return;
    const std::int64_t floats = t + 1 < args.tokens ? args.y_stride : n;
    for (std::int64_t r = 0; r < floats; ++r) {
      if ((r < row_begin || r >= row_end) && std::bit_cast<std::int32_t>(row[r]) != kPatternInt) {
        return failures.add(token, "row " + std::to_string(r) + " was written");
      }
    }
  }
  check_intact({&y_region}, where, failures);
}

void test_screen_rows(const Kernel& kernel, std::int64_t n, std::int64_t k, std::int64_t tokens, Screen values,
                      Failures& failures) {
  std::mt19937 random(static_cast<unsigned>(n * 1009 + k * 11 + tokens));
  const std::int64_t width = BITNET_SCREEN_WIDTH(k);
  std::vector<std::int8_t> weights(index(n * width));
  std::vector<std::int16_t> x(index(tokens * width));
  const auto sign = [&random] { return (random() & 1) != 0 ? 1 : -1; };
  for (std::int64_t r = 0; r < n; ++r) {
    for (std::int64_t i = 0; i < k; ++i) {
      const int any = static_cast<int>(random() % 255) - 127;
      weights[index(r * width + i)] = static_cast<std::int8_t>(values == Screen::kLargest ? (r % 2 == 0 ? 127 : -127)
                                                               : values == Screen::kAlternating ? 127 * sign()
                                                                                                : any);
    }
  }
  for (std::int64_t t = 0; t < tokens; ++t) {
    for (std::int64_t i = 0; i < k; ++i) {
      const int any = static_cast<int>(random() % 65535) - 32767;
      x[index((i / 64 * tokens + t) * 64 + i % 64)] =
          static_cast<std::int16_t>(values == Screen::kRandom        ? any
                                    : values == Screen::kLargest     ? (t % 2 == 0 ? 32767 : -32767)
                                    : values == Screen::kAlternating ? 32767 * sign()
                                                                     : 0);
    }
  }
  std::vector<float> scales(index(n));
  std::vector<float> x_scales(index(tokens));
  fill_floats(FloatKind::kNormal, random, scales.data(), n);
  fill_floats(FloatKind::kNormal, random, x_scales.data(), tokens);
  Region weight_region(weights.size() + 64);
  Region x_region(x.size() * sizeof(std::int16_t) + 64);
  Region scale_region(scales.size() * sizeof(float));
  Region x_scale_region(x_scales.size() * sizeof(float));
  auto args = poisoned_args<bitnet_head_screen_args>();
  auto* aligned_weights = weight_region.place<std::int8_t>(static_cast<std::int64_t>(weights.size()), 64);
  auto* aligned_x = x_region.place<std::int16_t>(static_cast<std::int64_t>(x.size()), 64);
  std::copy(weights.begin(), weights.end(), aligned_weights);
  std::copy(x.begin(), x.end(), aligned_x);
  args.weights = aligned_weights;
  args.x = aligned_x;
  args.row_scales = place_copy(scale_region, scales);
  args.x_scales = place_copy(x_scale_region, x_scales);
  args.tokens = tokens;
  args.y_stride = n + 3;
  args.k = k;
  std::vector<float> expected(index((tokens - 1) * args.y_stride + n));
  args.y = expected.data();
  args.row_begin = 0;
  args.row_end = n;
  reference::head_screen(args);
  if (kernel.k != 0) args.k = std::numeric_limits<std::int64_t>::min();
  const std::string what = "k=" + std::to_string(k) + ", " + std::to_string(tokens) + " tokens, values " +
                           kScreenNames[static_cast<std::size_t>(values)];
  test_screen_range(kernel, args, n, 0, n, expected, what, failures);
  if (n >= 3 && !failures.full()) test_screen_range(kernel, args, n, n / 3, n - 1, expected, what, failures);
  check_intact({&weight_region, &x_region, &scale_region, &x_scale_region}, what, failures);
}

}  // namespace

void test_head(const Kernel& kernel, const TestPlan& plan, Failures& failures) {
  std::size_t turn = 0;
  for (const std::int64_t k : widths_of(kernel, plan)) {
    for (const std::int64_t n : plan.head_rows) {
      if (failures.full()) return;
      if (kernel.op == Op::kHeadScreen) {
        // Token counts below, at and beyond what a kernel takes at once; coprime to the kinds of values.
        constexpr std::int64_t kTokens[] = {1, 2, 3, 4, 5, 7, 8, 9, 17};
        const std::int64_t tokens = kTokens[turn % std::size(kTokens)];
        test_screen_rows(kernel, n, k, tokens, static_cast<Screen>(turn % std::size(kScreenNames)), failures);
        ++turn;
      } else {
        test_float_rows(kernel, n, k, kFloatKinds[turn++ % std::size(kFloatKinds)], failures);
      }
    }
  }
  if (kernel.op == Op::kHeadScreen) {
    // Longer than any chain of int32 sums.
    test_screen_rows(kernel, 5, 40003, 3, Screen::kLargest, failures);
    // Every token count that has code of its own, and rows beyond a block of them.
    for (std::int64_t tokens = 1; tokens <= 9; ++tokens) {
      test_screen_rows(kernel, 150, kernel.k != 0 ? kernel.k : 192, tokens, Screen::kRandom, failures);
    }
  } else if (kernel.format != Format::kF32 && kernel.k == 0) {
    test_all_patterns(kernel, failures);
  }
}

}  // namespace bitnet::test
