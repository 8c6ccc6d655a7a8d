// The way back: tensors of a model under the names and in the order of a Hugging Face style checkpoint, and its
// config.json.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "runtime/base/result.h"
#include "runtime/convert/hf_config.h"
#include "runtime/convert/source.h"

namespace bitnet::convert {

// The naming of a model that comes from a GGUF file.
[[nodiscard]] HfConfig hf_config_of(const ModelConfig& config, bool tied);

// `tensors` (GGUF names) with the checkpoint's names, row order and values. Tensors that a checkpoint has no place for
// go to `unmapped`. kTensorMapping: tensors of a type that cannot be read, or that change the model and have no place.
[[nodiscard]] Result<std::vector<SourceTensor>> hf_tensors(std::vector<SourceTensor> tensors, const HfConfig& config,
                                                           std::vector<Unmapped>& unmapped);

// The text of config.json. kFailure, with the reason alone, for what it cannot say. Not all of that is seen here:
// check_config_json() reads the text again.
// States in `config` which projections have biases, and warns of what no class of transformers has: it would leave
// these tensors out, while this program reads them back. `tensors` have their names in GGUF files.
void note_biases_and_norms(const std::vector<SourceTensor>& tensors, HfConfig& config,
                           std::vector<std::string>& warnings);

[[nodiscard]] Result<std::string> hf_config_json(const HfConfig& config);

}  // namespace bitnet::convert
