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

// Of the head, between two releases of the file's pages.
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

struct Place {
  std::size_t layer;
  std::size_t role;
};

// Where the model has ternary products, in their order in the packed weights.
std::vector<Place> packed_products(const Model::State& state) {
  std::vector<Place> places;
  for (std::size_t l = 0; l < state.layers.size(); ++l) {
    for (std::size_t p = 0; p < kRoles; ++p) {
      if (state.tensors.layers[l].products[p].ternary()) places.push_back({l, p});
    }
  }
  return places;
}

void release(const Model::State& state, const FusedMatrix& product) {
  for (const MatrixPart& part : product.parts) release(state, part.tensor->data);
}

// The packed weights may be sound and yet another model's: the shape hash is the same for every model of one size, and
// hashing the model file would cost seconds. So samples of each product are packed from the file and compared.
Status check_origin(const Model::State& state) {
  constexpr std::int64_t kSamples = 3;  // the first, middle and last tile
  const std::vector<Place> places = packed_products(state);
  const auto samples = static_cast<std::int64_t>(places.size()) * kSamples;
  struct Sample {
    Place place;
    const FusedMatrix* product;
    std::int64_t row;
    const std::uint8_t* stored;
    std::size_t bytes;
  };
  const auto find = [&](std::int64_t index) {
    Sample sample{};
    sample.place = places[static_cast<std::size_t>(index / kSamples)];
    sample.product = &state.tensors.layers[sample.place.layer].products[sample.place.role];
    const std::int64_t tile = (row_tiles(sample.product->n) - 1) * (index % kSamples) / (kSamples - 1);
    sample.row = tile * BITNET_TILE_ROWS;
    sample.bytes = tile_bytes(state.kernels.layouts()[sample.product->shape], sample.product->k);
    sample.stored =
        state.weights.product(sample.place.layer, sample.place.role) + static_cast<std::size_t>(tile) * sample.bytes;
    return sample;
  };
  std::atomic<std::int64_t> first_bad{samples};
  state.pool->parallel_for(samples, 1, [&](std::int64_t begin, std::int64_t end, int) {
    std::vector<std::uint8_t> tile;
    const FusedMatrix* last = nullptr;
    for (std::int64_t index = begin; index < end; ++index) {
      const Sample sample = find(index);
      // Where the system keeps the file in large pages, all samples together would bring in all of it.
      if (last != nullptr && last != sample.product) release(state, *last);
      last = sample.product;
      tile.resize(sample.bytes);
      (void)pack_tile(*sample.product, state.kernels.layouts()[sample.product->shape], sample.row, tile.data());
      if (std::memcmp(tile.data(), sample.stored, tile.size()) == 0) continue;
      std::int64_t seen = first_bad.load();
      while (index < seen && !first_bad.compare_exchange_weak(seen, index)) {
      }
      break;
    }
    if (last != nullptr) release(state, *last);
  });
  if (first_bad == samples) return {};
  const Sample bad = find(first_bad);
  BITNET_RETURN_IF_ERROR(check_damage(state, state.bundle->packed(), bad.stored, bad.bytes));
  return packed_error(
      state, "packed from another model than " + state.file.path() + ": layer " + std::to_string(bad.place.layer) +
                 ", product " + std::string(to_string(bad.product->role)) + ", rows " + std::to_string(bad.row) + ".." +
                 std::to_string(std::min(bad.row + BITNET_TILE_ROWS, bad.product->n) - 1) + " are not this model's");
}

// Whether the bundle has packed weights that the chosen kernels can use. Weights for another CPU's kernels are not an
// error, but they save no time here.
bool has_packed(const Model::State& state, const Logger& log) {
  if (!state.bundle.has_value() || state.bundle->packed().empty()) return false;
  const std::string packed = to_string(state.bundle->packed_layouts());
  const std::string wanted = to_string(state.kernels.layouts());
  if (packed == wanted) return true;
  log.warning("the packed weights of " + state.bundle->path() + " are in the layouts " + packed +
              ", the kernels that run here need " + wanted +
              ": the model's own weights are packed instead, which takes longer (bitnet-codegen --model " +
              state.file.path() + " --target native --pack makes a bundle for this CPU)");
  (void)state.bundle->end_read_ahead();  // nobody needs what it reads
  return false;
}

