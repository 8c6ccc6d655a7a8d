// Rotary position embedding: pair i of a head is turned by position * base^(-2i / rope_dim). The turning is op rope of
// runtime/kernels/kernel_abi.h; here are the angles, and the rounding to float16 that follows.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "runtime/base/result.h"
#include "runtime/model/config.h"

namespace bitnet {

// The angles of a model's layers: those of rope_angles, divided pair by pair where the model stretches positions.
//   linear    angle / factor
//   yarn      from the unscaled angle of fast pairs to angle / factor of slow ones, sines and cosines times
//             1 + 0.1 log(factor) (and rope_attention_factor)
//             Source: arXiv 2309.00071
//   longrope  angle / factors[i], sines and cosines times rope_attention_factor
//   factors   also without a kind of scaling (Llama 3): angle / factors[i]
class RopeTable {
 public:
  // `factors`: [rope_dim / 2] or empty; longrope needs them. window: the table of layers with a sliding window, whose
  // positions are never stretched. kFailure, with key or number: factors of another length or outside 0.7 .. 2^20.
  [[nodiscard]] static Result<RopeTable> make(const ModelConfig& config, bool window, std::span<const float> factors);
  RopeTable() = default;
  // cos and sin of one position, [rope_dim / 2] each; 0 <= position <= 2^24. The same bits on every CPU.
  void angles(std::int64_t position, float* cosines, float* sines) const;

 private:
  std::int64_t pairs_ = 0;
  float step_ = 1.0F;            // from a pair's angle to the next one's
  float magnitude_ = 1.0F;       // of sines and cosines
  std::vector<float> divisors_;  // [pairs], or empty
};

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
