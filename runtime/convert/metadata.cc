// Keys that say what a reader assumes without them are left out, so that files stay what other programs expect.
#include "runtime/convert/metadata.h"

#include <string>

namespace bitnet::convert {
namespace {

class Keys {
 public:
  Keys(const ModelConfig& config, gguf::Writer& writer) : config_(config), writer_(writer) {}

  void set_all() {
    const ModelConfig& config = config_;
    const bool rope = config.rope != RopeKind::kNone;
    set("vocab_size", config.vocab);
    set("context_length", config.context);
    set("embedding_length", config.hidden);
    set("block_count", config.layers);
    set("feed_forward_length", config.ffn);
    if (rope) set("rope.dimension_count", config.rope_dim);
    set("attention.head_count", config.heads);
    set("attention.head_count_kv", config.kv_heads);
    if (config.heads * config.head_dim != config.hidden) {
      set("attention.key_length", config.head_dim);
      set("attention.value_length", config.head_dim);
    }
    set(config.norm == NormKind::kRms ? "attention.layer_norm_rms_epsilon" : "attention.layer_norm_epsilon",
        config.norm_eps);
    if (config.attention_scale != 0.0F) set("attention.scale", config.attention_scale);
    if (rope) {
      set("rope.freq_base", config.rope_base);
      set_scaling();
    }
    set_window();
    const Architecture* known = find_architecture(config.architecture);
    if (known != nullptr && known->mup) {
      set("embedding_scale", config.embedding_scale);
      set("residual_scale", config.residual_scale);
      set("logit_scale", 1.0F / config.logit_scale);  // the field divides by it
    }
    if (config.pooling != Pooling::kNone) set("pooling_type", std::int64_t{config.pooling == Pooling::kMean ? 1 : 3});
  }

 private:
  void set(const char* key, std::int64_t value) {
    writer_.set(config_.architecture + "." + key, static_cast<std::uint32_t>(value));
  }
  void set(const char* key, float value) { writer_.set(config_.architecture + "." + key, value); }

  void set_scaling() {
    const ModelConfig& config = config_;
    if (config.rope_scaling == RopeScaling::kNone) {
      if (config.architecture != "bitnet") return;
      // As the converter wrote it that made this architecture's files.
      writer_.set(config.architecture + ".rope.scaling.type", "linear");
      set("rope.scaling.factor", 1.0F);
      return;
    }
    writer_.set(config.architecture + ".rope.scaling.type", to_string(config.rope_scaling));
    if (config.rope_scaling != RopeScaling::kLongrope) set("rope.scaling.factor", config.rope_factor);
    if (config.rope_scaling == RopeScaling::kLinear) return;
    set("rope.scaling.original_context_length", config.rope_original_context);
    if (config.rope_attention_factor != 1.0F) set("rope.scaling.attn_factor", config.rope_attention_factor);
    if (config.rope_scaling != RopeScaling::kYarn) return;
    set("rope.scaling.yarn_beta_fast", config.yarn_beta_fast);
    set("rope.scaling.yarn_beta_slow", config.yarn_beta_slow);
  }

  void set_window() {
    const ModelConfig& config = config_;
    if (config.window == 0) return;
    set("attention.sliding_window", config.window);
    // 0, a window in every layer, is one that comes round after the last.
    const bool every = config.window_pattern == 0;
    if (!every || config.architecture == "gemma3") {
      set("attention.sliding_window_pattern", every ? config.layers + 1 : config.window_pattern);
    }
    if (config.window_rope_base > 0.0F) set("rope.freq_base_swa", config.window_rope_base);
  }

  const ModelConfig& config_;
  gguf::Writer& writer_;
};

}  // namespace

std::uint32_t file_type(gguf::TensorType type) {
  switch (type) {
    case gguf::TensorType::kF16:
      return 1;
    case gguf::TensorType::kQ8_0:
      return 7;
    case gguf::TensorType::kBF16:
      return 32;
    case gguf::TensorType::kTQ1_0:
      return 36;
    case gguf::TensorType::kTQ2_0:
      return 37;
    case gguf::TensorType::kTL1:
      return 38;
    case gguf::TensorType::kTL2OrMXFP4:
      return 39;
    case gguf::TensorType::kI2_S:
    case gguf::TensorType::kQ1_0:  // the same number, in another program
      return 40;
    case gguf::TensorType::kQ2_0:
      return 41;
    case gguf::TensorType::kPQ2_0:
      return 141;
    default:
      return 0;  // float32
  }
}

void set_model_metadata(const HfConfig& config, std::string_view name, gguf::TensorType type, gguf::Writer& writer) {
  const std::string& architecture = config.model.architecture;
  writer.set("general.architecture", std::string_view(architecture));
  writer.set("general.name", name);
  writer.set("general.file_type", file_type(type));
  Keys(config.model, writer).set_all();
  if (!config.llama3) return;
  const std::string prefix = architecture + std::string(kLlama3Keys);
  writer.set(prefix + "factor", config.llama3->factor);
  writer.set(prefix + "low_freq_factor", config.llama3->low);
  writer.set(prefix + "high_freq_factor", config.llama3->high);
  writer.set(prefix + "original_context_length", static_cast<std::uint32_t>(config.llama3->original_context));
}

}  // namespace bitnet::convert
