// The metadata of a GGUF file that a conversion writes.
#pragma once

#include <string_view>

#include "runtime/convert/hf_config.h"
#include "runtime/gguf/gguf.h"

namespace bitnet::convert {

// Behind the architecture's name: what factors of llama3's scaling were made from, for the way back. Readers need none
// of these keys: rope_freqs.weight says what to do.
inline constexpr std::string_view kLlama3Keys = ".rope.scaling.llama3.";

// Every key of a model that read_config() reads back as `config.model`, `name` being general.name. `type`: of the
// projections, for general.file_type.
void set_model_metadata(const HfConfig& config, std::string_view name, gguf::TensorType type, gguf::Writer& writer);

// general.file_type: a hint for other programs, the type of each tensor decides.
[[nodiscard]] std::uint32_t file_type(gguf::TensorType type);

}  // namespace bitnet::convert
