// IEEE binary16 in the runtime's own scalar code: RoPE output, KV cache, embedding rows. Round to nearest even.
#pragma once

#include <cstdint>

namespace bitnet {

[[nodiscard]] float half_to_float(std::uint16_t h);
[[nodiscard]] std::uint16_t float_to_half(float f);

}  // namespace bitnet
