// The sampling that a model's author recommends, from its GGUF metadata: general.sampling.{temp, top_k, top_p, min_p,
// penalty_repeat}, the keys of llama.cpp. A user's own choice goes before it.
#pragma once

#include "runtime/base/result.h"
#include "runtime/gguf/gguf.h"
#include "runtime/sampling/sampler.h"

namespace bitnet {

// SamplingParams{} with what the file recommends in its place. kFailure, naming the key, for a value of another type or
// out of the sampler's range.
[[nodiscard]] Result<SamplingParams> recommended_sampling(const gguf::File& file);

// Writes all five keys.
void recommend_sampling(const SamplingParams& params, gguf::Writer& writer);

}  // namespace bitnet
