// Which type each tensor of a result has.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "runtime/base/result.h"
#include "runtime/convert/source.h"
#include "runtime/convert/stream.h"
#include "runtime/safetensors/safetensors.h"

namespace bitnet::convert {

struct PlanOptions {
  gguf::TensorType type = gguf::TensorType::kI2_S;  // of projections
  std::optional<gguf::TensorType> embedding, head;
  bool keep_types = false;  // what no option speaks of stays what it is, else it becomes float32
  bool ternarize = false;
  bool packed = false;  // SafeTensors with packed projections
  std::string tile_config;
  bool strict = false;  // an assumed tile table is an error
};

// A target for each tensor. Rows that are no whole blocks of Q8_0 keep their values as floats, with a warning, as a
// --head without a head of its own gets one. kTensorMapping, with
// the tensor: a type that is not known to the reader and would have to be changed; TL1 and TL2 without tile parameters;
// kUsage: types that an embedding or head cannot have; kStrict: an assumed tile table; and what TileTable::read
// refuses.
[[nodiscard]] Result<std::vector<Target>> plan_targets(const std::vector<SourceTensor>& tensors,
                                                       const PlanOptions& options, std::vector<std::string>& warnings);

// For reports: "TL2", "U8" of a packed tensor.
[[nodiscard]] std::string type_name(const Target& target);

// Bytes of the result's tensor. kTensorMapping: the type cannot have this shape.
[[nodiscard]] Result<std::uint64_t> target_bytes(const SourceTensor& tensor, const Target& target);
// kTensorMapping: a type that SafeTensors does not have.
[[nodiscard]] Result<safetensors::DType> safetensors_type(const Target& target);

}  // namespace bitnet::convert
