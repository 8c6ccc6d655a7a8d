// The names of each family. One list for both directions: reading a checkpoint and writing one.
#include <string>
#include <utility>
#include <vector>

#include "runtime/convert/hf_tensors.h"

namespace bitnet::convert {
namespace {

class Rules {
 public:
  explicit Rules(const HfConfig& config) : config_(config), model_(config.model) {}

  std::vector<TensorRule> llama_like() && {
    const std::int64_t q = model_.heads * model_.head_dim;
    const std::int64_t kv = model_.kv_heads * model_.head_dim;
    const bool gemma = config_.family == Family::kGemma;
    const bool bitnet = config_.family == Family::kBitNet;
    const bool normed_heads = gemma || model_.architecture == "qwen3";
    const bool biased = model_.architecture == "qwen2";
    add_global("token_embd.weight", {"embed_tokens.weight"}, Role::kEmbedding, model_.hidden, model_.vocab);
    norm("attn_norm.weight", {"input_layernorm.weight"}, model_.hidden);
    norm("ffn_norm.weight", {gemma ? "pre_feedforward_layernorm.weight" : "post_attention_layernorm.weight"},
         model_.hidden);
    if (gemma) {
      norm("post_attention_norm.weight", {"post_attention_layernorm.weight"}, model_.hidden);
      norm("post_ffw_norm.weight", {"post_feedforward_layernorm.weight"}, model_.hidden);
    }
    norm("attn_q_norm.weight", {"self_attn.q_norm.weight"}, model_.head_dim, normed_heads);
    norm("attn_k_norm.weight", {"self_attn.k_norm.weight"}, model_.head_dim, normed_heads);
    // A sub-norm and the own norm of the projection behind it are the same.
    const auto sub_norm = [&](const std::string& gguf, const std::string& own, std::vector<std::string> names,
                              std::int64_t size) {
      // The first name is the one that is written.
      names.insert(bitnet ? names.end() : names.begin(), {own + ".rms_norm.weight", own + ".norm.weight"});
      vector(gguf, std::move(names), size, bitnet);
    };
    sub_norm("attn_sub_norm.weight", "self_attn.o_proj",
             {"self_attn.attn_sub_norm.weight", "self_attn.inner_attn_ln.weight"}, q);
    sub_norm("ffn_sub_norm.weight", "mlp.down_proj", {"mlp.ffn_sub_norm.weight", "mlp.ffn_layernorm.weight"},
             model_.ffn);
    for (const auto& [gguf, hf] : {std::pair("attn_q", "self_attn.q_proj"),
                                   {"attn_k", "self_attn.k_proj"},
                                   {"attn_v", "self_attn.v_proj"},
                                   {"ffn_gate", "mlp.gate_proj"},
                                   {"ffn_up", "mlp.up_proj"}}) {
      vector(std::string(gguf) + "_norm_in.weight",
             {std::string(hf) + ".rms_norm.weight", std::string(hf) + ".norm.weight"}, model_.hidden, false);
    }
    const bool permuted = config_.family == Family::kLlama;
    projection("attn_q", "self_attn.q_proj", model_.hidden, q, biased, permuted ? model_.heads : 0);
    projection("attn_k", "self_attn.k_proj", model_.hidden, kv, biased, permuted ? model_.kv_heads : 0);
    projection("attn_v", "self_attn.v_proj", model_.hidden, kv, biased, 0);
    projection("attn_output", "self_attn.o_proj", q, model_.hidden, false, 0);
    projection("ffn_gate", "mlp.gate_proj", model_.hidden, model_.ffn, false, 0);
    projection("ffn_up", "mlp.up_proj", model_.hidden, model_.ffn, false, 0);
    projection("ffn_down", "mlp.down_proj", model_.ffn, model_.hidden, false, 0);
    norm("output_norm.weight", {"norm.weight"}, model_.hidden);
    rules_.back().in_layer = false;
    head();
    return std::move(rules_);
  }

