// The forward pass on a page. t = tokens of the pass, H = hidden, A = heads * head_dim, F = ffn, V = vocab.
#include "runtime/model/graph.h"
#include "runtime/model/node_dump.h"

namespace bitnet {

Status Graph::forward(std::span<const std::int32_t> ids) {
  using Role = FusedMatrix::Role;
  model.weights.move_some(pool);
  embed(ids);  // x [t][H]
  if (dump != nullptr) dump_embedding(*this);
  for (std::int64_t i = 0; i < config.layers; ++i) {
    BITNET_RETURN_IF_ERROR(model.weights.check_layer(pool, static_cast<std::size_t>(i)));
    const LayerWeights& layer = model.layers[static_cast<std::size_t>(i)];
    const bool dumped = dump != nullptr && i == 0;

    norm_quantize(kHidden, x, layer.attn_norm);  // q8 [t][H]
    product(Role::kQkv, layer, Output::kStore);  // y [t][A q | KV k | KV v]
    if (dumped) dump_qkv(*this, layer);
    rope_and_store(i);  // q in y; k, v -> cache
    attend(i);          // attended [t][A]
    if (dumped) dump_attention(*this, layer);
    norm_quantize(kAttention, attended, layer.attn_sub_norm);  // q8 [t][A]
    if (dumped) dump_product(*this, layer, Role::kAttentionOutput);
    product(Role::kAttentionOutput, layer, Output::kAddToResidual);  // x [t][H]

    if (dumped) dump_ffn_input(*this, layer);
    norm_quantize(kHidden, x, layer.ffn_norm);      // q8 [t][H]
    product(Role::kGateUp, layer, Output::kStore);  // y [t][F gate | F up]
    if (dumped) dump_gate(*this);
    gate();  // y [t][F]
    if (dumped) dump_ffn_sub_norm(*this, layer);
    norm_quantize(kFfn, y, layer.ffn_sub_norm);  // q8 [t][F]
    if (dumped) dump_product(*this, layer, Role::kDown);
    product(Role::kDown, layer, Output::kAddToResidual);  // x [t][H]
    if (dump != nullptr) dump_layer_output(*this, i);
  }
  return {};
}

void Graph::head(std::int64_t first, std::int64_t count_tokens) {
  output_norm(first, count_tokens);  // result [t][H]
  const ChosenKernel& kernel = chosen(Step::kHead);
  // A block of rows that fits in L2 meets every token before the next block is read.
  constexpr std::int64_t kRows = 64;
  pool.parallel_for(config.vocab, kRows, [&](std::int64_t begin, std::int64_t end, int thread) {
    const Stopwatch watch(clock_of(Step::kHead, thread));
    const std::int64_t step = count_tokens == 1 ? end - begin : kRows;
    for (std::int64_t row = begin; row < end; row += step) {
      for (std::int64_t t = 0; t < count_tokens; ++t) {  // logits [count][V]
        kernel.kernel(bitnet_head_args{model.head, result + (first + t) * config.hidden, logits + t * config.vocab, row,
                                       row + step < end ? row + step : end, config.hidden});
      }
    }
  });
  count(Step::kHead, count_tokens, static_cast<std::int64_t>(model.tensors.token_embd->bytes));
}

}  // namespace bitnet
