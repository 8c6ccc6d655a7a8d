// Names and shapes. The set of tensors is closed, as in the runtime: what is missing and what does not belong are both
// named.
#include <array>
#include <cmath>
#include <cstring>
#include <set>
#include <string_view>
#include <utility>

#include "runtime/convert/tensors.h"
#include "runtime/convert/values.h"
#include "runtime/gguf/types.h"

namespace bitnet::convert {
namespace {

using gguf::quoted;
using safetensors::DType;
using safetensors::shape_text;

struct NamePair {
  std::string_view part;  // PlannedTensor::part
  std::string_view name;  // behind "model.layers.N." or "model."
};
constexpr std::array<NamePair, 13> kNames = {{{"token_embd", "embed_tokens"},
                                              {"attn_norm", "input_layernorm"},
                                              {"ffn_norm", "post_attention_layernorm"},
                                              {"attn_sub_norm", "self_attn.attn_sub_norm"},
                                              {"ffn_sub_norm", "mlp.ffn_sub_norm"},
                                              {"attn_q", "self_attn.q_proj"},
                                              {"attn_k", "self_attn.k_proj"},
                                              {"attn_v", "self_attn.v_proj"},
                                              {"attn_output", "self_attn.o_proj"},
                                              {"ffn_gate", "mlp.gate_proj"},
                                              {"ffn_up", "mlp.up_proj"},
                                              {"ffn_down", "mlp.down_proj"},
                                              {"output_norm", "norm"}}};

constexpr const char* kAdvice = "does the checkpoint belong to its config.json? Export it again";

std::string checkpoint_name(const PlannedTensor& plan) {
  std::string name = plan.layer < 0 ? "model." : "model.layers." + std::to_string(plan.layer) + ".";
  for (const NamePair& pair : kNames) {
    if (pair.part == plan.part) name += pair.name;
  }
  return name + ".weight";
}

bool is_float(DType type) {
  return type == DType::kF32 || type == DType::kBF16 || type == DType::kF16 || type == DType::kF64;
}

class Mapper {
 public:
  explicit Mapper(const safetensors::File& file) : file_(file) {}

  void add(PlannedTensor plan) {
    SourceTensor source;
    const std::string name = checkpoint_name(plan);
    source.weight = find(name);
    if (plan.type == gguf::TensorType::kI2_S) scales_.push_back(find(name + "_scale"));
    if (plan.type != gguf::TensorType::kI2_S) scales_.push_back(nullptr);
    source.plan = std::move(plan);
    sources_.push_back(std::move(source));
  }

  Result<std::vector<SourceTensor>> finish() && {
    for (const SourceTensor& source : sources_) BITNET_RETURN_IF_ERROR(check_packable(source.plan));
    BITNET_RETURN_IF_ERROR(refuse_float_checkpoint());
    BITNET_RETURN_IF_ERROR(check_names());
    for (std::size_t i = 0; i < sources_.size(); ++i) {
      SourceTensor& source = sources_[i];
      if (source.plan.type != gguf::TensorType::kI2_S) {
        BITNET_RETURN_IF_ERROR(check_values(source));
        continue;
      }
      BITNET_RETURN_IF_ERROR(check_packed(source));
      BITNET_ASSIGN_OR_RETURN(source.scale, read_scale(*scales_[i]));
    }
    return std::move(sources_);
  }

 private:
  [[nodiscard]] Error refuse(std::string_view tensor, const std::string& expected, const std::string& found) const {
    return tensor_error(file_, tensor, "expected " + expected + ", found " + found + "; " + kAdvice);
  }

  const safetensors::Tensor* find(const std::string& name) {
    const safetensors::Tensor* tensor = file_.find_tensor(name);
    if (tensor == nullptr) {
      missing_.push_back(name);
    } else {
      expected_.insert(tensor->name);
    }
    return tensor;
  }

  // The sizes come from config.json, so that they are looked at before any tensor.
  [[nodiscard]] Status check_packable(const PlannedTensor& plan) const {
    if (plan.type != gguf::TensorType::kI2_S) return {};
    const std::uint64_t columns = plan.ne[0];
    const std::uint64_t rows = plan.ne[1];
    if (rows % 4 == 0 && rows * columns % kI2sGroup == 0) return {};
    return tensor_error(file_, checkpoint_name(plan),
                        "expected a matrix whose rows are a multiple of 4 and whose weights are one of " +
                            std::to_string(kI2sGroup) + " (a group of I2_S), found " + std::to_string(rows) + " x " +
                            std::to_string(columns) +
                            " in config.json; the file format cannot hold it: choose hidden, intermediate and head "
                            "sizes as multiples of 16");
  }

