// Elements of SafeTensors tensors, and the form of messages about them; private to this folder.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "runtime/base/result.h"
#include "runtime/safetensors/safetensors.h"

namespace bitnet::convert {

// Whether load_floats() reads this type.
[[nodiscard]] bool is_float(safetensors::DType type);

// Elements [first, first + out.size()) of an F32, BF16 or F16 tensor, exactly. They lie within the tensor.
void load_floats(const safetensors::Tensor& tensor, std::uint64_t first, std::span<float> out);

// "FILE: tensor 'NAME'".
[[nodiscard]] std::string place_of(const safetensors::File& file, std::string_view tensor);

}  // namespace bitnet::convert
