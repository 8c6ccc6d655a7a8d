// RMSNorm fused with int8 quantisation: op norm_quantize of runtime/kernels/kernel_abi.h as a Halide pipeline.
#pragma once

#include <Halide.h>

#include <cstdint>
#include <string>

#include "runtime/model/limits.h"

namespace bitnet::schedules {

// The schedule's knobs. Results do not depend on them: the order of every float sum is part of the algorithm.
struct NormQuantizePoint {
  std::int64_t k = 0;  // row length, 1 <= k <= kMaxWidth, a constant of the compiled code
  int lanes = 0;       // float lanes of one vector, a power of two in [1, 16]; 0: the target's natural width
  int unroll = 4;      // vectors in flight per elementwise pass, a power of two in [1, 8]
};

// Builds and schedules the pipeline and lowers it for `target` (strict_float, no_asserts, no_bounds_query, no_runtime
// are expected among its features). The compiled function, of external linkage:
//   int SYMBOL(halide_buffer_t* x, halide_buffer_t* gain, float eps,
//              halide_buffer_t* q, halide_buffer_t* scale, halide_buffer_t* q_sum)
// x, gain: float32 [k]; q: int8 [k]; scale: float32, q_sum: int32, without dimensions. Only the buffers' host pointers
// are read; any alignment. It needs no scratch and imports nothing. q, scale and q_sum overlap neither each other nor
// x, gain. Preconditions: the ranges of NormQuantizePoint. Throws Halide::Error.
[[nodiscard]] Halide::Module norm_quantize(const NormQuantizePoint& point, const Halide::Target& target,
                                           const std::string& symbol);

}  // namespace bitnet::schedules
