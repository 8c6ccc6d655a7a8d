// The forward pass on a page. t = tokens of the pass, H = hidden, A = heads * head_dim, F = ffn, V = vocab.
#include <initializer_list>

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
  const auto show = [&](auto&& nodes) {
    if (dump == nullptr || !dump->wants(index)) return;
    pool.meet();
    if (thread == 0) nodes();
    pool.meet();
  };
  // Products that could not be stacked follow one another.
  const auto products = [&](std::initializer_list<Role> roles) {
    for (const Role role : roles) {
      if (!layer[role].exists()) continue;
      if (role != *roles.begin()) pool.meet();
      make_input(role, layer, share);
      product(role, layer, Output::kStore, share);
    }
    pool.meet();
  };
  const auto add_block = [&](Role role, const NormWeights& norm) {
    product(role, layer, Output::kAddToResidual, share);
    pool.meet();
    if (!norm.exists()) return;
    add_normed_block(norm, share);
    pool.meet();
  };

  products({Role::kQkv, Role::kK, Role::kV});  // x -> y [t][A q | KV k | KV v]
  show([&] { dump_qkv(*this, index, layer); });
  rope_and_store(index, layer, share);  // q in y; k, v -> cache
  if (!same_heads()) pool.meet();
  attend(index, share);  // attended [t][A]
  pool.meet();
  show([&] { dump_attention(*this, index, layer); });
  make_input(Role::kAttentionOutput, layer, share);
  show([&] { dump_product(*this, index, layer, Role::kAttentionOutput); });
  add_block(Role::kAttentionOutput, layer.post_attn_norm);  // x [t][H]

  show([&] { dump_ffn_input(*this, index, layer); });
  products({Role::kGateUp, Role::kUp});  // x -> y [t][F gate | F up]
  show([&] { dump_gate(*this, index, layer); });
  make_input(Role::kDown, layer, share);  // act(gate) * up
  show([&] { dump_product(*this, index, layer, Role::kDown); });
  add_block(Role::kDown, layer.post_ffn_norm);  // x [t][H]
  if (dump == nullptr) return;
  if (thread == 0) dump_layer_output(*this, index);
  pool.meet();
}

void Graph::head(std::int64_t first, std::int64_t count_tokens) {
  output_norm(first, count_tokens);  // result [t][H]
  scale_result(first, count_tokens);
  const ChosenKernel& kernel = chosen(Step::kHead);
  // A block of rows that fits in L2 meets every token before the next block is read. In the mapped file a block's pages
  // are mapped at once, and given back when it has been read.
  constexpr std::int64_t kRows = 64;
  constexpr std::int64_t kMappedRows = 1024;
  const MappedFile* file = model.head_in_file() ? model.file.mapping() : nullptr;
  const std::span<const std::byte> bytes = model.tensors.head->data;  // of the file
  const std::size_t row_bytes = model.head.row_bytes;
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
        kernel.kernel(bitnet_head_args{model.head.rows, result + (first + t) * config.hidden, logits + t * config.vocab,
                                       row, row + step < end ? row + step : end, config.hidden});
      }
    }
    if (file != nullptr) file->release(rows_of(begin, end));
  });
  count(Step::kHead, count_tokens, config.vocab * static_cast<std::int64_t>(row_bytes));
}

}  // namespace bitnet
