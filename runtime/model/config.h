// What a model is, read from its GGUF metadata and tensor table; nothing is concluded from its name.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/base/result.h"
#include "runtime/gguf/gguf.h"
#include "runtime/kernels/layout.h"
#include "runtime/model/architectures.h"

namespace bitnet {

enum class RopeScaling : std::uint8_t { kNone, kLinear, kYarn, kLongrope };
enum class Pooling : std::uint8_t { kNone, kMean, kLast };

[[nodiscard]] std::string_view to_string(RopeScaling scaling);  // as in rope.scaling.type
[[nodiscard]] std::string_view pooling_name(Pooling pooling);   // "none", "mean", "last"

struct ModelConfig {
  std::string architecture;  // general.architecture, one of architectures()
  Activation activation = Activation::kRelu2;
  bool gated = true;  // ffn: act(gate) * up; false: act(up)
  NormKind norm = NormKind::kRms;
  std::int64_t layers = 0;
  std::int64_t hidden = 0;    // embedding_length
  std::int64_t ffn = 0;       // feed_forward_length
  std::int64_t heads = 0;     // query heads
  std::int64_t kv_heads = 0;  // divides heads
  std::int64_t head_dim = 0;  // hidden / heads (attention.key_length where present)
  std::int64_t context = 0;   // context_length the model was trained for
  std::int64_t vocab = 0;     // rows of token_embd.weight
  float norm_eps = 1e-5F;
  bool learned_positions = false;  // position_embd.weight [context][hidden] is added to the embedding
  bool tied_only = false;          // the head is token_embd, even where there is an output.weight

  RopeKind rope = RopeKind::kNeox;
  std::int64_t rope_dim = 0;  // even, <= head_dim; 0 without RoPE
  float rope_base = 10000.0F;
  RopeScaling rope_scaling = RopeScaling::kNone;
  float rope_factor = 1.0F;                // of kLinear and kYarn: positions are divided by it
  std::int64_t rope_original_context = 0;  // of kYarn and kLongrope: before it was stretched
  float rope_attention_factor = 1.0F;      // of kYarn and kLongrope: multiplies sines and cosines
  float yarn_beta_fast = 32.0F;
  float yarn_beta_slow = 1.0F;

  // Layers that see only the last `window` positions, their own included; 0: there are none.
  std::int64_t window = 0;
  std::int64_t window_pattern = 0;  // every n-th layer sees everything; 0: none does
  float window_rope_base = 0.0F;    // RoPE base of the layers with a window, unscaled; 0: like the others

  float embedding_scale = 1.0F;      // multiplies the embedding
  float residual_scale = 1.0F;       // multiplies what a block adds to the residual stream
  float logit_scale = 1.0F;          // multiplies the normed state before the head
  float attention_scale = 0.0F;      // of q . k; 0: 1 / sqrt(head_dim)
  Pooling pooling = Pooling::kNone;  // of an embedding model

  [[nodiscard]] bool windowed(std::int64_t layer) const {
    return window > 0 && (window_pattern == 0 || (layer + 1) % window_pattern != 0);
  }
  // Whether layers with a window have a RopeTable of their own.
  [[nodiscard]] bool has_window_rope() const { return window > 0 && window_rope_base > 0.0F; }
};

// The shapes that kernels are compiled for: distinct (n, k, group) of the ternary products, and distinct widths of the
// norms that are followed by a quantisation; both ascending.
struct KernelShape {
  std::int64_t n = 0;
  std::int64_t k = 0;
  std::int32_t group = 0;  // K-group of the scales: 64, 128 or 256; 0: one scale a row or a tensor
  auto operator<=>(const KernelShape&) const = default;
};
struct ModelShapes {
  std::vector<KernelShape> ternary;
  std::vector<std::int64_t> norm_quantize;
  // Of all ternary products of the model in layout t2; 0: not known. What suits a shape depends on whether the whole
  // model stays in a cache (codegen/points.h). Not part of the hash.
  std::uint64_t ternary_bytes = 0;
  // SHA-256 (hex) of the lines "ternary N K", with " G" behind where the group is not 0, and "norm_quantize K": equal
  // for models that can share a bundle's kernels.
  [[nodiscard]] std::string hash() const;
};

// Errors name the file and the key or tensor. A model without a ternary tensor is kTensorMapping and lists its tensor
// types. Unknown architectures are refused with the list of known ones.
[[nodiscard]] Result<ModelConfig> read_config(const gguf::File& file);

}  // namespace bitnet
