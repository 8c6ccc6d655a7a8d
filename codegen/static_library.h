// --emit static: the kernels of a plan as a static library and a C header, for programs that embed them without a
// loader. The same objects as in the bundle's images, after the same audits and self-test.
#pragma once

#include <string>

#include "codegen/compile.h"

namespace bitnet::codegen {

struct StaticLibrary {
  std::string archive;  // ar, one member per object
  std::string header;  // C: kernel_abi.h, a declaration of every kernel with its sizes, the layouts, a list for each op
};

// `name`: of the library without "lib" and ".a"; characters that C does not allow in names become '_' in the header's
// macros. kUsage for images of more than one architecture, which no archive can hold.
[[nodiscard]] Result<StaticLibrary> make_static_library(const CompiledBundle& bundle, const std::string& name);

}  // namespace bitnet::codegen
