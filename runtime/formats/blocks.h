// Block types that can hold ternary weights: a float16 scale d and codes of a run of one row's columns,
// weight = d * (code - 1). Private to this folder.
#pragma once

#include <cstddef>
#include <cstdint>

#include "runtime/gguf/gguf.h"

namespace bitnet::formats {

inline constexpr std::size_t kMostBlockElements = 256;

struct BlockType {
  std::uint32_t elements = 0;  // 0: not such a type
  std::uint32_t bytes = 0;
  std::uint32_t scale_at = 0;  // offset of d in the block
  bool may_hold_two = false;   // code 3, weight 2 d, can be written
  // All codes, 0..3, whatever d is. `block` needs no alignment.
  void (*codes)(const std::uint8_t* block, std::uint8_t* out) = nullptr;
};
[[nodiscard]] BlockType block_type(gguf::TensorType type);

[[nodiscard]] float block_scale(const BlockType& type, const std::uint8_t* block);

}  // namespace bitnet::formats
