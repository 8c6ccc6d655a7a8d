// The tensor table -> ModelTensors. The set of tensors is closed: each expected one must be there with its type and
// shape, each one that is there must be expected, and what a layer has the others have too, because a bias, a norm or a
// projection scale that is silently left out gives wrong text rather than an error.
#include "runtime/model/tensors.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <utility>

#include "runtime/formats/dense.h"
#include "runtime/model/rope.h"

namespace bitnet {
namespace {

using Role = FusedMatrix::Role;

Error tensor_error(const gguf::File& file, std::string_view tensor, const std::string& what) {
  return Error{ErrorCode::kTensorMapping, file.path() + ": tensor " + std::string(tensor) + ": " + what};
}

std::string shape_text(const gguf::Tensor& tensor) {
  std::string text = "[" + std::to_string(tensor.ne[0]);
  for (std::uint32_t i = 1; i < 4 && (i < tensor.n_dims || tensor.ne[i] != 1); ++i) {
    text += "," + std::to_string(tensor.ne[i]);
  }
  return text + "]";
}

// A matrix as it stands in the file, before it is known with which others it is stacked.
struct Piece {
  Role alone;  // its product where it cannot be stacked
  MatrixPart part;
  const gguf::Tensor* in_norm = nullptr;

  [[nodiscard]] std::int32_t group() const { return part.ternary.has_value() ? part.ternary->group() : 0; }
  [[nodiscard]] bool stacks_with(const Piece& other) const {
    return in_norm == nullptr && other.in_norm == nullptr &&
           part.ternary.has_value() == other.part.ternary.has_value() && group() == other.group();
  }
};

class Mapper {
 public:
  // With `names`, which is then filled, only names and shapes count.
  Mapper(const gguf::File& file, const ModelConfig& config, const formats::ReadOptions& read, ModelTensors& out,
         TensorNames* names = nullptr)
      : file_(file), config_(config), read_(read), out_(out), names_(names) {}

  Status run();

  // Floats [k]. Converters that keep norms narrow exist (the BitNet embedding models').
  Result<const gguf::Tensor*> vector(const std::string& name, std::int64_t k) {
    using Type = gguf::TensorType;
    BITNET_ASSIGN_OR_RETURN(const gguf::Tensor* tensor, find(name, k, 1));
    if (tensor->type != Type::kF32 && tensor->type != Type::kF16 && tensor->type != Type::kBF16) {
      return wrong_type(*tensor, "F32, F16 or BF16");
    }
    return tensor;
  }
  Result<const gguf::Tensor*> optional_vector(const std::string& name, std::int64_t k) {
    if (file_.find_tensor(name) == nullptr) return nullptr;
    return vector(name, k);
  }
  // The same inside a block: what one block has, all must have.
  Result<const gguf::Tensor*> optional_vector(std::int64_t layer, const std::string& name, std::int64_t k) {
    if (file_.find_tensor(block(layer) + name) == nullptr) return nullptr;
    layers_with_[name].insert(layer);
    return vector(block(layer) + name, k);
  }
  // Rows that are looked up, or multiplied by dense kernels. `ternary` takes them where the type has no rows of its
  // own; null: such types are refused.
  Result<const gguf::Tensor*> rows(const std::string& name, std::int64_t n,
                                   std::optional<formats::TernaryMatrix>* ternary) {
    BITNET_ASSIGN_OR_RETURN(const gguf::Tensor* tensor, find(name, config_.hidden, n));
    if (formats::is_dense(tensor->type)) return tensor;
    if (ternary == nullptr) return wrong_type(*tensor, "a dense type or a ternary one of blocks");
    BITNET_ASSIGN_OR_RETURN(*ternary, formats::TernaryMatrix::open(file_, *tensor, read_, notes_about(*tensor)));
    if (!ternary->has_value()) return wrong_type(*tensor, "a dense or a ternary type");
    constexpr std::int64_t kRows = 256;
    std::vector<std::uint8_t> codes(static_cast<std::size_t>(kRows * config_.hidden));
    for (std::int64_t row = 0; row < n; row += kRows) {
      const std::uint64_t undefined = (*ternary)->decode(row, std::min(row + kRows, n), codes.data());
      if (undefined == 0) continue;
      return tensor_error(file_, tensor->name,
                          std::to_string(undefined) + " codes that mean no weight in rows " + std::to_string(row) +
                              ".." + std::to_string(std::min(row + kRows, n) - 1) +
                              "; the file is damaged: convert it again");
    }
    out_.usual_notes.push_back(std::string(tensor->name) + " is ternary (" + std::string(gguf::type_name(*tensor)) +
                               "): its rows are looked up one by one, and those of the head expanded to float16");
    return tensor;
  }

