// Everything of the layers that is no matrix: shapes, norms, biases and scales, copied into one block of floats where
// each begins a cache line.
#include <span>
#include <utility>
#include <vector>

#include "runtime/base/math.h"
#include "runtime/formats/dense.h"
#include "runtime/kernels/kernel_abi.h"
#include "runtime/model/load_weights.h"

namespace bitnet {
namespace {

// Floats to be copied, and who points to the copy.
class Copies {
 public:
  void add(const gguf::Tensor* tensor, const float*& slot) {
    if (tensor == nullptr) return;
    entries_.push_back({tensor->data.data(), tensor->type, static_cast<std::size_t>(tensor->ne[0]), 1.0F, &slot});
  }
  void add(std::span<const float> values, float factor, const float*& slot) {
    entries_.push_back({std::as_bytes(values).data(), gguf::TensorType::kF32, values.size(), factor, &slot});
  }
  void add_norm(NormKind kind, const gguf::Tensor* gain, const gguf::Tensor* bias, NormWeights& norm) {
    norm.kind = kind;
    add(gain, norm.gain);
    if (kind != NormKind::kLayer || gain == nullptr) return;
    const std::byte* values = bias == nullptr ? nullptr : bias->data.data();
    const gguf::TensorType type = bias == nullptr ? gguf::TensorType::kF32 : bias->type;
    entries_.push_back({values, type, static_cast<std::size_t>(gain->ne[0]), 1.0F, &norm.bias});
  }

  [[nodiscard]] Status make(Buffer& memory) const {
    std::size_t floats = 0;
    for (const Entry& entry : entries_) floats += round_up(entry.count, kAlign);
    BITNET_ASSIGN_OR_RETURN(memory, Buffer::allocate(floats * sizeof(float)));
    auto* next = memory.as<float>();
    for (const Entry& entry : entries_) {
      if (entry.from != nullptr) formats::decode_floats(entry.type, entry.from, 0, {next, entry.count});
      if (entry.factor != 1.0F) {
        for (std::size_t i = 0; i < entry.count; ++i) next[i] *= entry.factor;
      }
      *entry.slot = next;
      next += round_up(entry.count, kAlign);
    }
    return {};
  }

 private:
  static constexpr std::size_t kAlign = 16;  // floats
  struct Entry {
    const std::byte* from;  // in the file perhaps unaligned; null: zeros
    gguf::TensorType type;  // F32, F16 or BF16
    std::size_t count;
    float factor;
    const float** slot;
  };
  std::vector<Entry> entries_;
};

void add_scales(const MatrixPart& from, PartWeights& to, Copies& copies) {
  to.scale = from.scale;
  if (!from.ternary.has_value()) return;
  switch (from.ternary->scale_kind()) {
    case formats::ScaleKind::kTensor:
      to.scale_kind = BITNET_SCALE_TENSOR;
      to.scale = from.ternary->scales().front() * from.scale;
      return;
    case formats::ScaleKind::kRow:
      to.scale_kind = BITNET_SCALE_ROW;
      break;
    case formats::ScaleKind::kGroup:
      to.scale_kind = BITNET_SCALE_GROUP;
      break;
  }
  copies.add(from.ternary->scales(), from.scale, to.scales);
}

void make_product(const FusedMatrix& from, const ModelConfig& config, ProductWeights& to, Copies& copies) {
  using Role = FusedMatrix::Role;
  if (!from.exists()) return;
  to.n = from.n;
  to.k = from.k;
  to.group = from.group;
  to.ternary = from.ternary();
  to.shape = from.shape;
  const std::int64_t q = config.heads * config.head_dim;
  const std::int64_t kv = config.kv_heads * config.head_dim;
  to.column = from.role == Role::kK ? q : from.role == Role::kV ? q + kv : from.role == Role::kUp ? config.ffn : 0;
  copies.add(from.in_norm, to.in_norm.gain);
  to.parts.resize(from.parts.size());
  std::int64_t row = 0;
  for (std::size_t i = 0; i < from.parts.size(); ++i) {
    PartWeights& part = to.parts[i];
    part.begin = row;
    part.end = row += from.parts[i].rows;
    copies.add(from.parts[i].bias, part.bias);
    to.has_bias = to.has_bias || from.parts[i].bias != nullptr;
    add_scales(from.parts[i], part, copies);
  }
}

}  // namespace

Status make_layers(Model::State& state) {
  Copies copies;
  const NormKind kind = state.config.norm;
  copies.add_norm(kind, state.tensors.output_norm, state.tensors.output_norm_bias, state.output_norm);
  state.layers.clear();
  state.layers.resize(state.tensors.layers.size());
  for (std::size_t l = 0; l < state.layers.size(); ++l) {
    const LayerTensors& from = state.tensors.layers[l];
    LayerWeights& to = state.layers[l];
    for (std::size_t p = 0; p < kRoles; ++p) make_product(from.products[p], state.config, to.products[p], copies);
    copies.add_norm(kind, from.attn_norm, from.attn_norm_bias, to.attn_norm);
    copies.add_norm(kind, from.ffn_norm, from.ffn_norm_bias, to.ffn_norm);
    for (const auto& [gain, norm] : {std::pair{from.attn_q_norm, &to.q_norm},
                                     {from.attn_k_norm, &to.k_norm},
                                     {from.attn_sub_norm, &to.attn_sub_norm},
                                     {from.post_attn_norm, &to.post_attn_norm},
                                     {from.ffn_sub_norm, &to.ffn_sub_norm},
                                     {from.post_ffn_norm, &to.post_ffn_norm}}) {
      copies.add(gain, norm->gain);
    }
  }
  return copies.make(state.floats);
}

}  // namespace bitnet
