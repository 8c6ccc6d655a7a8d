// The steps of the forward pass (graph.h): how each is split over the threads, and what its kernel is handed.
#include <algorithm>

#include "runtime/base/mapped_file.h"
#include "runtime/base/math.h"
#include "runtime/model/graph.h"
#include "runtime/model/rope.h"

namespace bitnet {

// Each row read from the mapped file brings in more than its own pages; some rows at a time they are given back.
void Graph::give_back_rows() {
  constexpr std::int64_t kRows = 8;  // 16 MiB where the system keeps the file in large pages
  if (!model.embedding_in_file() || ++rows_read < kRows) return;
  rows_read = 0;
  if (model.file.mapping() != nullptr) model.file.mapping()->release(model.tensors.token_embd->data);
}

void Graph::embed(std::span<const std::int32_t> ids) {
  tokens = static_cast<std::int64_t>(ids.size());
  const auto width = static_cast<std::size_t>(config.hidden);
  for (std::int64_t t = 0; t < tokens; ++t) {
    give_back_rows();
    const std::span<float> row(x + t * config.hidden, width);
    decode_row(*model.tensors.token_embd, rows_of(model.tensors.ternary_embd), model.embedding,
               ids[static_cast<std::size_t>(t)], row);
    if (config.embedding_scale != 1.0F) {
      for (float& value : row) value *= config.embedding_scale;
    }
    if (model.tensors.position_embd == nullptr) continue;
    const gguf::Tensor& positions = *model.tensors.position_embd;
    const std::span<float> position(normed.front(), width);
    decode_row(positions, nullptr, positions.data.data(), past + t, position);
    for (std::size_t i = 0; i < width; ++i) row[i] += position[i];
  }
  for (; angles < past + tokens; ++angles) {
    const std::int64_t at = angles * (config.rope_dim / 2);
    for (const Angles& each : rope_angles) {
      if (each.cosines != nullptr) each.table.angles(angles, each.cosines + at, each.sines + at);
    }
  }
}

void Graph::norm_row(const NormWeights& norm, const float* in, float* out, std::int64_t k, int thread) {
  if (norm.kind == NormKind::kRms) {
    const Stopwatch watch(clock_of(Step::kNorm, thread));
    chosen(Step::kNorm).kernel(bitnet_norm_args{in, norm.gain, out, k, config.norm_eps});
    return;
  }
  const Stopwatch watch(clock_of(Step::kLayerNorm, thread));
  chosen(Step::kLayerNorm).kernel(bitnet_layer_norm_args{in, norm.gain, norm.bias, out, k, config.norm_eps});
}

void Graph::rope_and_store(std::int64_t index, const LayerWeights& layer, const Share& share) {
  const std::int64_t dim = config.head_dim;
  const std::int64_t group = config.heads / config.kv_heads;
  const Kernel& rope = chosen(Step::kRope).kernel;
  const Kernel& quantize = chosen(Step::kQuantizeHeads).kernel;
  const Angles& turns = angles_of(index);
  const std::int32_t kind = config.rope == RopeKind::kNorm ? BITNET_ROPE_NORM : BITNET_ROPE_NEOX;
  // int8 keys or values of one head and position, x ~ int8 * factor.
  const auto store_int8 = [&](const float* row, const KvCache::Slot& slot) {
    float scale = 0.0F;
    std::int32_t sum = 0;
    quantize(bitnet_quantize_args{row, cache.int8_row(slot), &scale, &sum, dim});
    *cache.int8_factor(slot) = 1.0F / scale;
  };
  // A unit is a key/value head of a token, with the query heads that share it.
  share.of(tokens * config.kv_heads, 1, [&](std::int64_t begin, std::int64_t end) {
    const Stopwatch watch(clock_of(Step::kRope, share.thread));
    for (std::int64_t unit = begin; unit < end; ++unit) {
      const std::int64_t t = unit / config.kv_heads;
      const std::int64_t head = unit % config.kv_heads;
      const std::int64_t position = past + t;
      float* q = y + t * y_width + head * group * dim;
      float* k = y + t * y_width + q_width + head * dim;
      const float* v = k + config.kv_heads * dim;
      if (layer.q_norm.exists()) {
        for (std::int64_t h = 0; h < group; ++h) norm_row(layer.q_norm, q + h * dim, q + h * dim, dim, share.thread);
        norm_row(layer.k_norm, k, k, dim, share.thread);
      }
      if (config.rope != RopeKind::kNone) {
        const std::int64_t at = position * (config.rope_dim / 2);
        rope(bitnet_rope_args{q, turns.cosines + at, turns.sines + at, group, dim, config.rope_dim, kind});
        rope(bitnet_rope_args{k, turns.cosines + at, turns.sines + at, 1, dim, config.rope_dim, kind});
      }
      if (kv_type != KvType::kF32) round_to_half({q, static_cast<std::size_t>(group * dim)});
      const KvCache::Slot key = cache.key_slot(index, head, position);
      const KvCache::Slot value = cache.value_slot(index, head, position);
      if (kv_type == KvType::kI8) {
        store_int8(k, key);
        store_int8(v, value);
      } else if (kv_type == KvType::kF32) {
        std::copy_n(k, dim, cache.float_row(key));
        std::copy_n(v, dim, cache.float_row(value));
      } else {
        convert_to_half({k, static_cast<std::size_t>(dim)}, cache.half_row(key));
        convert_to_half({v, static_cast<std::size_t>(dim)}, cache.half_row(value));
      }
    }
  });
  if (share.thread != 0) return;
  if (config.rope != RopeKind::kNone) count(Step::kRope, 2 * tokens * config.kv_heads);
  if (layer.q_norm.exists()) count(Step::kNorm, tokens * (config.heads + config.kv_heads));
  if (kv_type == KvType::kI8) count(Step::kQuantizeHeads, 2 * tokens * config.kv_heads);
}

void Graph::attend(std::int64_t layer, const Share& share) {
  const Kernel& kernel = chosen(attention_step()).kernel;
  const std::int64_t dim = config.head_dim;
  const std::int64_t group = config.heads / config.kv_heads;
  const float scale = attention_scale();
  const std::int64_t window = window_of(layer);
  const std::int64_t first_page =
      window == 0 ? 0 : std::max<std::int64_t>(past - window + 1, 0) / BITNET_ATTENTION_CHUNK;
  auto* const work = reinterpret_cast<float*>(scratch[static_cast<std::size_t>(share.thread)]);
  // Query heads [first, last) of one key/value head, `many` tokens from t on; `then` is the head that this thread takes
  // next, or kv_heads.
  const auto call = [&](std::int64_t kv_head, std::int64_t first, std::int64_t last, std::int64_t t, std::int64_t many,
                        std::int64_t then) {
    kernel(bitnet_attention_args{
        .q = y + t * y_width + first * dim,
        .key_pages = cache.key_pages(layer, kv_head),
        .value_pages = cache.value_pages(layer, kv_head),
        .y = attended + t * q_width + first * dim,
        .scratch = work,
        .heads = last - first,
        .head_dim = dim,
        .tokens = many,
        .past = past + t,
        .window = window,
        .q_stride = y_width,
        .y_stride = q_width,
        .next = then == kv_head || then == config.kv_heads ? nullptr : cache.key_pages(layer, then)[first_page],
        .scale = scale});
  };
  const Stopwatch watch(clock_of(attention_step(), share.thread));
  constexpr std::int64_t kBlock = BITNET_ATTENTION_ROWS;
  const std::int64_t blocks = ceil_div(tokens, kBlock);
  if (tokens == 1) {
    // Query heads are split evenly, also those of one key/value head.
    share.of(config.heads, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t head = begin; head < end;) {
        const std::int64_t stop = std::min(end, (head / group + 1) * group);
        call(head / group, head, stop, 0, 1, stop < end ? stop / group : config.kv_heads);
        head = stop;
      }
    });
  } else {
    // A unit is a block of tokens of one key/value head: the kernel reads keys and values once for the rows that it
    // works on side by side. Later tokens see more positions: threads take every threads-th block, of every second head
    // from the other end, which balances them.
    for (std::int64_t unit = share.thread; unit < blocks * config.kv_heads; unit += share.threads) {
      const std::int64_t head = unit / blocks;
      const std::int64_t block = head % 2 == 0 ? unit % blocks : blocks - 1 - unit % blocks;
      const std::int64_t t = block * kBlock;
      const std::int64_t then = std::min((unit + share.threads) / blocks, config.kv_heads);
      call(head, head * group, (head + 1) * group, t, std::min(kBlock, tokens - t), then);
    }
  }
  if (share.thread != 0) return;
  std::int64_t positions = 0;  // of one key/value head, over its blocks
  for (std::int64_t t = 0; t < tokens; t += kBlock) {
    const std::int64_t end = past + std::min(t + kBlock, tokens);
    positions += end - (window == 0 ? 0 : std::max<std::int64_t>(past + t - window + 1, 0));
  }
  count(attention_step(), blocks * config.kv_heads, 2 * config.kv_heads * positions * kv_row_bytes(kv_type, dim));
}

void Graph::output_norm(std::int64_t first, std::int64_t count_tokens) {
  for (std::int64_t t = first; t < first + count_tokens; ++t) {
    norm_row(model.output_norm, x + t * config.hidden, result + t * config.hidden, config.hidden, 0);
  }
  count(model.output_norm.kind == NormKind::kRms ? Step::kNorm : Step::kLayerNorm, count_tokens);
}

void Graph::scale_result(std::int64_t first, std::int64_t count_tokens) {
  if (config.logit_scale == 1.0F) return;
  float* const rows = result + first * config.hidden;
  for (std::int64_t i = 0; i < count_tokens * config.hidden; ++i) rows[i] *= config.logit_scale;
}

}  // namespace bitnet
