// Bounds on models that the reader and the compiler share.
#pragma once

#include <cstdint>

namespace bitnet {

// Widest layer (K of a ternary product). An int32 dot product becomes a float32, which is exact below 2^24:
// 127 * 132104 = 2^24 - 8.
inline constexpr std::int64_t kMaxWidth = 132104;
static_assert(127 * kMaxWidth < (1 << 24) && 127 * (kMaxWidth + 1) >= (1 << 24));

}  // namespace bitnet
