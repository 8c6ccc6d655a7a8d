// Whether a config.json says what it was made from.
#pragma once

#include <string>

#include "runtime/base/result.h"
#include "runtime/convert/hf_config.h"

namespace bitnet::convert {

// Reads `text` as read_hf_config() will, and compares it with `config`. The result is the largest relative difference
// of a number; 0: both mean the same model. kFailure, with the reason alone: the text cannot be read, or means another
// graph (differences beyond 1e-5 included).
[[nodiscard]] Result<double> check_config_json(const HfConfig& config, const std::string& text);

}  // namespace bitnet::convert
