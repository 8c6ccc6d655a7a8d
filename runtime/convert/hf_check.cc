// A field that is forgotten in writing, or that the format has no key for, shows here and not in the logits.
#include "runtime/convert/hf_check.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string_view>
#include <vector>

namespace bitnet::convert {
namespace {

constexpr double kTolerance = 1e-5;

class Comparison {
 public:
  void same(std::string_view what, std::int64_t wanted, std::int64_t found) {
    if (wanted != found) lose(what, std::to_string(wanted), std::to_string(found));
  }
  void near(std::string_view what, float wanted, float found) {
    if (wanted == found) return;
    const double difference =
        std::fabs(static_cast<double>(wanted) - static_cast<double>(found)) / std::fabs(static_cast<double>(wanted));
    if (difference <= kTolerance) {
      worst_ = std::max(worst_, difference);
    } else {
      lose(what, std::to_string(wanted), std::to_string(found));
    }
  }
  void near(std::string_view what, const std::vector<float>& wanted, const std::vector<float>& found) {
    same(std::string("number of ") + std::string(what), static_cast<std::int64_t>(wanted.size()),
         static_cast<std::int64_t>(found.size()));
    for (std::size_t i = 0; i < std::min(wanted.size(), found.size()); ++i) near(what, wanted[i], found[i]);
  }
  [[nodiscard]] Result<double> outcome() const {
    if (lost_.empty()) return worst_;
    return Error{ErrorCode::kFailure, lost_};
  }

 private:
  void lose(std::string_view what, const std::string& wanted, const std::string& found) {
    if (lost_.empty()) lost_ = "it has no way to say " + std::string(what) + " " + wanted + " (it says " + found + ")";
  }

  double worst_ = 0;
  std::string lost_;
};

void compare_graph(const ModelConfig& wanted, const ModelConfig& found, Comparison& comparison) {
  comparison.same("activation", static_cast<int>(wanted.activation), static_cast<int>(found.activation));
  comparison.same("gated ffn", wanted.gated ? 1 : 0, found.gated ? 1 : 0);
  comparison.same("kind of norm", static_cast<int>(wanted.norm), static_cast<int>(found.norm));
  comparison.same("learned positions", wanted.learned_positions ? 1 : 0, found.learned_positions ? 1 : 0);
  comparison.same("layers", wanted.layers, found.layers);
  comparison.same("hidden size", wanted.hidden, found.hidden);
  comparison.same("ffn size", wanted.ffn, found.ffn);
  comparison.same("heads", wanted.heads, found.heads);
  comparison.same("key-value heads", wanted.kv_heads, found.kv_heads);
  comparison.same("head size", wanted.head_dim, found.head_dim);
  comparison.same("context", wanted.context, found.context);
  comparison.same("vocabulary", wanted.vocab, found.vocab);
  comparison.near("norm epsilon", wanted.norm_eps, found.norm_eps);
  for (std::int64_t layer = 0; layer < std::min(wanted.layers, found.layers); ++layer) {
    const std::string place = "of layer " + std::to_string(layer);
    comparison.same("window " + place, wanted.windowed(layer) ? wanted.window : 0,
                    found.windowed(layer) ? found.window : 0);
    const auto base = [layer](const ModelConfig& model) {
      return model.windowed(layer) && model.has_window_rope() ? model.window_rope_base : model.rope_base;
    };
    if (wanted.rope != RopeKind::kNone) comparison.near("RoPE base " + place, base(wanted), base(found));
  }
  const auto attention_scale = [](const ModelConfig& model) {
    return model.attention_scale == 0.0F ? 1.0F / std::sqrt(static_cast<float>(model.head_dim)) : model.attention_scale;
  };
  comparison.near("attention scale", attention_scale(wanted), attention_scale(found));
  comparison.near("embedding scale", wanted.embedding_scale, found.embedding_scale);
  comparison.near("residual scale", wanted.residual_scale, found.residual_scale);
  comparison.near("logit scale", wanted.logit_scale, found.logit_scale);
}

void compare_rope(const ModelConfig& wanted, const ModelConfig& found, Comparison& comparison) {
  comparison.same("kind of RoPE", static_cast<int>(wanted.rope), static_cast<int>(found.rope));
  if (wanted.rope == RopeKind::kNone) return;
  comparison.same("RoPE dimensions", wanted.rope_dim, found.rope_dim);
  comparison.same("kind of RoPE scaling", static_cast<int>(wanted.rope_scaling), static_cast<int>(found.rope_scaling));
  if (wanted.rope_scaling == RopeScaling::kNone) return;
  if (wanted.rope_scaling != RopeScaling::kLongrope) {
    comparison.near("RoPE factor", wanted.rope_factor, found.rope_factor);
  }
  if (wanted.rope_scaling == RopeScaling::kLinear) return;
  comparison.same("original context", wanted.rope_original_context, found.rope_original_context);
  comparison.near("RoPE attention factor", wanted.rope_attention_factor, found.rope_attention_factor);
  if (wanted.rope_scaling != RopeScaling::kYarn) return;
  comparison.near("YaRN beta_fast", wanted.yarn_beta_fast, found.yarn_beta_fast);
  comparison.near("YaRN beta_slow", wanted.yarn_beta_slow, found.yarn_beta_slow);
}

}  // namespace

Result<double> check_config_json(const HfConfig& config, const std::string& text) {
  BITNET_ASSIGN_OR_RETURN(const HfConfig read, parse_hf_config(text, "config.json"));
  Comparison comparison;
  compare_graph(config.model, read.model, comparison);
  compare_rope(config.model, read.model, comparison);
  comparison.same("tied head", config.tied ? 1 : 0, read.tied ? 1 : 0);
  comparison.same("storage of projections", static_cast<int>(config.storage), static_cast<int>(read.storage));
  comparison.near("RoPE factors", config.rope_factors, read.rope_factors);
  comparison.near("long RoPE factors", config.rope_long, read.rope_long);
  comparison.near("short RoPE factors", config.rope_short, read.rope_short);
  return comparison.outcome();
}

}  // namespace bitnet::convert
