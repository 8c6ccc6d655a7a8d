// The scalar meaning of every operation: slow, plain, obviously right. Only tests and the self-test link it.
// The float rules (no fused multiply-add unless products are exact, 16 running sums and a fixed tree, chunks of 256
// positions) are those of runtime/kernels/kernel_abi.h; each function is the definition that the kernels are compared
// with, bit for bit.
#pragma once

#include <cstdint>

#include "runtime/kernels/kernel_abi.h"

namespace bitnet::reference {

// sum_k w[k] * x[k], w in {-1, 0, 1}; exact.
[[nodiscard]] std::int32_t ternary_dot(const std::int8_t* w, const std::int8_t* x, std::int64_t k);

// The 16-lane sum of f(0) .. f(k-1): see kernel_abi.h.
[[nodiscard]] float dot(const float* a, const float* b, std::int64_t k);
[[nodiscard]] float sum(const float* a, std::int64_t k);

// exp by the project's polynomial: x is clamped to [-87.33654, 88.72283]; n = round_half_even(x * log2(e));
// r = (x - n * 0.693359375) - n * -2.12194440e-4; p = Horner over 1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3,
// 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1 (each step p * r + c, both rounded);
// y = ((p * (r * r)) + r) + 1; result y * 2^n, the power applied as two factors so that no intermediate overflows:
// 2^(n >> 1) * 2^(n - (n >> 1)). Relative error below 2e-7. exp(0) == 1 exactly.
[[nodiscard]] float exp(float x);

void quantize(const float* x, std::int64_t k, std::int8_t* q, float* scale, std::int32_t* q_sum);
void norm(const float* x, const float* gain, std::int64_t k, float eps, float* y);
void norm_quantize(const float* x, const float* gain, std::int64_t k, float eps, std::int8_t* q, float* scale,
                   std::int32_t* q_sum);
void relu2_gate(const float* gate, const float* up, std::int64_t k, float* y);
void silu_gate(const float* gate, const float* up, std::int64_t k, float* y);
void gelu_gate(const float* gate, const float* up, std::int64_t k, float* y);
void gelu(const float* x, std::int64_t k, float* y);
void layer_norm(const float* x, const float* gain, const float* bias, std::int64_t k, float eps, float* y);
void softmax(const float* x, std::int64_t k, float* y);
// The others take the arguments of the kernels; scratch is not used.
void epilogue(const bitnet_epilogue_args& args);
void rope(const bitnet_rope_args& args);
void attention_f16(const bitnet_attention_args& args);
void attention_i8(const bitnet_attention_args& args);
void attention_f32(const bitnet_attention_args& args);
// Rows 0 .. n-1.
void head_f16(const std::uint16_t* w, const float* x, std::int64_t n, std::int64_t k, float* y);
void head_bf16(const std::uint16_t* w, const float* x, std::int64_t n, std::int64_t k, float* y);
void head_f32(const float* w, const float* x, std::int64_t n, std::int64_t k, float* y);
void head_q8(const std::uint8_t* w, const float* x, std::int64_t n, std::int64_t k, float* y);
void head_screen(const bitnet_head_screen_args& args);

}  // namespace bitnet::reference
