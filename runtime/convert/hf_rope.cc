// The kinds of RoPE scaling, brought to what a GGUF file can say: linear, yarn and longrope by keys, llama3 by one
// divisor for each pair.
#include "runtime/convert/hf_rope.h"

#include <cmath>
#include <nlohmann/json.hpp>
#include <string>

#include "runtime/convert/llama3_scaling.h"

namespace bitnet::convert {
namespace {

constexpr const char* kNotImplemented =
    "the runtime does not implement it, and leaving it out would change the results";
constexpr std::int64_t kMaxContext = std::int64_t{1} << 28;
constexpr float kMaxFactor = 65536.0F;

struct Scaling {
  const Settings& settings;
  std::string at;  // "rope_scaling."

  [[nodiscard]] bool has(const char* key) const { return settings.has(at + key); }
  [[nodiscard]] Result<float> positive(const char* key) const { return settings.positive(at + key); }
};

// Where no sooner one is stated: the context itself.
Result<std::int64_t> original_context(const Scaling& scaling, std::int64_t context) {
  const std::string inner = scaling.at + "original_max_position_embeddings";
  if (scaling.settings.has(inner)) return scaling.settings.integer(inner, 1, kMaxContext);
  if (scaling.settings.has("original_max_position_embeddings")) {
    return scaling.settings.integer("original_max_position_embeddings", 1, kMaxContext);
  }
  return context;
}

Result<float> factor_of(const Scaling& scaling) {
  BITNET_ASSIGN_OR_RETURN(const float factor, scaling.positive("factor"));
  if (factor >= 1.0F && factor <= kMaxFactor) return factor;
  return scaling.settings.refuse(scaling.at + "factor", "1 to 65536", "correct the file");
}

Status read_llama3(const Scaling& scaling, HfConfig& config) {
  Llama3Scaling stated;
  BITNET_ASSIGN_OR_RETURN(stated.factor, factor_of(scaling));
  BITNET_ASSIGN_OR_RETURN(stated.low, scaling.positive("low_freq_factor"));
  BITNET_ASSIGN_OR_RETURN(stated.high, scaling.positive("high_freq_factor"));
  BITNET_ASSIGN_OR_RETURN(stated.original_context, original_context(scaling, config.model.context));
  if (!(stated.high > stated.low)) {
    return scaling.settings.refuse(scaling.at + "high_freq_factor", "a number above low_freq_factor",
                                   "correct the file");
  }
  config.rope_factors = llama3_factors(stated, config.model.rope_base, config.model.rope_dim);
  config.llama3 = stated;
  return {};
}

Status read_yarn(const Scaling& scaling, HfConfig& config) {
  ModelConfig& model = config.model;
  BITNET_ASSIGN_OR_RETURN(model.rope_factor, factor_of(scaling));
  BITNET_ASSIGN_OR_RETURN(model.rope_original_context, original_context(scaling, model.context));
  if (scaling.has("beta_fast")) {
    BITNET_ASSIGN_OR_RETURN(model.yarn_beta_fast, scaling.positive("beta_fast"));
  }
  if (scaling.has("beta_slow")) {
    BITNET_ASSIGN_OR_RETURN(model.yarn_beta_slow, scaling.positive("beta_slow"));
  }
  for (const char* key : {"mscale", "mscale_all_dim"}) {
    BITNET_RETURN_IF_ERROR(scaling.settings.refuse_other(scaling.at + key, nullptr, kNotImplemented));
  }
  BITNET_RETURN_IF_ERROR(scaling.settings.refuse_other(scaling.at + "truncate", true, kNotImplemented));
  model.rope_scaling = RopeScaling::kYarn;
  if (!scaling.has("attention_factor")) return {};
  // A GGUF file has what this differs by from the factor that follows from the stretch.
  BITNET_ASSIGN_OR_RETURN(const float stated, scaling.positive("attention_factor"));
  model.rope_attention_factor = stated / (1.0F + 0.1F * std::log(model.rope_factor));
  return {};
}

Status read_longrope(const Scaling& scaling, HfConfig& config) {
  ModelConfig& model = config.model;
  BITNET_ASSIGN_OR_RETURN(config.rope_short, scaling.settings.positives(scaling.at + "short_factor"));
  BITNET_ASSIGN_OR_RETURN(config.rope_long, scaling.settings.positives(scaling.at + "long_factor"));
  for (const auto& [key, factors] :
       {std::pair("short_factor", &config.rope_short), {"long_factor", &config.rope_long}}) {
    if (factors->size() == static_cast<std::size_t>(model.rope_dim / 2)) continue;
    return scaling.settings.refuse(scaling.at + key,
                                   std::to_string(model.rope_dim / 2) + " numbers, one for each pair of a head",
                                   "correct the file");
  }
  BITNET_ASSIGN_OR_RETURN(model.rope_original_context, original_context(scaling, model.context));
  model.rope_scaling = RopeScaling::kLongrope;
  if (scaling.has("attention_factor")) {
    BITNET_ASSIGN_OR_RETURN(model.rope_attention_factor, scaling.positive("attention_factor"));
    return {};
  }
  double stretch = static_cast<double>(model.context) / static_cast<double>(model.rope_original_context);
  if (scaling.has("factor")) {
    BITNET_ASSIGN_OR_RETURN(const float stated, factor_of(scaling));
    stretch = static_cast<double>(stated);
  }
  if (stretch > 1.0 && model.rope_original_context > 1) {
    model.rope_attention_factor = static_cast<float>(
        std::sqrt(1.0 + std::log(stretch) / std::log(static_cast<double>(model.rope_original_context))));
  }
  return {};
}

Status read_scaling(const Scaling& scaling, HfConfig& config) {
  std::string type = "default";
  for (const char* key : {"type", "rope_type"}) {  // the newer name wins
    if (!scaling.has(key)) continue;
    BITNET_ASSIGN_OR_RETURN(type, scaling.settings.text(scaling.at + key));
  }
  BITNET_RETURN_IF_ERROR(scaling.settings.refuse_other(scaling.at + "partial_rotary_factor", 1.0, kNotImplemented));
  if (type == "default" || type == "none") return {};
  if (type == "linear") {
    BITNET_ASSIGN_OR_RETURN(config.model.rope_factor, factor_of(scaling));
    if (config.model.rope_factor != 1.0F) config.model.rope_scaling = RopeScaling::kLinear;
    return {};
  }
  if (type == "llama3") return read_llama3(scaling, config);
  if (type == "yarn") return read_yarn(scaling, config);
  if (type == "longrope" || type == "su") return read_longrope(scaling, config);
  return scaling.settings.refuse(scaling.at + (scaling.has("rope_type") ? "rope_type" : "type"),
                                 "default, linear, llama3, yarn or longrope", kNotImplemented);
}

}  // namespace

Status read_rope(const Settings& settings, float default_base, HfConfig& config) {
  ModelConfig& model = config.model;
  // transformers 5 has one object, or one for each kind of layer.
  std::string at = settings.has("rope_parameters") ? "rope_parameters." : "rope_scaling.";
  std::string base = settings.has("rope_parameters") ? "rope_parameters.rope_theta" : "rope_theta";
  std::string window_base = "rope_local_base_freq";
  if (settings.has("rope_parameters.full_attention")) {
    at = "rope_parameters.full_attention.";
    base = at + "rope_theta";
    window_base = "rope_parameters.sliding_attention.rope_theta";
    BITNET_RETURN_IF_ERROR(
        settings.refuse_other("rope_parameters.sliding_attention.rope_type", "default", kNotImplemented));
  }
  if (default_base == 0.0F || settings.has(base)) {
    BITNET_ASSIGN_OR_RETURN(model.rope_base, settings.positive(base));
  } else {
    model.rope_base = default_base;
  }
  if (model.window_rope_base > 0.0F && settings.has(window_base)) {
    BITNET_ASSIGN_OR_RETURN(model.window_rope_base, settings.positive(window_base));
  }
  const std::string object = at.substr(0, at.size() - 1);
  if (!settings.has(object)) return {};
  if (!settings.is_object(object)) return settings.refuse(object, "an object or no such key", "correct the file");
  return read_scaling({settings, at}, config);
}

}  // namespace bitnet::convert
