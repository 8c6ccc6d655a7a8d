// The tensors of a GGUF file as a source of conversions.
#pragma once

#include <string>
#include <vector>

#include "runtime/base/result.h"
#include "runtime/convert/source.h"
#include "runtime/formats/options.h"
#include "runtime/gguf/gguf.h"

namespace bitnet::convert {

// Every tensor of the file, in its order; views of `file`, which must outlive them. Ternary tensors are looked through
// once where their type needs it, `notes` gets what was assumed. Errors: those of formats::TernaryMatrix::open.
[[nodiscard]] Result<std::vector<SourceTensor>> gguf_tensors(const gguf::File& file,
                                                             const formats::ReadOptions& options,
                                                             std::vector<std::string>& notes);

// What a tensor of this name is in a model.
[[nodiscard]] Role role_of(std::string_view name);

}  // namespace bitnet::convert
