// What kernels and layouts mean in a line or a few, for `explain` and for the header of a static library. The contract
// itself is runtime/kernels/kernel_abi.h and layout.h.
#pragma once

#include <string>
#include <string_view>

#include "runtime/kernels/layout.h"

namespace bitnet::codegen {

// "y[r] = sum over k of W[r][k] * x[k], exact int32"
[[nodiscard]] std::string_view formula_of(Op op);
// The struct that kernels of the operation take: "bitnet_gemv_args".
[[nodiscard]] std::string arguments_of(Op op);
// Which byte holds which code, enough to pack by; lines without a comment prefix, each ending with a line feed.
[[nodiscard]] std::string_view layout_text(Layout layout);

}  // namespace bitnet::codegen
