// Writes the translation unit of one image: a few lines per kernel that instantiate a family with constants under an
// extern "C" name. The text is meant for reading (--emit-sources) as much as for the compiler.
#pragma once

#include <string>

#include "codegen/plan.h"

namespace bitnet::codegen {

[[nodiscard]] std::string emit_translation_unit(const ImagePlan& image);
// "bitnet_kernels_avx512.cc"
[[nodiscard]] std::string translation_unit_name(const ImagePlan& image);

}  // namespace bitnet::codegen
