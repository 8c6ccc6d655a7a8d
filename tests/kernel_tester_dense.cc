// The tester's dense operations: every output bit against runtime/reference.
#include <algorithm>
#include <limits>

#include "runtime/base/half.h"
#include "runtime/base/math.h"
#include "runtime/reference/reference.h"
#include "tests/kernel_tester_support.h"

namespace bitnet::test {
namespace {

constexpr float kEps = 1e-5F;
constexpr const char* kFault = "it touched memory outside its arrays";

std::size_t index(std::int64_t i) { return static_cast<std::size_t>(i); }

std::string at(std::int64_t k, FloatKind kind) { return "k=" + std::to_string(k) + ", values " + to_string(kind); }

std::vector<std::int64_t> widths_of(const Kernel& kernel, const TestPlan& plan) {
  return kernel.k != 0 ? std::vector<std::int64_t>{kernel.k} : plan.widths;
}

float* place_copy(Region& region, const std::vector<float>& values) {
  auto* data = region.place<float>(static_cast<std::int64_t>(values.size()));
  std::copy(values.begin(), values.end(), data);
  return data;
}

// Gains as models have them: around 1, some far off, signs mixed.
std::vector<float> gains(std::mt19937& random, std::int64_t k) {
  std::vector<float> gain(index(k));
  fill_floats(FloatKind::kNormal, random, gain.data(), k);
  for (float& g : gain) g += 1.0F;
  return gain;
}

bool same_quantised(const std::vector<std::int8_t>& q, float scale, std::int32_t sum, const std::int8_t* found_q,
                    float found_scale, std::int32_t found_sum, const std::string& where, Failures& failures) {
  if (!same_floats(&scale, &found_scale, 1, where + ", scale", failures)) return false;
  for (std::size_t i = 0; i < q.size(); ++i) {
    if (q[i] != found_q[i]) {
      failures.add(where, "q[" + std::to_string(i) + "]: expected " + std::to_string(q[i]) + ", found " +
                              std::to_string(found_q[i]));
      return false;
    }
  }
  if (sum != found_sum) {
    failures.add(where, "q_sum: expected " + std::to_string(sum) + ", found " + std::to_string(found_sum));
    return false;
  }
  return true;
}

void check_intact(std::initializer_list<const Region*> regions, const std::string& where, Failures& failures) {
  for (const Region* region : regions) {
    if (!region->intact()) failures.add(where, "guard bytes were overwritten");
  }
}

// quantize and norm_quantize.
void test_quantize(const Kernel& kernel, std::int64_t k, FloatKind kind, Failures& failures) {
  const bool with_norm = kernel.op == Op::kNormQuantize;
  std::mt19937 random(static_cast<unsigned>(k));
  std::vector<float> x(index(k));
  fill_floats(kind, random, x.data(), k);
  const std::vector<float> gain = gains(random, k);
  const std::string where = at(k, kind);
  std::vector<std::int8_t> expected_q(index(k));
  float expected_scale = 0.0F;
  std::int32_t expected_sum = 0;
  if (with_norm) {
    reference::norm_quantize(x.data(), gain.data(), k, kEps, expected_q.data(), &expected_scale, &expected_sum);
  } else {
    reference::quantize(x.data(), k, expected_q.data(), &expected_scale, &expected_sum);
  }
  const std::size_t bytes = index(k) * sizeof(float);
  Region x_region(bytes);
  Region gain_region(bytes);
  Region q_region(bytes);
  Region scratch_region(bytes);
  Region scale_region(sizeof(float));
  Region sum_region(sizeof(std::int32_t));
  const float* x_data = place_copy(x_region, x);
  auto* q = q_region.place<std::int8_t>(k);
  auto* scale = scale_region.place<float>(1);
  auto* sum = sum_region.place<std::int32_t>(1);
  bool fine = false;
  if (with_norm) {
    auto args = poisoned_args<bitnet_norm_quantize_args>();
    args.x = x_data;
    args.gain = place_copy(gain_region, gain);
    args.q = q;
    args.scale = scale;
    args.q_sum = sum;
    args.scratch = scratch_region.place<float>(k, 64);
    if (kernel.k == 0) args.k = k;
    args.eps = kEps;
    fine = call(kernel, args);
  } else {
    auto args = poisoned_args<bitnet_quantize_args>();
    args.x = x_data;
    args.q = q;
    args.scale = scale;
    args.q_sum = sum;
    if (kernel.k == 0) args.k = k;
    fine = call(kernel, args);
  }
  if (!fine) return failures.add(where, kFault);
  if (!same_quantised(expected_q, expected_scale, expected_sum, q, *scale, *sum, where, failures)) return;
  check_intact({&x_region, &q_region, &scale_region, &sum_region}, where, failures);
  if (with_norm) check_intact({&gain_region, &scratch_region}, where, failures);
}

void test_norm(const Kernel& kernel, std::int64_t k, FloatKind kind, Failures& failures) {
  std::mt19937 random(static_cast<unsigned>(k));
  std::vector<float> x(index(k));
  fill_floats(kind, random, x.data(), k);
  const std::vector<float> gain = gains(random, k);
  std::vector<float> expected(index(k));
  reference::norm(x.data(), gain.data(), k, kEps, expected.data());
  Region x_region(index(k) * sizeof(float));
  Region gain_region(index(k) * sizeof(float));
  Region y_region(index(k) * sizeof(float));
  for (const bool in_place : {false, true}) {
    const std::string where = at(k, kind) + (in_place ? ", y = x" : "");
    auto args = poisoned_args<bitnet_norm_args>();
    float* x_data = place_copy(x_region, x);
    args.x = x_data;
    args.gain = place_copy(gain_region, gain);
    args.y = in_place ? x_data : y_region.place<float>(k);
    if (kernel.k == 0) args.k = k;
    args.eps = kEps;
    if (!call(kernel, args)) return failures.add(where, kFault);
    if (!same_floats(expected.data(), args.y, k, where, failures)) return;
    check_intact({&x_region, &gain_region}, where, failures);
    if (!in_place) check_intact({&y_region}, where, failures);
  }
}

void test_gate(const Kernel& kernel, std::int64_t k, FloatKind kind, Failures& failures) {
  std::mt19937 random(static_cast<unsigned>(k));
  std::vector<float> gate(index(k));
  std::vector<float> up(index(k));
  fill_floats(kind, random, gate.data(), k);
  fill_floats(kind == FloatKind::kHuge ? FloatKind::kNormal : kind, random, up.data(), k);
  std::vector<float> expected(index(k));
  (kernel.op == Op::kRelu2Gate ? reference::relu2_gate : reference::silu_gate)(gate.data(), up.data(), k,
                                                                               expected.data());
  Region gate_region(index(k) * sizeof(float));
  Region up_region(index(k) * sizeof(float));
  Region y_region(index(k) * sizeof(float));
  for (const char* alias : {"", ", y = gate", ", y = up"}) {
    const std::string where = at(k, kind) + alias;
    auto args = poisoned_args<bitnet_gate_args>();
    float* gate_data = place_copy(gate_region, gate);
    float* up_data = place_copy(up_region, up);
    args.gate = gate_data;
    args.up = up_data;
    args.y = *alias == '\0' ? y_region.place<float>(k) : alias[6] == 'g' ? gate_data : up_data;
    if (kernel.k == 0) args.k = k;
    if (!call(kernel, args)) return failures.add(where, kFault);
    if (!same_floats(expected.data(), args.y, k, where, failures)) return;
    check_intact({&gate_region, &up_region}, where, failures);
    if (*alias == '\0') check_intact({&y_region}, where, failures);
  }
}

struct AttentionShape {
  std::int64_t heads;
  std::int64_t head_dim;
  std::int64_t length;
  std::int64_t stride;
};

void test_attention(const Kernel& kernel, const AttentionShape& shape, FloatKind kind, Failures& failures) {
  const auto [heads, head_dim, length, stride] = shape;
  const std::string where = "heads " + std::to_string(heads) + ", head_dim " + std::to_string(head_dim) + ", length " +
                            std::to_string(length) + ", kv_stride " + std::to_string(stride) + ", values " +
                            to_string(kind);
  std::mt19937 random(static_cast<unsigned>(heads * 1000003 + head_dim * 1009 + length));
  const std::int64_t kv_count = (length - 1) * stride + head_dim;
  Region q_region(index(heads * head_dim) * sizeof(float));
  Region key_region(index(kv_count) * sizeof(std::uint16_t));
  Region value_region(index(kv_count) * sizeof(std::uint16_t));
  Region y_region(index(heads * head_dim) * sizeof(float));
  const std::int64_t scratch_count = BITNET_ATTENTION_SCRATCH(heads, head_dim);
  Region scratch_region(index(scratch_count) * sizeof(float) + 64);

  auto* q = q_region.place<float>(heads * head_dim);
  std::vector<std::uint16_t> q_half(index(heads * head_dim));
  fill_halves(kind, random, q_half.data(), heads * head_dim);
  std::transform(q_half.begin(), q_half.end(), q, half_to_float);
  // Between the rows stays the pattern, where other heads' values would be.
  auto* key = key_region.place<std::uint16_t>(kv_count);
  auto* value = value_region.place<std::uint16_t>(kv_count);
  for (std::int64_t j = 0; j < length; ++j) {
    fill_halves(kind, random, key + j * stride, head_dim);
    fill_halves(kind, random, value + j * stride, head_dim);
  }
  const float scale = kind == FloatKind::kConstant ? 1.0F : 0.08838834764F;
  std::vector<float> expected(index(heads * head_dim));
  reference::attention(q, key, value, heads, head_dim, length, stride, scale, expected.data());

  auto args = poisoned_args<bitnet_attention_args>();
  args.q = q;
  std::vector<const void*> key_pages;
  std::vector<const void*> value_pages;
  for (std::int64_t j = 0; j < length; j += BITNET_ATTENTION_CHUNK) {
    key_pages.push_back(key + j * stride);
    value_pages.push_back(value + j * stride);
  }
  args.key_pages = key_pages.data();
  args.value_pages = value_pages.data();
  args.y = y_region.place<float>(heads * head_dim);
  args.scratch = scratch_region.place<float>(scratch_count, 64);
  args.heads = heads;
  args.head_dim = head_dim;
  args.tokens = 1;
  args.past = length - 1;
  args.q_stride = heads * head_dim;
  args.y_stride = heads * head_dim;
  args.scale = scale;
  if (!call(kernel, args)) return failures.add(where, kFault);
  if (!same_floats(expected.data(), args.y, heads * head_dim, where, failures)) return;
  check_intact({&q_region, &key_region, &value_region, &y_region, &scratch_region}, where, failures);
}

void test_attentions(const Kernel& kernel, const TestPlan& plan, Failures& failures) {
  constexpr FloatKind kinds[] = {FloatKind::kNormal, FloatKind::kMixed,    FloatKind::kHuge,    FloatKind::kZero,
                                 FloatKind::kNormal, FloatKind::kDenormal, FloatKind::kConstant};
  std::size_t turn = 0;
  for (const std::int64_t heads : plan.heads) {
    for (const std::int64_t head_dim : plan.head_dims) {
      for (const std::int64_t length : plan.lengths) {
        if (failures.full()) return;
        const FloatKind kind = kinds[turn++ % std::size(kinds)];
        test_attention(kernel, {heads, head_dim, length, head_dim}, kind, failures);
      }
    }
  }
}

template <typename T>
void test_head_rows(const Kernel& kernel, std::int64_t n, std::int64_t k, const T* weights, const float* x,
                    const float* expected, std::int64_t row_begin, std::int64_t row_end, const std::string& what,
                    Failures& failures) {
  const std::string where = "n=" + std::to_string(n) + " k=" + std::to_string(k) + ", rows " +
                            std::to_string(row_begin) + ".." + std::to_string(row_end) + ", " + what;
  Region y_region(index(n) * sizeof(float));
  auto* y = y_region.place<float>(n);
  auto args = poisoned_args<bitnet_head_args>();
  args.weights = weights;
  args.x = x;
  args.y = y;
  args.row_begin = row_begin;
  args.row_end = row_end;
  if (kernel.k == 0) args.k = k;
  if (!call(kernel, args)) return failures.add(where, kFault);
  if (!same_floats(expected + row_begin, y + row_begin, row_end - row_begin, where, failures)) return;
  for (std::int64_t r = 0; r < n; ++r) {
    if ((r < row_begin || r >= row_end) && std::bit_cast<std::int32_t>(y[r]) != kPatternInt) {
      return failures.add(where, "row " + std::to_string(r) + " was written");
    }
  }
  check_intact({&y_region}, where, failures);
}

template <typename T>
void test_head(const Kernel& kernel, std::int64_t n, std::int64_t k, FloatKind kind, Failures& failures) {
  std::mt19937 random(static_cast<unsigned>(n * 1009 + k));
  Region weight_region(index(n * k) * sizeof(T));
  Region x_region(index(k) * sizeof(float));
  auto* weights = weight_region.place<T>(n * k);
  std::vector<float> x(index(k));
  fill_floats(kind == FloatKind::kHuge ? FloatKind::kNormal : kind, random, x.data(), k);
  const float* x_data = place_copy(x_region, x);
  std::vector<float> expected(index(n));
  if constexpr (sizeof(T) == sizeof(std::uint16_t)) {
    fill_halves(kind, random, weights, n * k);
    reference::head_f16(weights, x_data, n, k, expected.data());
  } else {
    fill_floats(kind, random, weights, n * k);
    reference::head_f32(weights, x_data, n, k, expected.data());
  }
  const std::string what = std::string("values ") + to_string(kind);
  test_head_rows(kernel, n, k, weights, x_data, expected.data(), 0, n, what, failures);
  if (n >= 3 && !failures.full()) {
    test_head_rows(kernel, n, k, weights, x_data, expected.data(), n / 3, n - 1, what, failures);
  }
  check_intact({&weight_region, &x_region}, what, failures);
}

// Every finite float16 and the infinities, converted exactly: k = 1, x = 1. And a matrix large enough for streams.
void test_all_halves(const Kernel& kernel, Failures& failures) {
  constexpr std::int64_t kCount = 65536;
  Region weight_region(kCount * sizeof(std::uint16_t));
  auto* weights = weight_region.place<std::uint16_t>(kCount);
  for (std::int64_t i = 0; i < kCount; ++i) weights[i] = static_cast<std::uint16_t>(i);
  const float one = 1.0F;
  std::vector<float> expected(kCount);
  reference::head_f16(weights, &one, kCount, 1, expected.data());
  test_head_rows(kernel, kCount, 1, weights, &one, expected.data(), 0, kCount, "every float16", failures);
}

void test_heads(const Kernel& kernel, const TestPlan& plan, Failures& failures) {
  std::size_t turn = 0;
  for (const std::int64_t k : widths_of(kernel, plan)) {
    for (const std::int64_t n : plan.head_rows) {
      if (failures.full()) return;
      const FloatKind kind = kFloatKinds[turn++ % std::size(kFloatKinds)];
      (kernel.format == Format::kF16 ? test_head<std::uint16_t> : test_head<float>)(kernel, n, k, kind, failures);
    }
  }
  if (kernel.format == Format::kF16 && kernel.k == 0) test_all_halves(kernel, failures);
}

}  // namespace

void test_dense(const Kernel& kernel, const TestPlan& plan, Failures& failures) {
  if (kernel.op == Op::kAttention) return test_attentions(kernel, plan, failures);
  if (kernel.op == Op::kHead) return test_heads(kernel, plan, failures);
  for (const std::int64_t k : widths_of(kernel, plan)) {
    for (const FloatKind kind : kFloatKinds) {
      if (failures.full()) return;
      switch (kernel.op) {
        case Op::kQuantize:
        case Op::kNormQuantize:
          test_quantize(kernel, k, kind, failures);
          break;
        case Op::kNorm:
          test_norm(kernel, k, kind, failures);
          break;
        case Op::kRelu2Gate:
        case Op::kSiluGate:
          test_gate(kernel, k, kind, failures);
          break;
        default:
          failures.add("op", "the tester does not know this operation");
      }
    }
  }
}

}  // namespace bitnet::test
