// Metadata -> ModelConfig. Every number is range-checked here, so that later products of dimensions cannot overflow,
// and every setting that would change the graph in a way that the runtime does not implement is refused by its key.
#include "runtime/model/config.h"

#include <cmath>
#include <string>
#include <utility>

#include "runtime/gguf/types.h"
#include "runtime/model/limits.h"

namespace bitnet {
namespace {

// The widths (K of the products) are refused beyond kMaxWidth. The bound also keeps every size product in 64 bits.
constexpr std::uint64_t kMaxDimension = kMaxWidth;
constexpr std::uint64_t kMaxLayers = 4096;
constexpr std::uint64_t kMaxContext = std::uint64_t{1} << 28;

Error config_error(const gguf::File& file, const std::string& what) {
  return Error{ErrorCode::kFailure, file.path() + ": " + what};
}

struct Keys {
  const gguf::File& file;
  std::string prefix;  // "bitnet-b1.58."

  [[nodiscard]] std::string name(const char* key) const { return prefix + key; }
  [[nodiscard]] bool has(const char* key) const { return file.find(name(key)) != nullptr; }

  [[nodiscard]] Result<std::int64_t> dimension(const char* key, std::uint64_t highest) const {
    BITNET_ASSIGN_OR_RETURN(const std::uint64_t value, file.get_uint(name(key)));
    if (value < 1 || value > highest) {
      return config_error(file, "metadata key " + name(key) + ": expected 1.." + std::to_string(highest) + ", found " +
                                    std::to_string(value));
    }
    return static_cast<std::int64_t>(value);
  }
  [[nodiscard]] Result<std::int64_t> width(const char* key) const {
    BITNET_ASSIGN_OR_RETURN(const std::uint64_t value, file.get_uint(name(key)));
    if (value > kMaxDimension) {
      return config_error(file, "metadata key " + name(key) + ": expected a width of at most " +
                                    std::to_string(kMaxDimension) + ", found " + std::to_string(value) +
                                    "; integer products of wider layers exceed 2^24 and would be rounded");
    }
    return dimension(key, kMaxDimension);
  }
  [[nodiscard]] Result<std::int64_t> dimension_or(const char* key, std::uint64_t highest, std::int64_t missing) const {
    if (!has(key)) return missing;
    return dimension(key, highest);
  }
  [[nodiscard]] Result<float> positive(const char* key) const {
    BITNET_ASSIGN_OR_RETURN(const double value, file.get_float(name(key)));
    const float narrow = static_cast<float>(value);
    if (!std::isfinite(narrow) || !(narrow > 0.0F)) {
      return config_error(
          file, "metadata key " + name(key) + ": expected a finite number above 0, found " + std::to_string(value));
    }
    return narrow;
  }
  // Leaves `value` where there is no such key.
  [[nodiscard]] Status optional_positive(const char* key, float& value) const {
    if (!has(key)) return {};
    BITNET_ASSIGN_OR_RETURN(value, positive(key));
    return {};
  }
};

// Settings that change the graph in ways that are not implemented; absent or neutral in every supported model.
Status refuse_unsupported(const Keys& keys) {
  for (const char* key : {"expert_count", "expert_used_count"}) {
    if (!keys.has(key)) continue;
    BITNET_ASSIGN_OR_RETURN(const std::uint64_t value, keys.file.get_uint(keys.name(key)));
    if (value != 0) {
      return config_error(keys.file, "metadata key " + keys.name(key) + ": expected 0 or no such key, found " +
                                         std::to_string(value) + "; this runtime does not implement it");
    }
  }
  for (const char* key : {"attn_logit_softcapping", "final_logit_softcapping", "attention.clamp_kqv",
                          "rope.scaling.yarn_log_multiplier"}) {
    if (!keys.has(key)) continue;
    BITNET_ASSIGN_OR_RETURN(const double value, keys.file.get_float(keys.name(key)));
    if (value != 0.0) {
      return config_error(keys.file, "metadata key " + keys.name(key) + ": expected 0 or no such key, found " +
                                         std::to_string(value) + "; this runtime does not implement it");
    }
  }
  for (const char* key : {"rope.scaling.yarn_attn_factor", "rope.scaling.yarn_ext_factor"}) {
    if (!keys.has(key)) continue;
    BITNET_ASSIGN_OR_RETURN(const double value, keys.file.get_float(keys.name(key)));
    if (value != 1.0 && !(value < 0.0)) {  // below 0: what the kind of scaling says
      return config_error(keys.file, "metadata key " + keys.name(key) + ": expected 1 or no such key, found " +
                                         std::to_string(value) + "; this runtime does not implement it");
    }
  }
  for (const auto& [key, wanted] : {std::pair{"attention.causal", true}, {"use_parallel_residual", false}}) {
    if (!keys.has(key)) continue;
    BITNET_ASSIGN_OR_RETURN(const bool value, keys.file.get_bool(keys.name(key)));
    if (value != wanted) {
      return config_error(keys.file, "metadata key " + keys.name(key) + ": expected " + (wanted ? "true" : "false") +
                                         ", found " + (value ? "true" : "false") +
                                         "; this runtime does not implement it");
    }
  }
  return {};
}

Status read_heads(const Keys& keys, const Architecture& architecture, ModelConfig& config) {
  BITNET_ASSIGN_OR_RETURN(config.heads, keys.dimension("attention.head_count", kMaxDimension));
  BITNET_ASSIGN_OR_RETURN(config.kv_heads, keys.dimension_or("attention.head_count_kv", kMaxDimension, config.heads));
  if (config.heads % config.kv_heads != 0) {
    return config_error(keys.file, "metadata keys " + keys.name("attention.head_count") + " = " +
                                       std::to_string(config.heads) + " and " + keys.name("attention.head_count_kv") +
                                       " = " + std::to_string(config.kv_heads) +
                                       ": the number of query heads must be a multiple of the key/value heads");
  }
  if (!keys.has("attention.key_length") && config.hidden % config.heads != 0) {
    return config_error(keys.file, "metadata keys " + keys.name("embedding_length") + " = " +
                                       std::to_string(config.hidden) + " and " + keys.name("attention.head_count") +
                                       " = " + std::to_string(config.heads) +
                                       ": the width is not a multiple of the heads, and " +
                                       keys.name("attention.key_length") + " is missing");
  }
  BITNET_ASSIGN_OR_RETURN(config.head_dim,
                          keys.dimension_or("attention.key_length", 4096, config.hidden / config.heads));
  BITNET_ASSIGN_OR_RETURN(const std::int64_t value_length,
                          keys.dimension_or("attention.value_length", 4096, config.head_dim));
  if (value_length != config.head_dim) {
    return config_error(keys.file, "metadata key " + keys.name("attention.value_length") +
                                       ": expected the key length " + std::to_string(config.head_dim) + ", found " +
                                       std::to_string(value_length));
  }
  if (config.heads * config.head_dim > static_cast<std::int64_t>(kMaxDimension)) {
    return config_error(keys.file, "metadata key " + keys.name("attention.head_count") + ": " +
                                       std::to_string(config.heads) + " heads of " + std::to_string(config.head_dim) +
                                       " exceed the widest layer, " + std::to_string(kMaxDimension));
  }
  config.attention_scale = unstated_attention_scale(architecture, config.layers, config.hidden, config.heads);
  return keys.optional_positive("attention.scale", config.attention_scale);
}

Status read_window(const Keys& keys, const Architecture& architecture, ModelConfig& config) {
  if (!keys.has("attention.sliding_window")) return {};
  BITNET_ASSIGN_OR_RETURN(const std::uint64_t window, keys.file.get_uint(keys.name("attention.sliding_window")));
  if (window > kMaxContext) {
    return config_error(keys.file, "metadata key " + keys.name("attention.sliding_window") + ": expected 0.." +
                                       std::to_string(kMaxContext) + " positions, found " + std::to_string(window));
  }
  config.window = static_cast<std::int64_t>(window);
  if (config.window == 0) return {};
  config.window_pattern = architecture.window_pattern;
  if (keys.has("attention.sliding_window_pattern")) {
    BITNET_ASSIGN_OR_RETURN(config.window_pattern, keys.dimension("attention.sliding_window_pattern", kMaxLayers));
  }
  config.window_rope_base = architecture.window_rope_base;
  return keys.optional_positive("rope.freq_base_swa", config.window_rope_base);
}

Status read_rope_scaling(const Keys& keys, ModelConfig& config) {
  std::string type = "linear";  // where only a factor stands
  if (keys.has("rope.scaling.type")) {
    BITNET_ASSIGN_OR_RETURN(const std::string_view stated, keys.file.get_string(keys.name("rope.scaling.type")));
    type = std::string(stated);
  }
  double factor = 1.0;
  for (const char* key : {"rope.scale_linear", "rope.scaling.factor"}) {
    if (!keys.has(key)) continue;
    BITNET_ASSIGN_OR_RETURN(const double value, keys.file.get_float(keys.name(key)));
    if (value != 0.0) factor = value;  // 0 means "no scaling" in files of older converters
  }
  if (type == "none") return {};
  if (type != "linear" && type != "yarn" && type != "longrope") {
    return config_error(keys.file, "metadata key " + keys.name("rope.scaling.type") +
                                       ": expected none, linear, yarn or longrope, found " + gguf::quoted(type) +
                                       "; this runtime does not know how that turns positions");
  }
  if (!(factor >= 1.0 && factor <= 65536.0)) {
    return config_error(keys.file, "metadata key " + keys.name("rope.scaling.factor") + ": expected 1..65536, found " +
                                       std::to_string(factor));
  }
  config.rope_factor = static_cast<float>(factor);
  if (type == "linear") {
    if (factor != 1.0) config.rope_scaling = RopeScaling::kLinear;
    return {};
  }
  config.rope_scaling = type == "yarn" ? RopeScaling::kYarn : RopeScaling::kLongrope;
  // Converters leave it out where the model was not trained beyond it.
  BITNET_ASSIGN_OR_RETURN(config.rope_original_context,
                          type == "longrope"
                              ? keys.dimension_or("rope.scaling.original_context_length", kMaxContext, config.context)
                              : keys.dimension("rope.scaling.original_context_length", kMaxContext));
  BITNET_RETURN_IF_ERROR(keys.optional_positive("rope.scaling.attn_factor", config.rope_attention_factor));
  BITNET_RETURN_IF_ERROR(keys.optional_positive("rope.scaling.yarn_beta_fast", config.yarn_beta_fast));
  return keys.optional_positive("rope.scaling.yarn_beta_slow", config.yarn_beta_slow);
}

Status read_rope(const Keys& keys, ModelConfig& config) {
  if (config.rope == RopeKind::kNone) return {};
  BITNET_ASSIGN_OR_RETURN(config.rope_dim, keys.dimension_or("rope.dimension_count", 4096, config.head_dim));
  if (config.rope_dim % 2 != 0 || config.rope_dim > config.head_dim) {
    return config_error(keys.file, "metadata key " + keys.name("rope.dimension_count") +
                                       ": expected an even number of at most " + std::to_string(config.head_dim) +
                                       " (the head width), found " + std::to_string(config.rope_dim));
  }
  BITNET_RETURN_IF_ERROR(keys.optional_positive("rope.freq_base", config.rope_base));
  for (const float base : {config.rope_base, config.has_window_rope() ? config.window_rope_base : 1.0F}) {
    if (base >= 1.0F) continue;  // below it angles grow from pair to pair, beyond what sines are exact for
    return config_error(keys.file, "metadata key " + keys.name("rope.freq_base") +
                                       ": expected a base of at least 1, found " + std::to_string(base));
  }
  return read_rope_scaling(keys, config);
}

// Scales around the blocks. The logit scale is stored as the number that the state is divided by.
Status read_scales(const Keys& keys, const Architecture& architecture, ModelConfig& config) {
  if (architecture.scaled_embedding) config.embedding_scale = std::sqrt(static_cast<float>(config.hidden));
  float logit_divisor = 1.0F;
  if (architecture.mup) {  // the defaults of files without the keys
    config.embedding_scale = 12.0F;
    config.residual_scale = 1.4F / std::sqrt(static_cast<float>(config.layers));
    logit_divisor = static_cast<float>(config.hidden) / 256.0F;
  }
  BITNET_RETURN_IF_ERROR(keys.optional_positive("embedding_scale", config.embedding_scale));
  BITNET_RETURN_IF_ERROR(keys.optional_positive("residual_scale", config.residual_scale));
  BITNET_RETURN_IF_ERROR(keys.optional_positive("logit_scale", logit_divisor));
  config.logit_scale = 1.0F / logit_divisor;
  return {};
}

Status read_pooling(const Keys& keys, ModelConfig& config) {
  if (!keys.has("pooling_type")) return {};
  BITNET_ASSIGN_OR_RETURN(const std::uint64_t type, keys.file.get_uint(keys.name("pooling_type")));
  if (type == 0) return {};
  if (type != 1 && type != 3) {
    return config_error(keys.file, "metadata key " + keys.name("pooling_type") +
                                       ": expected 0 (none), 1 (mean) or 3 (last token), found " +
                                       std::to_string(type) + "; this runtime does not implement it");
  }
  config.pooling = type == 1 ? Pooling::kMean : Pooling::kLast;
  return {};
}

Status read_vocabulary(const Keys& keys, ModelConfig& config) {
  const gguf::File& file = keys.file;
  const gguf::Tensor* embedding = file.find_tensor("token_embd.weight");
  if (embedding == nullptr) {
    return Error{ErrorCode::kTensorMapping, file.path() + ": tensor token_embd.weight is missing"};
  }
  if (embedding->ne[1] < 1 || embedding->ne[1] > (std::uint64_t{1} << 26)) {
    return Error{ErrorCode::kTensorMapping, file.path() + ": tensor token_embd.weight has " +
                                                std::to_string(embedding->ne[1]) + " rows, expected 1..67108864"};
  }
  config.vocab = static_cast<std::int64_t>(embedding->ne[1]);
  if (!keys.has("vocab_size")) return {};
  BITNET_ASSIGN_OR_RETURN(const std::int64_t stated, keys.dimension("vocab_size", std::uint64_t{1} << 26));
  if (stated <= config.vocab) return {};
  return config_error(file, "metadata key " + keys.name("vocab_size") + " = " + std::to_string(stated) +
                                " exceeds the " + std::to_string(config.vocab) + " rows of token_embd.weight");
}

// llama.cpp splits models into files, of which the first has the metadata and each has some of the tensors.
Status refuse_shards(const gguf::File& file) {
  if (file.find("split.count") == nullptr) return {};
  BITNET_ASSIGN_OR_RETURN(const std::uint64_t count, file.get_uint("split.count"));
  if (count <= 1) return {};
  std::string number;
  if (file.find("split.no") != nullptr) {
    BITNET_ASSIGN_OR_RETURN(const std::uint64_t index, file.get_uint("split.no"));
    number = " number " + std::to_string(index) + " (from 0)";
  }
  return config_error(file, "metadata key split.count: expected a model in one file, found a part" + number + " of " +
                                std::to_string(count) +
                                "; merge the parts first, with llama-gguf-split --merge of llama.cpp");
}

std::string known_names() {
  std::string names;
  for (const Architecture& entry : architectures()) names += (names.empty() ? "" : ", ") + std::string(entry.name);
  return names;
}

}  // namespace

std::string_view to_string(RopeScaling scaling) {
  switch (scaling) {
    case RopeScaling::kNone:
      return "none";
    case RopeScaling::kLinear:
      return "linear";
    case RopeScaling::kYarn:
      return "yarn";
    case RopeScaling::kLongrope:
      return "longrope";
  }
  return "";
}

std::string_view pooling_name(Pooling pooling) {
  return pooling == Pooling::kNone ? "none" : pooling == Pooling::kMean ? "mean" : "last";
}

Result<ModelConfig> read_config(const gguf::File& file) {
  ModelConfig config;
  BITNET_RETURN_IF_ERROR(refuse_shards(file));
  BITNET_ASSIGN_OR_RETURN(const std::string_view name, file.get_string("general.architecture"));
  const Architecture* architecture = find_architecture(name);
  if (architecture == nullptr) {
    return config_error(file, "metadata key general.architecture: expected one of " + known_names() + ", found " +
                                  gguf::quoted(name) + "; this runtime does not know its graph");
  }
  config.architecture = std::string(name);
  config.activation = architecture->activation;
  config.gated = architecture->gated;
  config.norm = architecture->norm;
  config.rope = architecture->rope;
  config.learned_positions = architecture->learned_positions;
  config.tied_only = architecture->tied_only;

  const Keys keys{file, config.architecture + "."};
  BITNET_RETURN_IF_ERROR(refuse_unsupported(keys));
  BITNET_ASSIGN_OR_RETURN(config.layers, keys.dimension("block_count", kMaxLayers));
  BITNET_ASSIGN_OR_RETURN(config.hidden, keys.width("embedding_length"));
  BITNET_ASSIGN_OR_RETURN(config.ffn, keys.width("feed_forward_length"));
  BITNET_ASSIGN_OR_RETURN(config.context, keys.dimension("context_length", kMaxContext));
  BITNET_RETURN_IF_ERROR(read_heads(keys, *architecture, config));
  BITNET_RETURN_IF_ERROR(read_window(keys, *architecture, config));
  BITNET_RETURN_IF_ERROR(read_rope(keys, config));
  BITNET_ASSIGN_OR_RETURN(config.norm_eps,
                          keys.positive(config.norm == NormKind::kRms ? "attention.layer_norm_rms_epsilon"
                                                                      : "attention.layer_norm_epsilon"));
  BITNET_RETURN_IF_ERROR(read_scales(keys, *architecture, config));
  BITNET_RETURN_IF_ERROR(read_pooling(keys, config));
  BITNET_RETURN_IF_ERROR(read_vocabulary(keys, config));
  return config;
}

}  // namespace bitnet
