// The tensors of a packed checkpoint: found, checked, and streamed in the types and layouts of a GGUF file.
#pragma once

#include <string>
#include <vector>

#include "runtime/base/result.h"
#include "runtime/gguf/gguf.h"
#include "runtime/model/gguf_layout.h"
#include "runtime/safetensors/safetensors.h"

namespace bitnet::convert {

// A tensor to write and what it is made of. The pointers go into the File.
struct SourceTensor {
  PlannedTensor plan;
  const safetensors::Tensor* weight = nullptr;
  float scale = 0.0F;  // of I2_S: finite and above 0
};

// Every tensor of the configuration, in the order in which it is to be written. All errors are kTensorMapping: names
// that are missing or do not belong there, types and shapes other than training/README.md's, scales that are not finite
// and above 0, matrices that cannot be packed by 4 rows or I2_S groups of 128.
[[nodiscard]] Result<std::vector<SourceTensor>> map_checkpoint(const safetensors::File& file,
                                                               const ModelConfig& config);

// Writes one tensor's bytes in pieces of about 1 MiB and gives the pages that it has read back. kTensorMapping, with
// row and column: packed code 3, numbers that are not finite, and numbers beyond float16 in a float16 tensor.
[[nodiscard]] Status stream_tensor(const safetensors::File& file, const SourceTensor& tensor,
                                   const gguf::Writer::Sink& sink);

}  // namespace bitnet::convert
