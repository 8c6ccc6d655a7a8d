#include "runtime/model/rope.h"

#include "runtime/kernels/builtin.h"

namespace bitnet {

void round_to_half(std::span<float> values) {
  builtin::best_family().round_to_half(values.data(), static_cast<long long>(values.size()));
}

void convert_to_half(std::span<const float> values, std::uint16_t* out) {
  builtin::best_family().convert_to_half(values.data(), out, static_cast<long long>(values.size()));
}

}  // namespace bitnet
