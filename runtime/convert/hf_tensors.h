// The tensors of a Hugging Face style checkpoint under their GGUF names.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "runtime/base/result.h"
#include "runtime/convert/checkpoint.h"
#include "runtime/convert/hf_config.h"
#include "runtime/convert/source.h"

namespace bitnet::convert {

// Where a tensor of a model stands in either naming, and what is done to it on the way.
struct TensorRule {
  std::string gguf;  // "attn_q.weight", below "blk.N." if in_layer
  bool in_layer = true;
  std::vector<std::string> hf;  // names below "model.layers.N." or "model."; the first one is written
  Role role = Role::kOther;
  bool required = true;
  std::int64_t columns = 0;         // of the GGUF tensor
  std::int64_t rows = 0;            // 0: a vector
  std::int64_t permuted_heads = 0;  // rows of this many heads go from halves to pairs
  bool transposed = false;          // [columns, rows] in the checkpoint
  bool less_one = false;            // the checkpoint holds the values less 1
  bool outside = false;             // without "model." (lm_head)
  std::string scaled_by;            // the checkpoint's values are to be multiplied by this tensor
};

// All tensors that a model of this configuration may have, in the order of a GGUF file.
[[nodiscard]] std::vector<TensorRule> tensor_rules(const HfConfig& config);

// The row of the checkpoint's tensor that becomes row `row` when the rows of `heads` heads go from halves (i beside
// i + width / 2) to pairs (2i beside 2i + 1). rows: of all heads.
[[nodiscard]] std::int64_t row_before_permutation(std::int64_t row, std::int64_t rows, std::int64_t heads);

struct HfTensors {
  std::vector<SourceTensor> tensors;  // in file order; views of the checkpoint
  std::vector<Unmapped> unmapped;     // tensors that change nothing
  std::vector<std::string> missing;   // names of the checkpoint, each of which is an error
  std::vector<std::string> unexpected;
};

// Finds every tensor of the configuration. Own norms of projections make the checkpoint one of masters, which is said
// in config.warnings. kTensorMapping, with file, tensor, expected and found: types and shapes that do not belong,
// scales that are not finite and above 0, two tensors for one place. What is missing or unexpected is in the result:
// check_names() makes the error of it.
[[nodiscard]] Result<HfTensors> map_checkpoint(const Checkpoint& checkpoint, HfConfig& config);
[[nodiscard]] Status check_names(const Checkpoint& checkpoint, const HfTensors& tensors);
// kTensorMapping if there is any: the first of the names, and what to do.
[[nodiscard]] Status refuse_names(const std::string& path, const std::vector<std::string>& missing,
                                  const std::vector<std::string>& unexpected, std::string_view advice);

}  // namespace bitnet::convert
