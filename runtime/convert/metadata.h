// The metadata of a GGUF file that a conversion writes.
#pragma once

#include <string_view>

#include "runtime/gguf/gguf.h"
#include "runtime/model/config.h"

namespace bitnet::convert {

// Every key of a model that read_config() reads back as `config`, `name` being general.name. `type`: of the
// projections, for general.file_type.
void set_model_metadata(const ModelConfig& config, std::string_view name, gguf::TensorType type, gguf::Writer& writer);

// general.file_type: a hint for other programs, the type of each tensor decides.
[[nodiscard]] std::uint32_t file_type(gguf::TensorType type);

}  // namespace bitnet::convert