  // blk.N.NAME.weight [n][k] with its bias and scale.
  Result<Piece> matrix(std::int64_t layer, const std::string& name, Role alone, std::int64_t n, std::int64_t k) {
    const std::string full = block(layer) + name;
    Piece piece;
    piece.alone = alone;
    BITNET_ASSIGN_OR_RETURN(piece.part.tensor, find(full + ".weight", k, n));
    const gguf::Tensor& tensor = *piece.part.tensor;
    piece.part.rows = n;
    BITNET_ASSIGN_OR_RETURN(piece.part.ternary,
                            formats::TernaryMatrix::open(file_, tensor, read_, notes_about(tensor)));
    if (!piece.part.ternary.has_value() && !formats::is_dense(tensor.type)) {
      return wrong_type(tensor, "a ternary or a dense type");
    }
    piece.part.i2s_x86 = tensor.type == gguf::TensorType::kI2_S && read_.i2s_layout == formats::I2sLayout::kX86;
    BITNET_ASSIGN_OR_RETURN(piece.part.bias, optional_vector(layer, name + ".bias", n));
    BITNET_ASSIGN_OR_RETURN(const gguf::Tensor* scale, optional_vector(layer, name + ".scale", 1));
    if (scale != nullptr && names_ == nullptr) {
      formats::decode_floats(scale->type, scale->data.data(), 0, {&piece.part.scale, 1});
      if (!std::isfinite(piece.part.scale)) {
        return tensor_error(file_, scale->name,
                            "expected a finite factor, found " + std::to_string(piece.part.scale) +
                                "; the file is damaged: convert it again");
      }
    }
    // Where there is one norm for one projection, it is a sub-norm under another name.
    if (alone != Role::kAttentionOutput && alone != Role::kDown) {
      BITNET_ASSIGN_OR_RETURN(piece.in_norm, optional_vector(layer, name + "_norm_in.weight", k));
    }
    return piece;
  }

  // Puts pieces of one K into the layer: as one product where that is possible, else each into its own.
  static void place(std::vector<Piece> pieces, std::int64_t k, LayerTensors& layer) {
    const bool stacked = std::all_of(pieces.begin(), pieces.end(),
                                     [&](const Piece& piece) { return piece.stacks_with(pieces.front()); });
    for (Piece& piece : pieces) {
      const Role role = stacked ? pieces.front().alone : piece.alone;
      FusedMatrix& product = layer.products[static_cast<std::size_t>(role)];
      product.n += piece.part.rows;
      product.k = k;
      product.group = piece.group();
      product.in_norm = piece.in_norm;
      product.parts.push_back(std::move(piece.part));
    }
  }

  Result<LayerTensors> layer(std::int64_t index);

  // Every tensor of the file is used, or known to be safe to leave out; and what a block has, all have.
  [[nodiscard]] Status check_complete();

 private:
  static std::string block(std::int64_t layer) { return "blk." + std::to_string(layer) + "."; }

