// generation_config.json, where a checkpoint has one: the sampling that its author recommends.
#pragma once

#include <string>

#include "runtime/base/result.h"
#include "runtime/sampling/sampler.h"

namespace bitnet::convert {

struct Generation {
  bool present = false;  // false: no file, and `sampling` says nothing
  SamplingParams sampling;
};

// Reads do_sample (false is temperature 0), temperature, top_k, top_p, min_p and repetition_penalty of `directory`'s
// file; absent keys keep this project's defaults. kFailure, naming file and key, for values that no sampler takes.
[[nodiscard]] Result<Generation> read_generation(const std::string& directory);

}  // namespace bitnet::convert
