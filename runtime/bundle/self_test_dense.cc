// Self-test of the operations on floats: the same bits as the scalar reference, and nothing written behind the outputs.
#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <utility>
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

Status test_layer_norm(const Kernel& kernel, std::int64_t k) {
  BITNET_ASSIGN_OR_RETURN(const Row<float> x, Row<float>::create(k));
  BITNET_ASSIGN_OR_RETURN(const Row<float> gain, Row<float>::create(k));
  BITNET_ASSIGN_OR_RETURN(const Row<float> bias, Row<float>::create(k));
  fill_gain(k, gain.data());
  fill(0, k, bias.data());
  for (std::size_t pattern = 0; pattern < kPatterns.size(); ++pattern) {
    fill(pattern, k, x.data());
    BITNET_ASSIGN_OR_RETURN(const Row<float> y, Row<float>::create(k));
    std::vector<float> expected(static_cast<std::size_t>(k));
    reference::layer_norm(x.data(), gain.data(), bias.data(), k, kEps, expected.data());
    kernel(bitnet_layer_norm_args{x.data(), gain.data(), bias.data(), y.data(), k, kEps});
    BITNET_RETURN_IF_ERROR(y.compare(kernel, "y", kPatterns[pattern], expected));
    kernel(bitnet_layer_norm_args{x.data(), gain.data(), bias.data(), x.data(), k, kEps});
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
    const auto gate_reference = kernel.op == Op::kRelu2Gate  ? reference::relu2_gate
                                : kernel.op == Op::kSiluGate ? reference::silu_gate
                                                             : reference::gelu_gate;
    gate_reference(gate.data(), up.data(), k, expected.data());
    kernel(bitnet_gate_args{gate.data(), up.data(), y.data(), k});
    BITNET_RETURN_IF_ERROR(y.compare(kernel, "y", kPatterns[pattern], expected));
  }
  return {};
}

// Int32 sums with scales a tensor, row and group, stored and added.
Status test_epilogue(const Kernel& kernel, std::int64_t rows) {
  constexpr std::int64_t kGroups = 3;
  BITNET_ASSIGN_OR_RETURN(const Row<std::int32_t> acc, Row<std::int32_t>::create(kGroups * rows));
  BITNET_ASSIGN_OR_RETURN(const Row<float> scales, Row<float>::create(kGroups * rows));
  Random random(0xE91);
  for (std::int64_t i = 0; i < kGroups * rows; ++i) {
    acc[i] = static_cast<std::int32_t>(random.symmetric() * 16777215.0F);
    scales[i] = 1.0F + random.symmetric();
  }
  for (const std::int32_t kind : {BITNET_SCALE_TENSOR, BITNET_SCALE_ROW, BITNET_SCALE_GROUP}) {
    for (const std::int32_t add : {0, 1}) {
      BITNET_ASSIGN_OR_RETURN(const Row<float> y, Row<float>::create(rows));
      fill(0, rows, y.data());
      std::vector<float> expected(y.data(), y.data() + rows);
      bitnet_epilogue_args args = {.acc = acc.data(),
                                   .scales = scales.data(),
                                   .y = expected.data(),
                                   .rows = rows,
                                   .groups = kGroups,
                                   .acc_stride = rows,
                                   .scale_stride = rows,
                                   .activation_scale = 41.5F,
                                   .scale_kind = kind,
                                   .add = add};
      reference::epilogue(args);
      args.y = y.data();
      kernel(args);
      const std::string input = "scale kind " + std::to_string(kind) + (add != 0 ? ", added" : "");
      BITNET_RETURN_IF_ERROR(y.compare(kernel, "y", input.c_str(), expected));
    }
  }
  return {};
}

Status test_rope(const Kernel& kernel, std::int64_t half) {
  constexpr std::int64_t kRows = 2;
  const std::int64_t stride = 2 * half + 3;
  BITNET_ASSIGN_OR_RETURN(const Row<float> cosines, Row<float>::create(half));
  BITNET_ASSIGN_OR_RETURN(const Row<float> sines, Row<float>::create(half));
  fill_gain(half, cosines.data());
  fill(0, half, sines.data());
  for (const std::int32_t kind : {BITNET_ROPE_NEOX, BITNET_ROPE_NORM}) {
    BITNET_ASSIGN_OR_RETURN(const Row<float> x, Row<float>::create(kRows * stride));
    fill(0, kRows * stride, x.data());
    std::vector<float> expected(x.data(), x.data() + kRows * stride);
    bitnet_rope_args args = {.x = expected.data(),
                             .cosines = cosines.data(),
                             .sines = sines.data(),
                             .rows = kRows,
                             .stride = stride,
                             .rope_dim = 2 * half,
                             .kind = kind};
    reference::rope(args);
    args.x = x.data();
    kernel(args);
    BITNET_RETURN_IF_ERROR(x.compare(kernel, "x", kind == BITNET_ROPE_NEOX ? "NEOX" : "NORM", expected));
  }
  return {};
}

