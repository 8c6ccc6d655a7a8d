// How a BitNet model stands in a GGUF file that this project writes: tensors with their types, shapes and order, and
// metadata keys in their order. One list for everything that writes models (synthetic ones, converted ones); the names
// are those of bitnet.cpp's converter, the reader's side is config.cc and tensors.cc.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/gguf/gguf.h"
#include "runtime/model/config.h"
#include "runtime/tokenizer/vocabulary_data.h"

namespace bitnet {

// I2_S: codes of 128 consecutive weights share 32 bytes; float32 scale and 28 zero bytes behind the last group.
inline constexpr std::size_t kI2sGroup = 128;
inline constexpr std::size_t kI2sTailBytes = 32;

struct PlannedTensor {
  std::string name;         // "blk.3.attn_q.weight"
  std::string_view part;    // "attn_q": the name without block and ".weight"
  std::int64_t layer = -1;  // -1: outside the blocks
  gguf::TensorType type = gguf::TensorType::kF32;
  std::vector<std::uint64_t> ne;  // fastest first, as in the file

  [[nodiscard]] std::uint64_t elements() const;
  [[nodiscard]] std::uint64_t bytes() const;  // kF16, kF32 and kI2_S
};

// All tensors of the model in file order: F16 embedding (tied head), F32 norms, I2_S projections. `config` as
// read_config would accept it; I2_S needs matrices whose elements are a multiple of 128, which the caller checks.
[[nodiscard]] std::vector<PlannedTensor> plan_tensors(const ModelConfig& config);

// Sets all metadata keys of a model of I2_S weights, `name` being general.name.
void set_metadata(const ModelConfig& config, std::string_view name, const VocabularyData& vocabulary,
                  gguf::Writer& writer);

}  // namespace bitnet
