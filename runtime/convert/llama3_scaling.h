// transformers' llama3 RoPE scaling, and the factors of GGUF files (rope_freqs.weight) that stand for it.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "runtime/convert/hf_config.h"

namespace bitnet::convert {

// [dim / 2]: what the angle of each pair is divided by. Preconditions: 0 < low < high, factor >= 1, even dim.
[[nodiscard]] std::vector<float> llama3_factors(const Llama3Scaling& scaling, float base, std::int64_t dim);

struct FoundScaling {
  Llama3Scaling scaling;
  double deviation = 0;  // largest relative one of a factor; 0: every bit is the same
};
// The scaling that gives `factors`, or comes closest: programs work them out in different precisions. nullopt where
// none comes within 1e-5. Only the ratios of low, high and the original context follow from factors; the context is
// taken to be a power of two, the usual numbers are tried first.
[[nodiscard]] std::optional<FoundScaling> find_llama3(std::span<const float> factors, float base, std::int64_t dim);

}  // namespace bitnet::convert
