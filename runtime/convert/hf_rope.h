// RoPE settings of config.json; private to this folder.
#pragma once

#include "runtime/base/result.h"
#include "runtime/convert/hf_config.h"
#include "runtime/convert/settings.h"

namespace bitnet::convert {

// Sets the rope_* members of config.model and the factors of config, from rope_theta and rope_scaling or from
// rope_parameters (transformers 5). head_dim, context and the window are set already. `default_base`: where none is
// stated; 0: it must be.
[[nodiscard]] Status read_rope(const Settings& settings, float default_base, HfConfig& config);

}  // namespace bitnet::convert
