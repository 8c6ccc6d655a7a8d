// Rotary position embedding: pair i of a head is turned by position * base^(-2i / rope_dim). The turning is op rope of
// runtime/kernels/kernel_abi.h; here are the angles, and the rounding to float16 that follows.
#pragma once

#include <cstdint>
#include <span>

namespace bitnet {

// cos and sin of the angles of one position, [rope_dim / 2] each. The angle starts at `position` and is multiplied by
// base^(-2 / rope_dim) from pair to pair, in float32, as the programs do that the models were checked with. The same
// bits on every CPU. 0 <= position <= 2^24, rope_dim even, base > 0 a normal float.
void rope_angles(std::int64_t position, std::int64_t rope_dim, float base, float* cosines, float* sines);

// sin and cos of an angle, |angle| <= 2^24: the correctly rounded floats, or in very rare cases their neighbours; the
// same bits on every CPU, whatever its C library.
void sine_and_cosine(float angle, float* sine, float* cosine);
// base^(-2 / rope_dim), likewise.
[[nodiscard]] float rope_factor(std::int64_t rope_dim, float base);

// Rounds to the nearest float16 value, ties to even; overflow gives infinity. `values` keeps the rounded floats.
void round_to_half(std::span<float> values);
// The float16 bits.
void convert_to_half(std::span<const float> values, std::uint16_t* out);

}  // namespace bitnet
