#include "runtime/model/architectures.h"

#include <algorithm>
#include <cmath>

namespace bitnet {
namespace {

constexpr Architecture kArchitectures[] = {
    {.name = "bitnet", .models = "bitnet_b1_58-large, bitnet_b1_58-3B"},
    {.name = "bitnet-25",
     .activation = Activation::kRelu2,
     .tied_only = true,
     .models = "BitNet-b1.58-2B-4T, first upload"},
    {.name = "bitnet-b1.58",
     .activation = Activation::kRelu2,
     .tied_only = true,
     .models = "BitNet-b1.58-2B-4T, models of this project's trainer"},
    {.name = "llama",
     .rope = RopeKind::kNorm,
     .models = "Llama, Llama3-8B-1.58, Falcon3 and Falcon-E 1.58, TriLM, Mistral"},
    {.name = "qwen2", .models = "Qwen2, Qwen2.5"},
    {.name = "qwen3", .models = "Qwen3, Ternary-Bonsai, BitNet-embedding-0.6B"},
    {.name = "gemma3",
     .activation = Activation::kGelu,
     .scaled_embedding = true,
     .window_pattern = 6,
     .window_rope_base = 10000.0F,
     .wide_scale_layers = 62,  // Gemma 3 27B
     .models = "Gemma 3 (text), BitNet-embedding-270M"},
    {.name = "minicpm", .rope = RopeKind::kNorm, .mup = true, .models = "MiniCPM, MiniCPM4, BitCPM4"},
    {.name = "gpt2",
     .activation = Activation::kGelu,
     .gated = false,
     .norm = NormKind::kLayer,
     .rope = RopeKind::kNone,
     .learned_positions = true,
     .models = "GPT-2"},
};

}  // namespace

std::span<const Architecture> architectures() { return kArchitectures; }

const Architecture* find_architecture(std::string_view name) {
  const auto* found = std::find_if(std::begin(kArchitectures), std::end(kArchitectures),
                                   [&](const Architecture& entry) { return entry.name == name; });
  return found == std::end(kArchitectures) ? nullptr : found;
}

float unstated_attention_scale(const Architecture& architecture, std::int64_t layers, std::int64_t hidden,
                               std::int64_t heads) {
  if (architecture.wide_scale_layers == 0 || layers != architecture.wide_scale_layers) return 0.0F;
  const std::int64_t width = hidden / heads;
  return width == 0 ? 0.0F : 1.0F / std::sqrt(static_cast<float>(width));
}

std::string_view to_string(Activation activation) {
  switch (activation) {
    case Activation::kRelu2:
      return "relu2";
    case Activation::kSilu:
      return "silu";
    case Activation::kGelu:
      return "gelu";
  }
  return "";
}

std::string_view to_string(NormKind norm) { return norm == NormKind::kRms ? "rms" : "layer"; }

std::string_view to_string(RopeKind rope) {
  switch (rope) {
    case RopeKind::kNone:
      return "none";
    case RopeKind::kNeox:
      return "neox";
    case RopeKind::kNorm:
      return "norm";
  }
  return "";
}

}  // namespace bitnet
