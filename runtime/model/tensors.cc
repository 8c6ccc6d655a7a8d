// The tensor table -> ModelTensors. The set of tensors is closed: each expected one must be there with its type and
// shape, and each one that is there must be expected, because a bias or a projection scale that is silently left out
// gives wrong text rather than an error.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <initializer_list>
#include <map>
#include <set>
#include <string>
#include <utility>

#include "runtime/model/config.h"

namespace bitnet {
namespace {

Error tensor_error(const gguf::File& file, std::string_view tensor, const std::string& what) {
  return Error{ErrorCode::kTensorMapping, file.path() + ": tensor " + std::string(tensor) + ": " + what};
}

std::string shape_text(const gguf::Tensor& tensor) {
  std::string text = "[" + std::to_string(tensor.ne[0]);
  for (std::uint32_t i = 1; i < 4 && (i < tensor.n_dims || tensor.ne[i] != 1); ++i) {
    text += "," + std::to_string(tensor.ne[i]);
  }
  return text + "]";
}

class Mapper {
 public:
  explicit Mapper(const gguf::File& file) : file_(file) {}

  Result<const gguf::Tensor*> norm(const std::string& name, std::int64_t k) {
    return find(name, {gguf::TensorType::kF32}, k, 1);
  }
  Result<const gguf::Tensor*> embedding(const std::string& name, std::int64_t n, std::int64_t k) {
    return find(name, {gguf::TensorType::kF16, gguf::TensorType::kBF16, gguf::TensorType::kF32}, k, n);
  }
  Result<const gguf::Tensor*> ternary(const std::string& name, std::int64_t n, std::int64_t k) {
    BITNET_ASSIGN_OR_RETURN(const gguf::Tensor* tensor, find(name, {gguf::TensorType::kI2_S}, k, n));
    // The last group of 128 codes would run into the scale.
    if (n * k % 128 != 0) {
      return tensor_error(file_, name,
                          "I2_S stores groups of 128 weights, but " + std::to_string(n) + " x " + std::to_string(k) +
                              " weights are not a multiple of 128");
    }
    const float scale = i2s_scale(*tensor);
    if (!std::isfinite(scale) || !(scale > 0.0F)) {
      return tensor_error(file_, name,
                          "its scale (the float32 behind the codes) is " + std::to_string(scale) +
                              ", expected a finite number above 0; the file is damaged or was quantised "
                              "wrongly: convert it again");
    }
    return tensor;
  }

  // Every tensor of the file is used, or known to be safe to leave out.
  [[nodiscard]] Status check_nothing_left() const {
    for (const gguf::Tensor& tensor : file_.tensors()) {
      if (used_.contains(tensor.name)) continue;
      // The head is always tied to token_embd: bitnet.cpp loads output.weight and never uses it.
      if (tensor.name == "output.weight") continue;
      std::string reason = "does not belong to this architecture";
      if (tensor.name.ends_with(".bias")) reason = "biases are not supported";
      if (tensor.name.ends_with(".scale")) reason = "separate projection scales are not supported";
      if (tensor.name.find("rope_freqs") != std::string_view::npos) reason = "RoPE frequency factors are not supported";
      return tensor_error(file_, tensor.name,
                          reason + "; leaving it out would change the results, so the model is refused");
    }
    return {};
  }

 private:
  Result<const gguf::Tensor*> find(const std::string& name, std::initializer_list<gguf::TensorType> types,
                                   std::int64_t ne0, std::int64_t ne1) {
    const gguf::Tensor* tensor = file_.find_tensor(name);
    if (tensor == nullptr) return tensor_error(file_, name, "missing");
    if (std::find(types.begin(), types.end(), tensor->type) == types.end()) {
      std::string expected;
      for (const gguf::TensorType type : types) {
        expected += (expected.empty() ? "" : " or ") + std::string(gguf::to_string(type));
      }
      return tensor_error(file_, name,
                          "expected type " + expected + ", found " + std::string(gguf::to_string(tensor->type)));
    }
    if (tensor->ne[0] != static_cast<std::uint64_t>(ne0) || tensor->ne[1] != static_cast<std::uint64_t>(ne1) ||
        tensor->ne[2] != 1 || tensor->ne[3] != 1) {
      const std::string expected = "[" + std::to_string(ne0) + (ne1 == 1 ? "" : "," + std::to_string(ne1)) + "]";
      return tensor_error(file_, name, "expected shape " + expected + " (fastest first), found " + shape_text(*tensor));
    }
    used_.insert(tensor->name);
    return tensor;
  }

