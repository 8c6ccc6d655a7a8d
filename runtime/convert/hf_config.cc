// What kind of checkpoint this is comes first, so that a foreign one is refused as such and not for a missing number.
#include "runtime/convert/hf_config.h"

#include <nlohmann/json.hpp>

#include "runtime/convert/settings.h"
#include "runtime/model/limits.h"

namespace bitnet::convert {
namespace {

using Json = nlohmann::json;

constexpr const char* kOnlyBitNet =
    "only packed BitNet b1.58 checkpoints (BitNetForCausalLM, quantised offline) can be converted";
constexpr const char* kOtherGraph = "the runtime does not implement it, and leaving it out would change the results";
constexpr std::int64_t kMaxLayers = 4096;
constexpr std::int64_t kMaxHeadDim = 4096;
constexpr std::int64_t kMaxContext = std::int64_t{1} << 28;
constexpr std::int64_t kMaxVocab = std::int64_t{1} << 26;

Status check_kind(const Settings& settings) {
  BITNET_RETURN_IF_ERROR(settings.require("model_type", "bitnet", kOnlyBitNet));
  BITNET_RETURN_IF_ERROR(settings.require("architectures", Json::array({"BitNetForCausalLM"}), kOnlyBitNet));
  BITNET_RETURN_IF_ERROR(settings.require("quantization_config.quant_method", "bitnet", kOnlyBitNet));
  BITNET_RETURN_IF_ERROR(settings.require("quantization_config.linear_class", "autobitlinear", kOnlyBitNet));
  BITNET_RETURN_IF_ERROR(settings.require("quantization_config.quantization_mode", "offline", kOnlyBitNet));
  BITNET_RETURN_IF_ERROR(settings.require("hidden_act", "relu2", kOtherGraph));
  BITNET_RETURN_IF_ERROR(settings.require("tie_word_embeddings", true, kOtherGraph));
  for (const char* flag : {"attention_bias", "mlp_bias", "quantization_config.use_rms_norm"}) {
    BITNET_RETURN_IF_ERROR(settings.refuse_other(flag, false, kOtherGraph));
  }
  for (const char* key : {"rope_scaling", "rope_parameters", "sliding_window"}) {
    BITNET_RETURN_IF_ERROR(settings.refuse_other(key, nullptr, kOtherGraph));
  }
  return settings.refuse_other("partial_rotary_factor", 1.0, kOtherGraph);
}

Error bad_heads(const Settings& settings, const std::string& what) {
  return {ErrorCode::kFailure, settings.path() + ": " + what + "; correct the file or export the checkpoint again"};
}

Status read_heads(const Settings& settings, ModelConfig& model) {
  BITNET_ASSIGN_OR_RETURN(model.heads, settings.integer("num_attention_heads", 1, kMaxWidth));
  BITNET_ASSIGN_OR_RETURN(model.kv_heads, settings.integer("num_key_value_heads", 1, model.heads));
  if (model.heads % model.kv_heads != 0) {
    return bad_heads(settings, "key 'num_key_value_heads': expected a divisor of the " + std::to_string(model.heads) +
                                   " attention heads, found " + std::to_string(model.kv_heads));
  }
  if (settings.has("head_dim")) {
    BITNET_ASSIGN_OR_RETURN(model.head_dim, settings.integer("head_dim", 1, kMaxHeadDim));
  } else {
    if (model.hidden % model.heads != 0) {
      return bad_heads(settings, "key 'hidden_size': expected a multiple of the " + std::to_string(model.heads) +
                                     " attention heads, found " + std::to_string(model.hidden));
    }
    model.head_dim = model.hidden / model.heads;
  }
  if (model.head_dim % 2 != 0 || model.head_dim > kMaxHeadDim || model.heads * model.head_dim > kMaxWidth) {
    return bad_heads(settings, "keys 'hidden_size' and 'num_attention_heads': expected heads of an even width up to " +
                                   std::to_string(kMaxHeadDim) + " and at most " + std::to_string(kMaxWidth) +
                                   " in all, found " + std::to_string(model.heads) + " heads of " +
                                   std::to_string(model.head_dim));
  }
  model.rope_dim = model.head_dim;
  return {};
}

}  // namespace

Result<HfConfig> read_hf_config(const std::string& path) {
  BITNET_ASSIGN_OR_RETURN(const Settings settings, Settings::read(path, ErrorCode::kFailure));
  BITNET_RETURN_IF_ERROR(check_kind(settings));
  HfConfig config;
  ModelConfig& model = config.model;
  model.architecture = "bitnet-b1.58";
  model.activation = Activation::kRelu2;
  BITNET_ASSIGN_OR_RETURN(model.hidden, settings.integer("hidden_size", 1, kMaxWidth));
  BITNET_ASSIGN_OR_RETURN(model.ffn, settings.integer("intermediate_size", 1, kMaxWidth));
  BITNET_ASSIGN_OR_RETURN(model.layers, settings.integer("num_hidden_layers", 1, kMaxLayers));
  BITNET_RETURN_IF_ERROR(read_heads(settings, model));
  BITNET_ASSIGN_OR_RETURN(model.context, settings.integer("max_position_embeddings", 1, kMaxContext));
  BITNET_ASSIGN_OR_RETURN(model.vocab, settings.integer("vocab_size", 1, kMaxVocab));
  BITNET_ASSIGN_OR_RETURN(model.norm_eps, settings.positive("rms_norm_eps"));
  BITNET_ASSIGN_OR_RETURN(model.rope_base, settings.positive("rope_theta"));
  BITNET_ASSIGN_OR_RETURN(config.bos, settings.integer("bos_token_id", 0, model.vocab - 1));
  BITNET_ASSIGN_OR_RETURN(config.eos, settings.integer("eos_token_id", 0, model.vocab - 1));
  if (settings.has("_name_or_path")) {
    BITNET_ASSIGN_OR_RETURN(config.name, settings.text("_name_or_path"));
  }
  return config;
}

}  // namespace bitnet::convert
