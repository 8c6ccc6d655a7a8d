// Small models of every architecture for tests of the graph, and a second forward pass for them: token by token, over
// the scalar meaning of each operation (runtime/reference), reading its tensors by name straight from the file. The
// float rules of kernel_abi.h leave no freedom, so its logits are those of the graph, bit for bit.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "runtime/gguf/gguf.h"
#include "runtime/model/config.h"
#include "tests/model_files.h"

namespace bitnet::test {

// What a model of the tests has. Widths: hidden 256, ffn 512 (multiples of every type's block), 4 heads on 2.
struct GraphSpec {
  std::string architecture = "llama";
  std::int64_t layers = 2;
  std::int64_t head_dim = 64;
  std::int64_t vocab = 300;
  std::int64_t context = 300;
  // Type of a matrix by its name without ".weight": "blk.1.attn_q", "token_embd".
  std::function<gguf::TensorType(const std::string& name)> type;
  float magnitude = 0.05F;  // of dense weights, and the scales of ternary ones
  bool row_scales = false;  // TQ types: one scale a row; else one a block
  bool untied = false;
  bool stacked_qkv = false;  // attn_qkv in place of attn_q, attn_k, attn_v
  bool biases = false;
  bool scales = false;  // of projections
  bool qk_norms = false;
  bool sub_norms = false;
  bool post_norms = false;
  bool in_norms = false;  // one for each of the seven projections
  bool rope_freqs = false;
  std::map<std::string, gguf::Value> keys = {};  // without the architecture's prefix
};

// Random weights, the same for the same spec and seed.
[[nodiscard]] ModelCopy make_model(const TempFolder& folder, const GraphSpec& spec, std::uint32_t seed = 1);

// Changes to the second pass, to see that the model's logits depend on what they leave out.
struct Omission {
  std::string tensor;  // every tensor of this name, in whatever block, is not there
  std::function<void(ModelConfig&)> config;
};

// Logits [ids][vocab].
[[nodiscard]] std::vector<std::vector<float>> reference_logits(const std::string& path,
                                                               const std::vector<std::int32_t>& ids,
                                                               const Omission& omission = {});
// States after the output norm, [ids][hidden].
[[nodiscard]] std::vector<std::vector<float>> reference_states(const std::string& path,
                                                               const std::vector<std::int32_t>& ids);

}  // namespace bitnet::test