  // Told apart from a damaged one, because its user wants to hear something else.
  [[nodiscard]] Status refuse_float_checkpoint() const {
    for (const SourceTensor& source : sources_) {
      if (source.plan.type != gguf::TensorType::kI2_S || source.weight == nullptr) continue;
      if (!is_float(source.weight->dtype)) continue;
      return tensor_error(file_, source.weight->name,
                          "expected packed ternary weights (U8), found " +
                              std::string(to_string(source.weight->dtype)) + " " + shape_text(source.weight->shape) +
                              "; this is a float checkpoint, and only packed ones can be converted: quantise it when "
                              "it is exported");
    }
    return {};
  }

  [[nodiscard]] Status check_names() const {
    std::vector<std::string> unexpected;
    for (const safetensors::Tensor& tensor : file_.tensors()) {
      if (!expected_.contains(tensor.name)) unexpected.push_back(tensor.name);
    }
    if (missing_.empty() && unexpected.empty()) return {};
    std::string what;
    if (!missing_.empty()) what += "missing: " + list(missing_);
    if (!unexpected.empty()) what += (what.empty() ? "" : "; ") + ("not part of this model: " + list(unexpected));
    return Error{ErrorCode::kTensorMapping, file_.path() + ": tensors " + what + "; " + kAdvice};
  }

  static std::string list(const std::vector<std::string>& names) {
    constexpr std::size_t kShown = 8;
    std::string text;
    for (std::size_t i = 0; i < names.size() && i < kShown; ++i) text += (i > 0 ? ", " : "") + quoted(names[i]);
    if (names.size() > kShown) text += " and " + std::to_string(names.size() - kShown) + " more";
    return text;
  }

  [[nodiscard]] Status check_shape(const safetensors::Tensor& tensor, const std::vector<std::uint64_t>& shape) const {
    if (tensor.shape == shape) return {};
    return refuse(tensor.name, "shape " + shape_text(shape), shape_text(tensor.shape));
  }

  // Norms and the embedding.
  [[nodiscard]] Status check_values(const SourceTensor& source) const {
    const safetensors::Tensor& tensor = *source.weight;
    const bool half_allowed = source.plan.type == gguf::TensorType::kF16;
    if (tensor.dtype != DType::kF32 && tensor.dtype != DType::kBF16 && !(half_allowed && tensor.dtype == DType::kF16)) {
      return refuse(tensor.name, half_allowed ? "type F32, BF16 or F16" : "type F32 or BF16",
                    std::string(to_string(tensor.dtype)));
    }
    return check_shape(tensor, {source.plan.ne.rbegin(), source.plan.ne.rend()});
  }

  [[nodiscard]] Status check_packed(const SourceTensor& source) const {
    const safetensors::Tensor& tensor = *source.weight;
    if (tensor.dtype != DType::kU8) return refuse(tensor.name, "type U8", std::string(to_string(tensor.dtype)));
    return check_shape(tensor, {source.plan.ne[1] / 4, source.plan.ne[0]});
  }

  [[nodiscard]] Result<float> read_scale(const safetensors::Tensor& tensor) const {
    if (tensor.dtype != DType::kF32 && tensor.dtype != DType::kBF16) {
      return refuse(tensor.name, "type F32 or BF16", std::string(to_string(tensor.dtype)));
    }
    BITNET_RETURN_IF_ERROR(check_shape(tensor, {1}));
    float scale = 0.0F;
    load_floats(tensor, 0, {&scale, 1});
    if (std::isfinite(scale) && scale > 0.0F) return scale;
    return refuse(tensor.name, "a finite number above 0", std::to_string(scale));
  }

  const safetensors::File& file_;
  std::vector<SourceTensor> sources_;
  std::vector<const safetensors::Tensor*> scales_;  // beside sources_; null where there is none
  std::vector<std::string> missing_;
  std::set<std::string_view> expected_;
};

}  // namespace

Error tensor_error(const safetensors::File& file, std::string_view tensor, const std::string& what) {
  return {ErrorCode::kTensorMapping, file.path() + ": tensor " + quoted(tensor) + ": " + what};
}

Result<std::vector<SourceTensor>> map_checkpoint(const safetensors::File& file, const ModelConfig& config) {
  Mapper mapper(file);
  for (PlannedTensor& plan : plan_tensors(config)) mapper.add(std::move(plan));
  return std::move(mapper).finish();
}

}  // namespace bitnet::convert
