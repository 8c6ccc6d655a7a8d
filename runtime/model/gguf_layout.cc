// The tensor list and the metadata keys, in file order.
#include "runtime/model/gguf_layout.h"

#include <utility>

namespace bitnet {
namespace {

constexpr std::uint32_t kFileTypeI2s = 40;  // a hint for other programs: the type of each tensor decides

}  // namespace

std::uint64_t PlannedTensor::elements() const {
  std::uint64_t product = 1;
  for (const std::uint64_t n : ne) product *= n;
  return product;
}

std::uint64_t PlannedTensor::bytes() const {
  switch (type) {
    case gguf::TensorType::kF16:
      return elements() * 2;
    case gguf::TensorType::kF32:
      return elements() * 4;
    default:
      return elements() / 4 + kI2sTailBytes;
  }
}

std::vector<PlannedTensor> plan_tensors(const ModelConfig& config) {
  const auto hidden = static_cast<std::uint64_t>(config.hidden);
  const auto ffn = static_cast<std::uint64_t>(config.ffn);
  const auto attention = static_cast<std::uint64_t>(config.heads * config.head_dim);
  const auto kv = static_cast<std::uint64_t>(config.kv_heads * config.head_dim);
  std::vector<PlannedTensor> plan;
  const auto add = [&](std::int64_t layer, std::string_view part, gguf::TensorType type,
                       std::vector<std::uint64_t> ne) {
    const std::string block = layer < 0 ? "" : "blk." + std::to_string(layer) + ".";
    plan.push_back({block + std::string(part) + ".weight", part, layer, type, std::move(ne)});
  };
  using enum gguf::TensorType;
  add(-1, "token_embd", kF16, {hidden, static_cast<std::uint64_t>(config.vocab)});
  for (std::int64_t layer = 0; layer < config.layers; ++layer) {
    add(layer, "attn_norm", kF32, {hidden});
    add(layer, "ffn_norm", kF32, {hidden});
    add(layer, "attn_sub_norm", kF32, {attention});
    add(layer, "ffn_sub_norm", kF32, {ffn});
    add(layer, "attn_q", kI2_S, {hidden, attention});
    add(layer, "attn_k", kI2_S, {hidden, kv});
    add(layer, "attn_v", kI2_S, {hidden, kv});
    add(layer, "attn_output", kI2_S, {attention, hidden});
    add(layer, "ffn_gate", kI2_S, {hidden, ffn});
    add(layer, "ffn_up", kI2_S, {hidden, ffn});
    add(layer, "ffn_down", kI2_S, {ffn, hidden});
  }
  add(-1, "output_norm", kF32, {hidden});
  return plan;
}

void set_metadata(const ModelConfig& config, std::string_view name, const VocabularyData& vocabulary,
                  gguf::Writer& writer) {
  const std::string prefix = config.architecture + ".";
  const auto set = [&](const char* key, std::int64_t value) {
    writer.set(prefix + key, static_cast<std::uint32_t>(value));
  };
  writer.set("general.architecture", std::string_view(config.architecture));
  writer.set("general.name", name);
  writer.set("general.file_type", kFileTypeI2s);
  set("vocab_size", config.vocab);
  set("context_length", config.context);
  set("embedding_length", config.hidden);
  set("block_count", config.layers);
  set("feed_forward_length", config.ffn);
  set("rope.dimension_count", config.rope_dim);
  set("attention.head_count", config.heads);
  set("attention.head_count_kv", config.kv_heads);
  if (config.heads * config.head_dim != config.hidden) {
    set("attention.key_length", config.head_dim);
    set("attention.value_length", config.head_dim);
  }
  writer.set(prefix + "attention.layer_norm_rms_epsilon", config.norm_eps);
  writer.set(prefix + "rope.freq_base", config.rope_base);
  if (config.architecture == "bitnet") {
    writer.set(prefix + "rope.scaling.type", "linear");
    writer.set(prefix + "rope.scaling.factor", 1.0F);
  }
  set_vocabulary(vocabulary, writer);
  writer.set("general.quantization_version", std::uint32_t{2});
}

}  // namespace bitnet
