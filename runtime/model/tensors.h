// A model's tensors in the roles that the graph has for them, and what follows from them: the shapes that kernels are
// compiled for, and where the packed weights lie.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/base/result.h"
#include "runtime/formats/options.h"
#include "runtime/formats/ternary.h"
#include "runtime/gguf/gguf.h"
#include "runtime/kernels/layout.h"
#include "runtime/model/config.h"

namespace bitnet {

// One of the matrices [rows][k] that a product stacks.
struct MatrixPart {
  const gguf::Tensor* tensor = nullptr;  // into the File
  std::int64_t rows = 0;
  std::optional<formats::TernaryMatrix> ternary;  // nullopt: dense
  bool i2s_x86 = false;                           // I2_S in its usual layout: it has a packer of its own
  const gguf::Tensor* bias = nullptr;             // F32 [rows]; null: none
  float scale = 1.0F;                             // of the projection, on top of the weights' own scales
};

// A product of one layer: one or more matrices with the same K whose rows are stacked (q over k over v, gate over up),
// so that one kernel call does them all. All parts are ternary and have the same K-groups, or all are dense.
struct FusedMatrix {
  // kQkv and kGateUp hold q alone and gate alone where the matrices cannot be stacked; the others are then in kK, kV
  // and kUp. What a layer does not have has n = 0.
  enum class Role : std::uint8_t { kQkv, kAttentionOutput, kGateUp, kDown, kK, kV, kUp };
  Role role = Role::kQkv;
  std::int64_t n = 0;  // sum of the parts' rows
  std::int64_t k = 0;
  std::int32_t group = 0;  // K-group of the scales: 0, 64, 128 or 256
  std::vector<MatrixPart> parts;
  const gguf::Tensor* in_norm = nullptr;  // F32 [k], RMSNorm of this product's own input; null: none
  std::size_t shape = 0;                  // ternary: index of (n, k, group) in kernel_shapes().ternary

  [[nodiscard]] bool exists() const { return n != 0; }
  [[nodiscard]] bool ternary() const { return !parts.empty() && parts.front().ternary.has_value(); }
};
inline constexpr std::size_t kRoles = 7;
// "attention q, k, v": for messages.
[[nodiscard]] std::string_view to_string(FusedMatrix::Role role);

// F32 tensors; null: the model has none. Biases: LayerNorm only.
struct LayerTensors {
  std::array<FusedMatrix, kRoles> products;      // by FusedMatrix::Role
  const gguf::Tensor* attn_norm = nullptr;       // [hidden]
  const gguf::Tensor* attn_norm_bias = nullptr;  // [hidden]
  const gguf::Tensor* attn_q_norm = nullptr;     // [head_dim], before RoPE
  const gguf::Tensor* attn_k_norm = nullptr;     // [head_dim]
  const gguf::Tensor* attn_sub_norm = nullptr;   // [heads * head_dim]
  const gguf::Tensor* post_attn_norm = nullptr;  // [hidden], of the block's output
  const gguf::Tensor* ffn_norm = nullptr;        // [hidden]
  const gguf::Tensor* ffn_norm_bias = nullptr;   // [hidden]
  const gguf::Tensor* ffn_sub_norm = nullptr;    // [ffn]
  const gguf::Tensor* post_ffn_norm = nullptr;   // [hidden], of the block's output
};

struct ModelTensors {
  const gguf::Tensor* token_embd = nullptr;  // [vocab][hidden], any dense or ternary type
  const gguf::Tensor* head = nullptr;        // the same; token_embd itself where the head is tied to it
  // Of those two, where the type has no rows of its own (I2_S, TL1, TL2): their rows come from here.
  std::optional<formats::TernaryMatrix> ternary_embd;
  std::optional<formats::TernaryMatrix> ternary_head;
  const gguf::Tensor* position_embd = nullptr;      // [positions][hidden]; null: none
  const gguf::Tensor* output_norm = nullptr;        // F32 [hidden]
  const gguf::Tensor* output_norm_bias = nullptr;   // F32 [hidden]; null: none
  const gguf::Tensor* rope_freqs = nullptr;         // F32 [rope_dim / 2], divide the angles; null: none
  const gguf::Tensor* rope_factors_long = nullptr;  // the same, of contexts beyond the original one
  const gguf::Tensor* rope_factors_short = nullptr;
  std::vector<LayerTensors> layers;
  std::vector<const gguf::Tensor*> used;  // every tensor that takes part, in the order in which they were found
  std::vector<std::string> notes;         // what was assumed about the file, to be said once
  std::vector<std::string> usual_notes;   // of I2_S, which nearly every file has: only for those who want details

  [[nodiscard]] bool any_ternary() const;  // in a product
  [[nodiscard]] bool any_dense() const;
};

// What dense_rows.h takes beside a tensor; null: the tensor has rows of its own.
[[nodiscard]] inline const formats::TernaryMatrix* rows_of(const std::optional<formats::TernaryMatrix>& ternary) {
  return ternary.has_value() ? &*ternary : nullptr;
}

// Finds and checks every tensor (type, shape, scales); what is there but has no place in the graph is refused, since
// leaving it out would change the results. The result points into `file`. kTensorMapping: names the tensor and the
// reason. kStrict with read.strict: something had to be assumed.
[[nodiscard]] Result<ModelTensors> map_tensors(const gguf::File& file, const ModelConfig& config,
                                               const formats::ReadOptions& read = {});
// The same rules for names and shapes alone, without a look at types and data.
struct TensorNames {
  std::vector<std::string> missing;
  std::vector<std::string> foreign;  // there, without a place in the graph
};
// kTensorMapping: a shape that is not the configuration's. What is missing or foreign is in the result.
[[nodiscard]] Result<TensorNames> check_names(const gguf::File& file, const ModelConfig& config);
// "210 TL1 (blk.0.attn_q.weight, ...), 121 F32 (...)".
[[nodiscard]] std::string type_census(const gguf::File& file);

// Of the ternary products; empty in a dense model.
[[nodiscard]] ModelShapes kernel_shapes(const ModelTensors& tensors);

// Bytes of all ternary products in the layouts of their shapes (one for each of kernel_shapes().ternary), and the
// offset of product p of layer l: matrices lie one after the other, by layer and role, each at a multiple of 64 bytes;
// those that are dense or absent take no bytes. Shared by the packer, `bitnet-codegen --pack` and the bundle loader.
struct PackedLayout {
  std::vector<std::array<std::size_t, kRoles>> offsets;  // [layer][role]
  std::size_t bytes = 0;
};
[[nodiscard]] PackedLayout packed_layout(const ModelTensors& tensors, const ProductLayouts& layouts);

// Packs rows [row_begin, row_end) (row_begin a multiple of 16) of a ternary product into `layout` at `out` (base of the
// product). Undefined codes become code 1; returns how many there were. Thread-safe on disjoint ranges.
[[nodiscard]] std::uint64_t pack_product(const FusedMatrix& product, Layout layout, std::int64_t row_begin,
                                         std::int64_t row_end, std::uint8_t* out);
// The same for the one tile of rows [tile_row, tile_row + 16), written to `out` itself (tile_bytes(layout, k)).
[[nodiscard]] std::uint64_t pack_tile(const FusedMatrix& product, Layout layout, std::int64_t tile_row,
                                      std::uint8_t* out);

// What to say about `undefined` codes that packing met in a product of the file.
[[nodiscard]] std::string undefined_codes(const gguf::File& file, const FusedMatrix& product, std::uint64_t undefined);

}  // namespace bitnet
