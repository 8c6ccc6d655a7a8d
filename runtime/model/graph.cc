// The memory of the graph, taken once: what every model needs, and what only some do.
#include "runtime/model/graph.h"

#include <algorithm>

#include "runtime/base/math.h"
#include "runtime/formats/dense.h"
#include "runtime/kernels/layout.h"

namespace bitnet {

Status Graph::allocate() {
  const auto take = [&](auto*& pointer, std::int64_t count_of) -> Status {
    using T = std::remove_reference_t<decltype(*pointer)>;
    BITNET_ASSIGN_OR_RETURN(Buffer buffer, Buffer::allocate(static_cast<std::size_t>(count_of) * sizeof(T)));
    pointer = buffer.as<T>();
    buffers.push_back(std::move(buffer));
    return {};
  };
  q_width = config.heads * config.head_dim;
  widest = std::max({config.hidden, q_width, config.ffn});
  y_width = std::max(q_width + 2 * config.kv_heads * config.head_dim, (config.gated ? 2 : 1) * config.ffn);
  y_width = round_up<std::int64_t>(std::max(y_width, config.hidden), BITNET_TILE_ROWS);

  // What the kernels of the products need, and which buffers only some models do.
  std::int64_t token_tile = 1;
  std::int64_t most_groups = 1;
  std::int64_t sums = 0;
  std::size_t scratch_bytes =
      sizeof(float) * static_cast<std::size_t>(std::max<std::int64_t>(
                          widest, BITNET_ATTENTION_SCRATCH(config.heads / config.kv_heads, config.head_dim)));
  bool dense = false;
  bool add_later = config.residual_scale != 1.0F;
  for (const LayerWeights& layer : model.layers) {
    add_later = add_later || layer.post_attn_norm.exists() || layer.post_ffn_norm.exists();
    for (const ProductWeights& product : layer.products) {
      add_later = add_later || product.has_bias;
      dense = dense || (product.exists() && !product.ternary);
      if (!product.ternary) continue;
      const std::int64_t groups = group_count(product.k, product.group);
      most_groups = std::max(most_groups, groups);
      for (const ChosenKernel& chosen :
           model.kernels.products().subspan(product.shape * kProductSteps, kProductSteps)) {
        if (!chosen.exists()) continue;
        token_tile = std::max<std::int64_t>(token_tile, chosen.kernel.token_tile);
        scratch_bytes = std::max(scratch_bytes, chosen.kernel.scratch_bytes);
        sums = std::max(sums, calls_of(chosen.kernel, groups, batch).most_sums);
      }
    }
  }
  sums_stride = round_up<std::int64_t>(batch + token_tile, 64);

  std::int64_t widest_input = 0;
  for (const Width width : {kHidden, kAttention, kFfn}) {
    const std::int64_t padded = BITNET_ACTIVATION_WIDTH(width_of(width));
    widest_input = std::max(widest_input, padded);
    BITNET_RETURN_IF_ERROR(take(q8.q[width], batch * padded));
  }
  BITNET_RETURN_IF_ERROR(take(x, batch * config.hidden));
  BITNET_RETURN_IF_ERROR(take(y, batch * y_width));
  BITNET_RETURN_IF_ERROR(take(attended, batch * q_width));
  BITNET_RETURN_IF_ERROR(take(result, batch * config.hidden));
  BITNET_RETURN_IF_ERROR(take(logits, kLogitRows * config.vocab));
  BITNET_RETURN_IF_ERROR(take(q8.scales, sums_stride));
  BITNET_RETURN_IF_ERROR(take(q8.sums, sums_stride * most_groups));
  BITNET_RETURN_IF_ERROR(take(packed, sums_stride * widest_input));
  BITNET_RETURN_IF_ERROR(take(acc, y_width));
  if (dense || add_later) BITNET_RETURN_IF_ERROR(take(added, batch * config.hidden));
  if (dense && batch > 1) BITNET_RETURN_IF_ERROR(take(dense_inputs, batch * widest));
  dense_input.resize(static_cast<std::size_t>(pool.size()));
  BITNET_RETURN_IF_ERROR(make_angles());
  for (Angles& each : rope_angles) {
    if (config.rope == RopeKind::kNone || (&each != rope_angles.data() && !config.has_window_rope())) continue;
    BITNET_RETURN_IF_ERROR(take(each.cosines, context * config.rope_dim / 2));
    BITNET_RETURN_IF_ERROR(take(each.sines, context * config.rope_dim / 2));
  }
  BITNET_ASSIGN_OR_RETURN(cache, KvCache::create(kv_type, config.layers, config.kv_heads, config.head_dim, context));
  for (int thread = 0; thread < pool.size(); ++thread) {
    std::byte* bytes = nullptr;
    BITNET_RETURN_IF_ERROR(take(bytes, static_cast<std::int64_t>(scratch_bytes)));
    scratch.push_back(bytes);
    BITNET_RETURN_IF_ERROR(take(gated.emplace_back(), config.ffn));
    BITNET_RETURN_IF_ERROR(take(normed.emplace_back(), widest));
    if (batch > 1 || most_groups > 1) BITNET_RETURN_IF_ERROR(take(acc_blocks.emplace_back(), y_width + sums));
    if (thread == 0) continue;
    Quantized& mine = own.emplace_back();
    for (const Width width : {kHidden, kAttention, kFfn}) {
      BITNET_RETURN_IF_ERROR(take(mine.q[width], BITNET_ACTIVATION_WIDTH(width_of(width))));
    }
    BITNET_RETURN_IF_ERROR(take(mine.scales, 1));
    BITNET_RETURN_IF_ERROR(take(mine.sums, most_groups));
  }
  uses.resize(model.kernels.all().size());
  return {};
}

Status Graph::make_angles() {
  if (config.rope == RopeKind::kNone) return {};
  const ModelTensors& tensors = model.tensors;
  const std::int64_t original = config.rope_original_context != 0 ? config.rope_original_context : config.context;
  const gguf::Tensor* tensor = tensors.rope_freqs != nullptr ? tensors.rope_freqs
                               : context > original          ? tensors.rope_factors_long
                                                             : tensors.rope_factors_short;
  std::vector<float> factors;
  if (tensor != nullptr) {
    factors.resize(tensor->ne[0]);
    formats::decode_floats(tensor->type, tensor->data.data(), 0, factors);
  }
  BITNET_ASSIGN_OR_RETURN(rope_angles[0].table, RopeTable::make(config, /*window=*/false, factors));
  if (config.has_window_rope()) {
    BITNET_ASSIGN_OR_RETURN(rope_angles[1].table, RopeTable::make(config, /*window=*/true, {}));
  }
  return {};
}

}  // namespace bitnet
