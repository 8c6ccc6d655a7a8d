// What a model is, read from its GGUF metadata and tensor table; nothing is concluded from its name.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "runtime/base/result.h"
#include "runtime/gguf/gguf.h"
#include "runtime/kernels/layout.h"

namespace bitnet {

enum class Activation : std::uint8_t { kRelu2, kSilu };

struct ModelConfig {
  std::string architecture;  // general.architecture: bitnet | bitnet-25 | bitnet-b1.58
  Activation activation = Activation::kRelu2;
  std::int64_t layers = 0;
  std::int64_t hidden = 0;    // embedding_length
  std::int64_t ffn = 0;       // feed_forward_length
  std::int64_t heads = 0;     // query heads
  std::int64_t kv_heads = 0;  // divides heads
  std::int64_t head_dim = 0;  // hidden / heads (attention.key_length where present)
  std::int64_t rope_dim = 0;  // even, <= head_dim
  std::int64_t context = 0;   // context_length the model was trained for
  std::int64_t vocab = 0;     // rows of token_embd.weight
  float norm_eps = 1e-5F;
  float rope_base = 10000.0F;
};

// The shapes that kernels are compiled for: distinct (n, k) of the fused products, and distinct widths of the norms
// that are followed by a quantisation; both ascending.
struct KernelShape {
  std::int64_t n = 0;
  std::int64_t k = 0;
  std::int32_t group = 0;  // K-group of the scales: 0, 64, 128 or 256
  auto operator<=>(const KernelShape&) const = default;
};
struct ModelShapes {
  std::vector<KernelShape> ternary;
  std::vector<std::int64_t> norm_quantize;
  // Of all ternary products of the model in layout t2; 0: not known. What suits a shape depends on whether the whole
  // model stays in a cache (codegen/points.h). Not part of the hash.
  std::uint64_t ternary_bytes = 0;
  // SHA-256 (hex) of the lines "ternary N K" and "norm_quantize K": equal for models that can share a bundle's kernels.
  [[nodiscard]] std::string hash() const;
};

// Errors name the file and the key or tensor. A model without a ternary tensor is kTensorMapping and lists its tensor
// types. Unknown architectures are refused with the list of known ones.
[[nodiscard]] Result<ModelConfig> read_config(const gguf::File& file);

}  // namespace bitnet