  const gguf::File& file_;
  std::set<std::string_view> used_;
};

// "210 TL1 (blk.0.attn_q.weight, ...), 121 F32 (...)".
std::string type_census(const gguf::File& file) {
  std::map<std::string_view, std::pair<std::size_t, std::string_view>> census;
  for (const gguf::Tensor& tensor : file.tensors()) {
    auto& [count, example] = census[gguf::to_string(tensor.type)];
    if (count++ == 0) example = tensor.name;
  }
  std::string text;
  for (const auto& [type, entry] : census) {
    if (!text.empty()) text += ", ";
    text += std::to_string(entry.first) + " " + std::string(type) + " (" + std::string(entry.second) +
            (entry.first > 1 ? ", ...)" : ")");
  }
  return text.empty() ? "none" : text;
}

}  // namespace

float i2s_scale(const gguf::Tensor& tensor) {
  float scale = 0.0F;
  std::memcpy(&scale, tensor.data.data() + tensor.ne[0] * tensor.ne[1] / 4, sizeof scale);
  return scale;
}

Result<ModelTensors> map_tensors(const gguf::File& file, const ModelConfig& config) {
  bool any_ternary = false;
  for (const gguf::Tensor& tensor : file.tensors()) any_ternary |= tensor.type == gguf::TensorType::kI2_S;
  if (!any_ternary) {
    return Error{ErrorCode::kTensorMapping, file.path() +
                                                ": no ternary tensor of type I2_S, the only ternary type that can be "
                                                "read; its tensors: " +
                                                type_census(file) + ". Convert the model to I2_S"};
  }

  Mapper mapper(file);
  ModelTensors tensors;
  BITNET_ASSIGN_OR_RETURN(tensors.token_embd, mapper.embedding("token_embd.weight", config.vocab, config.hidden));
  BITNET_ASSIGN_OR_RETURN(tensors.output_norm, mapper.norm("output_norm.weight", config.hidden));
  const std::int64_t q_rows = config.heads * config.head_dim;
  const std::int64_t kv_rows = config.kv_heads * config.head_dim;
  using Role = FusedMatrix::Role;
  for (std::int64_t i = 0; i < config.layers; ++i) {
    const std::string block = "blk." + std::to_string(i) + ".";
    LayerTensors layer;
    const auto product = [&](Role role, std::int64_t k,
                             std::initializer_list<std::pair<const char*, std::int64_t>> parts) -> Status {
      FusedMatrix& matrix = layer.products[static_cast<std::size_t>(role)];
      matrix.role = role;
      matrix.k = k;
      for (const auto& [name, rows] : parts) {
        BITNET_ASSIGN_OR_RETURN(const gguf::Tensor* part, mapper.ternary(block + name + ".weight", rows, k));
        matrix.parts.push_back(part);
        matrix.n += rows;
      }
      return {};
    };
    BITNET_RETURN_IF_ERROR(
        product(Role::kQkv, config.hidden, {{"attn_q", q_rows}, {"attn_k", kv_rows}, {"attn_v", kv_rows}}));
    BITNET_RETURN_IF_ERROR(product(Role::kAttentionOutput, q_rows, {{"attn_output", config.hidden}}));
    BITNET_RETURN_IF_ERROR(product(Role::kGateUp, config.hidden, {{"ffn_gate", config.ffn}, {"ffn_up", config.ffn}}));
    BITNET_RETURN_IF_ERROR(product(Role::kDown, config.ffn, {{"ffn_down", config.hidden}}));
    BITNET_ASSIGN_OR_RETURN(layer.attn_norm, mapper.norm(block + "attn_norm.weight", config.hidden));
    BITNET_ASSIGN_OR_RETURN(layer.attn_sub_norm, mapper.norm(block + "attn_sub_norm.weight", q_rows));
    BITNET_ASSIGN_OR_RETURN(layer.ffn_norm, mapper.norm(block + "ffn_norm.weight", config.hidden));
    BITNET_ASSIGN_OR_RETURN(layer.ffn_sub_norm, mapper.norm(block + "ffn_sub_norm.weight", config.ffn));
    tensors.layers.push_back(std::move(layer));
  }
  BITNET_RETURN_IF_ERROR(mapper.check_nothing_left());
  return tensors;
}

}  // namespace bitnet
