// Each step of the way in is undone: rows go from pairs to halves, Conv1D matrices are transposed, Gemma's norms lose
// the 1.
#include "runtime/convert/hf_output.h"

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <limits>
#include <nlohmann/json.hpp>
#include <string_view>
#include <utility>

#include "runtime/convert/hf_tensors.h"
#include "runtime/gguf/types.h"

namespace bitnet::convert {
namespace {

using Json = nlohmann::ordered_json;

// The row of the GGUF tensor that is row `row` of the checkpoint's.
std::int64_t row_after_permutation(std::int64_t row, std::int64_t rows, std::int64_t heads) {
  const std::int64_t width = rows / heads;
  const std::int64_t in_head = row % width;
  return row - in_head + in_head % (width / 2) * 2 + in_head / (width / 2);
}

// Reads rows one by one in another order.
template <typename Rows, typename Element>
auto reordered(Rows rows, const TensorRule& rule) {
  return [rows = std::move(rows), rule](std::int64_t begin, std::int64_t end, Element* out) {
    using Outcome = decltype(rows(begin, end, out));
    if constexpr (std::is_void_v<Outcome>) {
      for (std::int64_t row = begin; row < end; ++row, out += rule.columns) {
        const std::int64_t from = row_after_permutation(row, rule.rows, rule.permuted_heads);
        rows(from, from + 1, out);
      }
    } else {
      std::uint64_t undefined = 0;
      for (std::int64_t row = begin; row < end; ++row, out += rule.columns) {
        const std::int64_t from = row_after_permutation(row, rule.rows, rule.permuted_heads);
        Outcome outcome = rows(from, from + 1, out);
        if (!outcome.ok()) return outcome;
        undefined += *outcome;
      }
      return Outcome(undefined);
    }
  };
}

using FloatReader = std::function<void(std::int64_t, std::int64_t, float*)>;

// Rows of the transposed matrix: each is a column of `rows`, which is read as a whole.
FloatReader transposed(const FloatReader& rows, const TensorRule& rule) {
  return [rows, rule](std::int64_t begin, std::int64_t end, float* out) {
    std::vector<float> row(static_cast<std::size_t>(rule.columns));
    for (std::int64_t r = 0; r < rule.rows; ++r) {
      rows(r, r + 1, row.data());
      for (std::int64_t c = begin; c < end; ++c) out[(c - begin) * rule.rows + r] = row[static_cast<std::size_t>(c)];
    }
  };
}

FloatReader permuted_vector(const FloatReader& rows, const TensorRule& rule) {
  return [rows, rule](std::int64_t, std::int64_t, float* out) {
    std::vector<float> values(static_cast<std::size_t>(rule.columns));
    rows(0, 1, values.data());
    for (std::int64_t i = 0; i < rule.columns; ++i) {
      out[i] = values[static_cast<std::size_t>(row_after_permutation(i, rule.columns, rule.permuted_heads))];
    }
  };
}

void apply(const TensorRule& rule, SourceTensor& tensor) {
  tensor.raw_type.reset();  // another form: nothing is copied as it is
  if (rule.permuted_heads != 0 && tensor.ternary) {
    tensor.codes = reordered<decltype(tensor.codes), std::uint8_t>(std::move(tensor.codes), rule);
  } else if (rule.permuted_heads != 0 && rule.rows != 0) {
    tensor.floats = reordered<FloatReader, float>(std::move(tensor.floats), rule);
  } else if (rule.permuted_heads != 0) {
    tensor.floats = permuted_vector(tensor.floats, rule);
  } else if (rule.transposed) {
    tensor.floats = transposed(tensor.floats, rule);
    std::swap(tensor.ne[0], tensor.ne[1]);
  }
  if (rule.less_one) {
    std::vector<float> values(static_cast<std::size_t>(tensor.elements()));
    tensor.floats(0, tensor.rows(), values.data());
    for (const float value : values) {
      tensor.error =
          std::max(tensor.error, std::fabs(static_cast<double>((value - 1.0F) + 1.0F) - static_cast<double>(value)));
    }
    tensor.floats = [floats = std::move(tensor.floats), columns = tensor.columns()](std::int64_t begin,
                                                                                    std::int64_t end, float* out) {
      floats(begin, end, out);
      for (std::int64_t i = 0; i < (end - begin) * columns; ++i) out[i] -= 1.0F;
    };
  }
  // Scales of rows follow their rows.
  if (rule.permuted_heads == 0 || !tensor.ternary || tensor.scale_kind == formats::ScaleKind::kTensor) return;
  const std::vector<float> scales = tensor.scales;
  const std::int64_t rows = tensor.rows();
  for (std::size_t i = 0; i < scales.size(); ++i) {
    const auto row = static_cast<std::int64_t>(i) % rows;
    const std::int64_t from = row_after_permutation(row, rows, rule.permuted_heads);
    tensor.scales[i] = scales[i - static_cast<std::size_t>(row) + static_cast<std::size_t>(from)];
  }
}

const char* activation_name(Activation activation) {
  switch (activation) {
    case Activation::kRelu2:
      return "relu2";
    case Activation::kSilu:
      return "silu";
    case Activation::kGelu:
      return "gelu_pytorch_tanh";
  }
  return "";
}

struct Class {
  const char *architecture, *model_type, *name;
};
constexpr Class kClasses[] = {{"bitnet", "bitnet", "BitNetForCausalLM"},
                              {"bitnet-25", "bitnet", "BitNetForCausalLM"},
                              {"bitnet-b1.58", "bitnet", "BitNetForCausalLM"},
                              {"llama", "llama", "LlamaForCausalLM"},
                              {"qwen2", "qwen2", "Qwen2ForCausalLM"},
                              {"qwen3", "qwen3", "Qwen3ForCausalLM"},
                              {"gemma3", "gemma3_text", "Gemma3ForCausalLM"},
                              {"minicpm", "minicpm", "MiniCPMForCausalLM"},
                              {"gpt2", "gpt2", "GPT2LMHeadModel"}};

void set_rope(const HfConfig& config, Json& json) {
  const ModelConfig& model = config.model;
  json["rope_theta"] = model.rope_base;
  Json scaling;
  if (model.rope_scaling == RopeScaling::kLinear) scaling = {{"rope_type", "linear"}, {"factor", model.rope_factor}};
  if (model.rope_scaling == RopeScaling::kYarn) {
    scaling = {{"rope_type", "yarn"},
               {"factor", model.rope_factor},
               {"original_max_position_embeddings", model.rope_original_context},
               {"attention_factor", model.rope_attention_factor * (1.0F + 0.1F * std::log(model.rope_factor))},
               {"beta_fast", model.yarn_beta_fast},
               {"beta_slow", model.yarn_beta_slow}};
  }
  if (model.rope_scaling == RopeScaling::kLongrope) {
    scaling = {{"rope_type", "longrope"},
               {"original_max_position_embeddings", model.rope_original_context},
               {"attention_factor", model.rope_attention_factor},
               {"short_factor", config.rope_short},
               {"long_factor", config.rope_long}};
  }
  if (config.llama3) {
    scaling = {{"rope_type", "llama3"},
               {"factor", config.llama3->factor},
               {"low_freq_factor", config.llama3->low},
               {"high_freq_factor", config.llama3->high},
               {"original_max_position_embeddings", config.llama3->original_context}};
  }
  if (!scaling.is_null()) json["rope_scaling"] = std::move(scaling);
}

// Each layer's kind, where config.json has a list of them.
Json layer_types(const ModelConfig& model) {
  Json types = Json::array();
  for (std::int64_t layer = 0; layer < model.layers; ++layer) {
    types.push_back(model.windowed(layer) ? "sliding_attention" : "full_attention");
  }
  return types;
}

// Classes without a window are left without one: check_config_json() sees what is lost.
void set_window(const HfConfig& config, Json& json) {
  const ModelConfig& model = config.model;
  bool any = false;
  for (std::int64_t layer = 0; layer < model.layers; ++layer) any = any || model.windowed(layer);
  if (config.family == Family::kGemma) {
    json["sliding_window"] = any ? Json(model.window) : Json(nullptr);
    if (!any) {
      json["layer_types"] = layer_types(model);  // a pattern cannot say "none"
    } else {
      json["sliding_window_pattern"] = model.window_pattern == 0 ? model.layers + 1 : model.window_pattern;
    }
    if (model.window_rope_base > 0.0F) json["rope_local_base_freq"] = model.window_rope_base;
  } else if (any && config.family == Family::kQwen) {
    json["use_sliding_window"] = true;
    json["sliding_window"] = model.window;
    json["max_window_layers"] = 0;
    if (model.window_pattern != 0) json["layer_types"] = layer_types(model);
  } else if (any && model.architecture == "llama" && model.window_pattern == 0) {
    json["sliding_window"] = model.window;
    json["model_type"] = "mistral";
    json["architectures"] = {"MistralForCausalLM"};
  }
}

// How the projections are stored, as transformers' layers want to know it. `config.storage` is that of the result.
void set_quantization(const HfConfig& config, Json& json) {
  if (config.storage == Storage::kPlain) return;
  Json stated = {{"quant_method", "bitnet"},
                 {"linear_class", "autobitlinear"},
                 {"quantization_mode", config.storage == Storage::kPacked ? "offline" : "online"}};
  if (config.own_norms) {
    stated["use_rms_norm"] = true;
    stated["rms_norm_eps"] = config.model.norm_eps;
  }
  if (!config.unquantised.empty()) stated["modules_to_not_convert"] = config.unquantised;
  json["quantization_config"] = std::move(stated);
}

// A number x near `about` with make(x) == `wanted`, where there is one.
template <typename Make>
float solved(float about, float wanted, const Make& make) {
  float candidate = about;
  for (int step = 0; step < 3; ++step) candidate = std::nextafter(candidate, 0.0F);
  for (int step = 0; step < 7; ++step) {
    if (make(candidate) == wanted) return candidate;
    candidate = std::nextafter(candidate, std::numeric_limits<float>::infinity());
  }
  return about;
}

void set_scales(const HfConfig& config, Json& json) {
  const ModelConfig& model = config.model;
  if (config.family == Family::kGemma) {
    const auto scale_of = [](float scalar) { return 1.0F / std::sqrt(scalar); };
    const float scale = model.attention_scale;
    json["query_pre_attn_scalar"] =
        scale == 0.0F ? static_cast<float>(model.head_dim)
                      : solved(static_cast<float>(1.0 / std::pow(static_cast<double>(scale), 2.0)), scale, scale_of);
  }
  if (model.architecture == "minicpm") {
    const float root = std::sqrt(static_cast<float>(model.layers));
    json["scale_emb"] = model.embedding_scale;
    json["scale_depth"] =
        solved(model.residual_scale * root, model.residual_scale, [&](float depth) { return depth / root; });
    json["dim_model_base"] = std::llround(static_cast<double>(model.logit_scale) * static_cast<double>(model.hidden));
  }
}

}  // namespace

HfConfig hf_config_of(const ModelConfig& config, bool tied) {
  HfConfig result;
  result.model = config;
  result.tied = tied;
  result.family = Family::kBitNet;
  if (config.architecture == "llama" || config.architecture == "minicpm") result.family = Family::kLlama;
  if (config.architecture.starts_with("qwen")) result.family = Family::kQwen;
  if (config.architecture == "gemma3") result.family = Family::kGemma;
  if (config.architecture == "gpt2") result.family = Family::kGpt2;
  return result;
}

Result<std::vector<SourceTensor>> hf_tensors(std::vector<SourceTensor> tensors, const HfConfig& config,
                                             std::vector<Unmapped>& unmapped) {
  const std::vector<TensorRule> rules = tensor_rules(config);
  const std::string prefix = config.family == Family::kGpt2 ? "transformer." : "model.";
  const std::string layers = config.family == Family::kGpt2 ? "h." : "layers.";
  std::vector<SourceTensor> result;
  for (SourceTensor& tensor : tensors) {
    std::string part = tensor.name;
    std::string layer;
    if (part.starts_with("blk.")) {
      const std::size_t dot = part.find('.', 4);
      layer = part.substr(4, dot - 4) + ".";
      part = part.substr(std::min(dot, part.size() - 1) + 1);
    }
    // The norm in front of a projection, where it has a name of its own in the checkpoint too.
    if (part == "attn_output_norm_in.weight") part = "attn_sub_norm.weight";
    if (part == "ffn_down_norm_in.weight") part = "ffn_sub_norm.weight";
    const auto rule = std::find_if(rules.begin(), rules.end(), [&](const TensorRule& candidate) {
      return candidate.gguf == part && candidate.in_layer == !layer.empty();
    });
    if (rule == rules.end()) {
      if (tensor.name.starts_with("rope_factors_") || tensor.name == "rope_freqs.weight") {
        unmapped.push_back({tensor.name, "it stands in config.json's rope_scaling"});
        continue;
      }
      if (tensor.name == "output.weight") {
        unmapped.push_back({tensor.name, "the architecture never uses it"});
        continue;
      }
      return Error{ErrorCode::kTensorMapping, tensor.place +
                                                  ": expected a tensor that a checkpoint of this kind has, " +
                                                  "found none of that name; only a GGUF file can hold it"};
    }
    const std::int64_t rows = std::max<std::int64_t>(rule->rows, 1);
    if (tensor.columns() != rule->columns || tensor.rows() != rows) {
      return Error{ErrorCode::kTensorMapping,
                   tensor.place + ": expected " + std::to_string(rows) + " x " + std::to_string(rule->columns) +
                       " values by the file's metadata, found " + std::to_string(tensor.rows()) + " x " +
                       std::to_string(tensor.columns())};
    }
    if (!tensor.ternary && !tensor.floats) {
      return Error{ErrorCode::kTensorMapping, tensor.place + ": expected a type that can be read as numbers, found " +
                                                  tensor.type + "; convert it with the program that wrote it"};
    }
    // Codes have rows of their own order; what exchanges rows and columns, or shifts values, needs floats.
    if (tensor.ternary && (rule->transposed || rule->less_one || rule->rows == 0)) {
      return Error{ErrorCode::kTensorMapping,
                   tensor.place + ": expected floats, which a checkpoint of this kind has in another order, found " +
                       tensor.type + "; convert the file with --type f16 to GGUF first"};
    }
    tensor.name = (rule->outside ? "" : prefix) + (layer.empty() ? "" : layers + layer) + rule->hf.front();
    apply(*rule, tensor);
    result.push_back(std::move(tensor));
  }
  return result;
}

void note_biases_and_norms(const std::vector<SourceTensor>& tensors, HfConfig& config,
                           std::vector<std::string>& warnings) {
  if (config.family == Family::kGpt2) return;  // whose layers have all of these
  const auto has = [&](std::string_view part) {
    return std::any_of(tensors.begin(), tensors.end(),
                       [&](const SourceTensor& tensor) { return tensor.name.ends_with("." + std::string(part)); });
  };
  const auto count = [&](std::initializer_list<std::string_view> parts) {
    return static_cast<std::size_t>(std::count_if(parts.begin(), parts.end(), has));
  };
  const auto warn = [&](const std::string& what) {
    warnings.push_back(what + ": this program reads them back, transformers has no place for them in a " +
                       config.model.architecture + " model");
  };
  const bool own = config.model.architecture == "qwen2";  // biases of q, k and v without a word of config.json
  const std::size_t attention = count({"attn_q.bias", "attn_k.bias", "attn_v.bias"});
  const bool output = has("attn_output.bias");
  config.attention_bias = !own && attention == 3 && output;
  if (!config.attention_bias && (output || (attention != 0 && !own))) warn("biases of some products of attention");
  const std::size_t ffn = count({"ffn_gate.bias", "ffn_up.bias", "ffn_down.bias"});
  config.mlp_bias = ffn == 3 && config.model.architecture == "llama";
  if (ffn != 0 && !config.mlp_bias) warn("biases of the feed-forward products");
  const bool normed_heads = config.family == Family::kGemma || config.model.architecture == "qwen3";
  if (has("attn_q_norm.weight") && !normed_heads) warn("norms of queries and keys");
  if (config.own_norms && config.storage == Storage::kPlain) warn("norms in front of single products, in plain floats");
}

Result<std::string> hf_config_json(const HfConfig& config) {
  const ModelConfig& model = config.model;
  const auto* known = std::find_if(std::begin(kClasses), std::end(kClasses),
                                   [&](const Class& entry) { return model.architecture == entry.architecture; });
  if (known == std::end(kClasses)) {
    return Error{ErrorCode::kFailure, "there is no class for the architecture " + model.architecture};
  }
  if (!config.rope_factors.empty() && !config.llama3) {
    return Error{ErrorCode::kFailure,
                 "rope_freqs.weight has factors that no llama3 scaling gives, and config.json cannot state them one by "
                 "one"};
  }
  Json json = {{"architectures", {known->name}}, {"model_type", known->model_type}, {"vocab_size", model.vocab}};
  if (!config.name.empty()) json["_name_or_path"] = config.name;
  if (config.family == Family::kGpt2) {
    json.update({{"n_embd", model.hidden},
                 {"n_layer", model.layers},
                 {"n_head", model.heads},
                 {"n_positions", model.context},
                 {"n_inner", model.ffn},
                 {"activation_function", "gelu_new"},
                 {"layer_norm_epsilon", model.norm_eps}});
  } else {
    json.update({{"hidden_size", model.hidden},
                 {"intermediate_size", model.ffn},
                 {"num_hidden_layers", model.layers},
                 {"num_attention_heads", model.heads},
                 {"num_key_value_heads", model.kv_heads},
                 {"head_dim", model.head_dim},
                 {"max_position_embeddings", model.context},
                 {"rms_norm_eps", model.norm_eps}});
    json[config.family == Family::kGemma ? "hidden_activation" : "hidden_act"] = activation_name(model.activation);
    set_rope(config, json);
  }
  set_window(config, json);
  set_scales(config, json);
  json["tie_word_embeddings"] = config.tied;
  if (config.attention_bias) json["attention_bias"] = true;
  if (config.mlp_bias) json["mlp_bias"] = true;
  if (config.bos) json["bos_token_id"] = *config.bos;
  if (config.eos) json["eos_token_id"] = *config.eos;
  set_quantization(config, json);
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace bitnet::convert
