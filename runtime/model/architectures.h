// What a value of general.architecture says about a model's graph: a row of a table, never code of its own. What the
// presence of a tensor tells (sub-norms, QK norms, biases, post norms, an untied head, RoPE factors) is not in it.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

namespace bitnet {

enum class Activation : std::uint8_t { kRelu2, kSilu, kGelu };  // kGelu: the tanh form
enum class NormKind : std::uint8_t { kRms, kLayer };
enum class RopeKind : std::uint8_t { kNone, kNeox, kNorm };  // pairs (i, i + rope_dim/2) | (2i, 2i + 1)

struct Architecture {
  std::string_view name;  // general.architecture, and the prefix of the model's metadata keys
  Activation activation = Activation::kSilu;
  bool gated = true;  // act(gate) * up; false: act(up)
  NormKind norm = NormKind::kRms;
  RopeKind rope = RopeKind::kNeox;
  bool learned_positions = false;   // position_embd.weight is added to the embedding
  bool tied_only = false;           // output.weight, where there is one, is never used
  bool scaled_embedding = false;    // by sqrt(hidden)
  std::int64_t window_pattern = 0;  // with a sliding window: every n-th layer sees everything; 0: none does
  float window_rope_base = 0.0F;    // RoPE base of the layers with a window; 0: that of the others
  // The one model with so many layers scales q . k by 1 / sqrt(hidden / heads) though its heads are of another width,
  // which its files do not state (llama.cpp goes by the layers too); 0: there is none
  std::int64_t wide_scale_layers = 0;
  bool mup = false;         // embedding, residual and logit scales, with defaults of the hidden size and layers
  std::string_view models;  // who writes it
};

[[nodiscard]] std::span<const Architecture> architectures();
[[nodiscard]] const Architecture* find_architecture(std::string_view name);  // nullptr: not known

// The factor of q . k in a model whose file states none; 0: 1 / sqrt(head_dim). hidden, heads >= 1.
[[nodiscard]] float unstated_attention_scale(const Architecture& architecture, std::int64_t layers, std::int64_t hidden,
                                             std::int64_t heads);

[[nodiscard]] std::string_view to_string(Activation activation);
[[nodiscard]] std::string_view to_string(NormKind norm);
[[nodiscard]] std::string_view to_string(RopeKind rope);

}  // namespace bitnet
