// lld as a library: objects to one shared object that exports the given symbols and nothing else.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "runtime/base/result.h"

namespace bitnet::codegen {

// `objects`: ELF files as bytes. Undefined symbols are refused; unused sections are dropped; there is no build id, so
// equal inputs give equal bytes wherever the temporary files lay. kFailure holds lld's messages. Thread-safe (calls are
// made one after the other: lld keeps its state in globals).
[[nodiscard]] Result<std::string> link_image(std::span<const std::string> objects,
                                             std::span<const std::string> exports);

}  // namespace bitnet::codegen