// softmax and gelu: one row to another.
template <typename Args>
Status test_row(const Kernel& kernel, std::int64_t k, void (*row_reference)(const float*, std::int64_t, float*)) {
  BITNET_ASSIGN_OR_RETURN(const Row<float> x, Row<float>::create(k));
  for (std::size_t pattern = 0; pattern < kPatterns.size(); ++pattern) {
    fill(pattern, k, x.data());
    BITNET_ASSIGN_OR_RETURN(const Row<float> y, Row<float>::create(k));
    std::vector<float> expected(static_cast<std::size_t>(k));
    row_reference(x.data(), k, expected.data());
    kernel(Args{x.data(), y.data(), k});
    BITNET_RETURN_IF_ERROR(y.compare(kernel, "y", kPatterns[pattern], expected));
  }
  return {};
}

// Pages of keys or values of one head for `positions` positions.
Result<std::vector<Buffer>> make_pages(Format format, std::int64_t positions, std::int64_t head_dim, Random& random) {
  std::vector<Buffer> pages;
  const std::int64_t count = BITNET_ATTENTION_CHUNK * head_dim;
  for (std::int64_t j = 0; j < positions; j += BITNET_ATTENTION_CHUNK) {
    const std::size_t bytes =
        format == Format::kI8
            ? static_cast<std::size_t>(count) + BITNET_ATTENTION_CHUNK * sizeof(float)
            : static_cast<std::size_t>(count) * (format == Format::kF32 ? sizeof(float) : sizeof(std::uint16_t));
    BITNET_ASSIGN_OR_RETURN(Buffer page, Buffer::allocate(bytes));
    const std::int64_t used = std::min<std::int64_t>(BITNET_ATTENTION_CHUNK, positions - j) * head_dim;
    for (std::int64_t i = 0; i < used; ++i) {
      const float value = random.symmetric();
      if (format == Format::kI8) {
        page.as<std::int8_t>()[i] = static_cast<std::int8_t>(127.0F * value);
      } else if (format == Format::kF32) {
        page.as<float>()[i] = 3.0F * value;
      } else {
        page.as<std::uint16_t>()[i] = float_to_half(3.0F * value);
      }
    }
    if (format == Format::kI8) {
      auto* factors = reinterpret_cast<float*>(page.data() + count);
      for (std::int64_t i = 0; i < BITNET_ATTENTION_CHUNK; ++i) factors[i] = 0.02F + 0.01F * random.symmetric();
    }
    pages.push_back(std::move(page));
  }
  return pages;
}

std::vector<const void*> table_of(const std::vector<Buffer>& pages) {
  std::vector<const void*> table;
  for (const Buffer& page : pages) table.push_back(page.data());
  return table;
}

