// Where the weights come from, and that they are this model's.
#include "runtime/model/load_weights.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstring>
#include <string>
#include <vector>

#include "runtime/base/mapped_file.h"
#include "runtime/base/math.h"
#include "runtime/kernels/layout.h"
#include "runtime/model/logger.h"

namespace bitnet {
namespace {

// Of the embedding, between two releases of the file's pages.
constexpr std::size_t kPieceBytes = std::size_t{16} << 20;

void release(const Model::State& state, std::span<const std::byte> part) {
  if (state.file.mapping() != nullptr) state.file.mapping()->release(part);
}

// A refusal of the bundle's packed weights.
Error packed_error(const Model::State& state, const std::string& what) {
  return Error{ErrorCode::kVerification, "bundle '" + state.bundle->path() + "' refused: packed weights: " + what +
                                             "; run bitnet-codegen --model " + state.file.path() + " --pack again"};
}

// Bytes that are not those that this model gives are damaged, or sound and another model's: the hash tells.
Status check_damage(const Model::State& state, const HashedBytes& section, const void* first, std::size_t bytes) {
  const auto begin = static_cast<std::size_t>(static_cast<const std::byte*>(first) - section.bytes.data());
  for (std::size_t block = begin / kPackedHashBlock; block * kPackedHashBlock < begin + bytes; ++block) {
    if (!section.matches(block)) return state.bundle->block_error(section, block);
  }
  return {};
}

// The packed weights may be sound and yet another model's: the shape hash is the same for every model of one size, and
// hashing the model file would cost seconds. So samples of each product are packed from the file and compared.
Status check_origin(const Model::State& state) {
  constexpr std::int64_t kSamples = 3;  // the first, middle and last tile
  const auto products = static_cast<std::int64_t>(state.layers.size()) * 4;
  std::atomic<std::int64_t> first_bad{products * kSamples};
  const auto find = [&](std::int64_t sample, std::int64_t& row) -> const FusedMatrix& {
    const std::int64_t index = sample / kSamples;
    const FusedMatrix& product =
        state.tensors.layers[static_cast<std::size_t>(index / 4)].products[static_cast<std::size_t>(index % 4)];
    row = (row_tiles(product.n) - 1) * (sample % kSamples) / (kSamples - 1) * BITNET_TILE_ROWS;
    return product;
  };
  state.pool->parallel_for(products * kSamples, 1, [&](std::int64_t begin, std::int64_t end, int) {
    std::vector<std::uint8_t> tile;
    const FusedMatrix* last = nullptr;
    // Where the system keeps the file in large pages, all samples together would bring in all of it.
    const auto release_last = [&] {
      if (last == nullptr) return;
      for (const gguf::Tensor* part : last->parts) release(state, part->data);
    };
    for (std::int64_t sample = begin; sample < end; ++sample) {
      std::int64_t row = 0;
      const FusedMatrix& product = find(sample, row);
      if (last != &product) release_last();
      last = &product;
      const std::int64_t index = sample / kSamples;
      const Layout packed_as = state.kernels.layouts()[static_cast<std::size_t>(index % 4)];
      tile.resize(tile_bytes(packed_as, product.k));
      (void)pack_tile(product, packed_as, row, tile.data());
      const std::uint8_t* stored =
          state.weights.product(static_cast<std::size_t>(index / 4), static_cast<std::size_t>(index % 4)) +
          static_cast<std::size_t>(row / BITNET_TILE_ROWS) * tile.size();
      if (std::memcmp(tile.data(), stored, tile.size()) == 0) continue;
      std::int64_t seen = first_bad.load();
      while (sample < seen && !first_bad.compare_exchange_weak(seen, sample)) {
      }
      break;
    }
    release_last();
  });
  if (first_bad == products * kSamples) return {};
  constexpr const char* kNames[] = {"attention q, k, v", "attention output", "gate and up", "down"};
  std::int64_t row = 0;
  const FusedMatrix& product = find(first_bad, row);
  const auto role = static_cast<std::size_t>(product.role);
  const std::size_t bytes = tile_bytes(state.kernels.layouts()[role], product.k);
  BITNET_RETURN_IF_ERROR(check_damage(state, state.bundle->packed(),
                                      state.weights.product(static_cast<std::size_t>(first_bad / kSamples / 4), role) +
                                          static_cast<std::size_t>(row / BITNET_TILE_ROWS) * bytes,
                                      bytes));
  return packed_error(state, "packed from another model than " + state.file.path() + ": layer " +
                                 std::to_string(first_bad / kSamples / 4) + ", product " +
                                 kNames[static_cast<std::size_t>(product.role)] + ", rows " + std::to_string(row) +
                                 ".." + std::to_string(std::min(row + BITNET_TILE_ROWS, product.n) - 1) +
                                 " are not this model's");
}

std::string layout_names(const ProductLayouts& layouts) {
  std::string text;
  for (const Layout layout : layouts) text += (text.empty() ? "" : ", ") + std::string(info(layout).name);
  return text;
}

// Whether the bundle has packed weights that the chosen kernels can use. Weights for another CPU's kernels are not an
// error, but they save no time here.
bool has_packed(const Model::State& state, const Logger& log) {
  if (!state.bundle.has_value() || state.bundle->packed().empty()) return false;
  const ProductLayouts& packed = state.bundle->packed_layouts();
  const ProductLayouts& wanted = state.kernels.layouts();
  if (packed == wanted) return true;
  log.warning("the packed weights of " + state.bundle->path() + " are in the layouts " + layout_names(packed) +
              ", the kernels that run here need " + layout_names(wanted) +
              ": the model's own weights are packed instead, which takes longer (bitnet-codegen --model " +
              state.file.path() + " --target native --pack makes a bundle for this CPU)");
  (void)state.bundle->end_read_ahead();  // nobody needs what it reads
  return false;
}

// From the model's I2_S tensors into the store's own memory.
Status pack_products(Model::State& state, const ModelOptions& options, LoadProgress& progress, const Logger& log) {
  const ProductLayouts& layouts = state.kernels.layouts();
  BITNET_RETURN_IF_ERROR(state.weights.allocate_packed(packed_layout(state.tensors, layouts)));
  auto* base = reinterpret_cast<std::uint8_t*>(state.weights.own_packed());
  for (std::size_t l = 0; l < state.layers.size(); ++l) {
    for (std::size_t p = 0; p < 4; ++p) {
      const FusedMatrix& product = state.tensors.layers[l].products[p];
      std::uint8_t* out = base + state.weights.layout().offsets[l][p];
      std::atomic<std::uint64_t> undefined{0};
      state.pool->parallel_for(product.n, BITNET_TILE_ROWS, [&](std::int64_t begin, std::int64_t end, int) {
        undefined += pack_product(product, layouts[p], begin, end, out);
      });
      for (const gguf::Tensor* part : product.parts) {
        release(state, part->data);
        progress.add(part->data.size());
      }
      if (undefined == 0) continue;
      const std::string what = state.file.path() + ": tensor " + std::string(product.parts.front()->name) +
                               (product.parts.size() > 1 ? " and those stacked with it" : "") + ": " +
                               std::to_string(undefined.load()) + " codes are 3, which I2_S does not define";
      if (options.strict) return Error{ErrorCode::kStrict, "strict mode: " + what};
      log.warning(what + "; they are read as weight 0");
    }
  }
  return {};
}

Status map_products(Model::State& state) {
  PackedLayout layout = packed_layout(state.tensors, state.kernels.layouts());
  if (state.bundle->packed().bytes.size() != layout.bytes) {
    return packed_error(state, "it has " + std::to_string(state.bundle->packed().bytes.size()) +
                                   " bytes, this model's packed weights have " + std::to_string(layout.bytes));
  }
  state.weights.map_packed(std::move(layout), *state.bundle);
  return check_origin(state);
}

// Calls fn(row_begin, row_end) with all threads for the rows of the embedding, piece by piece, and gives back the
// file's pages behind each piece.
template <typename Fn>
void for_embedding_rows(Model::State& state, LoadProgress& progress, Fn&& fn) {
  constexpr std::int64_t kGranule = 16;  // rows; keeps threads off each other's cache lines
  const std::span<const std::byte> data = state.tensors.token_embd->data;
  const std::int64_t vocab = state.config.vocab;
  const std::size_t row_bytes = data.size() / static_cast<std::size_t>(vocab);
  const std::int64_t piece = round_up(static_cast<std::int64_t>(kPieceBytes / row_bytes) + 1, kGranule);
  for (std::int64_t at = 0; at < vocab; at += piece) {
    const std::int64_t many = std::min(piece, vocab - at);
    state.pool->parallel_for(many, kGranule,
                             [&](std::int64_t begin, std::int64_t end, int) { fn(at + begin, at + end); });
    const auto part =
        data.subspan(static_cast<std::size_t>(at) * row_bytes, static_cast<std::size_t>(many) * row_bytes);
    release(state, part);
    progress.add(part.size());
  }
}

// With --head exact the rows are read whole for each token, so they get 2 MiB pages. Small ones are copied always:
// giving back a file's pages and mapping them again then costs more than the rows themselves.
constexpr std::size_t kSmallEmbedding = std::size_t{8} << 20;
Status copy_embedding(Model::State& state, LoadProgress& progress) {
  const std::span<const std::byte> data = state.tensors.token_embd->data;
  BITNET_ASSIGN_OR_RETURN(state.embedding, Buffer::allocate(data.size()));
  const std::size_t row_bytes = data.size() / static_cast<std::size_t>(state.config.vocab);
  for_embedding_rows(state, progress, [&](std::int64_t begin, std::int64_t end) {
    const std::size_t from = static_cast<std::size_t>(begin) * row_bytes;
    std::memcpy(state.embedding.data() + from, data.data() + from, static_cast<std::size_t>(end - begin) * row_bytes);
  });
  state.head = state.embedding.data();
  return {};
}

// The int8 rows of another model pass every hash: a few are made here and compared.
Status check_head_origin(const Model::State& state) {
  const std::int64_t vocab = state.config.vocab;
  const std::int64_t hidden = state.config.hidden;
  const std::size_t row_bytes = state.tensors.token_embd->data.size() / static_cast<std::size_t>(vocab);
  const ScreenedRows stored = screened_rows(state.weights.head(), vocab, hidden);
  const std::int64_t stride = screened_layout(vocab, hidden).stride;
  std::vector<std::byte> block(screened_layout(1, hidden).bytes);
  for (const std::int64_t row : {std::int64_t{0}, vocab / 3, vocab / 2, vocab - 1}) {
    make_screened_rows(state.kernels[Step::kHead].kernel.format, state.head + static_cast<std::size_t>(row) * row_bytes,
                       1, hidden, 0, 1, block.data());
    const ScreenedRows made = screened_rows(block.data(), 1, hidden);
    const auto at = static_cast<std::size_t>(row);
    const auto same = [](const float* a, const float* b) {
      return std::bit_cast<std::uint32_t>(*a) == std::bit_cast<std::uint32_t>(*b);
    };
    if (std::memcmp(made.rows, stored.rows + row * stride, static_cast<std::size_t>(stride)) == 0 &&
        same(made.scales, stored.scales + at) && same(made.errors, stored.errors + at) &&
        same(made.norms, stored.norms + at)) {
      continue;
    }
    for (const auto& [first, bytes] :
         {std::pair<const void*, std::size_t>{stored.rows + row * stride, static_cast<std::size_t>(stride)},
          {stored.scales + at, sizeof(float)},
          {stored.errors + at, sizeof(float)},
          {stored.norms + at, sizeof(float)}}) {
      BITNET_RETURN_IF_ERROR(check_damage(state, state.bundle->head(), first, bytes));
    }
    return packed_error(state, "made from another model than " + state.file.path() + ": row " + std::to_string(row) +
                                   " of the head is not this model's");
  }
  return {};
}

bool has_head(const Model::State& state, const Logger& log) {
  if (!state.bundle.has_value() || state.bundle->head().empty()) return false;
  if (state.bundle->head_version() == kScreenedVersion) return true;
  log.warning("the int8 rows of the head in " + state.bundle->path() + " are of version " +
              std::to_string(state.bundle->head_version()) + ", this program makes version " +
              std::to_string(kScreenedVersion) + ": they are made anew, which takes longer (bitnet-codegen --model " +
              state.file.path() + " --target native --pack makes a bundle with the new ones)");
  return false;
}

// The head is tied to the embedding. With int8 rows it is rarely read, row by row, and stays in the mapped file.
Status load_head(Model::State& state, const ModelOptions& options, LoadProgress& progress, const Logger& log) {
  const gguf::Tensor& tensor = *state.tensors.token_embd;
  const Format format = state.kernels[Step::kHead].kernel.format;
  const std::size_t element = format == Format::kF32 ? sizeof(float) : sizeof(std::uint16_t);
  state.head_mode = options.head;
  state.head = tensor.data.data();
  // Files whose alignment is less than that of an element are rare, but legal.
  const bool aligned = reinterpret_cast<std::uintptr_t>(state.head) % element == 0;
  if (options.head == HeadMode::kExact || !aligned || tensor.data.size() <= kSmallEmbedding) {
    BITNET_RETURN_IF_ERROR(copy_embedding(state, progress));
  }
  if (options.head == HeadMode::kExact) return {};

  const std::int64_t vocab = state.config.vocab;
  const std::int64_t hidden = state.config.hidden;
  const std::size_t bytes = screened_layout(vocab, hidden).bytes;
  if (has_head(state, log)) {
    if (state.bundle->head().bytes.size() != bytes) {
      return packed_error(state, "its head has " + std::to_string(state.bundle->head().bytes.size()) +
                                     " bytes, this model's has " + std::to_string(bytes));
    }
    state.weights.map_head(*state.bundle);
    BITNET_RETURN_IF_ERROR(check_head_origin(state));
  } else {
    BITNET_RETURN_IF_ERROR(state.weights.allocate_head(bytes));
    for_embedding_rows(state, progress, [&](std::int64_t begin, std::int64_t end) {
      make_screened_rows(format, state.head, vocab, hidden, begin, end, state.weights.own_head());
    });
  }
  state.screened = screened_rows(state.weights.head(), vocab, hidden);
  return {};
}

}  // namespace

void LoadProgress::add(std::uint64_t bytes) {
  done_ += bytes;
  if (!sink_ || total_ == 0) return;
  const Clock::time_point now = Clock::now();
  const bool last = done_ >= total_ && shown_;  // the line ends at 100 %
  if (now < next_ && !last) return;
  next_ = now + std::chrono::milliseconds(100);
  shown_ = true;
  sink_(std::min(done_, total_), total_);
}

Status load_weights(Model::State& state, const ModelOptions& options, LoadProgress& progress) {
  const Logger log{options.log};
  const bool packed = has_packed(state, log);
  if (!packed) {
    for (const LayerTensors& layer : state.tensors.layers) {
      for (const FusedMatrix& product : layer.products) {
        for (const gguf::Tensor* part : product.parts) progress.expect(part->data.size());
      }
    }
  }
  if (options.head == HeadMode::kExact || !state.bundle.has_value() || state.bundle->head().empty()) {
    progress.expect(state.tensors.token_embd->data.size());
  }
  BITNET_RETURN_IF_ERROR(packed ? map_products(state) : pack_products(state, options, progress, log));
  for (std::size_t l = 0; l < state.layers.size(); ++l) {
    for (std::size_t p = 0; p < 4; ++p) {
      LayerWeights::Product& product = state.layers[l].products[p];
      product.weights = state.weights.product(l, p);
      const std::vector<const gguf::Tensor*>& parts = state.tensors.layers[l].products[p].parts;
      for (std::size_t i = 0; i < parts.size(); ++i) product.scales[i] = i2s_scale(*parts[i]);
    }
  }
  return load_head(state, options, progress, log);
}

}  // namespace bitnet
