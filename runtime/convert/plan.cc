#include "runtime/convert/plan.h"

#include <algorithm>
#include <array>
#include <utility>

#include "runtime/convert/convert.h"
#include "runtime/formats/dense.h"
#include "runtime/formats/encode.h"
#include "runtime/formats/tiles.h"
#include "runtime/gguf/types.h"

namespace bitnet {
namespace {

using gguf::TensorType;

constexpr std::array<std::pair<std::string_view, TensorType>, 12> kTargets = {{{"i2_s", TensorType::kI2_S},
                                                                               {"tl1", TensorType::kTL1},
                                                                               {"tl2", TensorType::kTL2OrMXFP4},
                                                                               {"tq1_0", TensorType::kTQ1_0},
                                                                               {"tq2_0", TensorType::kTQ2_0},
                                                                               {"q2_0", TensorType::kQ2_0},
                                                                               {"pq2_0", TensorType::kPQ2_0},
                                                                               {"q1_0", TensorType::kQ1_0},
                                                                               {"f32", TensorType::kF32},
                                                                               {"f16", TensorType::kF16},
                                                                               {"bf16", TensorType::kBF16},
                                                                               {"q8_0", TensorType::kQ8_0}}};

}  // namespace

std::optional<TensorType> parse_target_type(std::string_view name) {
  for (const auto& [known, type] : kTargets) {
    if (known == name) return type;
  }
  return std::nullopt;
}

std::string_view target_type_names() {
  return "i2_s, tl1, tl2, tq1_0, tq2_0, q2_0, pq2_0, q1_0, f32, f16, bf16 or q8_0";
}

std::string_view row_type_names() { return "tq1_0, tq2_0, q2_0, pq2_0, q1_0, f32, f16, bf16 or q8_0"; }

namespace convert {
namespace {

bool has_tiles(TensorType type) { return type == TensorType::kTL1 || type == TensorType::kTL2OrMXFP4; }
bool is_whole_float(TensorType type) {
  return type == TensorType::kF32 || type == TensorType::kF16 || type == TensorType::kBF16;
}
// That holds every value of the tensor.
TensorType float_type_of(const SourceTensor& tensor) {
  for (const TensorType type : {TensorType::kF16, TensorType::kBF16}) {
    if (tensor.type == gguf::to_string(type)) return type;
  }
  return TensorType::kF32;
}
std::string name_of(TensorType type) {
  return type == TensorType::kTL2OrMXFP4 ? "TL2" : std::string(gguf::to_string(type));
}

class Planner {
 public:
  Planner(const PlanOptions& options, std::vector<std::string>& warnings) : options_(options), warnings_(warnings) {}

  Result<std::vector<Target>> run(const std::vector<SourceTensor>& tensors) {
    for (const auto& [flag, type] : {std::pair("--embedding", options_.embedding), {"--head", options_.head}}) {
      if (!type || (*type != TensorType::kI2_S && !has_tiles(*type))) continue;
      return Error{ErrorCode::kUsage, std::string(flag) + ": expected " + std::string(row_type_names()) + ", found " +
                                          name_of(*type) +
                                          ", in whose rows other programs cannot look up tokens; choose one of them"};
    }
    if (has_tiles(options_.type) && !options_.tile_config.empty()) {
      BITNET_ASSIGN_OR_RETURN(table_, formats::TileTable::read(options_.tile_config));
    }
    const bool untied = std::any_of(tensors.begin(), tensors.end(),
                                    [](const SourceTensor& tensor) { return tensor.role == Role::kHead; });
    if (options_.head && !untied) {
      warnings_.emplace_back(
          "--head changes nothing: the model's head is its embedding, whose type --embedding states");
    }
    std::vector<Target> targets;
    targets.reserve(tensors.size());
    for (const SourceTensor& tensor : tensors) {
      BITNET_ASSIGN_OR_RETURN(Target target, plan(tensor));
      targets.push_back(target);
    }
    return targets;
  }

 private:
  [[nodiscard]] std::optional<TensorType> wanted(const SourceTensor& tensor) const {
    const bool everywhere = is_whole_float(options_.type);
    switch (tensor.role) {
      case Role::kProjection:
        return options_.type;
      case Role::kEmbedding:
      case Role::kHead: {
        const auto& stated = tensor.role == Role::kHead && options_.head ? options_.head : options_.embedding;
        if (stated) return stated;
        if (everywhere) return options_.type;
        if (options_.keep_types) return tensor.raw_type;
        return TensorType::kF16;
      }
      case Role::kOther:
        break;
    }
    if (options_.keep_types) return tensor.raw_type;
    return TensorType::kF32;
  }