// Two heads over up to three chunks: one token, a whole chunk, several tokens across the border of a page, and windows
// that begin in the first chunk, behind it, and with the token itself.
Status test_attention(const Kernel& kernel, std::int64_t head_dim) {
  constexpr std::int64_t kHeads = 2;
  constexpr std::int64_t kTokens = 2;
  constexpr std::int64_t kLongest = 2 * BITNET_ATTENTION_CHUNK + 1;
  const std::int64_t stride = kHeads * head_dim + 3;
  Random random(0xA77);
  BITNET_ASSIGN_OR_RETURN(const Row<float> q, Row<float>::create(kTokens * stride));
  BITNET_ASSIGN_OR_RETURN(const Row<float> scratch, Row<float>::create(BITNET_ATTENTION_SCRATCH(kHeads, head_dim)));
  for (std::int64_t i = 0; i < kTokens * stride; ++i) {
    const float value = 3.0F * random.symmetric();
    q[i] = kernel.format == Format::kF32 ? value : half_to_float(float_to_half(value));
  }
  BITNET_ASSIGN_OR_RETURN(const std::vector<Buffer> keys, make_pages(kernel.format, kLongest, head_dim, random));
  BITNET_ASSIGN_OR_RETURN(const std::vector<Buffer> values, make_pages(kernel.format, kLongest, head_dim, random));
  const std::vector<const void*> key_pages = table_of(keys);
  const std::vector<const void*> value_pages = table_of(values);
  struct Call {
    std::int64_t tokens;
    std::int64_t past;
    std::int64_t window;
  };
  constexpr Call kCalls[] = {{1, 0, 0},
                             {1, BITNET_ATTENTION_CHUNK - 1, 0},
                             {kTokens, kLongest - kTokens, 0},
                             {kTokens, kLongest - kTokens, kLongest - 5},
                             {kTokens, kLongest - kTokens, 40},
                             {kTokens, BITNET_ATTENTION_CHUNK - 1, 1}};
  for (const auto [tokens, past, window] : kCalls) {
    BITNET_ASSIGN_OR_RETURN(const Row<float> y, Row<float>::create(tokens * stride));
    std::vector<float> expected(y.data(), y.data() + tokens * stride);
    bitnet_attention_args args = {.q = q.data(),
                                  .key_pages = key_pages.data(),
                                  .value_pages = value_pages.data(),
                                  .y = expected.data(),
                                  .scratch = scratch.data(),
                                  .heads = kHeads,
                                  .head_dim = head_dim,
                                  .tokens = tokens,
                                  .past = past,
                                  .window = window,
                                  .q_stride = stride,
                                  .y_stride = stride,
                                  .next = nullptr,
                                  .scale = 0.125F};
    (kernel.format == Format::kI8    ? reference::attention_i8
     : kernel.format == Format::kF32 ? reference::attention_f32
                                     : reference::attention_f16)(args);
    args.y = y.data();
    kernel(args);
    const std::string input =
        "of " + std::to_string(tokens) + " tokens after " + std::to_string(past) + ", window " + std::to_string(window);
    BITNET_RETURN_IF_ERROR(y.compare(kernel, "y", input.c_str(), expected));
  }
  return {};
}

// A few rows, starting behind row 0.
constexpr std::int64_t kHeadRows = 21;
constexpr std::int64_t kFirstHeadRow = 3;

// The last block ends with values that do not count.
Status test_head_q8(const Kernel& kernel, std::int64_t k) {
  constexpr std::int64_t kBlock = 32;
  constexpr std::size_t kBlockBytes = 34;
  BITNET_ASSIGN_OR_RETURN(const Row<float> x, Row<float>::create(k));
  BITNET_ASSIGN_OR_RETURN(const Row<float> y, Row<float>::create(kHeadRows));
  fill(0, k, x.data());
  Random random(0x4EAD);
  std::vector<std::uint8_t> weights(static_cast<std::size_t>(kHeadRows * ((k + kBlock - 1) / kBlock)) * kBlockBytes);
  for (std::size_t i = 0; i < weights.size(); ++i) weights[i] = static_cast<std::uint8_t>(random.next());
  for (std::size_t i = 0; i < weights.size(); i += kBlockBytes) {
    const std::uint16_t factor = float_to_half(random.symmetric());
    std::memcpy(&weights[i], &factor, sizeof factor);
  }
  std::vector<float> expected(kHeadRows);
  reference::head_q8(weights.data(), x.data(), kHeadRows, k, expected.data());
  std::memcpy(expected.data(), y.data(), kFirstHeadRow * sizeof(float));  // not written
  kernel(bitnet_head_args{weights.data(), x.data(), y.data(), kFirstHeadRow, kHeadRows, k});
  return y.compare(kernel, "y", "random", expected);
}

Status test_head(const Kernel& kernel, std::int64_t k) {
  BITNET_ASSIGN_OR_RETURN(const Row<float> x, Row<float>::create(k));
  BITNET_ASSIGN_OR_RETURN(const Row<float> y, Row<float>::create(kHeadRows));
  fill(0, k, x.data());
  Random random(0x4EAD);
  std::vector<float> wide(static_cast<std::size_t>(kHeadRows * k));
  std::vector<std::uint16_t> narrow(wide.size());
  for (std::size_t i = 0; i < wide.size(); ++i) {
    wide[i] = random.symmetric();
    narrow[i] = kernel.format == Format::kBf16 ? static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(wide[i]) >> 16)
                                               : float_to_half(wide[i]);
  }
  std::vector<float> expected(kHeadRows);
  if (kernel.format == Format::kF32) {
    reference::head_f32(wide.data(), x.data(), kHeadRows, k, expected.data());
  } else {
    (kernel.format == Format::kBf16 ? reference::head_bf16 : reference::head_f16)(narrow.data(), x.data(), kHeadRows, k,
                                                                                  expected.data());
  }
  std::memcpy(expected.data(), y.data(), kFirstHeadRow * sizeof(float));  // not written
  const void* weights = kernel.format == Format::kF32 ? static_cast<const void*>(wide.data()) : narrow.data();
  kernel(bitnet_head_args{weights, x.data(), y.data(), kFirstHeadRow, kHeadRows, k});
  return y.compare(kernel, "y", "random", expected);
}

