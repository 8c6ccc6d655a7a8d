// I2_S products over layout t2 as Halide pipelines: ops gemv and gemm of runtime/kernels/kernel_abi.h without K-groups,
// on the packed bytes and activations of the template kernels. One algorithm, and a schedule with four ways to sum
// products, one of which suits the machine: the road for targets that nobody has written a dictionary for.
#pragma once

#include <Halide.h>

#include <cstdint>
#include <string>

#include "runtime/model/limits.h"

namespace bitnet::schedules {

// How products of codes (0..2) and int8 activations are summed; ternary.cc says more. All are right on every target.
enum class Dot : std::uint8_t {
  kTarget = 0,  // the one that fits the target
  kQuads = 1,   // four products into int32: vpdpbusd, sdot
  kPairs = 2,   // two products into int16, runs of them into int32: vpmaddubsw
  kWide = 3,    // single products in int16, runs of them into int32: smlal, any machine
  kRows = 4,    // the same in vectors of rows, for machines with strided loads or none at all
};

// The schedule's knobs. Results do not depend on them.
struct TernaryPoint {
  std::int64_t k = 0;      // width of the matrix, 1 <= k <= kMaxWidth, a constant of the compiled code
  Dot dot = Dot::kTarget;  // quads asked for by name on AVX-512 mean VNNI
  int passes = 0;   // quads: passes over a tile, 1, 2 or 4, each for 4, 2 or 1 fields of its bytes; 0: by registers
  int lanes = 0;    // int32 lanes of one vector, a power of two in [1, 16]; 0: the target's natural width
  int streams = 1;  // row tiles side by side, 1..8: one load of the activations serves all of them
  int tokens = 1;   // gemm: tokens of a block of packed activations (MR), 1..32; gemv: 1
};

// Builds and schedules a pipeline and lowers it for `target` (no_asserts, no_bounds_query and no_runtime are expected
// among its features). The compiled functions, of external linkage:
//   int SYMBOL(halide_buffer_t* weights, halide_buffer_t* x, int32_t x_sum, int32_t part, halide_buffer_t* y)    gemv
//   int SYMBOL(halide_buffer_t* weights, halide_buffer_t* x, halide_buffer_t* x_sums, int32_t part,
//              halide_buffer_t* y)                                                                               gemm
// with L = ceil(k / 16) lines in a tile and dimensions written innermost first:
//   weights  uint8 [64][L][any], tile after tile, 64-byte aligned; the first tile holds the first row of y
//   x        gemv: int8 [16 L]; gemm: int8 [4][tokens of a block][BITNET_ACTIVATION_WIDTH(k) / 4][blocks];
//            64-byte aligned
//   x_sums   int32 [tokens]
//   y        int32 [16][part][streams] with strides 1, 16, any; gemm: a fourth dimension of tokens
// It computes row tiles t + s * part for 0 <= t < part and 0 <= s < the extent of y's third dimension: `streams`, or
// any other number at the speed of single tiles. Only host, extent and stride of the buffers are read, all minima are
// 0. The function needs no scratch and imports nothing; offsets are computed with 64 bits. Preconditions: the ranges of
// TernaryPoint. Throws Halide::Error.
[[nodiscard]] Halide::Module i2s_gemv(const TernaryPoint& point, const Halide::Target& target,
                                      const std::string& symbol);
[[nodiscard]] Halide::Module i2s_gemm(const TernaryPoint& point, const Halide::Target& target,
                                      const std::string& symbol);

}  // namespace bitnet::schedules