  Result<Target> plan(const SourceTensor& tensor) {
    Target target;
    target.type = wanted(tensor).value_or(TensorType::kF32);
    target.ternarize = options_.ternarize;
    target.packed = options_.packed && tensor.role == Role::kProjection;
    if (is_copied(tensor, target)) return target;
    if (!tensor.ternary && !tensor.floats) {
      return Error{ErrorCode::kTensorMapping, tensor.place + ": expected a type that can be read as numbers, found " +
                                                  tensor.type + ", to be written as " + name_of(target.type) +
                                                  "; convert it with the program that wrote it"};
    }
    if (target.type == TensorType::kQ8_0 && tensor.ne.front() % formats::block_elements(TensorType::kQ8_0) != 0) {
      target.type = float_type_of(tensor);
      warnings_.push_back(tensor.place + ": its rows of " + std::to_string(tensor.ne.front()) +
                          " are no whole blocks of Q8_0; its values stay what they are, as " + name_of(target.type));
      if (is_copied(tensor, target)) return target;
    }
    if (has_tiles(target.type)) BITNET_RETURN_IF_ERROR(find_tile(tensor, target));
    return target;
  }

  Status find_tile(const SourceTensor& tensor, Target& target) {
    const auto format = target.type == TensorType::kTL1 ? formats::TileFormat::kTl1 : formats::TileFormat::kTl2;
    const std::string shape = std::to_string(tensor.rows()) + " x " + std::to_string(tensor.columns());
    if (table_) {
      target.tile = table_->find(tensor.rows(), tensor.columns());
      if (target.tile) return {};
      return Error{ErrorCode::kTensorMapping, tensor.place + ": expected tile parameters for " + shape + " in " +
                                                  options_.tile_config +
                                                  ", found none; add a section for this shape, or choose --type i2_s"};
    }
    target.tile = formats::default_tile(format, tensor.rows(), tensor.columns());
    if (!target.tile) {
      return Error{ErrorCode::kTensorMapping,
                   tensor.place + ": expected a shape whose tile parameters are known, found " + shape + "; name a " +
                       "kernel_config.ini that has them with --tile-config, or choose --type i2_s, which needs none"};
    }
    const std::string note = name_of(target.type) + " is written with the tile parameters that bitnet.cpp's " +
                             "setup_env.py has for these shapes; the file does not state them";
    if (options_.strict) return Error{ErrorCode::kStrict, tensor.place + ": " + note + ": name --tile-config"};
    if (!std::exchange(said_, true)) warnings_.push_back(note);
    return {};
  }

  const PlanOptions& options_;
  std::vector<std::string>& warnings_;
  std::optional<formats::TileTable> table_;
  bool said_ = false;
};

}  // namespace

Result<std::vector<Target>> plan_targets(const std::vector<SourceTensor>& tensors, const PlanOptions& options,
                                         std::vector<std::string>& warnings) {
  return Planner(options, warnings).run(tensors);
}

std::string type_name(const Target& target) { return target.packed ? "U8" : name_of(target.type); }

Result<std::uint64_t> target_bytes(const SourceTensor& tensor, const Target& target) {
  if (target.packed) return (static_cast<std::uint64_t>(tensor.rows()) + 3) / 4 * tensor.ne.front();
  if (is_copied(tensor, target)) return tensor.raw.size();
  const auto bytes =
      target.type == TensorType::kTL2OrMXFP4 ? gguf::tl2_bytes(tensor.ne) : gguf::tensor_bytes(target.type, tensor.ne);
  // Before anything is written: what the encoder would say of the shape later.
  if (bytes && is_ternary_target(target.type)) {
    const formats::TernaryTarget wanted{target.type, tensor.rows(), tensor.columns(), formats::I2sLayout::kX86,
                                        target.tile};
    const float one = 1.0F;
    const auto encoder = formats::TernaryEncoder::make(wanted, formats::ScaleKind::kTensor, 0, {&one, 1});
    if (!encoder.ok()) return Error{encoder.error().code, tensor.place + ": " + encoder.error().message};
  }
  if (bytes) return *bytes;
  return Error{ErrorCode::kTensorMapping, tensor.place + ": expected rows in whole blocks of " + name_of(target.type) +
                                              ", found " + std::to_string(tensor.columns()) +
                                              " columns; choose another --type (i2_s, f16)"};
}

Result<safetensors::DType> safetensors_type(const Target& target) {
  if (target.packed) return safetensors::DType::kU8;
  switch (target.type) {
    case TensorType::kF32:
      return safetensors::DType::kF32;
    case TensorType::kF16:
      return safetensors::DType::kF16;
    case TensorType::kBF16:
      return safetensors::DType::kBF16;
    default:
      return Error{ErrorCode::kUsage,
                   "--type: expected i2_s (packed), f32, f16 or bf16 for SafeTensors, found " + name_of(target.type)};
  }
}

}  // namespace convert
}  // namespace bitnet