// Random values, and products as large as they get; one token, and more than a kernel takes at once.
Status test_head_screen(const Kernel& kernel, std::int64_t k) {
  constexpr std::int64_t kTokens = 9;
  const std::int64_t width = BITNET_SCREEN_WIDTH(k);
  BITNET_ASSIGN_OR_RETURN(const Row<std::int16_t> x, Row<std::int16_t>::create(kTokens * width));
  BITNET_ASSIGN_OR_RETURN(const Row<std::int8_t> weights, Row<std::int8_t>::create(kHeadRows * width));
  BITNET_ASSIGN_OR_RETURN(const Row<float> scales, Row<float>::create(kHeadRows));
  BITNET_ASSIGN_OR_RETURN(const Row<float> x_scales, Row<float>::create(kTokens));
  fill_gain(kHeadRows, scales.data());
  fill_gain(kTokens, x_scales.data());
  Random random(0x5C4EE4);
  for (const bool largest : {false, true}) {
    const std::int64_t tokens = largest ? 1 : kTokens;
    BITNET_ASSIGN_OR_RETURN(const Row<float> y, Row<float>::create(kTokens * kHeadRows));
    for (std::int64_t r = 0; r < kHeadRows; ++r) {
      for (std::int64_t i = 0; i < width; ++i) {
        const auto any = static_cast<std::int8_t>(127.0F * random.symmetric());
        weights[r * width + i] = i >= k ? std::int8_t{0} : largest ? std::int8_t{127} : any;
      }
    }
    for (std::int64_t t = 0; t < tokens; ++t) {
      for (std::int64_t i = 0; i < width; ++i) {
        const auto any = static_cast<std::int16_t>(32767.0F * random.symmetric());
        x[(i / 64 * tokens + t) * 64 + i % 64] = i >= k ? std::int16_t{0} : largest ? std::int16_t{32767} : any;
      }
    }
    std::vector<float> expected(y.data(), y.data() + kTokens * kHeadRows);
    bitnet_head_screen_args args = {.weights = weights.data(),
                                    .x = x.data(),
                                    .row_scales = scales.data(),
                                    .x_scales = x_scales.data(),
                                    .y = expected.data(),
                                    .row_begin = kFirstHeadRow,
                                    .row_end = kHeadRows,
                                    .tokens = tokens,
                                    .y_stride = kHeadRows,
                                    .k = k};
    reference::head_screen(args);
    args.y = y.data();
    kernel(args);
    BITNET_RETURN_IF_ERROR(y.compare(kernel, "y", largest ? "all 127 x 32767" : "random", expected));
  }
  return {};
}

}  // namespace

Status test_dense(const Kernel& kernel) {
  const std::int64_t k = kernel.k != 0 ? kernel.k : kAnyK;
  if (!is_valid(kernel.op, kernel.format)) {
    return Error{ErrorCode::kVerification,
                 "self-test: kernel " + kernel.name() + " has a format that its operation does not have"};
  }
  switch (kernel.op) {
    case Op::kQuantize:
    case Op::kNormQuantize:
      return test_quantize(kernel, k);
    case Op::kNorm:
      return test_norm(kernel, k);
    case Op::kRelu2Gate:
    case Op::kSiluGate:
    case Op::kGeluGate:
      return test_gate(kernel, k);
    case Op::kGelu:
      return test_row<bitnet_gelu_args>(kernel, k, reference::gelu);
    case Op::kLayerNorm:
      return test_layer_norm(kernel, k);
    case Op::kAttention:
      return test_attention(kernel, kernel.k != 0 ? kernel.k : 64);
    case Op::kEpilogue:
      return test_epilogue(kernel, k);
    case Op::kRope:
      return test_rope(kernel, k);
    case Op::kSoftmax:
      return test_row<bitnet_softmax_args>(kernel, k, reference::softmax);
    case Op::kHeadScreen:
      return test_head_screen(kernel, k);
    case Op::kHead:
      return kernel.format == Format::kQ8 ? test_head_q8(kernel, k) : test_head(kernel, k);
    default:
      break;
  }
  return Error{ErrorCode::kFailure, "self-test: no test for kernel " + kernel.name()};
}

}  // namespace bitnet::self_test_detail