  Result<const gguf::Tensor*> find(const std::string& name, std::int64_t ne0, std::int64_t ne1) {
    const gguf::Tensor* tensor = file_.find_tensor(name);
    if (tensor == nullptr) {
      BITNET_RETURN_IF_ERROR(missing(name, "missing"));
      return &nameless_;
    }
    if (tensor->ne[0] != static_cast<std::uint64_t>(ne0) || tensor->ne[1] != static_cast<std::uint64_t>(ne1) ||
        tensor->ne[2] != 1 || tensor->ne[3] != 1) {
      const std::string expected = "[" + std::to_string(ne0) + (ne1 == 1 ? "" : "," + std::to_string(ne1)) + "]";
      return tensor_error(file_, name, "expected shape " + expected + " (fastest first), found " + shape_text(*tensor));
    }
    if (used_.insert(tensor->name).second) out_.used.push_back(tensor);
    return names_ == nullptr ? tensor : &nameless_;
  }
  [[nodiscard]] Status check_rope_factors();
  // Collects the name, or is the error.
  [[nodiscard]] Status missing(const std::string& name, const std::string& what) {
    if (names_ == nullptr) return tensor_error(file_, name, what);
    names_->missing.push_back(name);
    return {};
  }
  [[nodiscard]] Error wrong_type(const gguf::Tensor& tensor, const std::string& expected) const {
    return tensor_error(file_, tensor.name,
                        "expected type " + expected + ", found " + std::string(gguf::type_name(tensor)) +
                            ", which cannot be read here: convert the model");
  }
  std::vector<std::string>& notes_about(const gguf::Tensor& tensor) {
    return tensor.type == gguf::TensorType::kI2_S ? out_.usual_notes : out_.notes;
  }
  // The sub-norm of a projection's input, under either of its names.
  Result<const gguf::Tensor*> sub_norm(std::int64_t layer, const std::string& name, const std::string& projection,
                                       std::int64_t k) {
    BITNET_ASSIGN_OR_RETURN(const gguf::Tensor* norm, optional_vector(layer, name + ".weight", k));
    BITNET_ASSIGN_OR_RETURN(const gguf::Tensor* other, optional_vector(layer, projection + "_norm_in.weight", k));
    if (norm != nullptr && other != nullptr) {
      return tensor_error(file_, block(layer) + projection + "_norm_in.weight",
                          "is the same norm as " + block(layer) + name + ".weight; expected one of the two");
    }
    return norm != nullptr ? norm : other;
  }
  // The norm at the beginning of a block of attention or ffn.
  Status block_norm(std::int64_t layer, const std::string& name, const gguf::Tensor*& gain, const gguf::Tensor*& bias) {
    BITNET_ASSIGN_OR_RETURN(gain, vector(block(layer) + name + ".weight", config_.hidden));
    if (config_.norm == NormKind::kLayer) {
      BITNET_ASSIGN_OR_RETURN(bias, optional_vector(layer, name + ".bias", config_.hidden));
    }
    return {};
  }

