// Metadata -> ModelConfig. Every number is range-checked here, so that later products of dimensions cannot overflow,
// and every setting that would change the graph in a way that the runtime does not implement is refused by its key.
#include "runtime/model/config.h"

#include <cmath>
#include <string>

#include "runtime/model/limits.h"

namespace bitnet {
namespace {

// The widths (K of the products) are refused beyond kMaxWidth. The bound also keeps every size product in 64 bits.
constexpr std::uint64_t kMaxDimension = kMaxWidth;
constexpr std::uint64_t kMaxLayers = 4096;

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
};

// Settings that change the graph; absent or neutral in every supported model.
Status refuse_unsupported(const Keys& keys) {
  for (const char* key : {"expert_count", "expert_used_count", "attention.sliding_window"}) {
    if (!keys.has(key)) continue;
    BITNET_ASSIGN_OR_RETURN(const std::uint64_t value, keys.file.get_uint(keys.name(key)));
    if (value != 0) {
      return config_error(keys.file, "metadata key " + keys.name(key) + ": expected 0 or no such key, found " +
                                         std::to_string(value) + "; this runtime does not implement it");
    }
  }
  if (keys.has("attention.causal")) {
    BITNET_ASSIGN_OR_RETURN(const bool causal, keys.file.get_bool(keys.name("attention.causal")));
    if (!causal) {
      return config_error(keys.file, "metadata key " + keys.name("attention.causal") +
                                         ": expected true, found false; only causal models can be run");
    }
  }
  for (const char* key : {"rope.scaling.factor", "rope.scale_linear"}) {
    if (!keys.has(key)) continue;
    BITNET_ASSIGN_OR_RETURN(const double factor, keys.file.get_float(keys.name(key)));
    // 0 means "no scaling" in files of older converters.
    if (factor != 1.0 && factor != 0.0) {
      return config_error(keys.file, "metadata key " + keys.name(key) + ": expected 1.0, found " +
                                         std::to_string(factor) + "; scaled RoPE is not supported");
    }
  }
  if (keys.has("rope.scaling.type")) {
    BITNET_ASSIGN_OR_RETURN(const std::string_view type, keys.file.get_string(keys.name("rope.scaling.type")));
    if (type != "none" && type != "linear") {
      return config_error(keys.file, "metadata key " + keys.name("rope.scaling.type") +
                                         ": expected none, or linear with factor 1.0, found \"" + std::string(type) +
                                         "\"; scaled RoPE is not supported");
    }
  }
  return {};
}

}  // namespace

Result<ModelConfig> read_config(const gguf::File& file) {
  ModelConfig config;
  BITNET_ASSIGN_OR_RETURN(const std::string_view architecture, file.get_string("general.architecture"));
  config.architecture = std::string(architecture);
  if (architecture == "bitnet-b1.58" || architecture == "bitnet-25") {
    config.activation = Activation::kRelu2;
  } else if (architecture == "bitnet") {
    config.activation = Activation::kSilu;
  } else {
    return config_error(file,
                        "metadata key general.architecture: expected bitnet, bitnet-25 or bitnet-b1.58, found \"" +
                            config.architecture + "\"; this runtime does not know its graph");
  }

  const Keys keys{file, config.architecture + "."};
  BITNET_RETURN_IF_ERROR(refuse_unsupported(keys));
  BITNET_ASSIGN_OR_RETURN(config.layers, keys.dimension("block_count", kMaxLayers));
  BITNET_ASSIGN_OR_RETURN(config.hidden, keys.width("embedding_length"));
  BITNET_ASSIGN_OR_RETURN(config.ffn, keys.width("feed_forward_length"));
  BITNET_ASSIGN_OR_RETURN(config.heads, keys.dimension("attention.head_count", kMaxDimension));
  BITNET_ASSIGN_OR_RETURN(config.kv_heads, keys.dimension_or("attention.head_count_kv", kMaxDimension, config.heads));
  BITNET_ASSIGN_OR_RETURN(config.context, keys.dimension("context_length", std::uint64_t{1} << 28));
  if (config.heads % config.kv_heads != 0) {
    return config_error(file, "metadata keys " + keys.name("attention.head_count") + " = " +
                                  std::to_string(config.heads) + " and " + keys.name("attention.head_count_kv") +
                                  " = " + std::to_string(config.kv_heads) +
                                  ": the number of query heads must be a multiple of the key/value heads");
  }
  if (!keys.has("attention.key_length") && config.hidden % config.heads != 0) {
    return config_error(file, "metadata keys " + keys.name("embedding_length") + " = " + std::to_string(config.hidden) +
                                  " and " + keys.name("attention.head_count") + " = " + std::to_string(config.heads) +
                                  ": the width is not a multiple of the heads, and " +
                                  keys.name("attention.key_length") + " is missing");
  }
  BITNET_ASSIGN_OR_RETURN(config.head_dim,
                          keys.dimension_or("attention.key_length", 4096, config.hidden / config.heads));
  BITNET_ASSIGN_OR_RETURN(const std::int64_t value_length,
                          keys.dimension_or("attention.value_length", 4096, config.head_dim));
  if (value_length != config.head_dim) {
    return config_error(file, "metadata key " + keys.name("attention.value_length") + ": expected the key length " +
                                  std::to_string(config.head_dim) + ", found " + std::to_string(value_length));
  }
  if (config.heads * config.head_dim > static_cast<std::int64_t>(kMaxDimension)) {
    return config_error(file, "metadata key " + keys.name("attention.head_count") + ": " +
                                  std::to_string(config.heads) + " heads of " + std::to_string(config.head_dim) +
                                  " exceed the widest layer, " + std::to_string(kMaxDimension));
  }
  BITNET_ASSIGN_OR_RETURN(config.rope_dim, keys.dimension_or("rope.dimension_count", 4096, config.head_dim));
  if (config.rope_dim % 2 != 0 || config.rope_dim > config.head_dim) {
    return config_error(file, "metadata key " + keys.name("rope.dimension_count") +
                                  ": expected an even number of at most " + std::to_string(config.head_dim) +
                                  " (the head width), found " + std::to_string(config.rope_dim));
  }
  BITNET_ASSIGN_OR_RETURN(config.norm_eps, keys.positive("attention.layer_norm_rms_epsilon"));
  if (keys.has("rope.freq_base")) {
    BITNET_ASSIGN_OR_RETURN(config.rope_base, keys.positive("rope.freq_base"));
  }

  const gguf::Tensor* embedding = file.find_tensor("token_embd.weight");
  if (embedding == nullptr) {
    return Error{ErrorCode::kTensorMapping, file.path() + ": tensor token_embd.weight is missing"};
  }
  if (embedding->ne[1] > (std::uint64_t{1} << 26)) {
    return Error{ErrorCode::kTensorMapping, file.path() + ": tensor token_embd.weight has " +
                                                std::to_string(embedding->ne[1]) + " rows, expected at most 67108864"};
  }
  config.vocab = static_cast<std::int64_t>(embedding->ne[1]);
  if (keys.has("vocab_size")) {
    BITNET_ASSIGN_OR_RETURN(const std::int64_t stated, keys.dimension("vocab_size", std::uint64_t{1} << 26));
    if (stated > config.vocab) {
      return config_error(file, "metadata key " + keys.name("vocab_size") + " = " + std::to_string(stated) +
                                    " exceeds the " + std::to_string(config.vocab) + " rows of token_embd.weight");
    }
  }
  return config;
}

}  // namespace bitnet
