// The tester's operations on rows of floats: every output bit against runtime/reference.
#include "tests/kernel_tester_dense.h"

#include <algorithm>
#include <cmath>

#include "runtime/reference/reference.h"

namespace bitnet::test {
namespace {

constexpr float kEps = 1e-5F;

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

// norm and layer_norm.
void test_norm(const Kernel& kernel, std::int64_t k, FloatKind kind, Failures& failures) {
  const bool layer_norm = kernel.op == Op::kLayerNorm;
  std::mt19937 random(static_cast<unsigned>(k));
  std::vector<float> x(index(k));
  fill_floats(kind, random, x.data(), k);
  const std::vector<float> gain = gains(random, k);
  const std::vector<float> bias = gains(random, k);
  std::vector<float> expected(index(k));
  if (layer_norm) {
    reference::layer_norm(x.data(), gain.data(), bias.data(), k, kEps, expected.data());
  } else {
    reference::norm(x.data(), gain.data(), k, kEps, expected.data());
  }
  Region x_region(index(k) * sizeof(float));
  Region gain_region(index(k) * sizeof(float));
  Region bias_region(index(k) * sizeof(float));
  Region y_region(index(k) * sizeof(float));
  for (const bool in_place : {false, true}) {
    const std::string where = at(k, kind) + (in_place ? ", y = x" : "");
    float* const x_data = place_copy(x_region, x);
    float* const y = in_place ? x_data : y_region.place<float>(k);
    const auto run = [&](auto args) {
      args.x = x_data;
      args.gain = place_copy(gain_region, gain);
      if constexpr (requires { args.bias; }) args.bias = place_copy(bias_region, bias);
      args.y = y;
      if (kernel.k == 0) args.k = k;
      args.eps = kEps;
      return call(kernel, args);
    };
    const bool fine =
        layer_norm ? run(poisoned_args<bitnet_layer_norm_args>()) : run(poisoned_args<bitnet_norm_args>());
    if (!fine) return failures.add(where, kFault);
    if (!same_floats(expected.data(), y, k, where, failures)) return;
    check_intact({&x_region, &gain_region}, where, failures);
    if (layer_norm) check_intact({&bias_region}, where, failures);
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
  const auto gate_reference = kernel.op == Op::kRelu2Gate  ? reference::relu2_gate
                              : kernel.op == Op::kSiluGate ? reference::silu_gate
                                                           : reference::gelu_gate;
  gate_reference(gate.data(), up.data(), k, expected.data());
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

// softmax and gelu: one row to another.
template <typename Args>
void test_row(const Kernel& kernel, std::int64_t k, FloatKind kind,
              void (*row_reference)(const float*, std::int64_t, float*), Failures& failures) {
  std::mt19937 random(static_cast<unsigned>(k));
  std::vector<float> x(index(k));
  fill_floats(kind, random, x.data(), k);
  std::vector<float> expected(index(k));
  row_reference(x.data(), k, expected.data());
  Region x_region(index(k) * sizeof(float));
  Region y_region(index(k) * sizeof(float));
  for (const bool in_place : {false, true}) {
    const std::string where = at(k, kind) + (in_place ? ", y = x" : "");
    auto args = poisoned_args<Args>();
    float* x_data = place_copy(x_region, x);
    args.x = x_data;
    args.y = in_place ? x_data : y_region.place<float>(k);
    if (kernel.k == 0) args.k = k;
    if (!call(kernel, args)) return failures.add(where, kFault);
    if (!same_floats(expected.data(), args.y, k, where, failures)) return;
    check_intact({&x_region}, where, failures);
    if (!in_place) check_intact({&y_region}, where, failures);
  }
}

// Every kind of scale, with and without `add`; values of int32 up to the bound of kernel_abi.h.
void test_epilogue(const Kernel& kernel, std::int64_t rows, FloatKind kind, Failures& failures) {
  std::mt19937 random(static_cast<unsigned>(rows));
  for (const std::int64_t groups : {1, 2, 5}) {
    for (const std::int32_t scale_kind : {BITNET_SCALE_TENSOR, BITNET_SCALE_ROW, BITNET_SCALE_GROUP}) {
      for (const std::int32_t add : {0, 1}) {
        const std::string where = "rows " + std::to_string(rows) + ", groups " + std::to_string(groups) +
                                  ", scale kind " + std::to_string(scale_kind) + ", add " + std::to_string(add) +
                                  ", values " + to_string(kind);
        const std::int64_t acc_stride = rows + 3;
        const std::int64_t scale_stride = rows + 5;
        const std::int64_t acc_count = (groups - 1) * acc_stride + rows;
        const std::int64_t scale_count = scale_kind == BITNET_SCALE_TENSOR ? 1
                                         : scale_kind == BITNET_SCALE_ROW  ? rows
                                                                           : (groups - 1) * scale_stride + rows;
        Region acc_region(index(acc_count) * sizeof(std::int32_t));
        Region scale_region(index(scale_count) * sizeof(float));
        Region y_region(index(rows) * sizeof(float));
        auto* acc = acc_region.place<std::int32_t>(acc_count);
        for (std::int64_t i = 0; i < acc_count; ++i) {
          const auto value = static_cast<std::int32_t>(random() % (1U << 24));
          acc[i] = kind == FloatKind::kZero ? 0 : (random() & 1) != 0 ? value : -value;
        }
        std::vector<float> scales(index(scale_count));
        fill_floats(kind, random, scales.data(), scale_count);
        auto args = poisoned_args<bitnet_epilogue_args>();
        args.acc = acc;
        args.scales = place_copy(scale_region, scales);
        args.rows = rows;
        args.groups = groups;
        if (groups > 1) args.acc_stride = acc_stride;
        if (scale_kind == BITNET_SCALE_GROUP && groups > 1) args.scale_stride = scale_stride;
        args.activation_scale = 37.25F;
        args.scale_kind = scale_kind;
        args.add = add;
        std::vector<float> before(index(rows));
        fill_floats(FloatKind::kNormal, random, before.data(), rows);
        std::vector<float> expected = before;
        args.y = expected.data();
        reference::epilogue(args);
        args.y = add != 0 ? place_copy(y_region, before) : y_region.place<float>(rows);
        if (!call(kernel, args)) return failures.add(where, kFault);
        if (!same_floats(expected.data(), args.y, rows, where, failures)) return;
        check_intact({&acc_region, &scale_region, &y_region}, where, failures);
      }
    }
  }
}

// Both orders of pairs; `half` pairs a row.
void test_rope(const Kernel& kernel, std::int64_t half, FloatKind kind, Failures& failures) {
  std::mt19937 random(static_cast<unsigned>(half));
  std::vector<float> cosines(index(half));
  std::vector<float> sines(index(half));
  for (std::size_t i = 0; i < cosines.size(); ++i) {
    const float angle = static_cast<float>(random() % 10000) * 1e-3F;
    cosines[i] = std::cos(angle);
    sines[i] = std::sin(angle);
  }
  for (const std::int32_t order : {BITNET_ROPE_NEOX, BITNET_ROPE_NORM}) {
    for (const std::int64_t rows : {1, 3}) {
      const std::int64_t rope_dim = 2 * half;
      const std::int64_t stride = rope_dim + (rows == 3 ? 7 : 0);
      const std::int64_t count = (rows - 1) * stride + rope_dim;
      const std::string where = "rope_dim " + std::to_string(rope_dim) + ", kind " + std::to_string(order) + ", rows " +
                                std::to_string(rows) + ", stride " + std::to_string(stride) + ", values " +
                                to_string(kind);
      std::vector<float> x(index(count));
      fill_floats(kind, random, x.data(), count);
      Region x_region(index(count) * sizeof(float));
      Region cosine_region(index(half) * sizeof(float));
      Region sine_region(index(half) * sizeof(float));
      auto args = poisoned_args<bitnet_rope_args>();
      args.cosines = place_copy(cosine_region, cosines);
      args.sines = place_copy(sine_region, sines);
      args.rows = rows;
      args.stride = stride;
      args.rope_dim = rope_dim;
      args.kind = order;
      std::vector<float> expected = x;
      args.x = expected.data();
      reference::rope(args);
      args.x = place_copy(x_region, x);
      if (!call(kernel, args)) return failures.add(where, kFault);
      if (!same_floats(expected.data(), args.x, count, where, failures)) return;
      check_intact({&x_region, &cosine_region, &sine_region}, where, failures);
    }
  }
}

}  // namespace

void test_dense(const Kernel& kernel, const TestPlan& plan, Failures& failures) {
  if (kernel.op == Op::kAttention) return test_attention(kernel, plan, failures);
  if (kernel.op == Op::kHead || kernel.op == Op::kHeadScreen) return test_head(kernel, plan, failures);
  for (const std::int64_t k : widths_of(kernel, plan)) {
    for (const FloatKind kind : kFloatKinds) {
      if (failures.full()) return;
      switch (kernel.op) {
        case Op::kQuantize:
        case Op::kNormQuantize:
          test_quantize(kernel, k, kind, failures);
          break;
        case Op::kNorm:
        case Op::kLayerNorm:
          test_norm(kernel, k, kind, failures);
          break;
        case Op::kRelu2Gate:
        case Op::kSiluGate:
        case Op::kGeluGate:
          test_gate(kernel, k, kind, failures);
          break;
        case Op::kSoftmax:
          test_row<bitnet_softmax_args>(kernel, k, kind, reference::softmax, failures);
          break;
        case Op::kGelu:
          test_row<bitnet_gelu_args>(kernel, k, kind, reference::gelu, failures);
          break;
        case Op::kEpilogue:
          test_epilogue(kernel, k, kind, failures);
          break;
        case Op::kRope:
          test_rope(kernel, k, kind, failures);
          break;
        default:
          failures.add("op", "the tester does not know this operation");
      }
    }
  }
}

}  // namespace bitnet::test
