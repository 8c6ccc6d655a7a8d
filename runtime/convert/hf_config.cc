// What kind of checkpoint this is comes first, so that a foreign one is refused as such and not for a missing number.
#include "runtime/convert/hf_config.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>
#include <string_view>
#include <utility>

#include "runtime/convert/hf_rope.h"
#include "runtime/convert/settings.h"
#include "runtime/gguf/types.h"
#include "runtime/model/limits.h"

namespace bitnet::convert {
namespace {

using Json = nlohmann::json;

constexpr const char* kOtherGraph = "the runtime does not implement it, and leaving it out would change the results";
constexpr const char* kCorrect = "correct the file or export the checkpoint again";
constexpr std::int64_t kMaxLayers = 4096;
constexpr std::int64_t kMaxHeadDim = 4096;
constexpr std::int64_t kMaxContext = std::int64_t{1} << 28;
constexpr std::int64_t kMaxVocab = std::int64_t{1} << 26;

// A pair of model_type and architectures that is known.
struct Kind {
  std::string_view model_type, class_name;
  std::string_view architecture;  // of GGUF; "" is decided by the activation
  Family family;
};
constexpr std::array<Kind, 15> kKinds = {{
    {"bitnet", "BitNetForCausalLM", "", Family::kBitNet},
    {"bitnet", "BitnetForCausalLM", "", Family::kBitNet},
    {"llama", "BitnetForCausalLM", "", Family::kBitNet},  // bitnet_b1_58-large and -3B say so
    {"llama", "LlamaForCausalLM", "llama", Family::kLlama},
    {"mistral", "MistralForCausalLM", "llama", Family::kLlama},
    {"minicpm", "MiniCPMForCausalLM", "minicpm", Family::kLlama},
    {"qwen2", "Qwen2ForCausalLM", "qwen2", Family::kQwen},
    {"qwen2", "Qwen2Model", "qwen2", Family::kQwen},
    {"qwen3", "Qwen3ForCausalLM", "qwen3", Family::kQwen},
    {"qwen3", "Qwen3Model", "qwen3", Family::kQwen},
    {"gemma3_text", "Gemma3ForCausalLM", "gemma3", Family::kGemma},
    {"gemma3_text", "Gemma3TextModel", "gemma3", Family::kGemma},
    {"gemma3_text", "Gemma3Model", "gemma3", Family::kGemma},
    {"gpt2", "GPT2LMHeadModel", "gpt2", Family::kGpt2},
    {"gpt2", "GPT2Model", "gpt2", Family::kGpt2},
}};

// Keys that change the graph, with the one value that does not.
struct Neutral {
  const char* key;
  Json value;
};
std::vector<Neutral> neutral_keys() {
  return {{"partial_rotary_factor", 1.0},
          {"rotary_pct", 1.0},
          {"use_parallel_residual", false},
          {"parallel_attn", false},
          {"attn_logit_softcapping", nullptr},
          {"final_logit_softcapping", nullptr},
          {"num_experts", 0},
          {"num_local_experts", 0},
          {"n_routed_experts", 0},
          {"use_bidirectional_attention", false},
          {"alibi", false},
          {"add_cross_attention", false},
          {"is_encoder_decoder", false},
          {"scale_attn_weights", true},
          {"use_qk_norm", false},
          {"qk_layernorm", false},
          {"clip_qkv", nullptr},
          {"scale_attn_by_inverse_layer_idx", false},
          {"attention_multiplier", nullptr},
          {"embedding_multiplier", nullptr},
          {"logits_scaling", nullptr},
          {"residual_multiplier", nullptr}};
}

// Keys that are read, and keys that say nothing about a forward pass.
constexpr std::array kKnownKeys = {"model_type",
                                   "architectures",
                                   "quantization_config",
                                   "hidden_size",
                                   "intermediate_size",
                                   "num_hidden_layers",
                                   "num_attention_heads",
                                   "num_key_value_heads",
                                   "head_dim",
                                   "hidden_act",
                                   "hidden_activation",
                                   "rms_norm_eps",
                                   "rope_theta",
                                   "rope_scaling",
                                   "rope_parameters",
                                   "max_position_embeddings",
                                   "original_max_position_embeddings",
                                   "vocab_size",
                                   "tie_word_embeddings",
                                   "bos_token_id",
                                   "eos_token_id",
                                   "_name_or_path",
                                   "sliding_window",
                                   "sliding_window_pattern",
                                   "_sliding_window_pattern",
                                   "layer_types",
                                   "max_window_layers",
                                   "use_sliding_window",
                                   "rope_local_base_freq",
                                   "query_pre_attn_scalar",
                                   "scale_emb",
                                   "scale_depth",
                                   "dim_model_base",
                                   "n_embd",
                                   "n_layer",
                                   "n_head",
                                   "n_positions",
                                   "n_ctx",
                                   "n_inner",
                                   "activation_function",
                                   "layer_norm_epsilon",
                                   "attention_bias",
                                   "mlp_bias",
                                   "input_bits",
                                   "weight_bits",
                                   "torch_dtype",
                                   "dtype",
                                   "transformers_version",
                                   "use_cache",
                                   "initializer_range",
                                   "pretraining_tp",
                                   "attention_dropout",
                                   "hidden_dropout",
                                   "attn_pdrop",
                                   "embd_pdrop",
                                   "resid_pdrop",
                                   "pad_token_id",
                                   "unk_token_id",
                                   "sep_token_id",
                                   "auto_map",
                                   "is_bitnet_config",
                                   "activation",
                                   "summary_type",
                                   "summary_use_proj",
                                   "summary_activation",
                                   "summary_first_dropout",
                                   "summary_proj_to_logits",
                                   "task_specific_params",
                                   "reorder_and_upcast_attn",
                                   "dims_per_head",
                                   "layer_norm_eps",
                                   "pretraining_model_parallel",
                                   "rotary_emb_base",
                                   "cache_implementation",
                                   "mup_denominator",
                                   "sparse_config",
                                   "kv_channels",
                                   "classifier_dropout",
                                   "initializer_factor",
                                   "max_length",
                                   "do_sample",
                                   "attn_implementation",
                                   "_attn_implementation",
                                   "model_name",
                                   "id2label",
                                   "label2id",
                                   "finetuning_task",
                                   "return_dict",
                                   "output_attentions",
                                   "output_hidden_states",
                                   "tokenizer_class"};

Result<Kind> find_kind(const Settings& settings) {
  std::string types;
  std::string classes;
  std::set<std::string_view> seen;
  BITNET_ASSIGN_OR_RETURN(const std::string type, settings.text("model_type"));
  for (const Kind& kind : kKinds) {
    if (seen.insert(kind.model_type).second) types += (types.empty() ? "" : ", ") + std::string(kind.model_type);
    if (kind.model_type == type) classes += (classes.empty() ? "" : ", ") + std::string(kind.class_name);
  }
  if (classes.empty()) {
    return settings.refuse("model_type", "one of " + types, "this program does not know the graph of another one");
  }
  BITNET_ASSIGN_OR_RETURN(const auto names, settings.texts("architectures"));
  for (const Kind& kind : kKinds) {
    if (kind.model_type == type && names.size() == 1 && names.front() == kind.class_name) return kind;
  }
  return settings.refuse("architectures", "one of " + classes, "this program does not know the graph of another class");
}

Status read_quantization(const Settings& settings, const Kind& kind, HfConfig& config) {
  if (kind.class_name == "BitnetForCausalLM") {
    // These checkpoints hold what the trainer had; their layers round when they run.
    BITNET_RETURN_IF_ERROR(settings.refuse_other("weight_bits", 1, kOtherGraph));
    BITNET_RETURN_IF_ERROR(settings.refuse_other("input_bits", 8, kOtherGraph));
    BITNET_RETURN_IF_ERROR(settings.refuse_other("quantization_config", nullptr, kOtherGraph));
    config.storage = Storage::kMasters;
    return {};
  }
  if (!settings.has("quantization_config")) {
    if (kind.family == Family::kBitNet) {
      config.warnings.emplace_back(
          "config.json states no quantization_config: the weights are read as the floats that they are, and those of "
          "one magnitude as ternary ones");
    }
    return {};
  }
  const auto at = [](const char* key) { return "quantization_config." + std::string(key); };
  BITNET_RETURN_IF_ERROR(
      settings.require(at("quant_method"), "bitnet", "weights that are quantised in another way cannot be read"));
  config.storage = Storage::kPacked;
  std::string linear = "bitlinear";
  if (settings.has(at("linear_class"))) {
    BITNET_ASSIGN_OR_RETURN(linear, settings.text(at("linear_class")));
  }
  if (linear != "bitlinear" && linear != "autobitlinear") {
    return settings.refuse(at("linear_class"), "\"bitlinear\" or \"autobitlinear\"", kOtherGraph);
  }
  // The two classes of transformers use one tensor in opposite ways.
  config.scale_divides = linear == "bitlinear";
  if (settings.has(at("quantization_mode"))) {
    BITNET_ASSIGN_OR_RETURN(const std::string mode, settings.text(at("quantization_mode")));
    if (mode != "online" && mode != "offline") {
      return settings.refuse(at("quantization_mode"), "\"offline\" or \"online\"", kOtherGraph);
    }
    if (mode == "online" && linear == "autobitlinear") config.storage = Storage::kMasters;
  }
  if (settings.has(at("modules_to_not_convert"))) {
    BITNET_ASSIGN_OR_RETURN(config.unquantised, settings.texts(at("modules_to_not_convert")));
  }
  // The layers' own norms have an epsilon of their own; the runtime has one for all.
  if (settings.has(at("use_rms_norm"))) {
    BITNET_ASSIGN_OR_RETURN(const bool own_norms, settings.boolean(at("use_rms_norm")));
    float epsilon = 1e-6F;
    if (settings.has(at("rms_norm_eps"))) {
      BITNET_ASSIGN_OR_RETURN(epsilon, settings.positive(at("rms_norm_eps")));
    }
    BITNET_ASSIGN_OR_RETURN(const float models, settings.positive("rms_norm_eps"));
    if (own_norms && epsilon != models) {
      return settings.refuse(at("rms_norm_eps"), "that of the model, " + std::to_string(models), kOtherGraph);
    }
  }
  return {};
}

Error bad_heads(const Settings& settings, const std::string& what) {
  return {ErrorCode::kFailure, settings.path() + ": " + what + "; " + kCorrect};
}

Status check_heads(const Settings& settings, const char* width_key, ModelConfig& model) {
  if (model.heads % model.kv_heads != 0) {
    return bad_heads(settings, "key 'num_key_value_heads': expected a divisor of the " + std::to_string(model.heads) +
                                   " attention heads, found " + std::to_string(model.kv_heads));
  }
  if (model.head_dim == 0) {
    if (model.hidden % model.heads != 0) {
      return bad_heads(settings, std::string("key '") + width_key + "': expected a multiple of the " +
                                     std::to_string(model.heads) + " attention heads, found " +
                                     std::to_string(model.hidden));
    }
    model.head_dim = model.hidden / model.heads;
  }
  if (model.head_dim > kMaxHeadDim || model.head_dim % 2 != 0 || model.heads * model.head_dim > kMaxWidth) {
    return bad_heads(settings, std::string("keys '") + width_key +
                                   "' and 'num_attention_heads': expected heads of an even width up to " +
                                   std::to_string(kMaxHeadDim) + " and at most " + std::to_string(kMaxWidth) +
                                   " in all, found " + std::to_string(model.heads) + " heads of " +
                                   std::to_string(model.head_dim));
  }
  return {};
}

Status read_activation(const Settings& settings, const Kind& kind, ModelConfig& model) {
  const char* key = settings.has("hidden_activation")     ? "hidden_activation"
                    : settings.has("activation_function") ? "activation_function"
                                                          : "hidden_act";
  if (!settings.has(key) && kind.family != Family::kBitNet) return {};  // the architecture's own
  BITNET_ASSIGN_OR_RETURN(const std::string name, settings.text(key));
  std::optional<Activation> found;
  if (name == "silu" || name == "swish") found = Activation::kSilu;
  if (name == "relu2" || name == "relu_squared") found = Activation::kRelu2;
  if (name == "gelu_new" || name == "gelu_pytorch_tanh" || name == "gelu_fast") found = Activation::kGelu;
  if (kind.architecture.empty() && found && *found != Activation::kGelu) {
    model.architecture = *found == Activation::kRelu2 ? "bitnet-b1.58" : "bitnet";
    model.activation = *found;
    return {};
  }
  if (found && *found == model.activation) return {};
  const char* wanted = model.activation == Activation::kGelu ? "\"gelu_new\" or \"gelu_pytorch_tanh\"" : "\"silu\"";
  return settings.refuse(key, kind.architecture.empty() ? "\"relu2\" or \"silu\"" : wanted, kOtherGraph);
}

// Layers with and without a window must alternate by a fixed number, which is all that a GGUF file can say.
Status read_layer_types(const Settings& settings, ModelConfig& model) {
  if (!settings.has("layer_types")) return {};
  BITNET_ASSIGN_OR_RETURN(const auto types, settings.texts("layer_types"));
  const auto refuse = [&](const std::string& expected) {
    return settings.refuse("layer_types", expected, kOtherGraph);
  };
  if (types.size() != static_cast<std::size_t>(model.layers)) {
    return refuse(std::to_string(model.layers) + " entries, one for each layer");
  }
  const auto full = std::find(types.begin(), types.end(), "full_attention");
  model.window_pattern = full == types.end() ? 0 : full - types.begin() + 1;
  if (model.window_pattern == 1 || model.window == 0) {
    if (!std::all_of(types.begin(), types.end(), [](const std::string& type) { return type == "full_attention"; })) {
      return refuse(model.window == 0 ? "full_attention in every layer of a model without sliding_window"
                                      : "every n-th layer full_attention, the others sliding_attention");
    }
    model.window = 0;
    model.window_pattern = 0;
    return {};
  }
  for (std::int64_t layer = 0; layer < model.layers; ++layer) {
    const char* expected = model.windowed(layer) ? "sliding_attention" : "full_attention";
    if (types[static_cast<std::size_t>(layer)] != expected) {
      return refuse("every n-th layer full_attention, the others sliding_attention");
    }
  }
  return {};
}

// Qwen's window waits for use_sliding_window, and begins at a layer where the layers are not listed.
Status read_qwen_window(const Settings& settings, ModelConfig& model) {
  bool used = false;
  if (settings.has("use_sliding_window")) {
    BITNET_ASSIGN_OR_RETURN(used, settings.boolean("use_sliding_window"));
  }
  if (!used) return read_layer_types(settings, model);
  BITNET_ASSIGN_OR_RETURN(model.window, settings.integer("sliding_window", 1, kMaxContext));
  if (settings.has("layer_types")) return read_layer_types(settings, model);
  BITNET_ASSIGN_OR_RETURN(const std::int64_t first, settings.integer("max_window_layers", 0, kMaxLayers));
  if (first == 0) return {};
  if (first < model.layers) {
    return settings.refuse("max_window_layers",
                           "0, or at least the " + std::to_string(model.layers) + " layers of the model", kOtherGraph);
  }
  model.window = 0;
  return {};
}

Status read_window(const Settings& settings, const Kind& kind, HfConfig& config) {
  ModelConfig& model = config.model;
  if (kind.family == Family::kQwen) return read_qwen_window(settings, model);
  BITNET_RETURN_IF_ERROR(settings.refuse_other("use_sliding_window", false, kOtherGraph));
  if (kind.family == Family::kBitNet) return settings.refuse_other("sliding_window", nullptr, kOtherGraph);
  const bool windowed = kind.family == Family::kGemma || kind.model_type == "mistral";
  if (windowed && settings.has("sliding_window")) {
    BITNET_ASSIGN_OR_RETURN(model.window, settings.integer("sliding_window", 1, kMaxContext));
  } else if (settings.has("sliding_window")) {
    config.warnings.push_back("config.json: sliding_window is left out of account, as " + std::string(kind.class_name) +
                              " itself does");
  }
  if (kind.family != Family::kGemma) return read_layer_types(settings, model);
  model.window_rope_base = 10000.0F;
  model.window_pattern = 6;
  for (const char* key : {"sliding_window_pattern", "_sliding_window_pattern"}) {
    if (!settings.has(key)) continue;
    BITNET_ASSIGN_OR_RETURN(model.window_pattern, settings.integer(key, 1, kMaxLayers));
  }
  return read_layer_types(settings, model);
}

// MiniCPM's scales, and Gemma's for queries.
Status read_scales(const Settings& settings, const Kind& kind, ModelConfig& model) {
  if (kind.family == Family::kGemma) {
    model.embedding_scale = std::sqrt(static_cast<float>(model.hidden));
    if (settings.has("query_pre_attn_scalar")) {
      BITNET_ASSIGN_OR_RETURN(const float scalar, settings.positive("query_pre_attn_scalar"));
      // A file says nothing where a reader finds out by itself.
      const Architecture* known = find_architecture(kind.architecture);
      const bool usual = unstated_attention_scale(*known, model.layers, model.hidden, model.heads) == 0.0F;
      if (scalar != static_cast<float>(model.head_dim) || !usual) model.attention_scale = 1.0F / std::sqrt(scalar);
    }
  }
  if (kind.architecture != "minicpm") return {};
  BITNET_ASSIGN_OR_RETURN(model.embedding_scale, settings.positive("scale_emb"));
  BITNET_ASSIGN_OR_RETURN(const float depth, settings.positive("scale_depth"));
  BITNET_ASSIGN_OR_RETURN(const std::int64_t base, settings.integer("dim_model_base", 1, kMaxWidth));
  model.residual_scale = depth / std::sqrt(static_cast<float>(model.layers));
  model.logit_scale = static_cast<float>(base) / static_cast<float>(model.hidden);
  return {};
}

Status read_gpt2(const Settings& settings, HfConfig& config) {
  ModelConfig& model = config.model;
  BITNET_ASSIGN_OR_RETURN(model.hidden, settings.integer("n_embd", 1, kMaxWidth));
  BITNET_ASSIGN_OR_RETURN(model.layers, settings.integer("n_layer", 1, kMaxLayers));
  BITNET_ASSIGN_OR_RETURN(model.heads, settings.integer("n_head", 1, kMaxWidth));
  BITNET_ASSIGN_OR_RETURN(model.context, settings.integer("n_positions", 1, kMaxContext));
  BITNET_ASSIGN_OR_RETURN(model.norm_eps, settings.positive("layer_norm_epsilon"));
  model.ffn = 4 * model.hidden;
  if (settings.has("n_inner")) {
    BITNET_ASSIGN_OR_RETURN(model.ffn, settings.integer("n_inner", 1, kMaxWidth));
  }
  if (model.ffn > kMaxWidth) {
    return settings.refuse("n_embd", "a width whose fourfold is at most " + std::to_string(kMaxWidth), kCorrect);
  }
  model.kv_heads = model.heads;
  return check_heads(settings, "n_embd", model);
}

Status read_shape(const Settings& settings, const Kind& kind, HfConfig& config) {
  ModelConfig& model = config.model;
  BITNET_ASSIGN_OR_RETURN(model.hidden, settings.integer("hidden_size", 1, kMaxWidth));
  BITNET_ASSIGN_OR_RETURN(model.ffn, settings.integer("intermediate_size", 1, kMaxWidth));
  BITNET_ASSIGN_OR_RETURN(model.layers, settings.integer("num_hidden_layers", 1, kMaxLayers));
  BITNET_ASSIGN_OR_RETURN(model.heads, settings.integer("num_attention_heads", 1, kMaxWidth));
  model.kv_heads = model.heads;
  if (kind.class_name == "BitNetForCausalLM" || settings.has("num_key_value_heads")) {
    BITNET_ASSIGN_OR_RETURN(model.kv_heads, settings.integer("num_key_value_heads", 1, model.heads));
  }
  if (settings.has("head_dim")) {
    BITNET_ASSIGN_OR_RETURN(model.head_dim, settings.integer("head_dim", 1, kMaxHeadDim));
  }
  BITNET_RETURN_IF_ERROR(check_heads(settings, "hidden_size", model));
  BITNET_ASSIGN_OR_RETURN(model.context, settings.integer("max_position_embeddings", 1, kMaxContext));
  BITNET_ASSIGN_OR_RETURN(model.norm_eps, settings.positive("rms_norm_eps"));
  model.rope_dim = model.head_dim;
  BITNET_RETURN_IF_ERROR(read_window(settings, kind, config));
  return read_rope(settings, kind.class_name == "BitNetForCausalLM" ? 0.0F : 10000.0F, config);
}

Status read_ids(const Settings& settings, HfConfig& config) {
  const std::int64_t last = config.model.vocab - 1;
  if (settings.has("bos_token_id")) {
    BITNET_ASSIGN_OR_RETURN(config.bos, settings.integer("bos_token_id", 0, last));
  }
  // Several ends are a list; the tokenizer's files and the chat template say which of them ends what.
  if (settings.has("eos_token_id") && !settings.is_array("eos_token_id")) {
    BITNET_ASSIGN_OR_RETURN(config.eos, settings.integer("eos_token_id", 0, last));
  }
  return {};
}

// sentence-transformers keeps the pooling beside the model.
Status read_pooling(const std::string& directory, HfConfig& config) {
  const std::string path = directory + "/1_Pooling/config.json";
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) return {};
  BITNET_ASSIGN_OR_RETURN(const Settings settings, Settings::read(path, ErrorCode::kFailure));
  for (const std::string& key : settings.keys()) {
    if (!key.starts_with("pooling_mode_")) continue;
    BITNET_ASSIGN_OR_RETURN(const bool on, settings.boolean(key));
    if (!on) continue;
    const bool mean = key == "pooling_mode_mean_tokens";
    if ((!mean && key != "pooling_mode_lasttoken") || config.model.pooling != Pooling::kNone) {
      return settings.refuse(key, "only pooling_mode_mean_tokens or only pooling_mode_lasttoken", kOtherGraph);
    }
    config.model.pooling = mean ? Pooling::kMean : Pooling::kLast;
  }
  return {};
}

void warn_of_unknown_keys(const Settings& settings, HfConfig& config) {
  std::set<std::string, std::less<>> known(kKnownKeys.begin(), kKnownKeys.end());
  for (const Neutral& neutral : neutral_keys()) known.insert(neutral.key);
  std::string unknown;
  for (const std::string& key : settings.keys()) {
    if (!known.contains(key)) unknown += (unknown.empty() ? "" : ", ") + gguf::quoted(key);
  }
  if (unknown.empty()) return;
  config.warnings.push_back("config.json: keys that this program does not know: " + unknown +
                            "; if one of them changes the model's graph, the result is wrong");
}

Result<HfConfig> read_config_json(const Settings& settings) {
  BITNET_ASSIGN_OR_RETURN(const Kind kind, find_kind(settings));
  HfConfig config;
  ModelConfig& model = config.model;
  config.family = kind.family;
  model.architecture = kind.architecture;
  if (const Architecture* known = find_architecture(kind.architecture)) {
    model.activation = known->activation;
    model.gated = known->gated;
    model.norm = known->norm;
    model.rope = known->rope;
    model.learned_positions = known->learned_positions;
  }
  BITNET_RETURN_IF_ERROR(read_quantization(settings, kind, config));
  BITNET_RETURN_IF_ERROR(read_activation(settings, kind, model));
  for (const Neutral& neutral : neutral_keys()) {
    BITNET_RETURN_IF_ERROR(settings.refuse_other(neutral.key, neutral.value, kOtherGraph));
  }
  config.tied = kind.family == Family::kGemma || kind.family == Family::kGpt2 || kind.architecture == "minicpm";
  if (kind.class_name == "BitNetForCausalLM" && model.architecture == "bitnet-b1.58") {
    BITNET_RETURN_IF_ERROR(settings.require("tie_word_embeddings", true, kOtherGraph));
  }
  if (settings.has("tie_word_embeddings")) {
    BITNET_ASSIGN_OR_RETURN(config.tied, settings.boolean("tie_word_embeddings"));
  }
  if (kind.class_name.ends_with("Model")) config.tied = true;  // a class without a head
  if (kind.family == Family::kGpt2) {
    BITNET_RETURN_IF_ERROR(read_gpt2(settings, config));
  } else {
    BITNET_RETURN_IF_ERROR(read_shape(settings, kind, config));
  }
  BITNET_ASSIGN_OR_RETURN(model.vocab, settings.integer("vocab_size", 1, kMaxVocab));
  BITNET_RETURN_IF_ERROR(read_scales(settings, kind, model));
  BITNET_RETURN_IF_ERROR(read_ids(settings, config));
  if (settings.has("_name_or_path")) {
    BITNET_ASSIGN_OR_RETURN(config.name, settings.text("_name_or_path"));
  }
  warn_of_unknown_keys(settings, config);
  return config;
}

}  // namespace

Result<HfConfig> read_hf_config(const std::string& directory) {
  BITNET_ASSIGN_OR_RETURN(const Settings settings, Settings::read(directory + "/config.json", ErrorCode::kFailure));
  BITNET_ASSIGN_OR_RETURN(HfConfig config, read_config_json(settings));
  BITNET_RETURN_IF_ERROR(read_pooling(directory, config));
  return config;
}

Result<HfConfig> parse_hf_config(std::string_view text, const std::string& path) {
  BITNET_ASSIGN_OR_RETURN(const Settings settings, Settings::parse(text, path, ErrorCode::kFailure));
  return read_config_json(settings);
}

}  // namespace bitnet::convert
