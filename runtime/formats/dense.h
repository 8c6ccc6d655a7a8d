// Tensor types as floats, both ways, with ggml's bits.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "runtime/gguf/gguf.h"

namespace bitnet::formats {

// Types that decode_floats() knows: F32, F16, BF16, Q8_0, Q6_K, Q5_0, Q5_1, Q4_0, Q4_1, Q4_K, Q5_K, and the ternary
// block types (TQ1_0, TQ2_0, Q2_0, PQ2_0, Q1_0).
[[nodiscard]] bool is_dense(gguf::TensorType type);

// Elements of a block: 1, 32, 64, 128 or 256. Precondition: is_dense(type).
[[nodiscard]] std::uint64_t block_elements(gguf::TensorType type);

// Elements [first, first + out.size()) of a tensor whose data begin at `blocks` (any alignment): the bits that ggml's
// dequantisation gives. Preconditions: is_dense(type), `first` a multiple of the block, the elements are there; out may
// end inside a block. Thread-safe.
void decode_floats(gguf::TensorType type, const std::byte* blocks, std::uint64_t first, std::span<float> out);

}  // namespace bitnet::formats