  const gguf::File& file_;
  const ModelConfig& config_;
  const formats::ReadOptions& read_;
  ModelTensors& out_;
  TensorNames* names_;
  gguf::Tensor nameless_;  // stands for every tensor where only names count: F32
  std::set<std::string_view> used_;
  std::map<std::string, std::set<std::int64_t>> layers_with_;
};

Result<LayerTensors> Mapper::layer(std::int64_t index) {
  const std::int64_t hidden = config_.hidden;
  const std::int64_t q_rows = config_.heads * config_.head_dim;
  const std::int64_t kv_rows = config_.kv_heads * config_.head_dim;
  LayerTensors layer;
  for (std::size_t role = 0; role < kRoles; ++role) layer.products[role].role = static_cast<Role>(role);

  BITNET_RETURN_IF_ERROR(block_norm(index, "attn_norm", layer.attn_norm, layer.attn_norm_bias));
  std::vector<Piece> pieces;
  const auto add = [&](const char* name, Role alone, std::int64_t n, std::int64_t k) -> Status {
    BITNET_ASSIGN_OR_RETURN(Piece piece, matrix(index, name, alone, n, k));
    pieces.push_back(std::move(piece));
    return {};
  };
  if (file_.find_tensor(block(index) + "attn_qkv.weight") != nullptr) {
    BITNET_RETURN_IF_ERROR(add("attn_qkv", Role::kQkv, q_rows + 2 * kv_rows, hidden));
  } else {
    BITNET_RETURN_IF_ERROR(add("attn_q", Role::kQkv, q_rows, hidden));
    BITNET_RETURN_IF_ERROR(add("attn_k", Role::kK, kv_rows, hidden));
    BITNET_RETURN_IF_ERROR(add("attn_v", Role::kV, kv_rows, hidden));
  }
  place(std::move(pieces), hidden, layer);
  BITNET_ASSIGN_OR_RETURN(layer.attn_q_norm, optional_vector(index, "attn_q_norm.weight", config_.head_dim));
  BITNET_ASSIGN_OR_RETURN(layer.attn_k_norm, optional_vector(index, "attn_k_norm.weight", config_.head_dim));
  if ((layer.attn_q_norm == nullptr) != (layer.attn_k_norm == nullptr)) {
    BITNET_RETURN_IF_ERROR(
        missing(block(index) + (layer.attn_q_norm == nullptr ? "attn_q_norm" : "attn_k_norm") + ".weight",
                "missing, though the other one of the two norms of queries and keys is there"));
  }
  BITNET_ASSIGN_OR_RETURN(layer.attn_sub_norm, sub_norm(index, "attn_sub_norm", "attn_output", q_rows));
  pieces.clear();
  BITNET_RETURN_IF_ERROR(add("attn_output", Role::kAttentionOutput, hidden, q_rows));
  place(std::move(pieces), q_rows, layer);
  BITNET_ASSIGN_OR_RETURN(layer.post_attn_norm, optional_vector(index, "post_attention_norm.weight", hidden));

  BITNET_RETURN_IF_ERROR(block_norm(index, "ffn_norm", layer.ffn_norm, layer.ffn_norm_bias));
  pieces.clear();
  if (config_.gated) BITNET_RETURN_IF_ERROR(add("ffn_gate", Role::kGateUp, config_.ffn, hidden));
  BITNET_RETURN_IF_ERROR(add("ffn_up", config_.gated ? Role::kUp : Role::kGateUp, config_.ffn, hidden));
  place(std::move(pieces), hidden, layer);
  BITNET_ASSIGN_OR_RETURN(layer.ffn_sub_norm, sub_norm(index, "ffn_sub_norm", "ffn_down", config_.ffn));
  pieces.clear();
  BITNET_RETURN_IF_ERROR(add("ffn_down", Role::kDown, hidden, config_.ffn));
  place(std::move(pieces), config_.ffn, layer);
  BITNET_ASSIGN_OR_RETURN(layer.post_ffn_norm, optional_vector(index, "post_ffw_norm.weight", hidden));
  return layer;
}

Status Mapper::check_complete() {
  for (const auto& [name, layers] : layers_with_) {
    for (std::int64_t layer = 0; layer < config_.layers; ++layer) {
      if (layers.contains(layer)) continue;
      BITNET_RETURN_IF_ERROR(
          missing(block(layer) + name, "missing, though block " + std::to_string(*layers.begin()) + " has it"));
    }
  }
  for (const gguf::Tensor& tensor : file_.tensors()) {
    if (used_.contains(tensor.name)) continue;
    // bitnet.cpp loads output.weight of these models and never uses it.
    if (config_.tied_only && tensor.name == "output.weight") continue;
    if (names_ != nullptr) {
      names_->foreign.emplace_back(tensor.name);
      continue;
    }
    std::string reason = "has no place in the graph of architecture " + config_.architecture;
    if (tensor.name.starts_with("blk.") && tensor.name.ends_with("norm.bias")) reason = "this norm has no bias";
    if (tensor.name == "output.bias") reason = "a bias of the head is not supported";
    return tensor_error(file_, tensor.name,
                        reason + "; leaving it out would change the results, so the model is refused");
  }
  return {};
}

// The values of the RoPE factors: what no table of angles could be made from is the file's fault, not a context's.
Status Mapper::check_rope_factors() {
  bool any = false;
  for (const gguf::Tensor* tensor : {out_.rope_freqs, out_.rope_factors_long, out_.rope_factors_short}) {
    if (tensor == nullptr) continue;
    any = true;
    if (names_ != nullptr) continue;
    std::vector<float> factors(tensor->ne[0]);
    formats::decode_floats(tensor->type, tensor->data.data(), 0, factors);
    const auto table = RopeTable::make(config_, /*window=*/false, factors);
    if (!table.ok()) {
      return tensor_error(file_, tensor->name,
                          table.error().message + "; the file is damaged or of an unknown kind: convert it again");
    }
  }
  if (any || config_.rope_scaling != RopeScaling::kLongrope) return {};
  return missing("rope_factors_long.weight", "missing, though metadata key " + config_.architecture +
                                                 ".rope.scaling.type is longrope, whose factors it holds; convert the "
                                                 "model again");
}

Status Mapper::run() {
  BITNET_ASSIGN_OR_RETURN(out_.token_embd, rows("token_embd.weight", config_.vocab, &out_.ternary_embd));
  out_.head = out_.token_embd;
  out_.ternary_head = out_.ternary_embd;
  if (!config_.tied_only && file_.find_tensor("output.weight") != nullptr) {
    out_.ternary_head.reset();
    BITNET_ASSIGN_OR_RETURN(out_.head, rows("output.weight", config_.vocab, &out_.ternary_head));
  }
  if (config_.learned_positions) {
    BITNET_ASSIGN_OR_RETURN(out_.position_embd, rows("position_embd.weight", config_.context, nullptr));
  }
  BITNET_ASSIGN_OR_RETURN(out_.output_norm, vector("output_norm.weight", config_.hidden));
  if (config_.norm == NormKind::kLayer) {
    BITNET_ASSIGN_OR_RETURN(out_.output_norm_bias, optional_vector("output_norm.bias", config_.hidden));
  }
  if (config_.rope != RopeKind::kNone) {
    const std::int64_t half = config_.rope_dim / 2;
    BITNET_ASSIGN_OR_RETURN(out_.rope_freqs, optional_vector("rope_freqs.weight", half));
    BITNET_ASSIGN_OR_RETURN(out_.rope_factors_long, optional_vector("rope_factors_long.weight", half));
    BITNET_ASSIGN_OR_RETURN(out_.rope_factors_short, optional_vector("rope_factors_short.weight", half));
    if ((out_.rope_factors_long == nullptr) != (out_.rope_factors_short == nullptr)) {
      BITNET_RETURN_IF_ERROR(
          missing(out_.rope_factors_long == nullptr ? "rope_factors_long.weight" : "rope_factors_short.weight",
                  "missing, though the other one of the two is there"));
    }
    BITNET_RETURN_IF_ERROR(check_rope_factors());
  }
  for (std::int64_t i = 0; i < config_.layers; ++i) {
    BITNET_ASSIGN_OR_RETURN(LayerTensors added, layer(i));
    out_.layers.push_back(std::move(added));
  }
  return check_complete();
}

// Which entry of kernel_shapes().ternary each product is.
void number_shapes(ModelTensors& tensors) {
  const std::vector<KernelShape> shapes = kernel_shapes(tensors).ternary;
  for (LayerTensors& layer : tensors.layers) {
    for (FusedMatrix& product : layer.products) {
      if (!product.ternary()) continue;
      const KernelShape shape{product.n, product.k, product.group};
      product.shape = static_cast<std::size_t>(std::ranges::lower_bound(shapes, shape) - shapes.begin());
    }
  }
}

}  // namespace

std::string_view to_string(FusedMatrix::Role role) {
  switch (role) {
    case Role::kQkv:
      return "attention q, k, v";
    case Role::kAttentionOutput:
      return "attention output";
    case Role::kGateUp:
      return "gate and up";
    case Role::kDown:
      return "down";
    case Role::kK:
      return "attention k";
    case Role::kV:
      return "attention v";
    case Role::kUp:
      return "up";
  }
  return "";
}

bool ModelTensors::any_ternary() const {
  return std::ranges::any_of(layers, [](const LayerTensors& layer) {
    return std::ranges::any_of(layer.products, [](const FusedMatrix& product) { return product.ternary(); });
  });
}
bool ModelTensors::any_dense() const {
  return std::ranges::any_of(layers, [](const LayerTensors& layer) {
    return std::ranges::any_of(layer.products,
                               [](const FusedMatrix& product) { return product.exists() && !product.ternary(); });
  });
}

std::string type_census(const gguf::File& file) {
  std::map<std::string_view, std::pair<std::size_t, std::string_view>> census;
  for (const gguf::Tensor& tensor : file.tensors()) {
    auto& [count, example] = census[gguf::type_name(tensor)];
    if (count++ == 0) example = tensor.name;
  }
  std::string text;
  for (const auto& [type, entry] : census) {
    if (!text.empty()) text += ", ";
    text += std::to_string(entry.first) + " " + std::string(type) + " (" + std::string(entry.second) +
            (entry.first > 1 ? ", ...)" : ")");
  }
  return text.empty() ? "none" : text;
}

Result<ModelTensors> map_tensors(const gguf::File& file, const ModelConfig& config, const formats::ReadOptions& read) {
  ModelTensors tensors;
  BITNET_RETURN_IF_ERROR(Mapper(file, config, read, tensors).run());
  number_shapes(tensors);
  return tensors;
}

Result<TensorNames> check_names(const gguf::File& file, const ModelConfig& config) {
  TensorNames names;
  ModelTensors ignored;
  BITNET_RETURN_IF_ERROR(Mapper(file, config, {}, ignored, &names).run());
  return names;
}

}  // namespace bitnet
