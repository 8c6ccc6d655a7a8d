// Elements of float tensors, and the form of messages about tensors; private to this folder.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "runtime/base/result.h"
#include "runtime/safetensors/safetensors.h"

namespace bitnet::convert {

// Elements [first, first + out.size()) of an F32, BF16 or F16 tensor, exactly. They lie within the tensor.
void load_floats(const safetensors::Tensor& tensor, std::uint64_t first, std::span<float> out);

// kTensorMapping: "FILE: tensor 'NAME': WHAT".
[[nodiscard]] Error tensor_error(const safetensors::File& file, std::string_view tensor, const std::string& what);

}  // namespace bitnet::convert
