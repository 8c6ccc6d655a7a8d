// Self-test of the operations on floats: the same bits as the scalar reference, and nothing written behind the outputs.
#include <array>
#include <bit>
#include <cstring>
#include <vector>

#include "runtime/base/half.h"
#include "runtime/bundle/self_test.h"
#include "runtime/kernels/kernel_abi.h"
#include "runtime/reference/reference.h"

namespace bitnet::self_test_detail {
namespace {

constexpr float kEps = 1e-5F;
constexpr std::size_t kGuardBytes = 64;
constexpr std::byte kUntouched{0x5A};

// An output or input of `count` elements, 64-byte aligned, with guard bytes behind it.
template <typename T>
class Row {
 public:
  [[nodiscard]] static Result<Row> create(std::int64_t count) {
    Row row;
    row.count_ = static_cast<std::size_t>(count);
    BITNET_ASSIGN_OR_RETURN(row.buffer_, Buffer::allocate(row.count_ * sizeof(T) + kGuardBytes));
    std::memset(row.buffer_.data(), std::to_integer<int>(kUntouched), row.buffer_.size());
    return row;
  }
  [[nodiscard]] T* data() const { return buffer_.template as<T>(); }
  T& operator[](std::int64_t i) const { return data()[i]; }

  // Same bits as `expected`, guard untouched.
  [[nodiscard]] Status compare(const Kernel& kernel, const char* output, const char* input,
                               const std::vector<T>& expected) const {
    for (std::size_t i = 0; i < count_; ++i) {
      // The contract is about bits: -0 and +0 differ.
      // NOLINTNEXTLINE(bugprone-suspicious-memory-comparison)
      if (std::memcmp(data() + i, &expected[i], sizeof(T)) != 0) {
        return mismatch(
            kernel,
            std::string(output) + "[" + std::to_string(i) + "] of " + std::to_string(count_) + ", input " + input,
            print(expected[i]), print(data()[i]));
      }
    }
    for (std::size_t i = 0; i < kGuardBytes; ++i) {
      if (buffer_.data()[count_ * sizeof(T) + i] != kUntouched) {
        return mismatch(kernel, std::string(output) + ", " + std::to_string(i) + " bytes behind its end",
                        "nothing written there", "a changed byte");
      }
    }
    return {};
  }

