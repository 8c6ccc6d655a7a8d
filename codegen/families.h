// Which kernel families exist for which target: exactly those whose rendered header is embedded in this program
// (generated/families.cmake). There is no second list.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "runtime/kernels/kernel.h"

namespace bitnet::codegen {

// Operation of a ternary kernel as it stands in file names: "gemv", "gemm", or "batch" for a gemm with m != 0.
[[nodiscard]] std::string_view family_operation(const Kernel& kernel);
// "generated/t5_gemv_avx512_vbmi.h"
[[nodiscard]] std::string family_header(Isa isa, Format format, std::string_view operation);
[[nodiscard]] bool has_family(Isa isa, Format format, std::string_view operation);
// Headers of the dense operations of a target, in the order of their names; empty if it has none.
[[nodiscard]] std::vector<std::string> dense_headers(Isa isa);
// Names of the targets that have kernels of `format`, as a user asks for them: "scalar, avx512".
[[nodiscard]] std::string targets_with(Format format);

}  // namespace bitnet::codegen
