// Files that were put into the program at build time (cmake/BitnetEmbed.cmake): the family headers, the kernel ABI,
// clang's own headers, Halide's runtime header and the default points. The compiler reads nothing else, so that no
// header of the machine that runs it can change a kernel.
#pragma once

#include <span>
#include <string_view>

namespace bitnet::codegen {

struct EmbeddedFile {
  std::string_view path;  // as it is included: "runtime/kernels/kernel_abi.h", "clang/include/emmintrin.h"
  std::string_view text;
};

// Ascending by path.
[[nodiscard]] std::span<const EmbeddedFile> embedded_files();
// nullptr if absent.
[[nodiscard]] const EmbeddedFile* find_embedded(std::string_view path);

}  // namespace bitnet::codegen
