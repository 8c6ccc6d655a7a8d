// The forward pass on a page. t = tokens of the pass, H = hidden, A = heads * head_dim, F = ffn, V = vocab.
#include <algorithm>

#include "runtime/model/graph.h"
#include "runtime/model/node_dump.h"

namespace bitnet {

Status Graph::forward(std::span<const std::int32_t> ids) {
  embed(ids);  // x [t][H]
  if (dump != nullptr) dump_embedding(*this);
  // One region for all layers, unless their weights must be looked at first.
  for (std::int64_t first = 0; first < config.layers;) {
    BITNET_RETURN_IF_ERROR(model.weights.check_layer(pool, static_cast<std::size_t>(first)));
    const std::int64_t last = model.weights.checked() ? config.layers : first + 1;
    pool.run([&](int thread) {
      for (std::int64_t i = first; i < last; ++i) run_layer(i, thread);
    });
    first = last;
  }
  return {};
}

void Graph::run_layer(std::int64_t index, int thread) {
  using Role = FusedMatrix::Role;
  const LayerWeights& layer = model.layers[static_cast<std::size_t>(index)];
  const Share share{thread, pool.size()};
  // Between two meetings, so that nobody else works meanwhile.
  const auto show = [&](bool wanted, auto&& nodes) {
    if (dump == nullptr || !wanted) return;
    pool.meet();
    if (thread == 0) nodes();
    pool.meet();
  };
  const bool first = index == 0;

  quantize_input(Role::kQkv, layer, share);           // x -> q8 [t][H]
  product(Role::kQkv, layer, Output::kStore, share);  // y [t][A q | KV k | KV v]
  pool.meet();
  show(first, [&] { dump_qkv(*this, layer); });
  rope_and_store(index, share);  // q in y; k, v -> cache
  if (!same_heads()) pool.meet();
  attend(index, share);  // attended [t][A]
  pool.meet();
  show(first, [&] { dump_attention(*this, layer); });
  quantize_input(Role::kAttentionOutput, layer, share);  // attended -> q8 [t][A]
  show(first, [&] { dump_product(*this, layer, Role::kAttentionOutput); });
  product(Role::kAttentionOutput, layer, Output::kAddToResidual, share);  // x [t][H]
  pool.meet();

  show(first, [&] { dump_ffn_input(*this, layer); });
  quantize_input(Role::kGateUp, layer, share);           // x -> q8 [t][H]
  product(Role::kGateUp, layer, Output::kStore, share);  // y [t][F gate | F up]
  pool.meet();
  show(first, [&] {
    dump_gate(*this);
    dump_ffn_sub_norm(*this, layer);
  });
  quantize_input(Role::kDown, layer, share);  // act(gate) * up -> q8 [t][F]
  show(first, [&] { dump_product(*this, layer, Role::kDown); });
  product(Role::kDown, layer, Output::kAddToResidual, share);  // x [t][H]
  pool.meet();
  show(true, [&] { dump_layer_output(*this, index); });
}

void Graph::head(std::int64_t first, std::int64_t count_tokens) {
  output_norm(first, count_tokens);  // result [t][H]
  const ChosenKernel& kernel = chosen(Step::kHead);
  // A block of rows that fits in L2 meets every token before the next block is read. In the mapped file a block's pages
  // are mapped at once, and given back when it has been read.
  constexpr std::int64_t kRows = 64;
  constexpr std::int64_t kMappedRows = 1024;
  const MappedFile* file = model.embedding.size() == 0 ? model.file.mapping() : nullptr;
  const std::span<const std::byte> bytes = model.tensors.token_embd->data;
  const std::size_t row_bytes = bytes.size() / static_cast<std::size_t>(config.vocab);
  const auto rows_of = [&](std::int64_t first_row, std::int64_t end_row) {
    return bytes.subspan(static_cast<std::size_t>(first_row) * row_bytes,
                         static_cast<std::size_t>(end_row - first_row) * row_bytes);
  };
  pool.parallel_for(config.vocab, kRows, [&](std::int64_t begin, std::int64_t end, int thread) {
    const Stopwatch watch(clock_of(Step::kHead, thread));
    const std::int64_t step = count_tokens != 1 ? kRows : file != nullptr ? kMappedRows : end - begin;
    std::int64_t mapped_end = begin;
    for (std::int64_t row = begin; row < end; row += step) {
      if (file != nullptr && row == mapped_end) {
        if (row > begin) file->release(rows_of(row - kMappedRows, row));
        mapped_end = std::min(row + kMappedRows, end);
        file->will_need(rows_of(row, mapped_end));
      }
      for (std::int64_t t = 0; t < count_tokens; ++t) {  // logits [count][V]
        kernel.kernel(bitnet_head_args{model.head, result + (first + t) * config.hidden, logits + t * config.vocab, row,
                                       row + step < end ? row + step : end, config.hidden});
      }
    }
    if (file != nullptr) file->release(rows_of(begin, end));
  });
  count(Step::kHead, count_tokens, static_cast<std::int64_t>(model.tensors.token_embd->bytes));
}

}  // namespace bitnet