 private:
  Row() = default;
  static std::string print(T value) {
    if constexpr (std::is_same_v<T, float>) {
      char text[48];
      std::snprintf(text, sizeof text, "%.9g (0x%08x)", static_cast<double>(value), std::bit_cast<unsigned>(value));
      return text;
    } else {
      return std::to_string(value);
    }
  }
  Buffer buffer_;
  std::size_t count_ = 0;
};

constexpr std::array<const char*, 4> kPatterns{"random", "zeros", "one outlier", "tiny"};

void fill(std::size_t pattern, std::int64_t k, float* x) {
  Random random(0xF10A7 + pattern + static_cast<std::uint64_t>(k));
  for (std::int64_t i = 0; i < k; ++i) {
    const float value = 4.0F * random.symmetric();
    x[i] = pattern == 1 ? 0.0F : pattern == 3 ? value * 1e-7F : value;
  }
  if (pattern == 2) x[k / 3] = -20000.0F;
}

void fill_gain(std::int64_t k, float* gain) {
  Random random(0x6A14);
  for (std::int64_t i = 0; i < k; ++i) gain[i] = 1.0F + random.symmetric();
}

Status test_quantize(const Kernel& kernel, std::int64_t k) {
  const bool with_norm = kernel.op == Op::kNormQuantize;
  const auto count = static_cast<std::size_t>(k);
  BITNET_ASSIGN_OR_RETURN(const Row<float> x, Row<float>::create(k));
  BITNET_ASSIGN_OR_RETURN(const Row<float> gain, Row<float>::create(k));
  BITNET_ASSIGN_OR_RETURN(const Row<float> scratch, Row<float>::create(k));
  fill_gain(k, gain.data());
  for (std::size_t pattern = 0; pattern < kPatterns.size(); ++pattern) {
    fill(pattern, k, x.data());
    BITNET_ASSIGN_OR_RETURN(const Row<std::int8_t> q, Row<std::int8_t>::create(k));
    BITNET_ASSIGN_OR_RETURN(const Row<float> scale, Row<float>::create(1));
    BITNET_ASSIGN_OR_RETURN(const Row<std::int32_t> q_sum, Row<std::int32_t>::create(1));
    std::vector<std::int8_t> expected(count);
    std::vector<float> expected_scale(1);
    std::vector<std::int32_t> expected_sum(1);
    if (with_norm) {
      reference::norm_quantize(x.data(), gain.data(), k, kEps, expected.data(), expected_scale.data(),
                               expected_sum.data());
      kernel(bitnet_norm_quantize_args{x.data(), gain.data(), q.data(), scale.data(), q_sum.data(), scratch.data(), k,
                                       kEps});
    } else {
      reference::quantize(x.data(), k, expected.data(), expected_scale.data(), expected_sum.data());
      kernel(bitnet_quantize_args{x.data(), q.data(), scale.data(), q_sum.data(), k});
    }
    const char* input = kPatterns[pattern];
    BITNET_RETURN_IF_ERROR(scale.compare(kernel, "scale", input, expected_scale));
    BITNET_RETURN_IF_ERROR(q.compare(kernel, "q", input, expected));
    BITNET_RETURN_IF_ERROR(q_sum.compare(kernel, "q_sum", input, expected_sum));
  }
  return {};
}

Status test_norm(const Kernel& kernel, std::int64_t k) {
  BITNET_ASSIGN_OR_RETURN(const Row<float> x, Row<float>::create(k));
  BITNET_ASSIGN_OR_RETURN(const Row<float> gain, Row<float>::create(k));
  fill_gain(k, gain.data());
  for (std::size_t pattern = 0; pattern < kPatterns.size(); ++pattern) {
    fill(pattern, k, x.data());
    BITNET_ASSIGN_OR_RETURN(const Row<float> y, Row<float>::create(k));
    std::vector<float> expected(static_cast<std::size_t>(k));
    reference::norm(x.data(), gain.data(), k, kEps, expected.data());
    kernel(bitnet_norm_args{x.data(), gain.data(), y.data(), k, kEps});
    BITNET_RETURN_IF_ERROR(y.compare(kernel, "y", kPatterns[pattern], expected));
    kernel(bitnet_norm_args{x.data(), gain.data(), x.data(), k, kEps});
    BITNET_RETURN_IF_ERROR(x.compare(kernel, "y in place of x", kPatterns[pattern], expected));
  }
  return {};
}

Status test_gate(const Kernel& kernel, std::int64_t k) {
  BITNET_ASSIGN_OR_RETURN(const Row<float> gate, Row<float>::create(k));
  BITNET_ASSIGN_OR_RETURN(const Row<float> up, Row<float>::create(k));
  fill_gain(k, up.data());
  for (std::size_t pattern = 0; pattern < kPatterns.size(); ++pattern) {
    fill(pattern, k, gate.data());
    BITNET_ASSIGN_OR_RETURN(const Row<float> y, Row<float>::create(k));
    std::vector<float> expected(static_cast<std::size_t>(k));
    if (kernel.op == Op::kRelu2Gate) {
      reference::relu2_gate(gate.data(), up.data(), k, expected.data());
    } else {
      reference::silu_gate(gate.data(), up.data(), k, expected.data());
    }
    kernel(bitnet_gate_args{gate.data(), up.data(), y.data(), k});
    BITNET_RETURN_IF_ERROR(y.compare(kernel, "y", kPatterns[pattern], expected));
  }
  return {};
}

// Two heads over three chunks, the last one short.
Status test_attention(const Kernel& kernel, std::int64_t head_dim) {
  constexpr std::int64_t kHeads = 2;
  const float scale = 0.125F;
  BITNET_ASSIGN_OR_RETURN(const Row<float> q, Row<float>::create(kHeads * head_dim));
  BITNET_ASSIGN_OR_RETURN(const Row<float> scratch, Row<float>::create(BITNET_ATTENTION_SCRATCH(kHeads, head_dim)));
  const std::int64_t longest = 2 * BITNET_ATTENTION_CHUNK + 5;
  std::vector<std::uint16_t> key(static_cast<std::size_t>(longest * head_dim));
  std::vector<std::uint16_t> value(key.size());
  Random random(0xA77);
  for (std::int64_t i = 0; i < kHeads * head_dim; ++i) q[i] = half_to_float(float_to_half(3.0F * random.symmetric()));
  for (std::size_t i = 0; i < key.size(); ++i) {
    key[i] = float_to_half(3.0F * random.symmetric());
    value[i] = float_to_half(random.symmetric());
  }
  std::vector<const void*> key_pages;
  std::vector<const void*> value_pages;
  for (std::int64_t j = 0; j < longest; j += BITNET_ATTENTION_CHUNK) {
    key_pages.push_back(key.data() + j * head_dim);
    value_pages.push_back(value.data() + j * head_dim);
  }
  for (const std::int64_t length : {std::int64_t{1}, std::int64_t{BITNET_ATTENTION_CHUNK}, longest}) {
    BITNET_ASSIGN_OR_RETURN(const Row<float> y, Row<float>::create(kHeads * head_dim));
    std::vector<float> expected(static_cast<std::size_t>(kHeads * head_dim));
    reference::attention(q.data(), key.data(), value.data(), kHeads, head_dim, length, head_dim, scale,
                         expected.data());
    kernel(bitnet_attention_args{.q = q.data(),
                                 .key_pages = key_pages.data(),
                                 .value_pages = value_pages.data(),
                                 .y = y.data(),
                                 .scratch = scratch.data(),
                                 .heads = kHeads,
                                 .head_dim = head_dim,
                                 .tokens = 1,
                                 .past = length - 1,
                                 .q_stride = kHeads * head_dim,
                                 .y_stride = kHeads * head_dim,
                                 .scale = scale});
    const std::string input = "of " + std::to_string(length) + " positions";
    BITNET_RETURN_IF_ERROR(y.compare(kernel, "y", input.c_str(), expected));
  }
  return {};
}

// A few rows, starting behind row 0.
Status test_head(const Kernel& kernel, std::int64_t k) {
  constexpr std::int64_t kRows = 21;
  constexpr std::int64_t kFirst = 3;
  BITNET_ASSIGN_OR_RETURN(const Row<float> x, Row<float>::create(k));
  BITNET_ASSIGN_OR_RETURN(const Row<float> y, Row<float>::create(kRows));
  fill(0, k, x.data());
  Random random(0x4EAD);
  std::vector<float> wide(static_cast<std::size_t>(kRows * k));
  std::vector<std::uint16_t> half(wide.size());
  for (std::size_t i = 0; i < wide.size(); ++i) {
    wide[i] = random.symmetric();
    half[i] = float_to_half(wide[i]);
  }
  const bool f16 = kernel.format == Format::kF16;
  std::vector<float> expected(kRows);
  if (f16) {
    reference::head_f16(half.data(), x.data(), kRows, k, expected.data());
  } else {
    reference::head_f32(wide.data(), x.data(), kRows, k, expected.data());
  }
  std::memcpy(expected.data(), y.data(), kFirst * sizeof(float));  // not written
  const void* weights = f16 ? static_cast<const void*>(half.data()) : wide.data();
  kernel(bitnet_head_args{weights, x.data(), y.data(), kFirst, kRows, k});
  return y.compare(kernel, "y", "random", expected);
}

}  // namespace

Status test_dense(const Kernel& kernel) {
  const std::int64_t k = kernel.k != 0 ? kernel.k : kAnyK;
  const bool format_fits = kernel.op == Op::kHead ? kernel.format == Format::kF16 || kernel.format == Format::kF32
                                                  : is_valid(kernel.op, kernel.format);
  if (!format_fits) {
    return Error{ErrorCode::kVerification, "self-test: kernel " + kernel.name() +
                                               " has a format that its operation "
                                               "does not have"};
  }
  switch (kernel.op) {
    case Op::kQuantize:
    case Op::kNormQuantize:
      return test_quantize(kernel, k);
    case Op::kNorm:
      return test_norm(kernel, k);
    case Op::kRelu2Gate:
    case Op::kSiluGate:
      return test_gate(kernel, k);
    case Op::kAttention:
      return test_attention(kernel, kernel.k != 0 ? kernel.k : 64);
    case Op::kHead:
      return test_head(kernel, k);
    default:
      break;
  }
  return Error{ErrorCode::kFailure, "self-test: no test for kernel " + kernel.name()};
}

}  // namespace bitnet::self_test_detail