// From the model's ternary tensors into the store's own memory.
Status pack_products(Model::State& state, const ModelOptions& options, LoadProgress& progress, const Logger& log) {
  const ProductLayouts& layouts = state.kernels.layouts();
  BITNET_RETURN_IF_ERROR(state.weights.allocate_packed(packed_layout(state.tensors, layouts)));
  auto* base = reinterpret_cast<std::uint8_t*>(state.weights.own_packed());
  for (const Place& place : packed_products(state)) {
    const FusedMatrix& product = state.tensors.layers[place.layer].products[place.role];
    std::uint8_t* out = base + state.weights.layout().offsets[place.layer][place.role];
    std::atomic<std::uint64_t> undefined{0};
    state.pool->parallel_for(product.n, BITNET_TILE_ROWS, [&](std::int64_t begin, std::int64_t end, int) {
      undefined += pack_product(product, layouts[product.shape], begin, end, out);
    });
    release(state, product);
    for (const MatrixPart& part : product.parts) progress.add(part.tensor->data.size());
    if (undefined == 0) continue;
    const std::string what = undefined_codes(state.file, product, undefined);
    if (options.strict) return Error{ErrorCode::kStrict, "strict mode: " + what};
    log.warning(what + "; they are read as weight 0");
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

// Matrices for dense kernels: where they lie, or expanded.
Status load_dense(Model::State& state, LoadProgress& progress) {
  const auto read = [&](std::span<const std::byte> part) {
    release(state, part);
    progress.add(part.size());
  };
  for (std::size_t l = 0; l < state.layers.size(); ++l) {
    for (std::size_t p = 0; p < kRoles; ++p) {
      ProductWeights& product = state.layers[l].products[p];
      if (!product.exists() || product.ternary) continue;
      for (std::size_t i = 0; i < product.parts.size(); ++i) {
        const gguf::Tensor& tensor = *state.tensors.layers[l].products[p].parts[i].tensor;
        Buffer memory;
        BITNET_ASSIGN_OR_RETURN(product.parts[i].dense,
                                dense_rows(tensor, nullptr, /*copy=*/false, *state.pool, memory, read));
        if (memory.size() != 0) {
          state.dense.push_back(std::move(memory));
        } else {
          state.dense_in_file += tensor.data.size();
        }
      }
    }
  }
  return {};
}

// The int8 rows of another model pass every hash: a few are made here and compared.
Status check_head_origin(const Model::State& state) {
  const std::int64_t vocab = state.config.vocab;
  const std::int64_t hidden = state.config.hidden;
  const ScreenedRows stored = screened_rows(state.weights.head(), vocab, hidden);
  const std::int64_t stride = screened_layout(vocab, hidden).stride;
  std::vector<std::byte> block(screened_layout(1, hidden).bytes);
  for (const std::int64_t row : {std::int64_t{0}, vocab / 3, vocab / 2, vocab - 1}) {
    make_screened_rows(state.head.format, state.head.rows + static_cast<std::size_t>(row) * state.head.row_bytes, 1,
                       hidden, 0, 1, block.data());
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

// The int8 rows of the head into the store's own memory, piece by piece where the head stays in the mapped file.
void make_screened_head(Model::State& state, LoadProgress& progress) {
  constexpr std::int64_t kGranule = 16;  // rows; keeps threads off each other's cache lines
  const DenseRows& head = state.head;
  const std::int64_t vocab = state.config.vocab;
  const std::int64_t piece = round_up(static_cast<std::int64_t>(kPieceBytes / head.row_bytes) + 1, kGranule);
  for (std::int64_t at = 0; at < vocab; at += piece) {
    const std::int64_t many = std::min(piece, vocab - at);
    state.pool->parallel_for(many, kGranule, [&](std::int64_t begin, std::int64_t end, int) {
      make_screened_rows(head.format, head.rows, vocab, state.config.hidden, at + begin, at + end,
                         state.weights.own_head());
    });
    if (!state.head_in_file()) continue;
    const auto part = state.tensors.head->data.subspan(static_cast<std::size_t>(at) * head.row_bytes,
                                                       static_cast<std::size_t>(many) * head.row_bytes);
    release(state, part);
    progress.add(part.size());
  }
}

// With int8 rows the original ones are rarely read, row by row, and stay in the mapped file. With --head exact they are
// read whole for each token, so they get 2 MiB pages. Small ones are copied always: giving back a file's pages and
// mapping them again then costs more than the rows themselves.
Status load_head(Model::State& state, const ModelOptions& options, LoadProgress& progress, const Logger& log) {
  constexpr std::size_t kSmallHead = std::size_t{8} << 20;
  const gguf::Tensor& tensor = *state.tensors.head;
  state.head_mode = options.head;
  const bool copy = options.head == HeadMode::kExact || tensor.data.size() <= kSmallHead;
  BITNET_ASSIGN_OR_RETURN(state.head, dense_rows(tensor, rows_of(state.tensors.ternary_head), copy, *state.pool,
                                                 state.head_memory, [&](std::span<const std::byte> part) {
                                                   release(state, part);
                                                   progress.add(part.size());
                                                 }));
  const bool as_in_file = has_dense_kernels(tensor.type);
  if (!as_in_file) state.kernels.expand_head(state.head.format);
  state.embedding = state.tensors.head == state.tensors.token_embd && as_in_file
                        ? state.head.rows
                        : state.tensors.token_embd->data.data();
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
    make_screened_head(state, progress);
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
  for (const LayerTensors& layer : state.tensors.layers) {
    for (const FusedMatrix& product : layer.products) {
      for (const MatrixPart& part : product.parts) {
        if (product.ternary() ? !packed : !usable_in_file(*part.tensor)) progress.expect(part.tensor->data.size());
      }
    }
  }
  if (options.head == HeadMode::kExact || !state.bundle.has_value() || state.bundle->head().empty()) {
    progress.expect(state.tensors.head->data.size());
  }
  BITNET_RETURN_IF_ERROR(make_layers(state));
  BITNET_RETURN_IF_ERROR(packed ? map_products(state) : pack_products(state, options, progress, log));
  for (const Place& place : packed_products(state)) {
    state.layers[place.layer].products[place.role].weights = state.weights.product(place.layer, place.role);
  }
  state.dense.clear();
  state.dense_in_file = 0;
  BITNET_RETURN_IF_ERROR(load_dense(state, progress));
  return load_head(state, options, progress, log);
}

}  // namespace bitnet
