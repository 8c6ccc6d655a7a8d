#include "runtime/convert/values.h"

#include <bit>
#include <cstring>

#include "runtime/base/half.h"
#include "runtime/gguf/types.h"

namespace bitnet::convert {

using safetensors::DType;

bool is_float(DType type) { return type == DType::kF32 || type == DType::kBF16 || type == DType::kF16; }

void load_floats(const safetensors::Tensor& tensor, std::uint64_t first, std::span<float> out) {
  if (out.empty()) return;
  const std::size_t width = safetensors::element_bits(tensor.dtype) / 8;
  const std::byte* from = tensor.data.data() + static_cast<std::size_t>(first) * width;
  if (tensor.dtype == DType::kF32) {
    std::memcpy(out.data(), from, out.size_bytes());
    return;
  }
  for (std::size_t i = 0; i < out.size(); ++i) {
    std::uint16_t bits = 0;
    std::memcpy(&bits, from + i * width, sizeof bits);
    out[i] = tensor.dtype == DType::kBF16 ? std::bit_cast<float>(std::uint32_t{bits} << 16) : half_to_float(bits);
  }
}

std::string place_of(const safetensors::File& file, std::string_view tensor) {
  return file.path() + ": tensor " + gguf::quoted(tensor);
}

}  // namespace bitnet::convert