  std::vector<TensorRule> gpt2() && {
    const std::int64_t hidden = model_.hidden;
    add_global("token_embd.weight", {"wte.weight"}, Role::kEmbedding, hidden, model_.vocab);
    add_global("position_embd.weight", {"wpe.weight"}, Role::kOther, hidden, model_.context);
    const auto layer_norm = [&](const std::string& gguf, const std::string& hf) {
      vector(gguf + ".weight", {hf + ".weight"}, hidden, true);
      vector(gguf + ".bias", {hf + ".bias"}, hidden, true);
    };
    layer_norm("attn_norm", "ln_1");
    layer_norm("ffn_norm", "ln_2");
    projection("attn_qkv", "attn.c_attn", hidden, 3 * hidden, true, 0);
    projection("attn_output", "attn.c_proj", hidden, hidden, true, 0);
    projection("ffn_up", "mlp.c_fc", hidden, model_.ffn, true, 0);
    projection("ffn_down", "mlp.c_proj", model_.ffn, hidden, true, 0);
    for (TensorRule& rule : rules_) rule.transposed = rule.role == Role::kProjection;
    layer_norm("output_norm", "ln_f");
    for (std::size_t i = rules_.size() - 2; i < rules_.size(); ++i) rules_[i].in_layer = false;
    head();
    return std::move(rules_);
  }

 private:
  void add(const std::string& gguf, std::vector<std::string> hf, Role role, std::int64_t columns, std::int64_t rows,
           bool required) {
    TensorRule rule;
    rule.gguf = gguf;
    rule.hf = std::move(hf);
    rule.role = role;
    rule.required = required;
    rule.columns = columns;
    rule.rows = rows;
    rules_.push_back(std::move(rule));
  }
  void add_global(const std::string& gguf, std::vector<std::string> hf, Role role, std::int64_t columns,
                  std::int64_t rows) {
    add(gguf, std::move(hf), role, columns, rows, true);
    rules_.back().in_layer = false;
  }
  void vector(const std::string& gguf, std::vector<std::string> hf, std::int64_t size, bool required) {
    add(gguf, std::move(hf), Role::kOther, size, 0, required);
  }
  // A norm of the architecture itself, which Gemma stores less 1.
  void norm(const std::string& gguf, std::vector<std::string> hf, std::int64_t size, bool required = true) {
    vector(gguf, std::move(hf), size, required);
    rules_.back().less_one = config_.family == Family::kGemma;
  }
  void projection(const std::string& gguf, const std::string& hf, std::int64_t columns, std::int64_t rows,
                  bool needs_bias, std::int64_t permuted_heads) {
    add(gguf + ".weight", {hf + ".weight"}, Role::kProjection, columns, rows, true);
    rules_.back().permuted_heads = permuted_heads;
    vector(gguf + ".bias", {hf + ".bias"}, rows, needs_bias);
    rules_.back().permuted_heads = permuted_heads;
    // transformers multiplies the sum of such layers by the weights' scale, the bias with it.
    if (config_.storage == Storage::kPacked && !config_.scale_divides) rules_.back().scaled_by = hf + ".weight_scale";
  }
  void head() {
    if (config_.tied) return;
    add_global("output.weight", {"lm_head.weight"}, Role::kHead, model_.hidden, model_.vocab);
    rules_.back().outside = true;
  }
  const HfConfig& config_;
  const ModelConfig& model_;
  std::vector<TensorRule> rules_;
};

}  // namespace

std::vector<TensorRule> tensor_rules(const HfConfig& config) {
  return config.family == Family::kGpt2 ? Rules(config).gpt2() : Rules(config).llama_like();
}

std::int64_t row_before_permutation(std::int64_t row, std::int64_t rows, std::int64_t heads) {
  const std::int64_t width = rows / heads;
  const std::int64_t in_head = row % width;
  return row - in_head + in_head % 2 * (width / 2) + in_head / 2;
}

}  // namespace bitnet::convert
